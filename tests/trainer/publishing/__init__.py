"""Tests of services.trainer.publishing."""
