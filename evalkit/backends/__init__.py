"""Engines: transformers (hf) and a mock without a model."""
