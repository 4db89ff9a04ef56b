"""Scores: STS sets, bootstrap, metrics, the gate. May import shared only."""
