"""Training itself: recipe, split, losses, checkpoints. May import models, evaluation and dataset."""
