"""Contamination detection: was a benchmark's file, or its source, in a model's training data?"""
