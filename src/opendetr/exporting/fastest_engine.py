"""The engine that runs a model: the given one, or the fastest whose certificate holds on this machine.

The files of an engine are made at first use and kept in `engines/` in the model's folder, or in our cache for models
of other libraries. M is a hash of the machine, since machines may share a folder; N one of the machine and its threads:

    openvino-fp32-M.xml, .bin   the graph, with its certificate
    openvino-fp32-M.json        the certificate, or the reason why there is no graph
    fastest-fp32-N.json         the seconds of each engine for a picture
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch
from filelock import FileLock

from opendetr.checkpoints.native import Checkpoint
from opendetr.data.datasets import DatasetIndex, has_split, load_index
from opendetr.devices import describe_machine, describe_processor, resolve_device
from opendetr.engines.engine import (
    GRAPH_ENGINES,
    Engine,
    TorchEngine,
    describe_engine,
    is_installed,
    require_installed,
)
from opendetr.engines.file_kinds import kind_for_engine, run_file
from opendetr.errors import UserError
from opendetr.exporting.export import ExportOptions, export_model
from opendetr.exporting.exported_file import fingerprint
from opendetr.exporting.graph import ExportError
from opendetr.files import cache_folder, read_note, write_json
from opendetr.options import EngineName, PrecisionName, require_choice
from opendetr.progress import console
from opendetr.version import __version__

ROUNDS = 5


def choose_engine(checkpoint: Checkpoint, engine: str, precision: str, device: str = "auto") -> Engine:
    """The engine that runs a model; arguments as in `Detector.load`. On a GPU that is PyTorch.

    Raises:
        UserError: no such engine, precision or device; or the engine asked for cannot run the model, or disagrees.
    """
    require_choice("engine", engine, EngineName)
    require_choice("precision", precision, PrecisionName)
    target = resolve_device(device)
    if engine in GRAPH_ENGINES:
        if target.type != "cpu" and device != "auto":
            raise UserError(f"--engine {engine} runs on the CPU; leave out --device {device}, or use --engine torch")
        return _prepared(checkpoint, engine, precision)
    candidates = [name for name in GRAPH_ENGINES if is_installed(name)]
    if engine == "torch" or target.type != "cpu" or not candidates:
        return TorchEngine.prepared(checkpoint.model, target, precision)
    return _fastest(checkpoint, candidates, precision, target)


def _fastest(checkpoint: Checkpoint, candidates: list[str], precision: str, device: torch.device) -> Engine:
    """The fastest of the candidates and PyTorch; engines that cannot run it are left out, with a printed reason."""
    names = candidates + (["torch"] if precision != "int8" else [])
    note = _path(checkpoint, "fastest", precision, ".json", describe_machine())
    state = {name: _state(checkpoint, name) for name in names}
    kept, found = read_note(note), dict[str, Engine]()
    times: dict[str, float] = kept["seconds"] if kept.get("state") == state else {}
    for name in sorted(times, key=times.__getitem__) or names:
        try:
            if name == "torch":
                found[name] = TorchEngine.prepared(checkpoint.model, device, precision)
            else:
                found[name] = _prepared(checkpoint, name, precision)
        except (UserError, OSError) as error:  # such as a folder that cannot be written
            console.print(f"engine {name} is not used: {error}", style="yellow")
        if times and found:  # the fastest is known
            break
    if not found:
        raise UserError(f"no engine can run this model in {precision} here; use --precision fp32")
    if not times:
        times = seconds_per_picture(found, checkpoint)
        with suppress(OSError):
            write_json(note, {"state": state, "seconds": times})
    name = min(found, key=lambda engine: times[engine])
    taken = ", ".join(f"{other} {seconds * 1000:.0f} ms" for other, seconds in times.items())
    console.print(f"engine: {name} {precision}, the fastest here for a picture ({taken})")
    return found[name]


def engines_folder(checkpoint: Checkpoint) -> Path:
    """The folder for the engines of a model: in its own if that is one of ours, else in our cache."""
    source = checkpoint.source
    if (source / "config.toml").is_file() and os.access(source, os.W_OK):
        return source / "engines"
    return cache_folder() / "engines" / fingerprint(checkpoint)


def engine_file(checkpoint: Checkpoint, engine: str, precision: str) -> Path:
    """The graph of an engine on this machine."""
    return _path(checkpoint, engine, precision, kind_for_engine(engine).suffix, describe_processor())


def _path(checkpoint: Checkpoint, what: str, precision: str, suffix: str, machine: str) -> Path:
    number = hashlib.blake2b(machine.encode(), digest_size=4).hexdigest()
    return engines_folder(checkpoint) / f"{what}-{precision}-{number}{suffix}"


def _prepared(checkpoint: Checkpoint, engine: str, precision: str) -> Engine:
    """An engine whose certificate holds, made at first use.

    Raises:
        UserError: it cannot be made, or disagrees with PyTorch; the reason is kept.
    """
    require_installed(engine)
    options = ExportOptions(kind_for_engine(engine).format, precision)
    options.require_precision()
    path, state = engine_file(checkpoint, engine, precision), _state(checkpoint, engine)
    note = path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / ".lock"):
        kept = read_note(note)
        is_valid = kept.get("state") == state
        if is_valid and kept.get("reason"):
            raise UserError(f"{kept['reason']} (remove {note} to try again)")
        if not (is_valid and path.is_file()):
            index = _own_data(checkpoint) if precision == "int8" else None
            console.print(f"preparing {engine} {precision} for this model, once; it is kept in {path.parent}")
            try:
                certificate = export_model(checkpoint, path, options, index)
            except ExportError as error:
                write_json(note, {"state": state, "reason": str(error)})
                raise
            console.print(certificate.summary())
            write_json(note, {"state": state, "certificate": certificate.to_json()})
        return run_file(path, precision)  # before another process may replace the file


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
    """What a certificate is valid for; if any of these changes, it is made anew.

    The number of threads is not among them: it is measured anew for every command, and only changes rounding.
    """
    return {
        "weights": fingerprint(checkpoint), "opendetr": __version__, "engine": describe_engine(engine),
        "torch": torch.__version__, "machine": describe_processor(),
    }  # fmt: skip


def seconds_per_picture(engines: dict[str, Engine], checkpoint: Checkpoint) -> dict[str, float]:
    """Median seconds for one picture of 480x640 after preprocessing, of all engines in turn."""
    image = torch.zeros(1, 3, *checkpoint.preprocessing.shape(480, 640))
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS + 2):  # the first compiles, and the last three are the measure
        for name, engine in engines.items():
            begun = time.perf_counter()
            engine(image)
            taken[name].append(time.perf_counter() - begun)
    return {name: median(seconds[-3:]) for name, seconds in taken.items()}
