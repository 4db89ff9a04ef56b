"""Tests of services.generation.commands."""
