"""Whether a model was trained on a benchmark: evidence, its null and its power."""
