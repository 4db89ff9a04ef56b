"""What a person can ask of the trainer on the command line, beside running it."""
