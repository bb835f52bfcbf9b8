"""Detectors on data of which it is known what leaked."""
