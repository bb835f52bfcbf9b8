"""One self-contained page in HTML: tables, pairs of models, charts and every sample."""
