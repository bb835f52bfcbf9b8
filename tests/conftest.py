from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import missing
from hypothesis import settings

if TYPE_CHECKING:
    from evalkit.backends.hf.backend import HfBackend

# Tests that start Python must import the installed evalkit, not the source folder they are started in.
os.environ["PYTHONSAFEPATH"] = "1"

# Workers share the cores: threads that wait for each other, or for one core, are slower than one that moves.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


# What a busy machine takes says nothing of the code.
settings.register_profile("evalkit", deadline=None)
settings.load_profile("evalkit")


@pytest.fixture(scope="session")
def official_data() -> Path:
    """Folder with the official benchmark data, in official layouts."""
    folder = os.environ.get("EVALKIT_DATA")
    if folder is None:
        missing("needs the official benchmark data; set EVALKIT_DATA to its folder")
    return Path(folder)


@pytest.fixture(scope="session")
def demo() -> HfBackend:
    """The dense demo model on transformers, in float32: for many tests, none of which changes it."""
    from evalkit.backends.hf.backend import HfBackend

    return HfBackend.from_name("demo", dtype="float32", device="cpu")
