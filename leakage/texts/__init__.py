"""Benchmarks without options: what can be asked of their texts."""
