"""Tests of services.generation.jobs."""
