"""Tests of services.generation.documents."""
