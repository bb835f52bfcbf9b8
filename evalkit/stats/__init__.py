"""Statistics of benchmark scores."""
