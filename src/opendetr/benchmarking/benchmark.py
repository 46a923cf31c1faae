"""The results of a benchmark: numbers in SI units as JSON, and tables to read."""

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.table import Table

from opendetr.devices import describe_machine
from opendetr.engines.engine import describe_engine
from opendetr.files import write_json, write_text
from opendetr.progress import console

FEW_CALLS = 5  # of which a median says little
IDLE = 0.05  # share of processor time taken by other programs, up to which a machine counts as idle


@dataclass(frozen=True)
class Timing:
    """Times of calls, each of a batch."""

    p50: float  # seconds, the median
    p95: float  # seconds
    pictures_per_second: float  # at the median
    ratio: float  # how many times as fast as the baseline, at the median
    calls: int


@dataclass(frozen=True)
class BenchmarkRow:
    """One engine in one precision, or a peer; only with a reason if it could not be measured."""

    engine: str  # torch, openvino, onnxruntime; or the peer's name
    precision: str
    reason: str | None = None
    model: Timing | None = None  # normalised pictures in, DetrOutput out
    end_to_end: Timing | None = None  # decoded pictures in, detections out
    gflops_per_second: float | None = None  # of the model only; a multiply-add counts as two operations
    share_of_peak: float | None = None  # 0..1, of a matrix product in fp32, for bf16 in the faster of both; int8: None
    logits: float | None = None  # the largest difference from PyTorch fp32
    boxes: float | None = None  # the same, of cxcywh in 0..1
    memory: int | None = None  # bytes, the peak of a process that does nothing else

    @property
    def name(self) -> str:
        """Engine and precision."""
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class Benchmark:
    """All rows, and the conditions of the measurement."""

    model: str
    baseline: str  # the name of the row that ratios refer to
    input: tuple[int, int]  # height and width of the model's input, in pixels
    picture: tuple[int, int]  # height and width of the decoded picture, in pixels
    batch: int
    multiply_adds: float  # billions for a picture, as in the paper's table 1; peers are assumed to do as many
    peaks: dict[str, float]  # by precision: billions of operations per second of a matrix product
    others: float  # 0..1: the processors' time that other programs took
    rows: list[BenchmarkRow]
    remarks: list[str]  # sentences that explain the rows
    machine: str
    versions: dict[str, str]
    date: str
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"input": list(self.input), "picture": list(self.picture)}

    def to_markdown(self) -> str:
        """The result as Markdown."""
        lines = [f"# Benchmark of {self.model}", ""]
        for title, header, rows in _tables(self):
            lines += [f"## {title}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
            lines += [f"| {' | '.join(cells)} |" for cells in rows] + [""]
        return "\n".join(lines + [f"- {line}" for line in _facts(self)]) + "\n"


def provenance(*packages: str) -> str:
    """Machine, versions and day, for the end of a table; Python and PyTorch are always named."""
    versions = ", ".join(dict.fromkeys(map(describe_engine, ("torch", *packages))))
    return f"{describe_machine()}; Python {platform.python_version()}, {versions}, {date.today()}"


def print_benchmark(benchmark: Benchmark) -> None:
    """The tables and the facts on the terminal."""
    for title, header, rows in _tables(benchmark):
        table = Table(*header, title=title)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    for line in _facts(benchmark):
        console.print(line)


def write_benchmark(benchmark: Benchmark, folder: Path) -> Path:
    """Write `benchmark.json` and `benchmark.md`; the latter's path."""
    write_json(folder / "benchmark.json", benchmark.to_json())
    write_text(folder / "benchmark.md", benchmark.to_markdown())
    return folder / "benchmark.md"


def _tables(benchmark: Benchmark) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows of narrow tables, since one wide table would be cut at the edge of a terminal."""
    for title, key in (("Model only", "model"), ("End to end, from a decoded picture to detections", "end_to_end")):
        header = ["", "ms", "p95", "pictures/s", f"times {benchmark.baseline}", "calls"]
        yield title, header, [[row.name, *_times(getattr(row, key))] for row in benchmark.rows]
    header = ["", "GFLOP/s", "of the peak", "logits differ by", "boxes differ by", "peak memory"]
    yield "Work, agreement, memory", header, [[row.name, *_qualities(row)] for row in benchmark.rows]


def _times(timing: Timing | None) -> list[str]:
    if timing is None:
        return ["-"] * 5
    return [
        f"{timing.p50 * 1000:.1f}", f"{timing.p95 * 1000:.1f}", f"{timing.pictures_per_second:.4g}",
        f"{timing.ratio:.2f}", str(timing.calls),
    ]  # fmt: skip


def _qualities(row: BenchmarkRow) -> list[str]:
    return [
        _or_dash(row.gflops_per_second, "{:.1f}"), _or_dash(row.share_of_peak, "{:.0%}"),
        _or_dash(row.logits, "{:.1g}"), _or_dash(row.boxes, "{:.1g}"),
        _or_dash(None if row.memory is None else row.memory / 1e6, "{:.0f} MB"),
    ]  # fmt: skip


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _facts(benchmark: Benchmark) -> Iterator[str]:
    """Sentences on the meaning of the tables and the conditions of the measurement."""
    if benchmark.others > IDLE:
        yield (
            f"Other programs took {benchmark.others:.0%} of the processors' time. They slow some engines down far more "
            f"than others, so times and ratios are unreliable. Measure again when the machine is idle."
        )
    for row in benchmark.rows:
        if row.reason is not None:
            yield f"{row.name} was not measured: {row.reason}."
    if few := [row.name for row in benchmark.rows if row.model is not None and row.model.calls < FEW_CALLS]:
        yield f"Fewer than {FEW_CALLS} calls of {', '.join(few)} fit into the time: raise --seconds for better medians."
    yield from (f"{remark}." for remark in benchmark.remarks)
    yield (
        f"Batch {benchmark.batch}, input {benchmark.input[0]}x{benchmark.input[1]}, made of pictures of "
        f"{benchmark.picture[0]}x{benchmark.picture[1]} (height x width). Times are medians and 95th percentiles of "
        f"calls, all sides in turn. 'times {benchmark.baseline}' is how many times as fast."
    )
    peaks = ", ".join(f"{name} {peak:.0f}" for name, peak in benchmark.peaks.items())
    yield (
        f"A picture takes {benchmark.multiply_adds:.3g} billion multiply-adds, each counted as two operations in "
        f"GFLOP/s. The peak is a large matrix product's in PyTorch: {peaks} GFLOP/s; for bf16, of which parts stay in "
        f"fp32, the higher of them, for int8 none is stated."
    )
    yield (
        "Logits and boxes differ from PyTorch fp32 by at most this (boxes cxcywh, 0..1), on the same pictures. "
        "Peak memory is that of a process of its own, Python and the libraries included; on CUDA only the "
        "GPU's memory."
    )
    versions = ", ".join(f"{name} {version}" for name, version in benchmark.versions.items())
    yield f"{benchmark.machine}; {versions}; {benchmark.date}, seed {benchmark.seed}."
