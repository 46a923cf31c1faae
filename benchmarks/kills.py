"""Is a training that is killed and resumed the training that was not killed? With SIGKILL, at every file operation.

Run `python benchmarks/kills.py`. Every run is tiny, and a child forked from this process, which has torch loaded. A
first run is left alone. Then the n-th file operation in the run's folder kills the run, before it and in its middle
(half of the bytes are written), for every n; or a timer kills it at a random moment (`--random N`). Another child
resumes the run, and everything is compared with the first: weights, averages and optimiser bit by bit, the lines of the
log and the results of val but for times, and which weights are `best`.
"""

import argparse
import builtins
import importlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from opendetr import api
from opendetr.model import precision
from opendetr.training import flips, loop, speed
from opendetr.training.plan import Plan
from opendetr.training.run_folder import is_unsaved, was_saved

MAY_DIFFER = re.compile(r"seconds|minutes|\w*_per_second|\w*_time|\w*memory\w*")
PLACES = ("before", "middle")
SIX = (  # an operation, which of those alike, and where
    (r"write \.last\.new/training\.pt", 0, "middle"),  # the first save
    (r"replace \.last\.new", 1, "before"),  # the old one is moved away
    (r"open \.evaluation\.json.*", 0, "before"),  # the evaluation is due
    (r"replace \.best\.new", -1, "before"),
    (r"write metrics\.jsonl", -1, "middle"),  # the line of the last evaluation
    (r"write \.config\.toml.*", 0, "middle"),  # the first file of the run
)
FAST = {
    "epochs": 2, "batch_size": 2, "workers": 0, "device": "cpu", "backbone": "test_resnet", "backbone_weights": "none",
    "image_size": 64, "precision": "fp32", "threads": 1, "keep": 1,
    "overrides": ("model.embed_dim=32", "model.feedforward_dim=64", "loss.denoising_queries=16", "train.lr=1e-3"),
}  # fmt: skip
PAPER = {
    "epochs": 2, "recipe": "paper", "preset": "detr-tiny", "image_size": 64, "batch_size": 2, "workers": 0,
    "device": "cpu", "threads": 1,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "fast": FAST,
    "paper": PAPER,
    "fast, accumulated": FAST | {"overrides": (*FAST["overrides"], "train.accumulate=2")},
    "paper, accumulated": PAPER | {"overrides": ("train.accumulate=2",)},
    "fast, 2 loaders": FAST | {"workers": 2},
    "paper, 2 loaders": PAPER | {"workers": 2},
    "fast, no val": FAST | {"val_split": "none"},
}  # fmt: skip


@dataclass
class Outcome:
    """What became of a run that was killed and resumed."""

    where: str
    differences: list[str]


