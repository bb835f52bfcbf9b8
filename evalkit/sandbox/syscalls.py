"""A system-call filter for bubblewrap: no processes, namespaces, sockets or memory beyond limits."""

from __future__ import annotations

import errno
import platform
import struct

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_DENIED = {
    # name: (number on x86_64, number on aarch64); None where there is no such call
    "fork": (57, None),
    "vfork": (58, None),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "socket": (41, 198),  # some families, such as a virtual machine's line to its host, know no namespaces
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def architecture() -> str | None:
    """Name of this machine's architecture if there is a filter for it."""
    machine = platform.machine()
    return machine if machine in _ARCHITECTURES else None


def program(machine: str) -> bytes:
    """Build the filter as the classic BPF program that `bwrap --seccomp` reads.

    clone3 hides its flags from filters and is reported as missing, so that the C library uses clone.
    """
    column = list(_ARCHITECTURES).index(machine)
    denied = [numbers[column] for numbers in _DENIED.values()]
    denied_numbers = [number for number in denied if number is not None]
    lines: list[tuple[int, str, str, int]] = [
        (_LOAD, "", "", _ARCHITECTURE_AT),
        (_EQUAL, "", "kill", _ARCHITECTURES[machine]),
        (_LOAD, "", "", _NUMBER_AT),
        (_AT_LEAST, "deny", "", _X32_BIT),
        *((_EQUAL, "deny", "", number) for number in denied_numbers),
        (_EQUAL, "missing", "", _CLONE3),
        (_EQUAL, "", "allow", _CLONE[machine]),
        (_LOAD, "", "", _FIRST_ARGUMENT_AT),
        (_ANY_BIT, "allow", "deny", _CLONE_THREAD),
    ]
    ends = {
        "allow": _ALLOW,
        "deny": _REFUSE | errno.EPERM,
        "missing": _REFUSE | errno.ENOSYS,
        "kill": _KILL,
    }
    targets = {name: len(lines) + i for i, name in enumerate(ends)}
    packed = [
        struct.pack("=HBBI", code, *(targets[t] - i - 1 if t else 0 for t in (if_true, if_false)), value)
        for i, (code, if_true, if_false, value) in enumerate(lines)
    ]
    packed += [struct.pack("=HBBI", _RETURN, 0, 0, value) for value in ends.values()]
    return b"".join(packed)
