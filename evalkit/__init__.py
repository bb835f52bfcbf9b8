"""evalkit: evaluate language models exactly and fast, and detect contamination."""

from evalkit._version import __version__

__all__ = ["__version__"]
