"""Tests of services.generation.decoding."""
