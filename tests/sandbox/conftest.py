from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def bwrap() -> str:
    """Path of bubblewrap; a CI that has none must not pass for one that tested the sandbox."""
    path = shutil.which("bwrap")
    if path is None:
        message = "needs bubblewrap (apt install bubblewrap)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
