"""evalkit: evaluate language models exactly and fast, and detect contamination."""

from typing import TYPE_CHECKING, Any

from evalkit._version import __version__

if TYPE_CHECKING:
    from evalkit.reports.frames import load_runs

__all__ = ["__version__", "load_runs"]


def __getattr__(name: str) -> Any:
    """Import what notebooks need when it is asked for, so that `import evalkit` stays light."""
    if name == "load_runs":
        from evalkit.reports.frames import load_runs

        return load_runs
    raise AttributeError(f"module 'evalkit' has no attribute '{name}'")
