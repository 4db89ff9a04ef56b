"""Tests of services.generation.cluster."""
