"""The options with a closed list of values, for the command line and for Python."""

from typing import Any, Literal, get_args

from opendetr.errors import UserError

Cache = Literal["none", "ram", "disk"]  # where decoded pictures are kept
TrainingPrecision = Literal["auto", "fp32", "bf16"]
PrecisionName = Literal["fp32", "bf16", "int8"]  # of a model that predicts
GraphEngineName = Literal["openvino", "onnxruntime"]
OneEngine = Literal["torch", GraphEngineName]
EngineName = Literal["auto", OneEngine]
PredictEngine = Literal[EngineName, "ray"]
ExportedFileFormat = Literal["onnx", "openvino", "pt2"]
ExportFormat = Literal[ExportedFileFormat, "web"]  # the last is a folder
EXPORT_SUFFIXES: dict[ExportedFileFormat, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "pt2": ".pt2",
}  # of exported files
PeerName = Literal["huggingface", "official"]  # whose code of DETR a benchmark compares with
DataFormat = Literal["coco", "yolo", "voc", "csv"]
DataFix = Literal["drop", "clip"]  # what is done to boxes that reach out of their pictures
ModelForm = Literal[PeerName, "opendetr"]  # whose format a model is written in
SAY_DC5 = "opendetr convert {path} DIR --to opendetr {option}"  # whether a .pth is dilated
SAY_HEADS = "opendetr convert {path} DIR --to opendetr --heads N"  # how many attention heads a file of weights has
Augmentation = Literal["none", "light", "strong"]  # of training pictures
TrackerName = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]  # of experiments
HeadFrom = Literal["data", "model"]  # whose classes the head of the initial model has


def require_choice(option: str, value: str, choices: Any) -> None:
    """Check that `value` is one of `choices`, a list above; typer checks the values of the command line.

    Raises:
        UserError: it is not; names `option`, which is without dashes.
    """
    *others, last = get_args(choices)
    if value not in (*others, last):
        raise UserError(f"--{option} {value}: expected {', '.join(others)} or {last}")


def require_score(option: str, score: float | None) -> None:
    """Check a score or a threshold on scores; None is the default of whoever asked.

    Raises:
        UserError: it is not in 0..1; names `option`.
    """
    if score is not None and not 0 <= score <= 1:  # written so that NaN is refused too
        hint = f"; for {score:g} % give {score / 100:g}" if 1 < score <= 100 else ""
        raise UserError(f"{option} must be between 0 and 1, got {score}{hint}")


def require_batch_size(batch_size: int | None) -> None:
    """Check a number of pictures at once; None is the default of whoever asked.

    Raises:
        UserError: it is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
