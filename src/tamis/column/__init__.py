"""Columns of numbers: expressions over them, from outside, on a common scale, explained by others, against truth."""
