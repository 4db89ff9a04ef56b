"""Tests of services.trainer.training."""
