"""Files that other people's text or servers live on: replaced in one piece or left alone."""

from __future__ import annotations

import contextlib
from pathlib import Path

from evalkit.errors import UsageError


def write(file: Path, content: bytes) -> bool:
    """Replace a file in one piece, unless it has this content; return whether that was needed.

    Raises:
        UsageError: it cannot be written.
    """
    target = file.resolve()
    partial = target.with_name(f".{target.name}.partial")
    try:
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
