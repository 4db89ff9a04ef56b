"""Tests of services.generation.api."""
