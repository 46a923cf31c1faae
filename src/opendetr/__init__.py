"""opendetr: the detection transformer for people who have pictures and boxes.

Public names are imported when they are first used, so that `import opendetr` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from opendetr.version import __version__ as __version__

_HOME = {
    "Batch": "structures",
    "DETR": "model.detr",
    "Detections": "detections",
    "Detector": "inference.detector",
    "DetrOutput": "structures",
    "LabelMap": "labels",
    "Matches": "structures",
    "RunConfig": "config",
    "Target": "structures",
    "Targets": "structures",
    "UserError": "errors",
    "ablate": "api",
    "benchmark": "api",
    "build_model": "model.build",
    "convert": "api",
    "convert_data": "api",
    "check_data": "api",
    "data_stats": "api",
    "demo": "api",
    "doctor": "api",
    "explain": "api",
    "export": "api",
    "info": "api",
    "load_model": "checkpoints.loading",
    "load_recipe": "recipes.recipe",
    "match": "loss.matcher",
    "predict": "api",
    "prepare": "api",
    "replay": "api",
    "runs": "api",
    "serve": "api",
    "set_loss": "loss.criterion",
    "track": "api",
    "train": "api",
    "val": "api",
    "write_digits": "data.digits",
}

__all__ = sorted([*_HOME, "__version__"])

if TYPE_CHECKING:  # what editors and type checkers see; tests/contracts hold it equal to _HOME
    from opendetr.api import ablate as ablate
    from opendetr.api import benchmark as benchmark
    from opendetr.api import check_data as check_data
    from opendetr.api import convert as convert
    from opendetr.api import convert_data as convert_data
    from opendetr.api import data_stats as data_stats
    from opendetr.api import demo as demo
    from opendetr.api import doctor as doctor
    from opendetr.api import explain as explain
    from opendetr.api import export as export
    from opendetr.api import info as info
    from opendetr.api import predict as predict
    from opendetr.api import prepare as prepare
    from opendetr.api import replay as replay
    from opendetr.api import runs as runs
    from opendetr.api import serve as serve
    from opendetr.api import track as track
    from opendetr.api import train as train
    from opendetr.api import val as val
    from opendetr.checkpoints.loading import load_model as load_model
    from opendetr.config import RunConfig as RunConfig
    from opendetr.data.digits import write_digits as write_digits
    from opendetr.detections import Detections as Detections
    from opendetr.errors import UserError as UserError
    from opendetr.inference.detector import Detector as Detector
    from opendetr.labels import LabelMap as LabelMap
    from opendetr.loss.criterion import set_loss as set_loss
    from opendetr.loss.matcher import match as match
    from opendetr.model.build import build_model as build_model
    from opendetr.model.detr import DETR as DETR
    from opendetr.recipes.recipe import load_recipe as load_recipe
    from opendetr.structures import Batch as Batch
    from opendetr.structures import DetrOutput as DetrOutput
    from opendetr.structures import Matches as Matches
    from opendetr.structures import Target as Target
    from opendetr.structures import Targets as Targets


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'opendetr' has no attribute '{name}'")
    return getattr(importlib.import_module(f"opendetr.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
