"""Running programs, the canary, and machines without a sandbox."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from evalkit.errors import UntrustedResultError
from evalkit.sandbox import (
    CanaryFailed,
    Limits,
    Program,
    SandboxUnavailable,
    Verdict,
    bubblewrap,
    canary,
    require,
    run_programs,
    syscalls,
)


@pytest.fixture(params=["sandbox", "unsafe"])
def unsafe(request: pytest.FixtureRequest) -> bool:
    if request.param == "sandbox":
        request.getfixturevalue("bwrap")
    return bool(request.param == "unsafe")


@pytest.fixture
def no_bwrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search path on which there is no bubblewrap."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def run(source: str, unsafe: bool = False, timeout_s: float = 5.0) -> Verdict:
    (verdict,) = run_programs([Program(source)], unsafe=unsafe, limits=Limits(timeout_s))
    return verdict


@pytest.mark.parametrize(
    "source",
    [
        "",
        "assert 1 + 1 == 2",
        "import math, random, re, typing, collections, hashlib, decimal, itertools, json, datetime",
        "import numpy\nassert numpy.ones(3).sum() == 3",
        "import asyncio\nasyncio.run(asyncio.sleep(0))",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\nassert A(1) == A(1)",
        "from collections import namedtuple\nassert namedtuple('P', 'x')(1).x == 1",
        "import threading\nt = [threading.Thread(target=int) for _ in range(20)]\n"
        "[x.start() for x in t]\n[x.join() for x in t]",
        "open('note', 'w').write('x')\nassert open('note').read() == 'x'",
        "import os\nassert os.environ['OMP_NUM_THREADS'] == '1'\nassert 'EVALKIT_DATA' not in os.environ",
        "import sys\nassert __name__ != '__main__'\nassert sys.argv == ['']",
        "def f(n): return n and f(n - 1)\nf(900)",
        "print('ä' * 1000)\nimport sys\nsys.stderr.write('x')",
        "class D:\n    def __del__(self): raise ValueError\nD()",
        "try:\n    import gc\n    gc.get_objects()\nexcept Exception:\n    pass",
        "import time\ntime.sleep(0.2)",
        "from __future__ import annotations\nx: Missing = 1",
    ],
)
def test_honest_programs_pass(source: str, unsafe: bool) -> None:
    verdict = run(source, unsafe)
    assert (verdict.status, verdict.detail, verdict.retried) == ("passed", "", False)


@pytest.mark.usefixtures("bwrap")
@pytest.mark.parametrize(
    "source",
    [
        "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x')",
        "import os\nassert os.listdir('.') == []\nos.mkdir('a')\nos.rename('a', 'b')\nos.rmdir('b')",
    ],
)
def test_in_the_sandbox_files_may_come_and_go(source: str) -> None:
    assert run(source).status == "passed"


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("assert False, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError: invalid syntax (<string>, line 1)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise SystemExit(0)", "ended before its last line (exit status 2)"),
        ("import os\nos._exit(7)", "ended before its last line (exit status 7)"),
        ("raise ValueError('\\ud800' + 'x' * 5000)", "ValueError: \\ud800" + "x" * 1987),
        ("x = 'ä'\nraise ValueError(x)", "ValueError: ä"),
    ],
)
def test_failures_say_why(source: str, detail: str, unsafe: bool) -> None:
    verdict = run(source, unsafe)
    assert (verdict.status, verdict.detail) == ("failed", detail)


def test_verdicts_come_in_order_and_progress_counts(unsafe: bool) -> None:
    programs = [Program(f"assert {i} % 3") for i in range(12)]
    seen: list[int] = []
    verdicts = run_programs(programs, unsafe=unsafe, workers=2, progress=seen.append)
    assert [v.status for v in verdicts] == ["passed" if i % 3 else "failed" for i in range(12)]
    assert seen == list(range(1, 13))
    assert run_programs([], unsafe=unsafe) == []


def test_a_timeout_is_tried_once_more_with_three_times_the_time(unsafe: bool) -> None:
    programs = [Program(f"import time\ntime.sleep({s})") for s in (60, 0.6, 0)]
    seen: list[int] = []
    verdicts = run_programs(programs, limits=Limits(0.4), unsafe=unsafe, progress=seen.append)
    assert [(v.status, v.retried) for v in verdicts] == [
        ("timeout", True),
        ("passed", True),
        ("passed", False),
    ]
    assert verdicts[0].detail == "no end within 1.2 s"
    assert 1.2 <= verdicts[0].seconds < 3
    assert seen[-1] == 3


def test_the_hash_seed_is_fixed(unsafe: bool) -> None:
    details = {run(f"raise ValueError(hash('evalkit'))  # {i}", unsafe).detail for i in range(3)}
    assert len(details) == 1


def test_ten_megabytes_of_answer_are_judged(unsafe: bool) -> None:
    assert run("#" * 10_000_000 + "\n1 / 0", unsafe).detail == "ZeroDivisionError: division by zero"


def test_an_interruption_ends_running_programs_at_once(unsafe: bool) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    programs = [Program("x = 1"), Program("while True: pass")]
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_programs(programs, workers=2, limits=Limits(60.0), unsafe=unsafe, progress=interrupt)
    assert time.monotonic() - started < 10
    assert not [t for t in threading.enumerate() if t.name.startswith("sandbox")]


@pytest.mark.usefixtures("bwrap")
def test_a_killed_evalkit_takes_its_programs_along() -> None:
    script = (
        "from evalkit.sandbox import *\n"
        "from evalkit.sandbox import bubblewrap as b\n"
        f"b.ENVIRONMENT['MARK'] = 'killed-{os.getpid()}'\n"
        "run_programs([Program('while True: pass')], limits=Limits(60.0))"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        wait_for(lambda: bool(marked(f"killed-{os.getpid()}", besides=process.pid)))
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not marked(f"killed-{os.getpid()}"))


def marked(mark: str, besides: int = 0) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in text and int(process.name) != besides:
            found.append(int(process.name))
    return found


def wait_for(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- canary -----------------------------------------------------------------------------------------


def test_the_canary_lives(unsafe: bool) -> None:
    require(unsafe)


@pytest.mark.usefixtures("bwrap")
@pytest.mark.parametrize(
    ("option", "found"),
    [
        ("--bind", "read a file of this machine, write outside its folder"),
        ("--ro-bind", "read a file of this machine"),
    ],
)
def test_a_leaky_sandbox_kills_the_canary(
    option: str, found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = bubblewrap.command
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)

    def leaky(bwrap: str, limits: Limits, descriptors: bubblewrap.Descriptors) -> list[str]:
        args = real(bwrap, limits, descriptors)
        at = args.index("--remount-ro")
        parents = [a for p in reversed(tmp_path.parents[:-2]) for a in ("--perms", "0755", "--dir", str(p))]
        return [*args[:at], *parents, option, str(tmp_path), str(tmp_path), *args[at:]]

    monkeypatch.setattr(bubblewrap, "command", leaky)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(CanaryFailed, match=f"could {found}; nothing is run"):
        require()


@pytest.mark.usefixtures("bwrap")
@pytest.mark.parametrize(
    ("removed", "found"), [("", "start a process"), ("--unshare-net", "reach the network, start a process")]
)
def test_a_missing_system_call_filter_kills_the_canary(
    removed: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    real = bubblewrap.command
    monkeypatch.setattr(syscalls, "program", lambda machine: allow)
    monkeypatch.setattr(bubblewrap, "command", lambda *args: [a for a in real(*args) if a != removed])
    with pytest.raises(CanaryFailed, match=f"could {found}; nothing is run"):
        require()


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("_REFERENCE", "1 / 0", "a correct program did not pass"),
        ("_MUTANT", "1", "a wrong program was not found out"),
        ("_QUITTER", "1", "a program that quits early was not found out"),
    ],
)
def test_wrong_verdicts_kill_the_canary(
    name: str, source: str, message: str, unsafe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, name, source)
    with pytest.raises(CanaryFailed, match=message) as raised:
        require(unsafe)
    assert raised.value.exit_code == 3


# -- no sandbox -------------------------------------------------------------------------------------


def test_no_bubblewrap(no_bwrap: Path) -> None:
    for call in (require, lambda: run_programs([Program("x = 1")])):
        with pytest.raises(SandboxUnavailable) as raised:
            call()
        assert isinstance(raised.value, UntrustedResultError)
        assert raised.value.exit_code == 3
        assert "apt install bubblewrap" in str(raised.value)
        assert "--unsafe-local-code" in str(raised.value)


def test_unsafe_needs_no_bubblewrap(no_bwrap: Path) -> None:
    require(unsafe=True)
    assert run("x = 1", unsafe=True).status == "passed"
    assert run("assert False", unsafe=True).status == "failed"


def test_a_sandbox_that_does_not_start_is_no_verdict(no_bwrap: Path) -> None:
    fake = no_bwrap / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match="setting up uid map: Permission denied; unprivileged user"):
        require()


def test_an_unknown_architecture(bwrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(SandboxUnavailable, match="no system-call filter"):
        require()


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.kill(os.getppid(), 0)",
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import shutil\nshutil.rmtree('.')",
        "import os\nos.system('true')",
        "import os\nopen('x', 'w').close()\nos.remove('x')",
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "import os\nassert os.environ['HOME'] != os.path.dirname(os.getcwd()) and 'USER' in os.environ",
    ],
)
def test_unsafe_keeps_the_official_guard_against_accidents(source: str) -> None:
    assert run(source, unsafe=True).status == "failed"


def test_unsafe_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("open('x', 'w').write('x')", unsafe=True).status == "passed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_jumps_forward_within_itself(machine: str) -> None:
    code = syscalls.program(machine)
    lines = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    for i, (kind, if_true, if_false, _) in enumerate(lines):
        assert i + 1 + max(if_true, if_false) < len(lines) or kind == 0x06
    assert lines[-1][0] == 0x06
