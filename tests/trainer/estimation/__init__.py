"""Tests of services.trainer.estimation."""
