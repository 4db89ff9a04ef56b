"""HTTP in, labelled sentence pairs out."""
