"""Tests of services.generation.pairs."""
