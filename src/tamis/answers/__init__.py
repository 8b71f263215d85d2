"""Answers and ratings of models: sampled, asked of a server, or read off the next token."""
