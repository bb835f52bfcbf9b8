"""What a run puts down about itself, and what must agree before it may be continued."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evalkit._version import __version__
from evalkit.backends.base import Backend
from evalkit.data.content import content_hash
from evalkit.data.source import DataSource
from evalkit.errors import UsageError
from evalkit.preparation import Job, RunOptions
from evalkit.prompts import token_parts
from evalkit.store import SCHEMA_VERSION, RunStore, digest


def build(options: RunOptions, source: DataSource, backend: Backend, jobs: Sequence[Job]) -> dict[str, Any]:
    """Put down what is run, with the lower rungs of the hash ladder."""
    return {
        "schema_version": SCHEMA_VERSION,
        "evalkit_version": __version__,
        "status": "running",
        "started_at": now(),
        "request": {
            "model": options.model,
            "tasks": options.tasks,
            "shots": options.shots,
            "split": options.split,
            "subsets": list(options.subsets),
            "limit": options.limit,
            "seed": options.seed,
            "chat": options.chat,
            "max_length": options.max_length,
            "log_prompts": options.log_prompts,
        },
        "data": source.describe(),
        "model": backend.info.to_json(),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "tasks": {
            job.name: {
                "source": job.resolved.protocol.source,
                "data": job.data,
                "hashes": {
                    "data": content_hash(job.samples),
                    "prompts": digest(bytes.fromhex(p.sha256) for p in job.prompts),
                    "token_ids": digest(
                        part.tobytes() for p in job.prompts for part in token_parts(p.encoded)
                    ),
                },
            }
            for job in jobs
        },
    }


def check_finished(store: RunStore, options: RunOptions, jobs: Sequence[Job]) -> None:
    """A finished run answers only for what it was asked; the model is not loaded for this."""
    before = store.read_json("manifest.json")
    for what, old, new in (
        ("another model", before["request"]["model"], options.model),
        (
            "other tasks or samples",
            {name: task["hashes"]["data"] for name, task in before["tasks"].items()},
            {job.name: content_hash(job.samples) for job in jobs},
        ),
    ):
        if old != new:
            raise UsageError(
                f"{store.root} holds a finished run, but of {what}; name another --output folder"
            )


def check_resumable(store: RunStore, manifest: Mapping[str, Any]) -> None:
    """A journal may only be continued by the same model on the same token ids."""
    if not (store.root / "manifest.json").is_file():
        return
    before = store.read_json("manifest.json")
    for what, old, new in (
        ("the tasks or samples", _token_hashes(before), _token_hashes(manifest)),
        ("the model", before["model"]["fingerprint"], manifest["model"]["fingerprint"]),
        ("--batch-tokens", *(m["model"]["details"].get("batch_tokens") for m in (before, manifest))),
        ("--log-prompts", *(m["request"]["log_prompts"] for m in (before, manifest))),
    ):
        if old != new:
            raise UsageError(
                f"cannot resume {store.root}: {what} differ from the interrupted run's; "
                "repeat its command line, or start anew in another --output folder"
            )


def _token_hashes(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (t["hashes"]["data"], t["hashes"]["token_ids"]) for name, t in manifest["tasks"].items()}


def now() -> str:
    """UTC time as it stands in documents."""
    return datetime.now(UTC).isoformat(timespec="seconds")
