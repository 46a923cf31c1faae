from types import ModuleType

import official as official_code
import pytest


@pytest.fixture(scope="session")
def official() -> ModuleType:
    """The module `official`, where the code it loads is there."""
    try:
        official_code.load()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    return official_code
