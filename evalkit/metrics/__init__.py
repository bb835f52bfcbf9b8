"""Metrics and answer extraction as the benchmarks publish them: plain functions that need no model.

Values are fractions in [0, 1]. Libraries of the extra `metrics` are imported when first used.
"""
