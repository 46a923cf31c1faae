"""The engine that runs a model: the given one, or the fastest whose certificate holds on this machine.

The files of an engine are made by `prepare`, where the engine is asked for by name, or before many pictures. They are
kept in `engines/` in the model's folder, or in our cache for models of other libraries and of the hub. M is a hash of
the machine, since machines may share a folder; N one of the machine and its threads:

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
from opendetr.data.door import has_split, load_index
from opendetr.data.index import DatasetIndex
from opendetr.data.source import DataSource
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
from opendetr.exporting.export import ExportOptions, Tracing, export_model
from opendetr.exporting.exported_file import fingerprint
from opendetr.exporting.graph import ExportError
from opendetr.files import cache_folder, read_note, write_json
from opendetr.options import EngineName, PrecisionName, require_choice
from opendetr.progress import console, warn
from opendetr.version import __version__

WARM_UP, TIMED = 4, 3  # runs of each engine: the first compile, the last are the measure
# Preparing engines takes about a minute and the time of so many pictures in PyTorch; then they save this share of a
# picture's time.
PREPARING_SECONDS, PREPARING_PICTURES, SAVED = 60.0, 60, 0.3
LEAST_PICTURES = 200  # fewer never pay: nothing is measured


def choose_engine(
    checkpoint: Checkpoint,
    engine: str,
    precision: str,
    device: str = "auto",
    pictures: int = 0,
    tracing: Tracing | None = None,
) -> Engine:
    """The engine that runs a model; arguments as in `Detector.load`. On a GPU that is PyTorch.

    `tracing` is of the same model, made before, for an engine that is asked for and must be exported.

    `auto` is the fastest engine that was prepared before, else PyTorch, so that the first answer comes at once; for
    many pictures engines are prepared first.

    Raises:
        UserError: no such engine, precision or device; or the engine asked for cannot run the model, or disagrees.
    """
    require_choice("engine", engine, EngineName)
    require_choice("precision", precision, PrecisionName)
    target = resolve_device(device)
    if engine in GRAPH_ENGINES:
        if target.type != "cpu" and device != "auto":
            raise UserError(f"--engine {engine} runs on the CPU; leave out --device {device}, or use --engine torch")
        return _prepared(checkpoint, engine, precision, tracing)
    if engine == "torch" or target.type != "cpu" or not installed_engines():
        return TorchEngine.prepared(checkpoint.model, target, precision)
    times = _kept_times(checkpoint, precision)
    if not times and precision != "int8":
        torch_engine = TorchEngine.prepared(checkpoint.model, target, precision)
        if not (pictures >= LEAST_PICTURES and _pays(torch_engine, checkpoint, pictures)):
            return torch_engine
    if not times:
        return prepare_engines(checkpoint, precision)
    return _fastest(checkpoint, times, precision)


def installed_engines() -> list[str]:
    """The engines of graphs whose packages are installed."""
    return [name for name in GRAPH_ENGINES if is_installed(name)]


def prepare_engines(checkpoint: Checkpoint, precision: str) -> Engine:
    """Export the model for every installed engine, compare and time all of them and PyTorch, and return the fastest.

    Engines that cannot run the model, or disagree with PyTorch, are left out, with a printed reason.

    Raises:
        UserError: no engine is installed, or none can run the model in this precision.
    """
    if not installed_engines():
        raise UserError(f"{' and '.join(GRAPH_ENGINES)} are not installed: pip install 'opendetr[export]'")
    found, tracing = dict[str, Engine](), Tracing(checkpoint)
    if precision != "int8":
        found["torch"] = TorchEngine.prepared(checkpoint.model, torch.device("cpu"), precision)
    for name in installed_engines():
        try:
            found[name] = _prepared(checkpoint, name, precision, tracing)
        except (UserError, OSError) as error:  # such as a folder that cannot be written
            warn(f"engine {name} is not used: {error}")
    if not found:
        raise UserError(f"no engine can run this model in {precision} here; use --precision fp32")
    times = seconds_per_picture(found, checkpoint)
    with suppress(OSError):
        write_json(_times_note(checkpoint, precision), {"state": _states(checkpoint), "seconds": times})
    return _said(found[min(times, key=times.__getitem__)], times)


def _fastest(checkpoint: Checkpoint, times: dict[str, float], precision: str) -> Engine:
    """The fastest engine by times that were measured before; one that no longer runs is left out."""
    for name in sorted(times, key=times.__getitem__):
        if name == "torch":
            break
        try:
            return _said(_prepared(checkpoint, name, precision), times)
        except (UserError, OSError) as error:
            warn(f"engine {name} is not used: {error}")
    return _said(TorchEngine.prepared(checkpoint.model, torch.device("cpu"), precision), times)


def _said(engine: Engine, times: dict[str, float]) -> Engine:
    taken = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in times.items())
    console.print(f"engine: {engine.name} {engine.precision}, the fastest here for a picture ({taken})")
    return engine


def preparing_seconds(seconds: float) -> float:
    """About how long preparing all engines takes, where PyTorch needs `seconds` for a picture."""
    return PREPARING_SECONDS + PREPARING_PICTURES * seconds


def _pays(engine: Engine, checkpoint: Checkpoint, pictures: int) -> bool:
    """Whether preparing engines takes less time than they save: PyTorch's time for a picture is measured."""
    seconds = seconds_per_picture({"torch": engine}, checkpoint)["torch"]
    return pictures * seconds * SAVED > preparing_seconds(seconds)


