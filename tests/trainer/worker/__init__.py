"""Tests of services.trainer.worker."""
