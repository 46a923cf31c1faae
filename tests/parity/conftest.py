from collections.abc import Iterator
from types import ModuleType

import official as official_code
import pytest
import torch


@pytest.fixture(scope="session")
def official() -> ModuleType:
    """The module `official`, where the code it loads is there."""
    try:
        official_code.load()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    return official_code


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other make these small tensors five times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
