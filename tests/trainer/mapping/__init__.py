"""Tests of services.trainer.mapping."""
