"""Tests of services.generation.decoding.vllm."""
