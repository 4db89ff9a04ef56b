"""Tests of services.trainer.dataset."""
