"""Speed of a model in every engine and in other projects' code; all sides are measured in turn, in one run."""

import copy
import math
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import torch

from opendetr.benchmarking.benchmark import Benchmark, BenchmarkRow, Timing
from opendetr.benchmarking.peers import load_peer, require_peer
from opendetr.benchmarking.process_memory import PICTURES_SHOWN, SEED, Order, peak_memory
from opendetr.benchmarking.sides import OwnSide, Side, write_for_peer
from opendetr.benchmarking.task import Task
from opendetr.benchmarking.timing import Clock, measure_peaks, take_turns
from opendetr.checkpoints.native import Checkpoint, save_checkpoint
from opendetr.devices import describe_machine, resolve_device
from opendetr.engines.engine import GRAPH_ENGINES, is_installed
from opendetr.errors import UserError
from opendetr.exporting.comparison import BOUNDS, largest_differences
from opendetr.exporting.export import Tracing
from opendetr.exporting.fastest_engine import engine_file, is_prepared, preparing_seconds
from opendetr.model.complexity import count_gflops
from opendetr.model.selection import SelectedQueries
from opendetr.options import OneEngine
from opendetr.progress import console, show_progress
from opendetr.structures import DetrOutput
from opendetr.version import __version__
from opendetr.wording import counted

GAIN = 1.2  # bf16 is measured if its matrix products are faster by this factor
PACKAGES = ("torch", "torchvision", "timm", "openvino", "onnxruntime")
REFERENCE = ("torch", "fp32")
MOST_START = 15.0  # seconds for a process to load torch and a model; a notebook's process is older than that


@dataclass(frozen=True)
class _Measured:
    """A side, its clock, and the largest differences of its output from the reference's."""

    side: Side
    clock: Clock
    logits: float
    boxes: float


def run_benchmark(
    checkpoint: Checkpoint,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    against: str | None = None,
    engines: Sequence[str] = (),
    precisions: Sequence[str] = (),
    seconds: float = 20.0,
    device: str = "auto",
    memory: bool = True,
) -> Benchmark:
    """Measure speed, agreement and memory of a model in every engine.

    PyTorch in fp32 is always a row: the others must agree with it, and ratios refer to it where there is no peer.

    Arguments as in `opendetr.benchmark`, which checks them; the checkpoint is not changed, and files for engines are
    written beside it.

    Raises:
        UserError: the peer is not installed, or has no such models. An engine that cannot run the model is a row with
            the reason.
    """
    target, task = resolve_device(device), Task.of(checkpoint, size, batch)
    peer_version = {} if against is None else {against: require_peer(against)}
    with tempfile.TemporaryDirectory(prefix="opendetr-benchmark-") as folder:
        written, peer = Path(folder) / "peer", None
        if against is not None:  # first, since it may refuse the model, and engines may take minutes to prepare
            written = write_for_peer(replace(checkpoint, preprocessing=task.preprocessing), against, written)
            peer = load_peer(against, written, target)
        before = measure_peaks(target)
        wanted, remarks = _wanted(checkpoint, engines, precisions, target, before)
        measured, failed = _prepare(checkpoint, task, wanted[:1], device)
        console.print(_what_it_takes(checkpoint, wanted, against, seconds, _seconds(measured[0], task), memory=memory))
        more, failed = _prepare(checkpoint, task, wanted[1:], device, measured[0].side.answer(task.images))
        measured += more
        if peer is not None:
            measured.append(_compared(peer, task, measured[0].side.answer(task.images), paired=False))
            remarks += _remarks_on_peer(measured[-1], task)
        others = take_turns([one.clock for one in measured], seconds)
        peaks = {name: max(peak, before.get(name, 0.0)) for name, peak in measure_peaks(target).items()}
        baseline = measured[0 if peer is None else -1]
        input_size = (task.images.shape[2], task.images.shape[3])
        work = count_gflops(copy.deepcopy(checkpoint.model), *input_size)
        rows = [_row(one, baseline, batch, 2 * work * batch, peaks) for one in measured]
        if memory:
            rows = _with_memory(rows, checkpoint, task, device, written, remarks)
    found = {(row.engine, row.precision): row for row in failed + rows}
    return Benchmark(
        model=str(checkpoint.source),
        baseline=f"{baseline.side.engine} {baseline.side.precision}",
        input=input_size,
        picture=task.picture,
        batch=batch,
        multiply_adds=work,
        peaks=peaks,
        others=others,
        rows=[found.pop(key) for key in wanted] + list(found.values()),  # the peer is left over
        remarks=remarks,
        machine=describe_machine(target),
        versions=_versions() | peer_version,
        date=date.today().isoformat(),
        seed=SEED,
    )


