"""Gradients of single examples, what they become, and how they are kept: the mathematics of influence."""
