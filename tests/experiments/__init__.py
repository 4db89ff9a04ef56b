"""The experiments' tests."""
