"""Tests of services.embedding.api."""