def write_pictures(folder: Path, counts: tuple[int, int] = (6, 2)) -> Path:
    """A COCO folder with the splits train and val: light rectangles of two shapes on noise, 48 to 64 pixels."""
    draw = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, count in zip(("train", "val"), counts, strict=True):
        images, objects = [], []
        for number in range(count):
            width, height = (int(side) for side in draw.choice((48, 64), 2))
            pixels = draw.integers(0, 90, (height, width, 3), dtype=np.uint8)
            for category in range(2):
                w, h = (24, 12) if category else (12, 24)
                x, y = int(draw.integers(0, width - w)), int(draw.integers(0, height - h))
                pixels[y : y + h, x : x + w] = 200 + 40 * category
                box = {"bbox": [x, y, w, h], "area": w * h, "category_id": category + 1, "iscrowd": 0}
                objects.append({"id": len(objects) + 1, "image_id": number + 1, **box})
            name = f"{split}_{number}.png"
            Image.fromarray(pixels).save(folder / "images" / name)
            images.append({"id": number + 1, "file_name": name, "width": width, "height": height})
        categories = [{"id": 1, "name": "tall"}, {"id": 2, "name": "wide"}]
        content = {"images": images, "annotations": objects, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


def make_tiny() -> None:
    """Leave out what takes longer than the steps of a tiny run, and decide by counting what clocks decide."""
    speed.LOOKED_AT = (32, 64)
    precision.gain_of_products = lambda device: 1.0
    flips.PICTURES = flips.MOST_PICTURES = 2
    loop.LOGGED_EVERY = 2
    asked = []

    def every_third(plan: Plan, seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) % 3 == 0

    Plan.may_save_within = every_third  # type: ignore[method-assign]


class Kill:
    """Counts the file operations in a folder, and kills this process at one of them.

    Args:
        folder: of the run.
        at: the number of the operation, from 0; -1 never kills.
        place: `before` it, or in its `middle`.
        fail: raise this error at the operation instead.
    """

    def __init__(self, folder: Path, at: int = -1, place: str = "before", fail: OSError | None = None) -> None:
        self.folder, self.at, self.place, self.fail = str(folder), at, place, fail
        self.done: list[str] = []
        self.is_inside = False

    def now(self, path: Any, what: str) -> bool:
        """Count an operation; kill where it is the one, or return whether to be killed in its middle."""
        if self.is_inside or not str(path).startswith(self.folder):
            return False
        if (what, Path(path).exists()) in (("mkdir", True), ("rmtree", False), ("unlink", False)):
            return False  # nothing will be done
        operation = f"{what} {Path(path).relative_to(self.folder)}"
        if what == "write" and self.done and self.done[-1] == operation:
            return False  # the same file goes on
        self.done.append(operation)
        if len(self.done) - 1 != self.at:
            return False
        if self.place == "before":
            self.die()
        return True

    def die(self) -> None:
        """End this process at once, or fail."""
        if self.fail is not None:
            self.is_inside = False
            raise self.fail
        os.kill(os.getpid(), signal.SIGKILL)

    def guard(self, module: Any, name: str, half: Callable[..., None] | None = None) -> None:
        """Count the calls of a function whose first argument is a path; `half` does half of its work."""
        work = getattr(module, name)

        def act(path: Any, *arguments: Any, **options: Any) -> Any:
            if self.now(path, name):
                self.is_inside = True
                (half or work)(path, *arguments, **options)  # an operation without a middle: killed just after it
                self.die()
            return work(path, *arguments, **options)

        setattr(module, name, act)

    def arm(self) -> None:
        """Patch the file operations of this process."""
        rmtree, copy = shutil.rmtree, shutil.copy2

        def half_tree(path: Path, *_: Any, **__: Any) -> None:
            if Path(path).is_dir():
                files = sorted(Path(path).iterdir())
                for file in files[: len(files) // 2]:
                    rmtree(file) if file.is_dir() else file.unlink()

        def half_copy(source: Path, target: Path, *_: Any, **__: Any) -> None:
            content = Path(source).read_bytes()
            Path(target).write_bytes(content[: len(content) // 2])

        def copies(source: Any, target: Any, *arguments: Any, **options: Any) -> Any:
            if self.now(target, "copy"):
                self.is_inside = True
                half_copy(source, target)
                self.die()
            inside, self.is_inside = self.is_inside, True
            copied = copy(source, target, *arguments, **options)
            self.is_inside = inside
            return copied

        shutil.copy2 = copies  # type: ignore[assignment]
        for name in ("replace", "rename", "mkdir", "unlink"):
            self.guard(os, name)
        self.guard(shutil, "rmtree", half_tree)
        kill, opened = self, io.open

        def opens(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            writes = isinstance(path, str | os.PathLike) and set(mode) & set("wax+")
            if writes and kill.now(path, "open"):
                opened(path, mode, *arguments, **options).close()
                kill.die()
            file = opened(path, mode, *arguments, **options)
            return _Counted(file, str(path), kill) if writes else file

        io.open = builtins.open = opens  # type: ignore[assignment]

        class CountedFile(io.FileIO):  # what `open_for_library` is made of
            def __init__(self, path: Any, mode: str = "r") -> None:
                if "w" in mode and kill.now(path, "open"):
                    super().__init__(path, mode)
                    kill.die()
                super().__init__(path, mode)

            def write(self, content: Any) -> int:
                if kill.now(self.name, "write"):
                    super().write(bytes(content)[: len(content) // 2])
                    kill.die()
                return super().write(content)

        io.FileIO = CountedFile  # type: ignore[misc]


class _Counted:
    """A file open for writing whose writes are counted."""

    def __init__(self, file: Any, path: str, kill: Kill) -> None:
        self.file, self.path, self.kill = file, path, kill

    def write(self, content: Any) -> Any:
        if self.kill.now(self.path, "write"):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            self.kill.die()
        return self.file.write(content)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> "_Counted":
        self.file.__enter__()
        return self

    def __exit__(self, *reason: Any) -> Any:
        return self.file.__exit__(*reason)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextmanager
def child(work: Callable[[], None], log: Path) -> Iterator[int]:
    """The process id of a forked child that does this work, and ends with 1 and a traceback in `log` where it fails."""
    pid = os.fork()
    if pid:
        yield pid
        return
    code = 1
    try:
        with log.open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]  # the parent's
        work()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_in_child(work: Callable[[], None], log: Path, kill_after: float | None = None) -> int:
    """The exit code of work in a child; minus the signal that ended it. `kill_after` seconds it is killed."""
    with child(work, log) as pid:
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)  # of one that has ended already, this does nothing to others
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def train(data: Path, run: Path, options: dict[str, Any], kill: Kill | None = None) -> None:
    """Begin the run or continue it, whichever its folder says."""
    make_tiny()
    if kill is not None:
        kill.arm()
    if was_saved(run) or is_unsaved(run):
        length = {name: options[name] for name in ("epochs", "workers", "threads")}
        api.train(resume=run, **length)
    else:
        api.train(data, output=run, **options)


def without_times(value: Any) -> Any:
    """The value without what may differ between two runs."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not MAY_DIFFER.fullmatch(str(k))}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def contents(run: Path) -> dict[str, Any]:
    """Everything that two equal runs have in common, by file."""
    found: dict[str, Any] = {}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found["metrics.jsonl"] = [without_times(json.loads(line)) for line in lines]
    for name in ("evaluation.json", "last/metrics.json", "best/metrics.json"):
        path = run / name
        values = without_times(json.loads(path.read_text())) if path.exists() else None
        found[name] = {k: v for k, v in values.items() if k != "created"} if isinstance(values, dict) else None
    for name in ("config.toml", "last/config.toml", "best/config.toml"):
        found[name] = (run / name).read_text() if (run / name).exists() else None
    kept = [f"checkpoints/{path.name}" for path in (run / "checkpoints").glob("*")]
    for name in ("last", "best", *sorted(kept)):
        path = run / name / "model.safetensors"
        found[f"{name}/model.safetensors"] = path.read_bytes() if path.exists() else None
    state = torch.load(run / "last" / "training.pt", weights_only=True)
    kept = ("state", "weights", "optimizer", "random", "python_random", "numpy_random", "log_lines")
    state["state"].pop("flip_seconds")
    found["last/training.pt"] = {name: state[name] for name in kept}
    folders = (run, run / "last", run / "best")
    found["files"] = sorted(str(path.relative_to(run)) for one in folders if one.exists() for path in one.iterdir())
    return found


def equal(a: Any, b: Any) -> bool:
    """Whether two values are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def differing(a: Any, b: Any, name: str) -> list[str]:
    """The dotted names of what differs in two values."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differing(a[key], b[key], f"{name}:{key}" if name else str(key))]
    return [] if equal(a, b) else [name]


def compare(expected: dict[str, Any], run: Path) -> list[str]:
    """The names of what differs in a run."""
    try:
        found = contents(run)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return [f"cannot be read: {error}"]
    return differing(expected, found, "")


def try_kill(
    data: Path, folder: Path, options: dict[str, Any], expected: dict[str, Any], kill: Kill, kill_after: float | None
) -> list[str]:
    """Run, be killed, resume; what differs then. The kill's folder is the run's."""
    run, log = Path(kill.folder), folder / "log.txt"
    log.unlink(missing_ok=True)
    shutil.rmtree(run, ignore_errors=True)
    code = run_in_child(lambda: train(data, run, options, kill), log, kill_after)
    if code == 0 and kill_after is None:
        return ["the run was not killed"]
    if code not in (0, -signal.SIGKILL):
        return [f"ended with {code}: {log.read_text()[-500:]}"]
    code = run_in_child(lambda: train(data, run, options), log)
    return compare(expected, run) if code == 0 else [f"a dead end: {log.read_text().strip().splitlines()[-1]}"]


def undisturbed(data: Path, folder: Path, options: dict[str, Any]) -> tuple[dict[str, Any], list[str], float]:
    """What a run comes to that is left alone, its file operations, and its seconds."""
    run, log, operations = folder / "whole" / "run", folder / "whole.txt", folder / "operations.json"
    shutil.rmtree(run, ignore_errors=True)

    def work() -> None:
        kill = Kill(run)
        begun = time.time()
        train(data, run, options, kill)
        seconds, kill.is_inside = time.time() - begun, True
        operations.write_text(json.dumps([list(sys.modules), kill.done, seconds]))

    if code := run_in_child(work, log):
        raise SystemExit(f"the run itself ends with {code}:\n{log.read_text()}")
    modules, done, seconds = json.loads(operations.read_text())
    for name in modules:  # so that children need not import them; a run in this process would start threads
        if name != "__main__":
            with suppress(Exception):
                importlib.import_module(name)
    return contents(run), done, seconds


def chosen_kills(operations: list[str], options: argparse.Namespace) -> list[tuple[int, str]]:
    """The numbers and places of the file operations that are to be kills."""
    if options.six:
        found = [
            (pattern, [n for n, one in enumerate(operations) if re.fullmatch(pattern, one)]) for pattern, *_ in SIX
        ]
        return [(numbers[which], place) for (_, numbers), (_, which, place) in zip(found, SIX, strict=True)]
    return [(number, place) for number in range(0, len(operations), options.every) for place in PLACES]


def main() -> None:
    """Print a table of what became of all kills."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=CONFIGURATIONS, default=["fast", "paper"])
    parser.add_argument("--random", type=int, default=0, help="kills at random moments instead, of each configuration")
    parser.add_argument("--every", type=int, default=1, help="of the file operations, every N-th is a kill")
    parser.add_argument("--six", action="store_true", help="only six kills, where most could be lost")
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(0)
    print("| configuration | kills | equal | what differs |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_pictures(folder / "data")
        run = folder / "killed" / "run"
        failed = 0
        for name in options.only:
            chosen = CONFIGURATIONS[name]
            expected, operations, seconds = undisturbed(data, folder, chosen)
            kills: list[tuple[str, Kill, float | None]]
            if options.random:
                moments = [draw.uniform(0, seconds) for _ in range(options.random)]
                kills = [(f"after {moment:.2f} of {seconds:.2f} s", Kill(run), moment) for moment in moments]
            else:
                kills = [
                    (f"{number} {place} {operations[number]}", Kill(run, number, place), None)
                    for number, place in chosen_kills(operations, options)
                ]
            outcomes = []
            for where, kill, moment in kills:
                outcomes.append(Outcome(where, try_kill(data, folder, chosen, expected, kill, moment)))
                if outcomes[-1].differences:
                    print(f"{name}, {where}: {'; '.join(outcomes[-1].differences)[:600]}", file=sys.stderr, flush=True)
            bad = [outcome for outcome in outcomes if outcome.differences]
            failed += len(bad)
            said = Counter(difference[:80] for outcome in bad for difference in outcome.differences)
            print(f"| {name} | {len(kills)} | {len(kills) - len(bad)} | {dict(said) or ''} |", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
