from pathlib import Path

import pytest
from tiny import TINY

from opendetr import api


@pytest.fixture(scope="session")
def tiny_run(digits, tmp_path_factory) -> Path:
    """Two epochs of the tiny preset on digit scenes: a run to look at, never to change."""
    return api.train(digits, **TINY, epochs=2, output=tmp_path_factory.mktemp("runs") / "tiny")
