"""Tests of services.trainer.commands."""
