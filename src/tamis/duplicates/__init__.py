"""Duplicates: the mathematics of what repeats, exactly, nearly or in meaning, and indexes of what was seen before."""
