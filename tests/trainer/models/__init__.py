"""Tests of services.trainer.models."""
