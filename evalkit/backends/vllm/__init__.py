"""The vLLM backend: exact scores at the engine's own speed."""
