"""A version in memory, and its smoke test. May import shared, metrics, settings and resources only."""
