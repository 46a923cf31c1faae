"""Part of `cuda.py`: its parts one after the other, within its time, and the report."""

# ruff: noqa: E402
import os
import sys
import time
from pathlib import Path

BEGUN = time.monotonic()  # before the imports: they take a good part of the four minutes
ROOT = Path(__file__).parents[1]
CARRIED = ROOT / ".carry"
sys.path.insert(0, str(ROOT / "src"))  # of the repository, whatever is installed; of the others what is installed
sys.path.append(str(CARRIED / "packages"))
if (CARRIED / "official").is_dir():
    os.environ.setdefault("OPENDETR_PEERS", str(CARRIED / "official"))
if (CARRIED / "data").is_dir():
    os.environ.setdefault("OPENDETR_TEST_DATA", str(CARRIED / "data"))
os.environ["HF_HUB_OFFLINE"] = "1"  # a machine without a network would wait for it

import argparse
import json
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from cuda_agreement import TOLERANCES, Agreement, compare
from cuda_timing import OFFICIAL, OURS, SETTINGS, Sides, Timed, measure, setting

from opendetr.checkpoints.native import load_folder
from opendetr.data.digits import write_digits
from opendetr.data.door import load_index
from opendetr.devices import describe_machine, resolve_device
from opendetr.engines.engine import TorchEngine
from opendetr.evaluation.runner import evaluate_split
from opendetr.progress import console
from opendetr.recipes.recipe import load_recipe, resolve_config
from opendetr.training.setup import prepare_training  # not by `opendetr.train`, whose room needs packages that draw

LIMIT, TIMING = 240.0, 90.0  # seconds: of everything, and of the timings
LAST = 8.0  # seconds before the limit, after which nothing is begun
PACKAGES = ("torch", "torchvision", "timm", "transformers", "accelerate", "scipy")
# How many times as fast as the official code: in the same setting, in bf16 as its fp32, for it knows no other.
BARS = {"training": {"fp32": 1.5, "tf32": 1.5, "bf16": 3.0}, "prediction": {"fp32": 2.0, "tf32": 2.0, "bf16": 4.0}}
MOST_MATCHING = 0.05  # of a training step
SPEED = (
    "Medians, of sides that take turns. `fp32` forbids TF32, `tf32` allows it, `bf16` is autocast. 'times official' is "
    "how many times as fast as the official code in the same setting; ours in bf16 is compared with its fp32. Memory "
    "is the most that tensors of a side took. 'matching' is its share of a training step."
)


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    paper: dict[str, Any]  # values of the recipe `paper`
    fast: dict[str, Any]  # of the recipe `fast`, to be compared
    compared: tuple[int, int]  # height and width of the pictures that are compared
    timed: tuple[int, int]  # and of those that are timed
    batches: tuple[int, ...]
    settings: tuple[str, ...]
    turns: int  # of each side in each setting, at least
    seconds: float  # of calls, of each side in each setting
    scenes: int
    learning: dict[str, Any]  # values of the recipe `fast`, to learn
    minutes: dict[str, float]  # of learning, by data set


OPEN = {"model.num_queries": 100, "model.proposal_strides": [8], "data.multiple_of": 32}  # what a run would choose
TINY = {"model.backbone": "resnet18.tv_in1k", "model.embed_dim": 32, "model.feedforward_dim": 64,
        "model.num_encoder_layers": 1, "model.num_decoder_layers": 2, "model.num_queries": 20}  # fmt: skip
WHOLE = Scale({}, OPEN, (320, 416), (800, 1066), (1, 8, 2, 16), SETTINGS, 2, 1.0, 2000, {},
              {"digits": 0.75, "bccd": 1.0})  # fmt: skip
SMALL = Scale(
    TINY, OPEN | {"model.num_queries": 10, "model.backbone": "test_resnet", "model.embed_dim": 32},
    (64, 96), (32, 64), (1,), ("fp32", "bf16"), 1, 0.0, 8,
    {"model.backbone": "test_resnet", "model.backbone_weights": "none", "data.image_size": 64, "train.batch_size": 4,
     "train.epochs": 1, "train.precision": "fp32"},
    {"digits": 0.0},
)  # fmt: skip


