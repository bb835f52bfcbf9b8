"""Detectors tried where the truth is known: simulated, planted and trained."""
