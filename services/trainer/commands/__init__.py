"""What `python -m services.trainer COMMAND` does. May import everything of the trainer; only `__main__` imports it."""
