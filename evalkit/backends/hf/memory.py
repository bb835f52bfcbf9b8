"""How much memory there is, and the habits that keep inference fast and small."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

import psutil
import torch

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next layer instead of returning them to the kernel.

    By default large activations are mapped and unmapped anew in every layer, and their pages faulted in
    again: about a third of a small model's time on a CPU.
    """
    if mallopt := _libc("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_TOP_PAD, 64 << 20)


def return_unused() -> None:
    """Give pages that fragmentation left unused back to the kernel; cheap when done now and then."""
    if malloc_trim := _libc("malloc_trim"):
        malloc_trim(0)


def _libc(function: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), function, None)


def free_bytes(device: torch.device) -> int:
    """Memory that could be taken on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch failed for want of memory, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def release() -> None:
    """Give cached device memory back before a smaller attempt."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