def _times_note(checkpoint: Checkpoint, precision: str) -> Path:
    return _path(checkpoint, "fastest", precision, ".json", describe_machine())


def _states(checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
    weights = fingerprint(checkpoint)  # once: hashing those of R50 takes longer than all else here
    return {name: _state_of(weights, name) for name in ("torch", *installed_engines())}


def _kept_times(checkpoint: Checkpoint, precision: str) -> dict[str, float]:
    """Seconds for a picture, as measured when engines were prepared, of those whose files are still there.

    Empty where they no longer hold, or no file is there: nothing is prepared again unless it pays. With another number
    of threads engines take other times, but rarely another order: those are the second choice.
    """
    note = _times_note(checkpoint, precision)
    if not note.parent.is_dir():
        return {}
    states = _states(checkpoint)
    for path in (note, *sorted(note.parent.glob(f"fastest-{precision}-*.json"))):
        kept = read_note(path)
        if kept.get("state") == states:
            times: dict[str, float] = kept["seconds"]
            there = {name: taken for name, taken in times.items() if _holds(checkpoint, name, precision, states[name])}
            return there if there.keys() & set(GRAPH_ENGINES) or times.keys() == {"torch"} else {}
    return {}


def engines_folder(checkpoint: Checkpoint) -> Path:
    """The folder for the engines of a model: in its own if that is one of ours, else in our cache.

    The hub's cache is not ours: what is in it can be removed or checked by the hub's library.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    source = checkpoint.source
    is_own = (source / "config.toml").is_file() and not source.resolve().is_relative_to(Path(HF_HUB_CACHE).resolve())
    if is_own and os.access(source, os.W_OK):
        return source / "engines"
    return cache_folder() / "engines" / fingerprint(checkpoint)


def engine_file(checkpoint: Checkpoint, engine: str, precision: str) -> Path:
    """The graph of an engine on this machine."""
    return _path(checkpoint, engine, precision, kind_for_engine(engine).suffix, describe_processor())


def is_prepared(checkpoint: Checkpoint, engine: str, precision: str) -> bool:
    """Whether this engine needs no preparation: it is PyTorch, or its files are there, or the reason why not."""
    return not is_installed(engine) or _holds(checkpoint, engine, precision, _state(checkpoint, engine))


def _holds(checkpoint: Checkpoint, engine: str, precision: str, state: dict[str, str]) -> bool:
    """Whether what was prepared of an installed engine is valid in this state: its files, or the reason why not."""
    if engine not in GRAPH_ENGINES:
        return True
    path = engine_file(checkpoint, engine, precision)
    kept = read_note(path.with_suffix(".json"))
    return kept.get("state") == state and (_is_there(path) or bool(kept.get("reason")))


def _is_there(path: Path) -> bool:
    """Whether the file of a graph is complete: OpenVINO's has the weights in another beside it."""
    return path.is_file() and (path.suffix != ".xml" or path.with_suffix(".bin").is_file())


def _path(checkpoint: Checkpoint, what: str, precision: str, suffix: str, machine: str) -> Path:
    number = hashlib.blake2b(machine.encode(), digest_size=4).hexdigest()
    return engines_folder(checkpoint) / f"{what}-{precision}-{number}{suffix}"


def _prepared(checkpoint: Checkpoint, engine: str, precision: str, tracing: Tracing | None = None) -> Engine:
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
        if not (is_valid and _is_there(path)):
            index = _own_data(checkpoint) if precision == "int8" else None
            console.print(f"preparing {engine} {precision} for this model, once, in {path.parent}")
            try:
                certificate = export_model(checkpoint, path, options, index, tracing=tracing)
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
    source = DataSource.of_config(data) if data.root else None
    for split in (data.val_split, data.train_split):
        if source is not None and source.missing() is None and has_split(source, split):
            return load_index(source, split)
    raise UserError(
        "--precision int8 is calibrated on your pictures and this model's data set is not there; "
        "opendetr export MODEL --precision int8 --data DIR --output FILE writes a file that predict can use"
    )


def _state(checkpoint: Checkpoint, engine: str) -> dict[str, str]:
    """What a certificate is valid for; if any of these changes, it is made anew.

    The number of threads is not among them: it is measured anew for every command, and only changes rounding.
    """
    return _state_of(fingerprint(checkpoint), engine)


def _state_of(weights: str, engine: str) -> dict[str, str]:
    return {
        "weights": weights, "opendetr": __version__, "engine": describe_engine(engine),
        "torch": torch.__version__, "machine": describe_processor(),
    }  # fmt: skip


def seconds_per_picture(engines: dict[str, Engine], checkpoint: Checkpoint) -> dict[str, float]:
    """Median seconds for one picture of 480x640 after preprocessing, of all engines in turn."""
    image = torch.zeros(1, 3, *checkpoint.preprocessing.shape(480, 640))
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(WARM_UP + TIMED):
        for name, engine in engines.items():
            begun = time.perf_counter()
            engine(image)
            taken[name].append(time.perf_counter() - begun)
    return {name: median(seconds[-TIMED:]) for name, seconds in taken.items()}
