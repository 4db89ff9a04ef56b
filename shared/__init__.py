"""What two services must agree on, and nothing else."""

__version__ = "0.1.0"
"""As in pyproject.toml; repeated here because the code is run and never installed."""
