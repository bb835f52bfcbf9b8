"""One program, one process: start it, wait for its proof, leave nothing of it behind."""

from __future__ import annotations

import contextlib
import json
import marshal
import math
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from evalkit.sandbox import bubblewrap, inside, syscalls
from evalkit.sandbox.program import Limits, Program, Verdict

START_TIMEOUT_S = 60.0
DEATH_TIMEOUT_S = 10.0
PROOF_BYTES = 32
_MAX_ANSWER = 1 << 16
_POLL_S = 0.1
_END_S = 0.5


class Stopped(Exception):
    """The run is being called off."""


def run(program: Program, limits: Limits, slot: int, *, unsafe: bool, stop: threading.Event) -> Verdict:
    """Run one program; `slot` is a number no other program running at the time has.

    Raises:
        SandboxUnavailable: the process did not even start.
        Stopped: `stop` was set meanwhile.
    """
    proof = os.urandom(PROOF_BYTES)
    start = _unprotected if unsafe else _shut_in
    with start(program, limits, slot, proof) as child:
        begun, _ = child.read(inside.STARTED, START_TIMEOUT_S, stop)
        if begun != inside.STARTED:
            child.kill()
            raise bubblewrap.broken(child.complaints() or f"exit status {child.process.returncode}")
        started = time.monotonic()
        answer, in_time = child.read(proof, limits.timeout_s, stop)
        seconds = time.monotonic() - started
        if in_time and answer != proof:
            child.let_end()
        child.kill()
        if answer == proof:
            return Verdict("passed", "", seconds, retried=False)
        if not in_time:
            return Verdict("timeout", f"no end within {limits.timeout_s:g} s", seconds, retried=False)
        if answer.startswith(inside.FAILED):
            return Verdict("failed", answer[1:].decode("utf-8", "replace"), seconds, retried=False)
        what = "forged an answer" if answer else "ended before its last line"
        return Verdict("failed", f"{what} (exit status {child.process.returncode})", seconds, retried=False)


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    answers: IO[bytes]
    """Pipe from the program; at its end once every process that held it is gone."""
    errors: IO[bytes]
    """File that bubblewrap complains to, and the interpreter until the program starts."""
    first: int | None
    """Process descriptor of the sandbox's first process: with it dies everything inside."""

    def read(self, wanted: bytes, timeout_s: float, stop: threading.Event) -> tuple[bytes, bool]:
        """What was written until `wanted` was there or nothing more could come, and whether in time."""
        deadline = time.monotonic() + timeout_s
        answer = b""
        while answer != wanted and len(answer) <= _MAX_ANSWER:
            if stop.is_set():
                raise Stopped
            left = deadline - time.monotonic()
            if left <= 0:
                return answer, False
            if _readable(self.answers.fileno(), min(left, _POLL_S)):
                size = 1 if wanted == inside.STARTED else _MAX_ANSWER
                if not (piece := os.read(self.answers.fileno(), size)):
                    break
                answer += piece
        return answer, True

    def let_end(self) -> None:
        """Give a process that hung up a moment to end by itself, for its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)

    def kill(self) -> None:
        """End everything inside at once, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.first is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self.first, signal.SIGKILL)
        if self.first is None:
            self.process.kill()
        self.process.wait()
        if self.first is not None:
            _readable(self.first, DEATH_TIMEOUT_S)

    def complaints(self) -> str:
        """The last lines of the error file."""
        size = self.errors.seek(0, os.SEEK_END)
        return os.pread(self.errors.fileno(), 2000, max(0, size - 2000)).decode("utf-8", "replace")


