"""Tests of services.trainer.students."""
