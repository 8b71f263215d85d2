"""The submodular engine: objectives, kernels and maximisers, each an axis of its own."""
