"""The command line of bubblewrap: what a program sees of this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evalkit.sandbox import syscalls
from evalkit.sandbox.program import Limits, SandboxUnavailable

INSIDE = Path(__file__).with_name("inside.py")

FIRST_UID = 61100
"""Programs of a root user run as this user or one of the next, one each: no such user exists."""

_REMEDY = (
    "install it (`apt install bubblewrap`), or pass --unsafe-local-code to run the model's programs "
    "unprotected on a machine you can afford to lose"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The interpreter that runs the programs, and the files it needs."""

    executable: str
    roots: tuple[str, ...]
    """Folders that modules may come from."""
    numpy: tuple[str, ...]
    """numpy's folders: the official harness has it installed, so programs use it."""


@cache
def interpreter() -> Interpreter:
    """The interpreter under this one, without its virtual environment."""
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    prefix = os.path.realpath(sys.base_prefix)
    roots = {"/usr/lib", "/usr/lib64", f"{prefix}/lib", f"{prefix}/{sys.platlibdir}"}
    spec = importlib.util.find_spec("numpy")
    folders = []
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent
        folders = [str(f) for f in (folder, folder.with_name("numpy.libs")) if f.is_dir()]
    return Interpreter(executable, tuple(sorted(p for p in roots if Path(p).is_dir())), tuple(folders))


def find() -> str:
    """Path of bubblewrap.

    Raises:
        SandboxUnavailable: it is not installed, or this machine has no system-call filter.
    """
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxUnavailable(f"bubblewrap, the sandbox for generated programs, is not there: {_REMEDY}")
    if syscalls.architecture() is None:
        raise SandboxUnavailable(
            f"the sandbox has no system-call filter for {os.uname().machine}; run on x86_64 or aarch64, or "
            "pass --unsafe-local-code to run the model's programs unprotected"
        )
    return path


def broken(reason: str) -> SandboxUnavailable:
    """The error for a sandbox that is installed and does not start."""
    reason = " ".join(reason.split()) or "no message"
    hint = ""
    if any(word in reason for word in ("namespace", "uid map", "Operation not permitted", "loopback")):
        hint = (
            "; unprivileged user namespaces may be switched off here (on Ubuntu: "
            "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`; in a container: run it privileged)"
        )
    return SandboxUnavailable(
        f"the sandbox does not start: {reason}{hint}; repair it, or pass --unsafe-local-code to run the "
        "model's programs unprotected"
    )


def uid(slot: int) -> int | None:
    """User a program changes to, where this process is root: limits on tasks do not bind root."""
    return FIRST_UID + slot if os.getuid() == 0 else None


def python(script: str) -> list[str]:
    """Command that starts a bare interpreter: no site, no user folder, nothing written."""
    return [interpreter().executable, "-s", "-S", "-P", "-B", "-X", "utf8", script]


HOME = "/tmp/home"
SITE = "/site"

ENVIRONMENT = {
    "HOME": HOME,
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/nowhere",
    "PYTHONHASHSEED": "0",
    "TMPDIR": HOME,
}
"""All of a program's environment; the fixed hash seed makes verdicts repeatable."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Open files that bubblewrap inherits."""

    info: int
    """Where it tells the number of its first process."""
    hold: int
    """What it waits for before it starts the command."""
    syscalls: int
    """The system-call filter."""


def command(bwrap: str, limits: Limits, descriptors: Descriptors) -> list[str]:
    """Build the command that runs `inside.py` shut in.

    Root stays in its user namespace, where the program becomes a user without rights: in a new one it
    would still be root to the kernel, and unlimited. Everybody else gets a new one. The system-call
    filter keeps both from making more.
    """
    args = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if os.getuid() == 0:
        args += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        args += ["--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    args += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        args += ["--setenv", name, value]
    args += ["--perms", "1777", "--size", str(limits.disk_bytes), "--tmpfs", "/tmp"]
    args += ["--perms", "1777", "--dir", HOME]
    args += _files()
    args += ["--remount-ro", "/", "--chdir", HOME]
    args += ["--info-fd", str(descriptors.info), "--block-fd", str(descriptors.hold)]
    args += ["--seccomp", str(descriptors.syscalls), "--"]
    return args + python("/inside.py")


@cache
def _files() -> tuple[str, ...]:
    found = interpreter()
    links = {}
    binds = {path: path for path in (*found.roots, found.executable)}
    for folder in ("/lib", "/lib32", "/lib64", "/libx32"):
        if Path(folder).is_symlink():
            links[folder] = str(Path(folder).readlink())
        elif Path(folder).is_dir():
            binds[folder] = folder
    if Path("/etc/ld.so.cache").is_file():
        binds["/etc/ld.so.cache"] = "/etc/ld.so.cache"
    for folder in found.numpy:
        binds[f"{SITE}/{Path(folder).name}"] = folder
    binds["/inside.py"] = str(INSIDE)
    devices = ("/dev/null", "/dev/urandom", "/dev/zero")
    # A parent folder that bubblewrap makes on the way is open to root only.
    parents = {str(parent) for path in (*binds, *devices) for parent in Path(path).parents} - {
        "/",
        "/tmp",
        *binds,
    }
    args: list[str] = []
    for path in sorted(parents):
        args += ["--perms", "0755", "--dir", path]
    for at, target in links.items():
        args += ["--symlink", target, at]
    for at, path in sorted(binds.items()):
        args += ["--ro-bind", path, at]
    for path in devices:
        args += ["--dev-bind", path, path]
    return tuple(args)
