"""Programs that want out, or want to be counted as passed: each passes only if its attack succeeds."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from evalkit.sandbox import Limits, Program, Verdict, bubblewrap, run_programs

pytestmark = pytest.mark.usefixtures("bwrap")

LIMITS = Limits(timeout_s=0.3)
SEND = """
import os
def send(found):
    for proof in found:
        for fd in range(64):
            try:
                os.write(fd, proof)
            except OSError:
                pass
    os._exit(0)
"""
FOUND = SEND + "def looks_like_proof(x): return type(x) is bytes and len(x) == 32\n"

FORGERIES = {
    "os._exit(0)": "import os\nos._exit(0)",
    "sys.exit": "import sys\nsys.exit(0)",
    "SystemExit in a thread too": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(0.2,)).start()\n"
        "raise SystemExit(0)"
    ),
    "raising from __del__": (
        "class D:\n    def __del__(self):\n        raise SystemExit(0)\nd = D()\ndel d\nassert False"
    ),
    "leaving through __del__": (
        "import os\nclass D:\n    def __del__(self):\n        os._exit(0)\nd = D()\nassert False"
    ),
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\nraise ValueError",
    "printing success": "print('passed' * 10)\nimport sys\nsys.stderr.write('S')\nassert False",
    "writing to every descriptor": SEND + "send([b'S', b'S' + bytes(32), b'passed'])",
    "guessing the proof": SEND + "send([os.urandom(32)])",
    "many guesses": SEND + "send([os.urandom(32) for _ in range(5000)])",
    "closing every descriptor": "import os\nos.closerange(0, 64)\nos._exit(0)",
    "closing every descriptor and staying": "import os, time\nos.closerange(0, 64)\ntime.sleep(60)",
    "redirecting the result": "import os\n[os.dup2(0, fd) for fd in range(3, 10)]\nassert False",
    "looking down the stack": FOUND
    + """
import sys
frame, found = sys._getframe(), []
while frame:
    for where in (frame.f_locals, frame.f_globals, dict(enumerate(frame.f_code.co_consts))):
        found += filter(looks_like_proof, list(where.values()))
    frame = frame.f_back
assert found
send(found)""",
    "looking at the starting module": FOUND
    + """
import sys
seen = vars(sys.modules['__main__'])
send([x for x in seen.values() if looks_like_proof(x)] or [b'nothing'])""",
    "looking through all objects": FOUND
    + """
import gc
found = []
for x in gc.get_objects():
    found += filter(looks_like_proof, gc.get_referents(x))
assert found
send(found)""",
    "asking for referrers": "import gc\nassert gc.get_referrers(globals())",
    "asking for the frames of other threads": "import sys\nassert sys._current_frames()",
    "frames of a callback of the garbage collector": FOUND
    + """
import gc, sys
found = []
def look(*args):
    frame = sys._getframe()
    while frame:
        found.extend(filter(looks_like_proof, list(frame.f_locals.values())))
        frame = frame.f_back
gc.callbacks.append(look)
gc.collect()
assert found
send(found)""",
    "taking off the audit hook": """
import gc
try:
    gc.get_objects()
except BaseException as error:
    names = error.__traceback__.tb_next.tb_frame.f_globals
    for name in list(names):
        names[name] = frozenset()
import builtins
builtins.PermissionError = builtins.ImportError = lambda *a: None
assert gc.get_objects()""",
    "drowning the audit hook": (
        "import sys, gc\nsys.addaudithook(lambda *a: None)\nsys.setrecursionlimit(50)\n"
        "assert gc.get_objects()"
    ),
    "jumping over the checks with a tracer": """
import sys
def tracer(frame, event, arg):
    if event == 'line' and frame.f_code.co_name == 'check':
        frame.f_lineno += 1
    return tracer
sys.settrace(tracer)
def check():
    assert False
    return None
