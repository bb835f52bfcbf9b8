"""Files that other people's text or servers live on: replaced in one piece or left alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from evalkit.errors import UsageError

_OF_RUNS = ("manifest.json", "results.json", "samples.parquet")
_JOURNAL = "journal"
_RUN_ID = b'"run_id":'


def write(file: Path, content: bytes) -> bool:
    """Replace a file in one piece, unless it has this content; return whether that was needed.

    Raises:
        UsageError: it cannot be written, or belongs to a run.
    """
    target = file.resolve()
    partial = target.with_name(f".{target.name}.partial")
    try:
        if _belongs_to_a_run(target):
            raise UsageError(f"{file}: a run keeps its own results there; name another file")
        if file.exists() and not file.is_file():
            # Pipes and terminals are written to; replaced, they would be gone.
            file.write_bytes(content)
            return True
        if target.is_file() and target.read_bytes() == content:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        if target.exists():
            partial.chmod(target.stat().st_mode & 0o7777)
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UsageError(f"{file}: cannot be written ({error.strerror}); name another file") from error
    return True


def _belongs_to_a_run(target: Path) -> bool:
    folder = target.parent
    if folder.name == _JOURNAL:
        return _is_run(folder.parent)
    return target.name in _OF_RUNS and _is_run(folder)


def _is_run(folder: Path) -> bool:
    """Whether a run keeps its files there; tables may have been called results.json, too."""
    manifest, results, samples = (folder / name for name in _OF_RUNS)
    return manifest.exists() or samples.exists() or (results.is_file() and _RUN_ID in results.read_bytes())


def slug(name: str, identity: Sequence[str | None] = ()) -> str:
    """A part of a file name, safe everywhere: what is readable of a name, and a hash.

    Args:
        name: any text.
        identity: what the hash tells apart; by default the name.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
    hashed = hashlib.sha256(json.dumps(identity or [name]).encode()).hexdigest()
    return f"{readable or 'model'}-{hashed[:8]}"