def _wanted(
    checkpoint: Checkpoint,
    engines: Sequence[str],
    precisions: Sequence[str],
    device: torch.device,
    peaks: dict[str, float],
) -> tuple[list[tuple[str, str]], list[str]]:
    """Engines with their precisions, the reference first; and sentences on those that are left out."""
    chosen = engines or [
        name for name in get_args(OneEngine) if is_installed(name) and (device.type == "cpu" or name == "torch")
    ]
    if precisions:
        return list(dict.fromkeys([REFERENCE, *product(chosen, precisions)])), []
    gain, remarks, wanted = peaks.get("bf16", 0.0) / peaks["fp32"], list[str](), [REFERENCE]
    if gain < GAIN:
        remarks.append(f"bf16 is left out: matrix products in it run at {gain:.2f} times the speed of fp32 here")
    for engine in chosen:
        wanted.append((engine, "fp32"))
        if gain >= GAIN and engine != "onnxruntime":  # which has no bf16 on CPUs
            wanted.append((engine, "bf16"))
        if engine in GRAPH_ENGINES and engine_file(checkpoint, engine, "int8").is_file():
            wanted.append((engine, "int8"))
    return list(dict.fromkeys(wanted)), remarks


def _seconds(reference: _Measured, task: Task) -> float:
    """Seconds of one call of the reference; the first one was made to compare it with itself."""
    begun = time.perf_counter()
    reference.side.answer(task.images)
    return time.perf_counter() - begun


def _what_it_takes(
    checkpoint: Checkpoint,
    wanted: list[tuple[str, str]],
    against: str | None,
    seconds: float,
    call_seconds: float,
    *,
    memory: bool,
) -> str:
    """How long the benchmark will take, and for what, in words; the reference takes `call_seconds` for a call."""
    rows = len(wanted) + (against is not None)
    new = [f"{engine} {precision}" for engine, precision in wanted if not is_prepared(checkpoint, engine, precision)]
    each = 1.5 * max(seconds, 2 * call_seconds)  # a round of the model alone and end to end, if that takes longer
    parts = {f"{counted(rows, 'row')} of {seconds:g} s each, with warming up": rows * each}
    if new:
        parts[f"preparing {' and '.join(new)}, once"] = preparing_seconds(call_seconds) * max(1, len(new) / 2)
    if memory:
        start = min(MOST_START, time.time() - psutil.Process().create_time())  # this process has loaded the same
        of_each = start + PICTURES_SHOWN * call_seconds
        parts[f"{rows} processes of their own for peak memory (--no-memory leaves them out)"] = rows * of_each
    said = "; ".join(f"{part}: {taken:.0f} s" for part, taken in parts.items())
    return f"This takes about {math.ceil(sum(parts.values()) / 60)} min. {said}."


