"""The commands as functions. Each checks its arguments and calls the room that does the work.

An argument that is None takes its default. A path is what pathlib makes of it: an empty `output` is the current folder.
A function is imported when it is first used, so that none waits for the packages of another.
"""

import importlib
from typing import TYPE_CHECKING, Any

_FILES = {
    "ablate": "learning",
    "benchmark": "measuring",
    "convert": "models",
    "convert_data": "data_sets",
    "check_data": "data_sets",
    "data_stats": "data_sets",
    "demo": "learning",
    "doctor": "learning",
    "explain": "detection",
    "export": "models",
    "info": "models",
    "predict": "detection",
    "prepare": "models",
    "replay": "learning",
    "runs": "measuring",
    "serve": "serving",
    "track": "detection",
    "train": "learning",
    "val": "measuring",
    "val_files": "measuring",
}

__all__ = list(_FILES)

if TYPE_CHECKING:  # what editors and type checkers see
    from opendetr.api.data_sets import check_data as check_data
    from opendetr.api.data_sets import convert_data as convert_data
    from opendetr.api.data_sets import data_stats as data_stats
    from opendetr.api.detection import explain as explain
    from opendetr.api.detection import predict as predict
    from opendetr.api.detection import track as track
    from opendetr.api.learning import ablate as ablate
    from opendetr.api.learning import demo as demo
    from opendetr.api.learning import doctor as doctor
    from opendetr.api.learning import replay as replay
    from opendetr.api.learning import train as train
    from opendetr.api.measuring import benchmark as benchmark
    from opendetr.api.measuring import runs as runs
    from opendetr.api.measuring import val as val
    from opendetr.api.measuring import val_files as val_files
    from opendetr.api.models import convert as convert
    from opendetr.api.models import export as export
    from opendetr.api.models import info as info
    from opendetr.api.models import prepare as prepare
    from opendetr.api.serving import serve as serve


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'opendetr.api' has no attribute '{name}'")
    return getattr(importlib.import_module(f"opendetr.api.{_FILES[name]}"), name)
