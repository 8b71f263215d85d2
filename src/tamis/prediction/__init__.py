"""What a model predicts at each token: forward passes without full logits, statistics, reductions to rows."""
