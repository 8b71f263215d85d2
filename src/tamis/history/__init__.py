"""What runs left, looked at: one row explained, two runs compared, SQL over their tables."""
