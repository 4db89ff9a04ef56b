"""Paths that several parts of the edge know."""

CONSOLE, CONSOLE_API = "/console", "/console/api/"
"""The page is open, so that there is something to type a key into; what it asks for needs the key."""
