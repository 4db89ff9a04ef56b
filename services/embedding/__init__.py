"""Text in, vectors out, always from the current version."""
