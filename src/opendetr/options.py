"""The options with a closed list of values: each list is written here once, for the command line and for Python."""

from typing import Any, Literal, get_args

from opendetr.errors import UserError

Cache = Literal["none", "ram", "disk"]  # where decoded pictures stay
TrainingPrecision = Literal["auto", "fp32", "bf16"]
PrecisionName = Literal["fp32", "bf16", "int8"]  # of a model that predicts
GraphEngineName = Literal["openvino", "onnxruntime"]
OneEngine = Literal["torch", GraphEngineName]
EngineName = Literal["auto", OneEngine]
PredictEngine = Literal[EngineName, "ray"]
ExportFormat = Literal["onnx", "openvino", "pt2"]
SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}  # of exported files
PeerName = Literal["huggingface", "official"]  # whose code of DETR a benchmark compares with
ModelForm = Literal[PeerName, "opendetr"]  # how a model is kept
HeadFrom = Literal["data", "model"]  # whose classes the head of a model has that training begins with


def require_choice(option: str, value: str, choices: Any) -> None:
    """Check a value that came from Python; typer has checked those of the command line.

    Args:
        option: its name on the command line, without dashes.
        value: what came.
        choices: one of the lists above.

    Raises:
        UserError: it is not in the list.
    """
    *others, last = get_args(choices)
    if value not in (*others, last):
        raise UserError(f"--{option} {value}: expected {', '.join(others)} or {last}")
