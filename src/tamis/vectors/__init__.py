"""Vectors of rows: embeddings, nearness to a target, indexes, clusters, and what is picked by them."""
