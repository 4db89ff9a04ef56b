"""Tests of services.embedding.serving."""
