"""Proof that the sandbox works, before anything is believed that comes out of it."""

from __future__ import annotations

import secrets
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from evalkit.errors import UntrustedResultError
from evalkit.sandbox import bubblewrap
from evalkit.sandbox.pool import run_programs
from evalkit.sandbox.program import Limits, Program, Verdict


class CanaryFailed(UntrustedResultError):
    """The sandbox runs programs, but its verdicts or its walls are not what they should be."""


_REFERENCE = """\
from typing import List

def total(numbers: List[int]) -> int:
    result = 0
    for number in numbers:
        result += number
    return result

def check(candidate):
    assert candidate([]) == 0
    assert candidate([1, 2, 3]) == 6

check(total)
"""
_MUTANT = _REFERENCE.replace("+= number", "-= number")
_QUITTER = f"import os\nos._exit(0)\n{_MUTANT}"

_READ = "assert open({path!r}).read() == {token!r}"
_WRITE = "open({path!r}, 'w').write({token!r})"
_CONNECT = "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)"
_FORK = "import os\nif os.fork() == 0:\n    os._exit(0)"

_LIMITS = Limits(timeout_s=10.0)


def require(unsafe: bool = False) -> None:
    """Make sure that programs can be run, that right ones pass, wrong ones fail, and none gets out.

    Raises:
        SandboxUnavailable: bubblewrap is missing or does not start.
        CanaryFailed: a verdict is wrong, or a program reached what it must not reach.
    """
    if not unsafe:
        bubblewrap.find()
    _check_verdicts(unsafe)
    if not unsafe:
        _check_walls()


def _check_verdicts(unsafe: bool) -> None:
    reference, mutant, quitter = _run([_REFERENCE, _MUTANT, _QUITTER], unsafe)
    if reference.status != "passed":
        raise CanaryFailed(
            f"canary: a correct program did not pass ({reference.status}: {reference.detail}); scores would "
            "be too low, so nothing is run. Check the memory and the interpreter of this machine"
        )
    for name, verdict in (("a wrong program", mutant), ("a program that quits early", quitter)):
        if verdict.status != "failed":
            raise CanaryFailed(
                f"canary: {name} was not found out ({verdict.status}); scores would be too high, so nothing "
                "is run. Report this, please"
            )


def _check_walls() -> None:
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="evalkit-canary-") as name, socket.socket() as server:
        folder = Path(name)
        folder.chmod(0o777)
        secret, target = folder / "secret", folder / "written"
        secret.write_text(token)
        secret.chmod(0o644)
        server.bind(("127.0.0.1", 0))
        server.listen()
        attempts = {
            "read a file of this machine": _READ.format(path=str(secret), token=token),
            "write outside its folder": _WRITE.format(path=str(target), token=token),
            "reach the network": _CONNECT.format(port=server.getsockname()[1]),
            "start a process": _FORK,
        }
        verdicts = _run(list(attempts.values()), unsafe=False)
        escapes = [what for what, v in zip(attempts, verdicts, strict=True) if v.status == "passed"]
        if target.exists() and "write outside its folder" not in escapes:
            escapes.append("write outside its folder")
    if escapes:
        raise CanaryFailed(
            f"canary: a program in the sandbox could {', '.join(escapes)}; nothing is run. Check the "
            "installation of bubblewrap, or run in a disposable machine with --unsafe-local-code"
        )


def _run(sources: Sequence[str], unsafe: bool) -> list[Verdict]:
    return run_programs([Program(s) for s in sources], limits=_LIMITS, unsafe=unsafe)
