"""Benchmark data: strict readers, sources, official archives and content hashes."""
