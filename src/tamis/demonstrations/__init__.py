"""Pairs of rows, one a demonstration for the other: how they are laid out, which are measured, what they are worth."""
