"""Which engine runs a model: the one that is asked for, or the fastest whose certificate holds on this machine.

What an engine needs is made at first use and kept beside the model, in `engines/`:

    openvino-fp32.xml, .bin     the graph, with its certificate
    openvino-fp32.json          on which machine it was compared with PyTorch, with which result, and how fast it was
"""

import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from filelock import FileLock

import opendetr
from opendetr.checkpoints.native import Checkpoint
from opendetr.data.datasets import DatasetIndex, has_split, load_index
from opendetr.devices import describe_machine, resolve_device
from opendetr.engines.engine import ENGINES, PRECISIONS, Engine, TorchEngine
from opendetr.engines.graph_engines import describe_engine, is_installed, require_installed
from opendetr.errors import UserError
from opendetr.exporting.export import ExportOptions, export_model, run_file
from opendetr.exporting.files import SUFFIXES, fingerprint
from opendetr.files import read_json, write_json
from opendetr.progress import console

FORMATS: dict[str, Literal["openvino", "onnx"]] = {"openvino": "openvino", "onnxruntime": "onnx"}
ROUNDS = 5


def choose_engine(checkpoint: Checkpoint, engine: str, precision: str, device: str = "auto") -> Engine:
    """The engine that runs a model.

    Args:
        checkpoint: the model.
        engine: `torch`, `openvino`, `onnxruntime` or `auto`.
        precision: `fp32`, `bf16` or `int8`.
        device: `auto`, `cpu`, `cuda` or `mps`; the last two leave only PyTorch.

    Raises:
        UserError: no such engine, precision or device; or the engine asked for cannot run the model, or disagrees.
    """
    if engine not in ("auto", *ENGINES):
        raise UserError(f"--engine {engine}: expected auto, {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: expected {', '.join(PRECISIONS)}")
    target = resolve_device(device)
    if engine in FORMATS:
        if target.type != "cpu" and device != "auto":
            raise UserError(f"--engine {engine} runs on the CPU; leave out --device {device}, or use --engine torch")
        return _prepared(checkpoint, engine, precision)[0]
    candidates = [name for name in FORMATS if is_installed(name)] if engine == "auto" and target.type == "cpu" else []
    if not candidates:
        return TorchEngine.prepared(checkpoint.model, target, precision)
    return _fastest(checkpoint, candidates, precision, target)


def _fastest(checkpoint: Checkpoint, candidates: list[str], precision: str, device: torch.device) -> Engine:
    """The fastest of the candidates and PyTorch; those that cannot are said and passed over."""
    found: dict[str, tuple[Engine, float]] = {}
    for name in candidates:
        try:
            found[name] = _prepared(checkpoint, name, precision)
        except (UserError, OSError) as error:  # a folder that cannot be written, for one
            console.print(f"engine {name} is passed over: {error}", style="yellow")
    if precision != "int8":
        torch_engine = TorchEngine.prepared(checkpoint.model, device, precision)
        found["torch"] = torch_engine, _kept_seconds(checkpoint, torch_engine)
    if not found:
        raise UserError(f"no engine can run this model in {precision} here; use --precision fp32")
    name = min(found, key=lambda engine: found[engine][1])
    times = ", ".join(f"{other} {seconds * 1000:.0f} ms" for other, (_, seconds) in found.items())
    console.print(f"engine: {name} {precision}, the fastest here for a picture ({times})")
    return found[name][0]


def engines_folder(checkpoint: Checkpoint) -> Path:
    """Where the engines of a model are kept: in its folder, or beside its file."""
    source = checkpoint.source
    return source / "engines" if source.is_dir() else source.with_name(f"{source.name}.engines")


def _prepared(checkpoint: Checkpoint, engine: str, precision: str) -> tuple[Engine, float]:
    """An engine whose certificate holds, and the seconds it takes for a picture; made at first use.

    Raises:
        UserError: it cannot be made, or disagrees with PyTorch.
    """
    require_installed(engine)
    folder = engines_folder(checkpoint)
    path = folder / f"{engine}-{precision}{SUFFIXES[FORMATS[engine]]}"
    options, state = ExportOptions(FORMATS[engine], precision), _state(checkpoint, engine)
    options.require_possible(None if precision != "int8" else _own_data(checkpoint))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        kept = _kept(path.with_suffix(".json"))
        if kept.get("state") == state and path.is_file():
            return run_file(path, precision), kept["seconds"]
        console.print(f"preparing {engine} {precision} for this model, once; it is kept in {folder}")
        certificate = export_model(checkpoint, path, options, _own_data(checkpoint) if precision == "int8" else None)
        console.print(certificate.summary())
        running = run_file(path, precision)
        seconds = seconds_per_picture(running, checkpoint)
        write_json(
            path.with_suffix(".json"), {"state": state, "seconds": seconds, "certificate": certificate.to_json()}
        )
    return running, seconds


def _own_data(checkpoint: Checkpoint) -> DatasetIndex:
    """The data set a model was trained on, for int8.

    Raises:
        UserError: it is not there.
    """
    data = checkpoint.config.data
    for split in (data.val_split, data.train_split):
        if data.root and Path(data.root).is_dir() and has_split(Path(data.root), split):
            return load_index(Path(data.root), split)
    raise UserError(
        "--precision int8 is calibrated on your pictures and this model's data set is not there; "
        "opendetr export MODEL --precision int8 --data DIR --output FILE writes a file that predict can use"
    )


def _state(checkpoint: Checkpoint, engine: str) -> dict[str, str]:
    """What a certificate holds for: another of these, and it is made anew."""
    return {
        "weights": fingerprint(checkpoint), "opendetr": opendetr.__version__, "engine": describe_engine(engine),
        "torch": torch.__version__, "machine": describe_machine(),
    }  # fmt: skip


def _kept(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, "what is known of an engine")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _kept_seconds(checkpoint: Checkpoint, engine: TorchEngine) -> float:
    """How long PyTorch takes for a picture, measured once."""
    path = engines_folder(checkpoint) / f"torch-{engine.precision}.json"
    state, kept = _state(checkpoint, "torch"), _kept(path)
    if kept.get("state") == state:
        return float(kept["seconds"])
    seconds = seconds_per_picture(engine, checkpoint)
    with suppress(OSError):
        write_json(path, {"state": state, "seconds": seconds})
    return seconds


def seconds_per_picture(engine: Engine, checkpoint: Checkpoint) -> float:
    """Median seconds for one picture of 480x640 after preprocessing."""
    image = torch.zeros(1, 3, *checkpoint.preprocessing.shape(480, 640))
    taken = []
    for _ in range(ROUNDS + 2):  # a shape that keeps coming is compiled for
        begun = time.perf_counter()
        engine(image)
        taken.append(time.perf_counter() - begun)
    return median(taken[-3:])
