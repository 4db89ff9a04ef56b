"""Experiments on quality: which pairs, which initial vectors and which training make the best student."""
