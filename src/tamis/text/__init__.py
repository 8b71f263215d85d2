"""Texts: what rows say, in words; statistics, repetition, refusals, constraints, languages, hashes of words."""
