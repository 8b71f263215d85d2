"""Contamination: items of evaluation sets found in a pool, with the spans in which they stand."""
