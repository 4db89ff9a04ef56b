"""Tests of services.trainer.evaluation."""
