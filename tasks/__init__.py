"""One file per benchmark; each exposes TASK."""