check()""",
    "a profiler": "import sys\nsys.setprofile(lambda *a: None)\n",
    "ctypes": "import ctypes\nctypes.string_at(id(0), 8)",
    "_ctypes under another name": (
        "import importlib.machinery as m, importlib.util as u, glob, sys\n"
        "path = glob.glob(sys.prefix + '/lib/python3*/lib-dynload/_ctypes.*')[0]\n"
        "spec = u.spec_from_file_location('x._ctypes', path)\nu.module_from_spec(spec)"
    ),
    "bringing an extension module along": (
        "import glob, shutil, sys, os\n"
        "path = glob.glob(sys.prefix + '/lib/python3*/lib-dynload/_bisect.*')[0]\n"
        "shutil.copy(path, '/tmp/')\nsys.path.insert(0, '/tmp')\nsys.modules.pop('_bisect', None)\n"
        "import _bisect\nassert _bisect.__file__.startswith('/tmp')"
    ),
    "patching the checker": (
        "import builtins, os\nbuiltins.exec = builtins.compile = builtins.map = builtins.list = len\n"
        "os.write = os._exit = lambda *a: None\nAssertionError = None\nbuiltins.AssertionError = ValueError\n"
        "def check(f): pass\ndef check(f): assert f() == 1\ncheck(lambda: 2)"
    ),
    "patching the hooks of the interpreter": (
        "import sys, os\nsys.unraisablehook = sys.excepthook = lambda *a: os._exit(0)\n"
        "import threading\nthreading.excepthook = sys.excepthook\nassert False"
    ),
    "interrupting the main thread": (
        "import _thread, time\n_thread.interrupt_main()\ntime.sleep(0.3)\nassert False"
    ),
    "leaving from another thread": (
        "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()\n"
        "import time\ntime.sleep(5)"
    ),
    "becoming another program": ("import os, sys, glob\nos.execv(os.path.realpath('/proc/self/exe'), ['x'])"),
    "becoming another interpreter": (
        "import os, sys\nos.set_inheritable(3, True)\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'import os; os.write(3, bytes(32))'])"
    ),
    "a stack overflow": (
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n"
        "    def __repr__(self): return repr(self)\nrepr(A())"
    ),
    "a parser bomb": "(" * 100_000,
    "a null byte": "x = 1\0",
    "not Unicode": "x = '\ud800'",
    "an object that calls itself passed": (
        "class Liar(Exception):\n    def __str__(self): return 'S' * 10_000_000\nraise Liar"
    ),
    "reading standard input": "input()",
    "being the main program": "if __name__ != '__main__':\n    raise ValueError",
}

ESCAPES = {
    "connecting to this machine": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "asking a name server": "import socket\nsocket.getaddrinfo('example.com', 80)",
    "sending a datagram": (
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.0.0.1', 53))"
    ),
    "an abstract socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0{token}')",
    "a raw socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "the line to the hypervisor": "import socket\nsocket.socket(40, socket.SOCK_STREAM)",
    "reading a file of this machine": "assert open({secret!r}).read()",
    "reading the home folder": "import os\nassert len(os.listdir({home!r})) > 1",
    "reading the accounts": "open('/etc/passwd').read()",
    "reading the work folder": "import os\nos.listdir({here!r})",
    "reading the environment": (
        "import os\nassert {token!r} in str(os.environ) + str(os.getenv('EVALKIT_SECRET'))"
    ),
    "asking for other processes": "import os\nassert os.listdir('/proc')",
    "reading its own memory": "open('/proc/self/mem', 'rb').read(1)",
    "prying into the parent": "import os\nopen(f'/proc/{{os.getppid()}}/environ').read()",
    "writing a file of this machine": "open({target!r}, 'w').write('x')",
    "writing at the root": "open('/written', 'w').write('x')",
    "writing to the system": "import os\nopen(os.__file__, 'a').write('x')",
    "overwriting the runner": "open('/inside.py', 'w').write('x')",
    "a symbolic link": "import os\nos.symlink({target!r}, '/tmp/link')\nopen('/tmp/link', 'w').write('x')",
    "a link up and out": "import os\nos.symlink('/../../../..' + {secret!r}, 'up')\nassert open('up').read()",
    "a hard link": (
        "import os\nos.link('/inside.py', '/tmp/inside.py')\nopen('/tmp/inside.py', 'a').write('x')"
    ),
    "a device": "import os, stat\nos.mknod('/tmp/disk', stat.S_IFBLK | 0o600, os.makedev(254, 0))",
    "chroot": "import os\nos.chroot('/tmp')",
    "becoming root": "import os\nos.setuid(0)\nopen({secret!r})",
    "changing identity": "import os\nos.setresuid(1, 1, 1)\nassert os.getuid() == 1",
    "raising a limit": ("import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))"),
    "a new namespace": "import os\nos.unshare(0x10000000)",
    "a shell": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'true'])",
    "killing everybody": (
        "import os, signal\nos.kill(-1, signal.SIGKILL)\nos.kill(1, signal.SIGKILL)\n"
        "os.kill(os.getppid(), 9)\nassert False"
    ),
    "stopping itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nassert False",
    "killing its group": "import os, signal\nos.killpg(0, signal.SIGKILL)",
    "a higher priority": "import os\nos.nice(-5)",
    "a child": "import os\nif os.fork() == 0:\n    os._exit(0)",
    "a daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(60)\n"
    ),
    "a pool": "import multiprocessing as m\nm.get_context('fork').Process(target=int).start()",
    "spawning": "import os, sys\nos.posix_spawn(sys.executable, [sys.executable, '-c', ''], {{}})",
    "memory that outlives": "import os\nos.memfd_create('x')",
    "the keyboard": "open('/dev/tty').read(1)",
    "the disk": "open('/dev/vda', 'rb').read(1)",
}

BOMBS = {
    "forks": "import os\nwhile True:\n    os.fork()",
    "forks whatever happens": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    ),
    "threads": (
        "import threading, time\nthreading.stack_size(65536)\nwhile True:\n"
        "    try:\n        threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    except RuntimeError:\n        pass"
    ),
    "memory": "x = []\nwhile True:\n    x.append(bytearray(50_000_000))",
    "memory whatever happens": (
        "x = []\nwhile True:\n    try:\n        x.append(bytearray(1_000_000))\n"
        "    except MemoryError:\n        pass"
    ),
    "shared memory": (
        "import mmap\nx = []\nwhile True:\n    m = mmap.mmap(-1, 1 << 26)\n"
        "    m.write(bytes(1 << 26))\n    x.append(m)"
    ),
    "a full disk": (
        "i = 0\nwhile True:\n    i += 1\n    f = open(f'/tmp/{i}', 'wb')\n"
        "    f.write(bytes(1 << 24))\n    f.close()"
    ),
    "a large file": "f = open('/tmp/large', 'wb')\nwhile True:\n    f.write(bytes(1 << 20))",
    "many files": "i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'w').close()",
    "open files": "x = []\nwhile True:\n    x.append(open('/dev/null'))",
    "pipes": "import os\nwhile True:\n    r, w = os.pipe()\n    os.write(w, bytes(65536))",
    "output": "while True:\n    print('x' * 1_000_000)",
    "result": "import os\nwhile True:\n    os.write(3, bytes(65536))",
    "a loop": "while True:\n    pass",
    "sleep": "import time\ntime.sleep(3600)",
    "one long instruction": "x = 7 ** (7 ** 11)",
    "a loop that ignores signals": (
        "import faulthandler, signal, sys\ntry:\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
        "finally:\n    while True:\n        pass"
    ),
    "threads that never end": (
        "import threading\ndef loop():\n    while True: pass\n"
        "[threading.Thread(target=loop).start() for _ in range(8)]\nraise SystemExit(0)"
    ),
}


@dataclass
class Host:
    """What hostile programs try to reach on this machine."""

    names: dict[str, object]
    mark: str
    folder: Path

    def survivors(self) -> list[int]:
        """Processes that carry the mark of this test in their command line or environment."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                if self.mark.encode() in text and int(process.name) != os.getpid():
                    found.append(int(process.name))
        return found


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    token = secrets.token_hex(8)
    monkeypatch.setenv("EVALKIT_SECRET", token)
    mark = f"mark-{secrets.token_hex(8)}"
    monkeypatch.setitem(bubblewrap.ENVIRONMENT, "MARK", mark)
    folder = tmp_path / "open"
    folder.mkdir()
    for path in (folder, *folder.parents):
        if path.is_relative_to(Path("/tmp")) and path != Path("/tmp"):
            path.chmod(0o777)
    secret, target = folder / "secret", folder / "target"
    secret.write_text("secret")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0{token}")
        tcp.listen()
        abstract.listen()
        names = {
            "port": tcp.getsockname()[1],
            "token": token,
            "secret": str(secret),
            "target": str(target),
            "home": str(Path.home()),
            "here": str(Path(__file__).parent),
        }
        yield Host(names, mark, folder)
        for server in (tcp, abstract):
            server.settimeout(0)
            with pytest.raises(BlockingIOError):
                server.accept()


