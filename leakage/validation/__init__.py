"""Detectors on data of which it is known what leaked."""

from evalkit.leakage.validation.suite import run

__all__ = ["run"]
