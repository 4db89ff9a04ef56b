"""A version in memory, and how it proves itself. May import shared only."""