def attack(host: Host, source: str) -> Verdict:
    (verdict,) = run_programs([Program(source)], limits=LIMITS)
    assert host.survivors() == []
    assert sorted(p.name for p in host.folder.iterdir()) == ["secret"]
    assert (host.folder / "secret").read_text() == "secret"
    return verdict


@pytest.mark.parametrize("name", FORGERIES)
def test_success_cannot_be_forged(host: Host, name: str) -> None:
    verdict = attack(host, FORGERIES[name])
    assert verdict.status != "passed"
    assert verdict.status == "failed" or verdict.retried


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_outside_is_reached(host: Host, name: str) -> None:
    verdict = attack(host, ESCAPES[name].format(**host.names))
    assert verdict.status != "passed"


@pytest.mark.parametrize("name", BOMBS)
def test_the_machine_stays_responsive(host: Host, name: str) -> None:
    verdicts: list[Verdict] = []
    free = lowest = psutil.virtual_memory().available
    slowest = 0.0
    thread = threading.Thread(target=lambda: verdicts.append(attack(host, BOMBS[name])))
    thread.start()
    while thread.is_alive():
        started = time.monotonic()
        subprocess.run(["true"], check=True)
        slowest = max(slowest, time.monotonic() - started)
        lowest = min(lowest, psutil.virtual_memory().available)
        time.sleep(0.02)
    assert [v.status for v in verdicts] in (["failed"], ["timeout"])
    assert slowest < 2
    assert free - lowest < 2 * LIMITS.memory_bytes


def test_survivors_would_be_seen(host: Host) -> None:
    seen: list[int] = []
    thread = threading.Thread(
        target=run_programs, args=([Program("import time\ntime.sleep(1)")],), kwargs={"limits": Limits(2.0)}
    )
    thread.start()
    while thread.is_alive():
        seen += host.survivors()
        time.sleep(0.02)
    assert seen
    assert host.survivors() == []
