"""What a student learns from teacher embeddings, and the cache of them. May import models, evaluation and dataset."""
