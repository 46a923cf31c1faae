"""From a model to a certified file: traced, written, compared with PyTorch, and kept only if it agrees."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from opendetr.checkpoints.adapt import labels_on
from opendetr.checkpoints.description import USUAL_THRESHOLD
from opendetr.checkpoints.native import Checkpoint
from opendetr.data.door import has_split, load_index
from opendetr.data.index import DatasetIndex
from opendetr.data.source import DataSource
from opendetr.engines.engine import require_installed
from opendetr.engines.file_kinds import FILE_KINDS, FORMATS, run_file, write_file
from opendetr.engines.graph_engine import INPUTS, FromPixels
from opendetr.engines.openvino_engine import require_bf16
from opendetr.errors import UserError
from opendetr.exporting.certificate import Certificate, certify
from opendetr.exporting.exported_file import metadata_of
from opendetr.exporting.graph import ExportError, export_program
from opendetr.exporting.quantization import quantize
from opendetr.exporting.translation import to_onnx
from opendetr.files import write_text
from opendetr.options import ExportedFileFormat, PrecisionName, require_choice
from opendetr.progress import stages

USUAL_PICTURE = (480, 640)  # height and width
NOTE_TYPE = "opendetr"
OUTPUTS_IN_WORDS = {
    "scores": "float32 [batch, N]: of every answer, 0 to 1, without a threshold",
    "labels": "int64 [batch, N]: the number of the class, from 0",
    "boxes_xyxy": "float32 [batch, N, 4]: x1, y1, x2, y2 as fractions of the picture",
    "logits": "float32 [batch, Q, K]: of every query",
    "boxes_cxcywh": "float32 [batch, Q, 4]: of every query, fractions of the picture",
}


@dataclass(frozen=True)
class ExportOptions:
    """The kind of file to write."""

    format: ExportedFileFormat
    precision: str = "fp32"
    with_preprocessing: bool = False
    with_attention: bool = False
    max_ap_loss: float | None = None  # by default that of the precision

    def require_possible(self, index: DatasetIndex | None) -> None:
        """Check the combination.

        Raises:
            UserError: the combination is impossible.
        """
        self.require_precision()
        if self.precision == "int8" and index is None:
            raise UserError("--precision int8 is calibrated on your pictures: give --data DIR with --split")
        if self.precision == "int8" and self.with_preprocessing:
            raise UserError("--precision int8 goes without --with-preprocessing")
        if self.max_ap_loss is not None and (index is None or not 0 <= self.max_ap_loss <= 1):
            raise UserError(
                f"--max-ap-loss {self.max_ap_loss:g}: expected 0 to 1, with --data, on which AP is measured"
            )

    def require_precision(self) -> None:
        """Check that the format exists and can have this precision here.

        Raises:
            UserError: it cannot.
        """
        require_choice("format", self.format, ExportedFileFormat)
        require_choice("precision", self.precision, PrecisionName)
        possible = FORMATS[self.format].precisions
        if self.precision not in possible:
            able = " and ".join(name for name, kind in FORMATS.items() if self.precision in kind.precisions)
            raise UserError(
                f"--precision {self.precision} is for --format {able}; {self.format} is written as "
                f"{' or '.join(possible)}"
            )
        if self.format == "openvino":
            require_installed("openvino")
        if self.precision == "bf16":
            require_bf16()


class Tracing:
    """A model traced once, and translated once, for files of several kinds."""

    def __init__(
        self, checkpoint: Checkpoint, *, with_preprocessing: bool = False, with_attention: bool = False
    ) -> None:
        self.checkpoint = checkpoint
        self.with_preprocessing, self.with_attention = with_preprocessing, with_attention

    def has(self, stage: str) -> bool:
        """Whether `program` or `onnx` was made before."""
        return stage in vars(self)

    @cached_property
    def program(self) -> Any:
        """The model as `torch.export` sees it."""
        return export_program(
            self.checkpoint, with_preprocessing=self.with_preprocessing, with_attention=self.with_attention
        )

    @cached_property
    def onnx(self) -> Any:
        """The same as ONNX."""
        return to_onnx(self.program)


def format_of(output: Path, format: ExportedFileFormat | None) -> ExportedFileFormat:
    """The format to write: the one that is asked for, else the one of the file's suffix.

    Raises:
        UserError: the suffix is of no format, or of another.
    """
    kind = FILE_KINDS.get(output.suffix)
    if kind is None:
        raise UserError(
            f"--output {output}: expected a name that ends in {', '.join(FILE_KINDS)}, or a folder with --format web"
        )
    if format in FORMATS.keys() - {kind.format}:
        raise UserError(
            f"--output {output} ends in {output.suffix}, the name of {kind.format} files, and --format says {format}: "
            f"give the two of one kind, or leave --format out"
        )
    return format or kind.format


def export_with_data(
    checkpoint: Checkpoint,
    output: Path,
    options: ExportOptions,
    data: DataSource,
    index: DatasetIndex,
    tracing: Tracing | None = None,
) -> Certificate:
    """As `export_model`, certified on a split of the data set of `data` and calibrated on its split train.

    A `tracing` is of the checkpoint that `on_data` returns.

    Raises:
        UserError: as there; or the data have a category that the model does not know.
    """
    checkpoint, index = on_data(checkpoint, index)
    calibration = load_index(data, "train") if options.precision == "int8" and has_split(data, "train") else None
    return export_model(checkpoint, output, options, index, calibration, tracing)


def on_data(checkpoint: Checkpoint, index: DatasetIndex) -> tuple[Checkpoint, DatasetIndex]:
    """A model and a split with the same category ids; doing it again changes nothing.

    Raises:
        UserError: the data have a category that the model does not know.
    """
    index = index.with_ids_of(checkpoint.label_map)
    labels = labels_on(checkpoint.label_map, checkpoint.origin, index.label_map, str(index.source))
    return replace(checkpoint, label_map=labels), index


def export_model(
    checkpoint: Checkpoint,
    output: Path,
    options: ExportOptions,
    index: DatasetIndex | None = None,
    calibration: DatasetIndex | None = None,
    tracing: Tracing | None = None,
) -> Certificate:
    """Write a model as a file for other programs, if its outputs agree with PyTorch's.

    Args:
        checkpoint: the model.
        output: the file; with `openvino` a `.bin` of the same name beside it.
        options: the kind of file.
        index: a split of the user's data, for the certificate.
        calibration: another split, for int8; None takes the same one.
        tracing: of the same checkpoint with the same options, perhaps made before; the file is written from it.

    Returns:
        The certificate, which is in the file too.

    Raises:
        UserError: an impossible combination, a missing package, or too large differences: then no file is written.
    """
    options.require_possible(index)
    tracing = tracing or Tracing(
        checkpoint, with_preprocessing=options.with_preprocessing, with_attention=options.with_attention
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-", ignore_cleanup_errors=True) as folder:
        draft = Path(folder) / output.name
        certificate = _write_draft(tracing, draft, options, index, calibration or index)
        if problems := certificate.problems():
            said = "; ".join(problems[:3])
            raise ExportError(f"{output} is not written, since its output would differ from the model's: {said}")
        if options.format == "openvino":
            draft.with_suffix(".bin").replace(output.with_suffix(".bin"))
        draft.replace(output)
    return certificate


def write_labelling_note(checkpoint: Checkpoint, output: Path, options: ExportOptions) -> Path:
    """Write what labelling tools ask for beside an ONNX file, as YAML of the same name; returns its path.

    Keys that AnyLabeling and X-AnyLabeling have are called as there. A YAML file of somebody else is not touched, such
    as a data set's `data.yaml`: the name is then `NAME.onnx.yaml`.

    Raises:
        UserError: both are somebody else's.
    """
    path = free_note_path(output)
    preprocessing, labels = checkpoint.preprocessing, checkpoint.label_map
    thresholds = list(checkpoint.description.thresholds) or [USUAL_THRESHOLD] * labels.num_classes
    height, width = preprocessing.shape(*USUAL_PICTURE)
    used = [threshold for threshold, number in zip(thresholds, labels.category_ids) if number is not None]
    note = {
        "type": NOTE_TYPE,
        "name": output.stem,
        "display_name": output.stem,
        "model_path": output.name,
        "classes": list(labels.names),
        "score_threshold": min(used),
        "thresholds": thresholds,
        "input_height": height,
        "input_width": width,
        "image_size": preprocessing.image_size,
        "max_size": preprocessing.max_size,
        "multiple_of": preprocessing.multiple_of,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "inputs": _describe_inputs(options),
        "outputs": OUTPUTS_IN_WORDS,
    }
    write_text(path, yaml.safe_dump(note, sort_keys=False, allow_unicode=True))
    return path


def free_note_path(output: Path) -> Path:
    """Where the note of an ONNX file can be: beside it as NAME.yaml, or where that is another file, NAME.onnx.yaml.

    Raises:
        UserError: both are other files.
    """
    paths = output.with_suffix(".yaml"), output.with_name(f"{output.name}.yaml")
    for path in paths:
        if _is_free(path):
            return path
    raise UserError(f"{paths[0]} and {paths[1]} are other files, which are not replaced: give --output another name")


def _is_free(path: Path) -> bool:
    """Whether there is no file, or a note of ours."""
    if not path.exists():
        return True
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(found, dict) and found.get("type") == NOTE_TYPE


def _write_draft(
    tracing: Tracing,
    draft: Path,
    options: ExportOptions,
    index: DatasetIndex | None,
    calibration: DatasetIndex | None,
) -> Certificate:
    checkpoint = tracing.checkpoint
    number = {"pt2": 2, "onnx": 3, "openvino": 4}[options.format] + (options.precision == "int8")
    number -= tracing.has("program") + (options.format != "pt2" and tracing.has("onnx"))
    with stages("exporting", number) as begin:
        graph, metadata = _graph_of(tracing, draft, options, calibration, begin)
        begin("writing the file")
        write_file(graph, draft, metadata)
    engine = run_file(draft, options.precision)
    if options.with_preprocessing:
        engine = FromPixels(engine, checkpoint.preprocessing)
    certificate = certify(engine, checkpoint, index, options.max_ap_loss)
    metadata["certificate"] = certificate.to_json()
    del engine  # Windows cannot write a file that is mapped into memory
    write_file(graph, draft, metadata)
    return certificate


def _graph_of(
    tracing: Tracing,
    draft: Path,
    options: ExportOptions,
    calibration: DatasetIndex | None,
    begin: Callable[[str], None],
) -> tuple[Any, dict[str, Any]]:
    """The model as a graph of the format, and what the file says about itself; `begin` is told the stages."""
    if not tracing.has("program"):
        begin("tracing the model")
    graph = tracing.program
    metadata = metadata_of(tracing.checkpoint, options.precision, _describe_inputs(options))
    if options.format != "pt2":
        if not tracing.has("onnx"):
            begin("translating it to ONNX")
        graph = tracing.onnx
    if options.format == "openvino":
        import onnx
        import openvino

        begin("translating it to OpenVINO")
        onnx.save(graph, draft.with_suffix(".onnx"))
        graph = openvino.convert_model(draft.with_suffix(".onnx"))
    if options.precision == "int8":
        assert calibration is not None
        begin("quantizing it to int8")
        graph = quantize(graph, tracing.checkpoint, calibration)
    return graph, metadata


def _describe_inputs(options: ExportOptions) -> dict[str, str]:
    images = "float32 [batch, 3, height, width]: RGB pictures, resized and normalised as `preprocessing` says"
    if options.with_preprocessing:
        images = "uint8 [batch, height, width, 3]: RGB pictures, resized as `preprocessing` says"
    return dict(zip(INPUTS, (images, "bool [batch, height, width]: True where a picture was padded")))
