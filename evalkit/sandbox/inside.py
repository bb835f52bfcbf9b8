"""The one process of a program: give up every right, run the text, prove that it reached its end.

Only the standard library is at hand here, and everything the program does afterwards happens in this
very process. So the proof, a random number, must be out of its reach until its last line has run:

* The program is the second step of a chain made of C callables only (`list(map(call, steps))`), run
  as the root of its own thread: no Python frame lies beneath it, and no variable holds the proof.
* An audit hook, which cannot be taken off again, refuses what could find it all the same: listing
  objects, other threads' frames, tracing, ctypes, extension modules brought along.
* There is no /proc to read memory from, and the file the proof came in is closed.

Any other end (an exception, `os._exit`, a kill, closed descriptors) leaves the proof unsent.
"""

from __future__ import annotations

import _thread
import marshal
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from io import StringIO
from operator import call
from typing import Any

RESULT_FD = 3
STARTED = b"S"
FAILED = b"F"
MAX_DETAIL = 2000

THREAD_STACK = 16 << 20


class _NoInput(StringIO):
    """Standard input that cannot be read."""

    def read(self, *args: Any) -> str:
        """Refuse."""
        raise OSError("standard input is not available")

    readline = readlines = __next__ = read  # type: ignore[assignment]

    def readable(self) -> bool:
        """Tell that nothing can be read."""
        return False


def _refuse(
    event: str,
    args: tuple[Any, ...],
    roots: tuple[str, ...],
    guarded: frozenset[str],
    tail: Callable[[str, str], tuple[str, str, str]] = str.rpartition,
    starts: Callable[[str, tuple[str, ...]], bool] = str.startswith,
    holds: Callable[[str, str], bool] = str.__contains__,
) -> None:
    # All this relies on is a constant or an argument: globals and builtins are open to the program.
    if event == "import":
        name, path = args[0], args[1]
        if tail(name, ".")[2] in {
            "ctypes", "_ctypes", "_ctypes_test", "_testcapi", "_testinternalcapi", "_testlimitedcapi",
            "_testbuffer", "_testmultiphase", "_xxsubinterpreters", "_interpreters", "_remote_debugging",
        }:  # fmt: skip
            raise ImportError(f"{name} is not available")
        if path is not None and (not starts(path, roots) or holds(path, "/../")):
            raise ImportError(f"{name} is not available")
    elif event in {
        "gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys._current_frames",
        "sys._current_exceptions", "sys.settrace", "sys.setprofile", "sys.monitoring.register_callback",
        "sys.remote_exec", "ctypes.dlopen", "ctypes.dlsym", "ctypes.cdata",
    } or event in guarded:  # fmt: skip
        raise PermissionError(f"{event} is not allowed")


OFFICIAL_GUARD = frozenset(
    (
        "os.chmod", "os.chown", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.link",
        "os.posix_spawn", "os.remove", "os.rename", "os.rmdir", "os.spawn", "os.symlink",
        "os.system", "os.truncate", "os.unshare", "shutil.chown", "shutil.move", "shutil.rmtree",
        "socket.bind", "socket.connect", "socket.getaddrinfo", "subprocess.Popen",
    )
)  # fmt: skip
"""Refused in a process without a sandbox: the official harness's guard against accidents, no more."""


def _report(unraisable: Any) -> None:
    """Tell why the chain broke off. Also called for exceptions in `__del__`, which change nothing."""
    if "thread started by" not in (unraisable.err_msg or ""):
        return
    kind, value = unraisable.exc_type, unraisable.exc_value
    text = f"{kind.__name__}: {value}" if str(value) else kind.__name__
    os.write(RESULT_FD, FAILED + text[:MAX_DETAIL].encode("utf-8", "backslashreplace"))
    os._exit(1)


def _drop_rights(uid: int) -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), (value, value))


def _close_streams(answers: int) -> None:
    os.dup2(answers, RESULT_FD)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(RESULT_FD + 1, max(1024, answers + 1))
    sys.stdin = sys.__stdin__ = _NoInput()  # type: ignore[misc, assignment]


def _main() -> None:
    with open(0, "rb", closefd=False) as file:
        job: dict[str, Any] = marshal.load(file)
    _close_streams(job["answers"])
    if job["uid"] is not None:
        _drop_rights(job["uid"])
    sys.path[:] = [*(p for p in sys.path if p.startswith(job["roots"])), *job["site"]]
    sys.argv[:] = [""]
    sys.unraisablehook = _report
    gate = _thread.allocate_lock()
    gate.acquire()
    _thread.stack_size(THREAD_STACK)
    sys.addaudithook(partial(_refuse, roots=job["roots"], guarded=OFFICIAL_GUARD & job["guarded"]))
    _thread.start_new_thread(
        list,
        (
            map(
                call,  # type: ignore[arg-type]
                (
                    gate.acquire,
                    partial(exec, job.pop("source").decode("utf-8", "surrogatepass"), {}),
                    partial(os.write, RESULT_FD, job.pop("proof")),
                    partial(os._exit, 0),
                ),
            ),
        ),
    )
    while not _thread._count():
        time.sleep(0.0005)
    _thread.stack_size(0)
    _limit(job["limits"])
    os.write(RESULT_FD, STARTED)
    gate.release()
    while _thread._count():
        time.sleep(0.005)
    os._exit(2)  # SystemExit ends a thread without a word


if __name__ == "__main__":
    _main()
