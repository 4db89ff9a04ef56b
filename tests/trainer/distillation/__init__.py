"""Tests of services.trainer.distillation."""
