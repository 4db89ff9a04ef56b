"""Pairs in, student versions out."""
