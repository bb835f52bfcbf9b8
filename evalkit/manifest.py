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
from evalkit.prompts import request_bytes
from evalkit.store import SCHEMA_VERSION, RunStore, digest


def build(options: RunOptions, source: DataSource, backend: Backend, jobs: Sequence[Job]) -> dict[str, Any]:
    """Put down what is run, with the lower rungs of the hash ladder."""
    return {
        "schema_version": SCHEMA_VERSION,
        "evalkit_version": __version__,
        "status": "running",
        "started_at": now(),
        "request": options.to_json(),
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
                    "token_ids": digest(part for p in job.prompts for part in request_bytes(p.encoded)),
                },
            }
            for job in jobs
        },
    }


def check_finished(store: RunStore, options: RunOptions, jobs: Sequence[Job]) -> None:
    """A finished run answers only for what it was asked; the model is not loaded for this."""
    before = store.read_json("manifest.json")
    asked, again = before["request"], options.to_json()
    engine = asked.get("engine", {})
    refuse_differences(
        f"{store.root} holds a finished run, but of {{what}}; name another --output folder",
        [(f"another --{name.replace('_', '-')}", asked.get(name), again[name]) for name in _FINISHED]
        + [
            (f"another --{name.replace('_', '-')}", engine.get(name), again["engine"].get(name))
            for name in {**engine, **again["engine"]}
        ]
        + [
            (
                "other tasks or samples",
                {name: task["hashes"]["data"] for name, task in before["tasks"].items()},
                {job.name: content_hash(job.samples) for job in jobs},
            )
        ],
    )


_FINISHED = (
    "model",
    "seed",
    "chat",
    "system",
    "answer_prefix",
    "reasoning_tags",
    "max_length",
    "log_prompts",
)
"""Options, beside tasks and engine, that must be the same for a finished run to be the answer."""


def check_resumable(store: RunStore, manifest: Mapping[str, Any]) -> None:
    """A journal may only be continued by the same model, in the same way, on the same requests.

    What a run with errors could not answer may be tried again with another token budget.
    """
    if not (store.root / "manifest.json").is_file():
        return
    before = store.read_json("manifest.json")
    details = [m["model"]["details"] for m in (before, manifest)]
    ways = [] if before["status"] == "partial" else ["batch_tokens"]
    ways += ["device", "threads", "scoring_path"]
    refuse_differences(
        f"cannot resume {store.root}: {{what}} differ from the interrupted run's; repeat its command line, "
        "or start anew in another --output folder",
        [
            ("the tasks or samples", _request_hashes(before), _request_hashes(manifest)),
            ("the model", before["model"]["fingerprint"], manifest["model"]["fingerprint"]),
            *((_WAYS[way], *(d.get(way) for d in details)) for way in ways),
            ("--log-prompts", *(m["request"]["log_prompts"] for m in (before, manifest))),
        ],
    )


_WAYS = {
    "device": "--device",
    "threads": "the threads",
    "scoring_path": "the scoring paths",
    "batch_tokens": "--batch-tokens",
}


def refuse_differences(message: str, compared: Sequence[tuple[str, Any, Any]]) -> None:
    """Compare (what, before, now); `message` has a place for what differs.

    Raises:
        UsageError: something does.
    """
    for what, old, new in compared:
        if old != new:
            raise UsageError(message.format(what=what))


def _request_hashes(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (t["hashes"]["data"], t["hashes"]["token_ids"]) for name, t in manifest["tasks"].items()}


def now() -> str:
    """UTC time as it stands in documents."""
    return datetime.now(UTC).isoformat(timespec="seconds")