def _prepare(
    checkpoint: Checkpoint,
    task: Task,
    wanted: list[tuple[str, str]],
    device: str,
    expected: DetrOutput | None = None,
) -> tuple[list[_Measured], list[BenchmarkRow]]:
    """The sides that can run the model, and the rows of those that cannot; without `expected` the first one says it."""
    paired = isinstance(checkpoint.model.query_embed, SelectedQueries)
    measured, failed = list[_Measured](), list[BenchmarkRow]()
    tracings = dict[str, Tracing]()  # by precision: engines share the work
    for engine, precision in wanted:
        try:
            own = replace(checkpoint, model=copy.deepcopy(checkpoint.model))  # PyTorch changes its module
            tracing = tracings.setdefault(precision, Tracing(own)) if engine in GRAPH_ENGINES else None
            side = OwnSide(own, task.preprocessing, engine, precision, device, tracing)
            expected = side.answer(task.images) if expected is None else expected
            measured.append(_compared(side, task, expected, paired))
        except UserError as error:
            if (engine, precision) == REFERENCE:
                raise
            failed.append(BenchmarkRow(engine, precision, reason=str(error)))
    return measured, failed


def _compared(side: Side, task: Task, expected: DetrOutput, paired: bool) -> _Measured:
    """The side with its clock and its differences."""
    logits, boxes = largest_differences(expected, side.answer(task.images), paired=paired)
    if math.isinf(logits):
        raise UserError(f"{side.engine} {side.precision} gives NaN, infinity, or outputs of another shape than PyTorch")

    def model() -> None:
        for tensor in side.answer(task.images):
            tensor[-1:].cpu()  # waits for the device

    clock = Clock({"model": model, "end_to_end": lambda: side.detect(task.pictures)})
    return _Measured(side, clock, logits, boxes)


def _remarks_on_peer(peer: _Measured, task: Task) -> list[str]:
    """Sentences on what makes the comparison unequal."""
    remarks, bounds, name = list[str](), BOUNDS["fp32"], peer.side.engine
    if peer.logits > (bounds.logits or 0) or peer.boxes > (bounds.boxes or 0):
        remarks.append(f"{name} does not compute the same: see the differences of its logits and boxes")
    (height, width), ours = replace(task.preprocessing, multiple_of=1).shape(*task.picture), task.images.shape[2:]
    if (height, width) != tuple(ours):
        remarks.append(
            f"{name} makes {height}x{width} of a picture instead of {ours[0]}x{ours[1]}, end to end: it does not round "
            f"to multiples of {task.preprocessing.multiple_of}"
        )
    return remarks


def _row(one: _Measured, baseline: _Measured, batch: int, operations: float, peaks: dict[str, float]) -> BenchmarkRow:
    """The row of a side; `operations` are billions in a call of the model."""
    timings = {}
    for key, taken in one.clock.seconds.items():
        p50, p95 = (float(value) for value in np.percentile(taken, (50, 95)))
        ratio = float(np.percentile(baseline.clock.seconds[key], 50)) / p50
        timings[key] = Timing(p50, p95, batch / p50, ratio, len(taken))
    speed, peak = operations / timings["model"].p50, peaks.get(one.side.precision)
    if one.side.precision == "bf16":  # parts of the model stay in fp32
        peak = max(peaks.values())
    return BenchmarkRow(
        one.side.engine,
        one.side.precision,
        model=timings["model"],
        end_to_end=timings["end_to_end"],
        gflops_per_second=speed,
        share_of_peak=None if peak is None else speed / peak,
        logits=one.logits,
        boxes=one.boxes,
    )


def _with_memory(
    rows: list[BenchmarkRow], checkpoint: Checkpoint, task: Task, device: str, written: Path, remarks: list[str]
) -> list[BenchmarkRow]:
    """The rows with their peak memory, where it can be measured."""
    own = written.with_name("own")
    save_checkpoint(own, checkpoint)
    found = []
    for row in show_progress(rows, "measuring memory", len(rows), "rows"):
        order = Order(
            engine=row.engine,
            precision=row.precision,
            device=device,
            written=str(own if row.engine in get_args(OneEngine) else written),
            source=str(checkpoint.source.absolute()),
            image_size=task.preprocessing.image_size,
            max_size=task.preprocessing.max_size,
            picture=task.picture,
            batch=len(task.pictures),
            threads=torch.get_num_threads(),
        )
        try:
            row = replace(row, memory=peak_memory(order))
        except UserError as error:
            remarks.append(str(error))
        found.append(row)
    return found


def _versions() -> dict[str, str]:
    found = {"opendetr": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
