"""Tests of services.embedding.models."""
