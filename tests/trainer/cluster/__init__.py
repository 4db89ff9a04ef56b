"""Rounds on a Ray cluster."""