@dataclass
class Report:
    """What was found."""

    command: str
    machine: str
    agreements: list[Agreement] = field(default_factory=list)
    timings: list[Timed] = field(default_factory=list)
    learned: dict[str, dict[str, float]] = field(default_factory=dict)  # by data set: AP, AP50, seconds, steps
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0
    date: str = date.today().isoformat()
    versions: dict[str, str] = field(default_factory=lambda: dict(_versions()))

    def write(self, folder: Path) -> None:
        """As JSON and as a page."""
        self.seconds = round(time.monotonic() - BEGUN, 1)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        (folder / "gpu.md").write_text(self.page(), encoding="utf-8")

    def page(self) -> str:
        """In Markdown."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        header = ["fp32, no TF32", *TOLERANCES, ""]
        rows = [[a.model, *(f"{getattr(a, name):.1e}" for name in TOLERANCES), _verdict(a.agrees())]
                for a in self.agreements]  # fmt: skip
        rows.append(["at most", *(f"{most:g}" for most in TOLERANCES.values()), ""])
        parts = [
            "# On a GPU",
            "",
            f"`{self.command}`, {self.seconds:.0f} s, {self.date}: {self.machine}. {versions}.",
            "",
        ]
        parts += ["## How far a training step differs from the CPU's", "", *_table(header, rows)]
        header = ["", "batch", "", "", "ms", "pictures/s", "times official", "memory, GB", "matching", ""]
        parts += ["## DETR-R50", "", *_table(header, list(map(self._row, self.timings))), SPEED, ""]
        rows = [[name, *(f"{found[key]:.3f}" for key in ("AP50", "AP")), f"{found['seconds']:.0f}"]
                for name, found in self.learned.items()]  # fmt: skip
        parts += ["## What the recipe `fast` learns", "", *_table(["", "AP50 on val", "AP", "seconds"], rows)]
        return "\n".join([*parts, "## Left out", "", *(f"- {what}" for what in self.left_out or ["nothing"]), ""])

    def _row(self, timed: Timed) -> list[str]:
        ratio, memory = self.ratio(timed), timed.gigabytes
        bar = BARS[timed.what][timed.setting]
        judged = timed.side == OURS and ratio is not None
        verdict = f"{_verdict(ratio >= bar)} (wanted {bar:g})" if judged and ratio is not None else ""
        if timed.matching is not None and timed.matching > MOST_MATCHING:
            verdict += f", matching is above {MOST_MATCHING:.0%}"
        return [
            timed.what, str(timed.batch), timed.setting, timed.side, f"{timed.milliseconds:.1f}",
            f"{timed.batch / timed.milliseconds * 1000:.1f}", "-" if ratio is None else f"{ratio:.2f}",
            "-" if memory is None else f"{memory:.2f}", "" if timed.matching is None else f"{timed.matching:.1%}",
            verdict,
        ]  # fmt: skip

    def ratio(self, timed: Timed) -> float | None:
        """How many times as fast as the official code, in the setting that the bars refer to."""
        base = "fp32" if timed.setting == "bf16" and timed.side == OURS else timed.setting
        alike = (timed.what, timed.batch, base, OFFICIAL)
        theirs = [t.milliseconds for t in self.timings if (t.what, t.batch, t.setting, t.side) == alike]
        return theirs[0] / timed.milliseconds if theirs else None


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def _verdict(good: bool) -> str:
    return "reached" if good else "**not reached**"


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "missing"


def left() -> float:
    """Seconds until the limit."""
    return LIMIT - (time.monotonic() - BEGUN)


def compare_with_cpu(report: Report, scale: Scale, device: torch.device) -> None:
    """Part one: does the device compute the same?"""
    cases = {"DETR-R50": ("paper", scale.paper), "recipe fast": ("fast", scale.fast)}
    for name, (recipe, values) in cases.items():
        config = load_recipe(recipe).with_values({**values, "model.dropout": 0.0}, "this benchmark")
        with setting("fp32"):
            report.agreements.append(compare(name, config, scale.compared, device))


def time_beside_peers(report: Report, scale: Scale, device: torch.device, folder: Path) -> None:
    """Part two: how fast is it?"""
    values = {**scale.paper, "train.device": str(device)}
    config = load_recipe("paper").with_values(values, "this benchmark")
    end = min(TIMING, left() - LAST) + time.monotonic()
    with setting("fp32"):
        sides = Sides(config, scale.timed, folder, report.left_out)
    least = scale.batches, scale.settings, scale.turns, scale.seconds
    rows = measure(sides, *least, lambda: end - time.monotonic(), report.left_out)
    report.timings.extend(rows)


def learn(report: Report, scale: Scale, device: torch.device, folder: Path) -> None:
    """Part three: does it learn?"""
    test_data = Path(os.environ.get("OPENDETR_TEST_DATA") or folder / "nothing")
    for name, minutes in scale.minutes.items():
        data, values = test_data / name, {**scale.learning, "train.device": str(device), "data.val_split": "none"}
        if name == "digits" and not data.is_dir():
            data = folder / "digits"
            write_digits(data, scale.scenes)
        if not data.is_dir():
            report.left_out.append(f"learning {name}: OPENDETR_TEST_DATA names no folder that holds it")
            continue
        if minutes:
            values["train.minutes"] = min(minutes, (left() - 2 * LAST) / 60)
            if values["train.minutes"] < minutes / 2:
                report.left_out.append(f"learning {name}: only {left():.0f} s were left")
                continue
        begun = time.time()
        trainer = prepare_training(
            resolve_config("fast", options={"data.root": str(data), **values}), folder / name, begun
        )
        trainer.fit()
        taken, checkpoint = time.time() - begun, load_folder(folder / name)
        engine = TorchEngine.prepared(checkpoint.model, device, "fp32")
        found = evaluate_split(engine, checkpoint.description, load_index(data, "val"), batch_size=16).summary
        report.learned[name] = {"AP50": found["AP50"], "AP": found["AP"], "seconds": taken}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="cuda.py", description="Judge a machine with a GPU.")
    parser.add_argument("--small", action="store_true", help="tiny models and pictures: seconds, on a CPU too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default %(default)s)")
    parser.add_argument("--output", type=Path, help="a folder (default docs/results; with --small runs/gpu)")
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    if device.type == "cpu" and not given.small:
        parser.error("there is no GPU here; --small tries the script itself on a CPU")
    scale, output = (SMALL, ROOT / "runs" / "gpu") if given.small else (WHOLE, ROOT / "docs" / "results")
    output = given.output or output
    report = Report("python benchmarks/cuda.py" + " --small" * given.small, describe_machine(device))

    def stop() -> None:
        report.left_out.append("whatever is missing above: the limit of time was reached")
        report.write(output)
        print(report.page(), flush=True)
        os._exit(1)

    watch = threading.Timer(left(), stop)
    watch.daemon = True
    watch.start()
    with tempfile.TemporaryDirectory() as name:
        parts = {
            "the comparison with the CPU": lambda: compare_with_cpu(report, scale, device),
            "the timings": lambda: time_beside_peers(report, scale, device, Path(name)),
            "learning": lambda: learn(report, scale, device, Path(name)),
        }
        for part, work in parts.items():
            console.print(f"{part}; {left():.0f} s are left")
            try:
                work()
            except Exception as error:  # whatever ends one part, the others are worth having
                report.left_out.append(f"{part}, all or the rest of it: {type(error).__name__}: {error}")
            report.write(output)
    watch.cancel()
    print(report.page())
    console.print(f"written to {output / 'gpu.md'}")