@contextlib.contextmanager
def _shut_in(program: Program, limits: Limits, slot: int, proof: bytes) -> Iterator[_Child]:
    bwrap = bubblewrap.find()
    roots = bubblewrap.interpreter().roots
    with contextlib.ExitStack() as stack:
        info_read, info_write = _pipe(stack)
        answers_read, answers_write = _pipe(stack)
        hold_read, hold_write = _pipe(stack)
        machine = syscalls.architecture()
        assert machine is not None, "find() comes first"
        syscall_filter = _file(stack, syscalls.program(machine))
        job = {
            "source": program.source.encode("utf-8", "surrogatepass"),
            "proof": proof,
            "answers": answers_write.fileno(),
            "uid": bubblewrap.uid(slot),
            "roots": (*roots, f"{bubblewrap.SITE}/"),
            "site": [bubblewrap.SITE],
            "guarded": frozenset[str](),
            "limits": _rlimits(limits) | {"RLIMIT_NPROC": limits.threads},
        }
        errors = _file(stack, b"")
        descriptors = bubblewrap.Descriptors(info_write.fileno(), hold_read.fileno(), syscall_filter.fileno())
        process = subprocess.Popen(
            bubblewrap.command(bwrap, limits, descriptors),
            stdin=_file(stack, marshal.dumps(job)),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[f.fileno() for f in (info_write, answers_write, hold_read, syscall_filter)],
            env={},
        )
        stack.callback(_end, process)
        child = _Child(process, answers_read, errors, first=None)
        for theirs in (info_write, answers_write, hold_read):
            theirs.close()
        child.first = _first_process(info_read)
        if child.first is not None:
            stack.callback(os.close, child.first)
            stack.callback(child.kill)
        with contextlib.suppress(BrokenPipeError):
            os.write(hold_write.fileno(), b"go")
        yield child


def _first_process(info: IO[bytes]) -> int | None:
    """Descriptor of the first process in the sandbox, which is still held back; None if it is gone."""
    text = b""
    while b"}" not in text and (piece := os.read(info.fileno(), 4096)):
        text += piece
    try:
        return os.pidfd_open(int(json.loads(text)["child-pid"]))
    except (ValueError, KeyError, ProcessLookupError):
        return None


@contextlib.contextmanager
def _unprotected(program: Program, limits: Limits, slot: int, proof: bytes) -> Iterator[_Child]:
    found = bubblewrap.interpreter()
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="evalkit-", ignore_cleanup_errors=True))
        )
        site, home = folder / "site", folder / "home"
        site.mkdir()
        home.mkdir()
        for package in found.numpy:
            (site / Path(package).name).symlink_to(package)
        answers_read, answers_write = _pipe(stack)
        job = {
            "source": program.source.encode("utf-8", "surrogatepass"),
            "proof": proof,
            "answers": answers_write.fileno(),
            "uid": None,
            "roots": (*found.roots, f"{site}/"),
            "site": [str(site)],
            "guarded": inside.OFFICIAL_GUARD,
            "limits": _rlimits(limits),
        }
        errors = _file(stack, b"")
        process = subprocess.Popen(
            bubblewrap.python(str(bubblewrap.INSIDE)),
            stdin=_file(stack, marshal.dumps(job)),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[answers_write.fileno()],
            env=bubblewrap.ENVIRONMENT | {"HOME": str(home), "TMPDIR": str(home)},
            cwd=home,
            start_new_session=True,
        )
        child = _Child(process, answers_read, errors, first=None)
        stack.callback(child.kill)
        answers_write.close()
        yield child


def _readable(fd: int, seconds: float) -> bool:
    """Wait until there is something to read, or an end; unlike `select`, for descriptors of any number."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _pipe(stack: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    read, write = os.pipe()
    return (
        stack.enter_context(open(read, "rb", buffering=0)),  # noqa: PTH123
        stack.enter_context(open(write, "wb", buffering=0)),  # noqa: PTH123
    )


def _file(stack: contextlib.ExitStack, content: bytes) -> IO[bytes]:
    """A nameless file, so that nobody waits for anybody to read."""
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def _rlimits(limits: Limits) -> dict[str, int]:
    return {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": 2 * math.ceil(limits.timeout_s) + 2,
        "RLIMIT_FSIZE": limits.disk_bytes,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_NOFILE": limits.open_files,
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
