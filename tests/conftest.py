from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import missing
from hypothesis import settings

# Tests that start Python must import the installed evalkit, not the source folder they are started in.
os.environ["PYTHONSAFEPATH"] = "1"


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
