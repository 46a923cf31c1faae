"""Is a training that is killed and resumed the training that was not killed? With SIGKILL, at every file operation.

Run `python benchmarks/kills.py`. Every run is tiny, and a child forked from this process, which has torch loaded. A
first run is left alone. Then the n-th file operation in the run's folder kills the run, before it and in its middle
(half of the bytes are written), for every n; or a timer kills it at a random moment (`--random N`). (At an operation it
is a fork of the run that is killed, in a copy of its folder: one run is enough for many kills.) All checkpoints must be
readable then, and what was saved must still be there. Another child gives the command again, with `--resume` where
there is something to resume, and everything is compared with the first: weights, averages and optimiser bit by bit,
the lines of the log and the results of val but for times, and which weights are `best`. With `--full-disk` no run is
killed, but the disk is full from the n-th operation on until the command is given again.

`--results FILE` keeps every result as a line of JSON; what is equal there is not tried again.
"""

import argparse
import gc
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from file_operations import HAVE_MIDDLE, NEED_ROOM, Kill
from PIL import Image

from opendetr import api
from opendetr.checkpoints.native import load_folder
from opendetr.errors import UserError
from opendetr.files import current_folder, write_json
from opendetr.model import precision
from opendetr.training import flips, loop, manifest, plan, setup, speed, validation
from opendetr.training.manifest import MANIFEST
from opendetr.training.run_folder import RunFolder, is_unsaved, load_training_state, was_saved
from opendetr.training.step import TrainingStep

MAY_DIFFER = re.compile(r"seconds|minutes|\w*_per_second|\w*_time|\w*memory\w*")
CLOCK = ("spent", "began", "evaluating", "pace", "sizing", "total_seconds")  # of the training state, read from clocks
RUN, SAVED = "run", "saved.json"  # of a try, in a folder of its own
BATCH = 40  # kills whose copies of the folder are kept at a time
SURVIVORS = 60.0  # seconds in which the processes beside one that was killed must have ended
SIX = (  # an operation, which of those alike, and where
    (r"write \.last\.new/training\.pt", 0, "middle"),  # the first save
    (r"replace \.last\.new", 1, "before"),  # the old one is moved away
    (r"open \.evaluation\.json.*", 0, "before"),  # the evaluation is due
    (r"replace \.best\.new", -1, "before"),
    (r"write metrics\.jsonl", -1, "middle"),  # the line of the last evaluation
    (r"write \.config\.toml.*", 0, "middle"),  # the first file of the run
)
FEW_LAYERS = (
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "model.embed_dim=32",
    "model.feedforward_dim=64",
)
FAST = {
    "epochs": 2, "batch_size": 2, "workers": 0, "device": "cpu", "backbone": "test_resnet", "backbone_weights": "none",
    "image_size": 64, "precision": "fp32", "threads": 1, "keep": 1,
    "overrides": (*FEW_LAYERS, "loss.denoising_queries=16", "train.lr=1e-3"),
}  # fmt: skip
PAPER = {
    "epochs": 2, "recipe": "paper", "preset": "detr-tiny", "image_size": 64, "batch_size": 2, "workers": 0,
    "device": "cpu", "threads": 1, "keep": 1, "overrides": FEW_LAYERS,
}  # fmt: skip
ACCUMULATED = ("train.accumulate=2",)


@dataclass(frozen=True)
class Configuration:
    """A run that is killed; or one that was stopped before, and is killed when it is continued.

    Args:
        options: of `api.train`.
        processes: that train together.
        asked: every so many steps `last` is written within an epoch.
        is_timed: the length is in minutes, and a clock that counts steps decides what clocks decide.
        stopped: the file operation that stops the session before the one that is killed, as in `SIX`; `()` where
            that session comes to its end; None where there is none.
        more: options of the session that continues it.
        elsewhere: that session writes to another folder.
        other_data: that session finds one more picture.
    """

    options: Mapping[str, Any]
    processes: int = 1
    asked: int = 3
    is_timed: bool = False
    stopped: tuple[Any, ...] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: bool = False
    other_data: bool = False


HALFWAY = (r"replace \.last\.new", -2, "middle")  # a save is done, and an epoch is not
CONFIGURATIONS = {
    "fast": Configuration(FAST),
    "paper": Configuration(PAPER),
    "fast, 2 loaders": Configuration(FAST | {"workers": 2}),
    "fast, accumulated": Configuration(FAST | {"overrides": (*FAST["overrides"], *ACCUMULATED)}),  # type: ignore[misc]
    "paper, accumulated": Configuration(PAPER | {"overrides": (*FEW_LAYERS, *ACCUMULATED)}),
    "paper, 2 loaders": Configuration(PAPER | {"workers": 2}),
    "paper, accumulated, 2 loaders": Configuration(PAPER | {"workers": 2, "overrides": (*FEW_LAYERS, *ACCUMULATED)}),
    "fast, minutes": Configuration(
        {name: value for name, value in FAST.items() if name != "epochs"} | {"minutes": 0.1}, is_timed=True
    ),
    "fast, saved after every step": Configuration(FAST, asked=1),
    "fast, strong, balanced, 2 loaders": Configuration(FAST | {"workers": 2, "augment": "strong", "balanced": True}),
    "fast, 2 processes": Configuration(FAST, processes=2),
    "paper, 2 processes": Configuration(PAPER, processes=2),
    "fast, no val": Configuration(FAST | {"val_split": "none"}),
    "fast, resumed": Configuration(FAST, stopped=HALFWAY),
    "paper, resumed": Configuration(PAPER, stopped=HALFWAY),
    "fast, resumed elsewhere": Configuration(FAST, stopped=HALFWAY, elsewhere=True),
    "fast, other data": Configuration(FAST, stopped=HALFWAY, more={"accept_data": True}, other_data=True),
    "fast, more epochs": Configuration(FAST, stopped=(), more={"epochs": 3}),
}


@dataclass
class Outcome:
    """What became of a run that was killed and continued, by sentence; nothing where all is well."""

    where: str
    differences: list[str] = field(default_factory=list)  # from the run that was not killed
    dead_end: str = ""  # what was said instead of continuing
    unreadable: list[str] = field(default_factory=list)  # checkpoints, before it was continued
    lost: str = ""  # what was saved before the kill, and gone after it

    @property
    def is_good(self) -> bool:
        """Whether the run ended as the one that was not killed."""
        return not (self.differences or self.dead_end or self.unreadable or self.lost)


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


def add_picture(data: Path) -> None:
    """One more picture for the training split, with the boxes of the first."""
    path = data / "annotations" / "train.json"
    content = json.loads(path.read_text())
    number = 1 + len(content["images"])
    image = content["images"][0] | {"id": number, "file_name": "one_more.png"}
    shutil.copy(data / "images" / content["images"][0]["file_name"], data / "images" / "one_more.png")
    for box in [box for box in content["annotations"] if box["image_id"] == 1]:
        content["annotations"].append(box | {"id": 1 + len(content["annotations"]), "image_id": number})
    path.write_text(json.dumps(content | {"images": [*content["images"], image]}))


class StepClock:
    """Stands for the module `time`: only training steps take time, a quarter of a second each."""

    def __init__(self) -> None:
        self.now = 2.0**30

    def time(self) -> float:
        """Seconds."""
        return self.now

    monotonic = time

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def make_tiny(configuration: Configuration) -> StepClock | None:
    """Leave out what takes longer than the steps of a tiny run, and decide by counting what clocks decide.

    After every save the place in the run goes to the file `SAVED`.
    """
    speed.LOOKED_AT = (32, 48)
    precision.gain_of_products = lambda device: 1.0
    flips.PICTURES = flips.MOST_PICTURES = 2
    loop.LOGGED_EVERY = 2
    manifest._git_state = lambda folder: None
    asked = []

    def after_some_steps(plan: plan.Plan, seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) % configuration.asked == 0

    plan.Plan.may_save_within = after_some_steps  # type: ignore[method-assign]
    save = RunFolder.save_last

    def saves(folder: RunFolder, checkpoint: Any, state: dict[str, Any], **options: Any) -> None:
        save(folder, checkpoint, state, **options)
        note_place(state)

    RunFolder.save_last = saves  # type: ignore[method-assign, assignment]
    analyse = validation.analyse_detections

    def with_any_ap(index: Any, detections: Any) -> Any:  # a run so tiny would have none, and nothing to choose by
        metrics = analyse(index, detections)
        scores = float(sum(found.scores.double().sum() for _, found in detections))
        return replace(metrics, summary=metrics.summary | {"AP": 0.001 * scores})

    validation.analyse_detections = with_any_ap
    if not configuration.is_timed:
        return None
    clock, step = StepClock(), TrainingStep.__call__
    for module in (plan, loop, validation, flips):
        module.time = clock  # type: ignore[attr-defined]
    begin, look = plan.Plan.begin, setup.look_at_speed
    setup.look_at_speed = lambda *of: replace(look(*of), seconds_per_pixel=1e-6)  # what is chosen by it stays the same

    def begins(plan: plan.Plan) -> None:
        plan.saving_seconds = 0.5  # as if a save was timed before
        begin(plan)

    plan.Plan.begin = begins  # type: ignore[method-assign]

    def steps(training: TrainingStep, micro_batches: Any) -> dict[str, float]:
        clock.now += 0.25
        return step(training, micro_batches)

    TrainingStep.__call__ = steps  # type: ignore[method-assign]
    return clock


def note_place(state: Mapping[str, Any], folder: Path = Path()) -> None:
    """Write down how far a run is that was saved."""
    write_json(folder / SAVED, [state["state"]["epoch"], state["state"]["step"]])  # at once: it may be killed meanwhile


def train(data: Path, configuration: Configuration, begun: Path | None = None) -> None:
    """Begin the run in `run`, or continue the one that is `begun`; as a user who repeats a command that was killed."""
    clock, run, threads = make_tiny(configuration), Path(RUN), {"threads": 1}
    started: dict[str, float] = {}
    if was_saved(run) or is_unsaved(run):
        if clock is not None:  # starting takes a second, which a saved run knows already
            started = {"started": clock.time() - (0.0 if was_saved(run) else 1.0)}
        api.train(resume=run, **threads, **configuration.more, **started)
    elif begun is not None:
        api.train(resume=begun, output=run, **threads, **configuration.more)
    else:
        if clock is not None:
            started = {"started": clock.time() - 1.0}
        api.train(data, output=run, **configuration.options, **started)


def start_child(work: Callable[[], None], folder: Path, log: Path, variables: Mapping[str, str]) -> int:
    """The process id of a forked child that does this work in a folder; it ends with 2 after a UserError, or 1."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        with log.open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.environ.update(variables)
        os.chdir(folder)
        multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]  # the parent's
        work()
        code = 0
    except UserError as error:
        print(f"UserError: {error}", file=sys.stderr)
        code = 2
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_children(
    work: Callable[[int], None],
    folder: Path,
    log: Path,
    processes: int = 1,
    kill_after: float | None = None,
    victims: Sequence[int] = (0,),
) -> int:
    """The exit code of work in children, which know their number; minus the signal that ended one of them.

    After `kill_after` seconds the `victims` are killed. Once a child fails, the others get SIGTERM, as from torchrun.
    """
    variables: list[dict[str, str]] = [{}]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            common = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free.getsockname()[1]),
                "WORLD_SIZE": str(processes),
            }
        variables = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    begun = time.monotonic()
    children = {start_child(partial(work, rank), folder, log, variables[rank]): rank for rank in range(processes)}
    ended, failed_at = dict[int, int](), 0.0
    while len(ended) < processes:
        now = time.monotonic()
        for pid, rank in children.items():
            if pid in ended:
                continue
            if kill_after is not None and rank in victims and now > begun + kill_after:
                os.kill(pid, signal.SIGKILL)
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
                if ended[pid] and not failed_at:
                    failed_at = now
                    for other in children.keys() - ended.keys():
                        os.kill(other, signal.SIGTERM)
            elif failed_at and now > failed_at + SURVIVORS:
                os.kill(pid, signal.SIGKILL)
                with log.open("a") as said:
                    said.write(f"process {rank} was still there {SURVIVORS:.0f} s after another one was killed\n")
        time.sleep(0.005)
    codes = ended.values()
    return next((code for code in codes if code == -signal.SIGKILL), next((code for code in codes if code), 0))


def without_times(value: Any) -> Any:
    """The value without what may differ between two runs."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not MAY_DIFFER.fullmatch(str(k))}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def models(run: Path) -> list[Path]:
    """The model folders that others may use, also between the two renames of one that is being replaced."""
    folders = [current_folder(run / name) for name in ("last", "best", ".previous")]
    return [folder for folder in (*folders, *sorted((run / "checkpoints").glob("epoch-*"))) if folder.is_dir()]


def contents(run: Path, *, is_timed: bool) -> dict[str, Any]:
    """Everything that two equal runs have in common, by file."""
    found: dict[str, Any] = {}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found["metrics.jsonl"] = [without_times(json.loads(line)) for line in lines]
    paths = sorted(path for path in run.rglob("*") if path.name != ".lock" and "captures" not in path.parts)
    found["files"] = [str(path.relative_to(run)) for path in paths]
    for path in paths:
        name = str(path.relative_to(run))
        if path.name in ("metrics.json", "evaluation.json"):
            values = without_times(json.loads(path.read_text()))
            found[name] = {k: v for k, v in values.items() if k != "created"}
        elif path.name in ("config.toml", "labels.json", "preprocessing.json", "model.safetensors"):
            found[name] = path.read_bytes()
    state = torch.load(run / "last" / "training.pt", weights_only=True)
    state["state"].pop("flip_seconds")
    left_out = ("sizing",) if is_timed else CLOCK
    found["last/training.pt"] = without_times({k: v for k, v in state.items() if k not in left_out})
    return found


def equal(a: Any, b: Any) -> bool:
    """Whether two values are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def differing(a: Any, b: Any, name: str) -> list[str]:
    """What differs in two values: of files, and of what is in them."""
    if ":" not in name and isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differing(a[key], b[key], f"{name}:{key}" if name else str(key))]
    if name == "metrics.jsonl" and not equal(a, b):
        return [f"{name}: {[one for one in a if one not in b]} became {[one for one in b if one not in a]}"]
    return [] if equal(a, b) else [name]


def sessions_in(run: Path) -> list[Any]:
    """Those that a run's manifest lists; none where there is none."""
    path = run / MANIFEST
    return list(json.loads(path.read_text())["sessions"]) if path.exists() else []


def digest(folder: Path) -> str:
    """Of all that a folder holds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()


class Trial:
    """One configuration: the run that is left alone, and the same run killed again and again."""

    def __init__(self, name: str, folder: Path) -> None:
        self.configuration, self.folder = CONFIGURATIONS[name], folder / re.sub(r"\W+", "-", name)
        self.folder.mkdir()
        self.data = write_pictures(self.folder / "data")
        self.log, self.found = self.folder / "log.txt", self.folder / "found.json"
        self.begun: Path | None = None  # the run that is continued
        if self.configuration.stopped is not None:
            self._begin(self.configuration.stopped)
        whole = self._ready("whole")
        self.operations, self.seconds = self._count(whole, Kill(RUN))
        self.expected = contents(whole / RUN, is_timed=self.configuration.is_timed)
        self.expected_sessions = len(sessions_in(whole / RUN))

    def _begin(self, stopped: tuple[Any, ...]) -> None:
        """The session before the one that is killed."""
        operations, _ = self._count(self._ready("before"), Kill(RUN))
        killed = self.folder / "before"
        if stopped:
            killed = self.folder / "stopped"
            self._count(self._ready("before"), Kill(RUN, {chosen_operation(operations, *stopped): killed}))
        if self.configuration.other_data:
            add_picture(self.data)
        self.begun = killed / RUN

    def _session(self, rank: int = 0) -> None:
        """In a child: what the user does first, and does again after a kill."""
        train(self.data, self.configuration, self.begun if self.configuration.elsewhere else None)

    def _ready(self, name: str) -> Path:
        """A folder as it is before the session that is killed."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if self.begun is not None and not self.configuration.elsewhere:
            note_place(load_training_state(self.begun), folder)
            shutil.copytree(self.begun, folder / RUN)
        return folder

    def _run(self, work: Callable[[int], None], folder: Path, **kill: Any) -> int:
        """The exit code of a session, or of other work, in the processes of the configuration."""
        self.log.unlink(missing_ok=True)
        return run_children(work, folder, self.log, self.configuration.processes, **kill)

    def _count(self, folder: Path, kill: Kill) -> tuple[list[str], float]:
        """The file operations of a session that comes to its end, and its seconds."""

        def work(rank: int) -> None:
            begun = time.time()
            if rank == 0:
                kill.arm()
            self._session()
            seconds, kill.is_inside = time.time() - begun, True
            if rank == 0:
                self.found.write_text(json.dumps([list(sys.modules), kill.done, seconds]))

        if code := self._run(work, folder):
            raise SystemExit(f"the run itself ends with {code}:\n{self.log.read_text()}")
        modules, done, seconds = json.loads(self.found.read_text())
        for name in modules:  # so that children need not import them; a run in this process would start threads
            if name != "__main__":
                with suppress(Exception):
                    importlib.import_module(name)
        gc.freeze()  # a collection in a child would copy the memory of all these
        return done, seconds

    def kill_at(self, kills: Sequence[tuple[int, str]]) -> Iterator[Outcome]:
        """Kill the process that writes at file operations, by number and place."""
        copies = {(at, where): self.folder / f"killed-{at}-{where}" for at, where in kills}
        self._count(self._ready("killed"), Kill(RUN, copies))
        for at, where in kills:
            yield self._continue(f"{at} {where} {self.operations[at]}", copies[at, where])
            shutil.rmtree(copies[at, where])

    def fill_disk_from(self, at: int) -> Outcome:
        """Let the disk be full from a file operation on."""
        folder, kill = self._ready("killed"), Kill(RUN, full_from=at)

        def work(rank: int) -> None:
            if rank == 0:
                kill.arm()
            self._session()

        code, said = self._run(work, folder), f"{at} full {self.operations[at]}"
        if code not in (0, 2):
            return Outcome(said, [f"the full disk ends it with {code}: {self._last_words()}"])
        return self._continue(said, folder)

    def kill_after(self, number: int, moment: float, victims: Sequence[int]) -> Outcome:
        """Kill processes after a share 0..1 of the run's time; earlier where it has ended by then."""
        code, where = 0, f"random {number}"
        while code == 0:
            folder, seconds = self._ready("killed"), moment * self.seconds
            code = self._run(self._session, folder, kill_after=seconds, victims=victims)
            moment *= 0.8
        if code != -signal.SIGKILL:
            return Outcome(where, [f"not killed, but ended with {code}: {self._last_words()}"])
        if "still there" in self.log.read_text():
            return Outcome(where, [self._last_words()])
        return self._continue(f"{where}: process {' and '.join(map(str, victims))} after {seconds:.2f} s", folder)

    def _last_words(self) -> str:
        return " / ".join(self.log.read_text().strip().splitlines()[-2:])[-500:]

    def _continue(self, where: str, folder: Path) -> Outcome:
        """Look at what was left, give the command again, and compare."""
        outcome, begun, run = Outcome(where), self.begun, folder / RUN
        before, known = sessions_in(run), [] if begun is None else sessions_in(begun)
        is_elsewhere = begun is not None and self.configuration.elsewhere
        untouched = digest(begun) if begun is not None and is_elsewhere else ""

        def look_and_continue(rank: int) -> None:
            if rank == 0:
                self.found.write_text(json.dumps(look(Path(RUN), may_be_new=begun is None or is_elsewhere)))
            self._session()

        self.found.write_text(json.dumps([["not looked at"], ""]))
        code = self._run(look_and_continue, folder)
        outcome.unreadable, outcome.lost = json.loads(self.found.read_text())
        if code:
            outcome.dead_end = f"{code}: {self._last_words()}"
            return outcome
        try:
            found = contents(run, is_timed=self.configuration.is_timed)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            outcome.differences.append(f"cannot be read: {error}")
            return outcome
        outcome.differences += differing(self.expected, found, "")
        sessions = sessions_in(run)
        is_whole = len(sessions) >= self.expected_sessions and sessions[: len(known)] == known
        if not is_whole or not all(session in sessions for session in before):
            outcome.differences.append(f"{MANIFEST} has lost sessions")
        if begun is not None and is_elsewhere and digest(begun) != untouched:
            outcome.differences.append("the run that is continued elsewhere has changed")
        return outcome


def look(run: Path, *, may_be_new: bool) -> tuple[list[str], str]:
    """In a child: checkpoints that cannot be read, and what was saved and is gone."""
    unreadable = []
    for folder in models(run):
        try:
            load_folder(folder)
            if folder == current_folder(run / "last"):
                load_training_state(run)
        except UserError as error:
            unreadable.append(str(error))
    saved = json.loads(Path(SAVED).read_text()) if Path(SAVED).exists() else [0, 0]
    if not was_saved(run):
        return unreadable, "" if may_be_new and saved == [0, 0] else f"the save at {saved} is gone"
    state = load_training_state(run)["state"]
    there = [state["epoch"], state["step"]]
    return unreadable, "" if there >= saved else f"the save at {saved} is gone, that at {there} is there"


def chosen_operation(operations: Sequence[str], pattern: str, which: int, place: str) -> tuple[int, str]:
    """The number of the operation that matches, of several the one at `which`, and the place."""
    return [number for number, one in enumerate(operations) if re.fullmatch(pattern, one)][which], place


def chosen_kills(operations: Sequence[str], options: argparse.Namespace) -> list[tuple[int, str]]:
    """The numbers and places of the file operations that are to be kills."""
    if options.six:
        return [chosen_operation(operations, *one) for one in SIX]
    numbers = range(0, len(operations), options.every)
    if options.full_disk:
        return [(number, "full") for number in numbers if operations[number].split()[0] in NEED_ROOM]
    found = [(number, "before") for number in numbers]
    found += [(number, "middle") for number in numbers if operations[number].split()[0] in HAVE_MIDDLE]
    return sorted(found)


class Results:
    """The outcomes of a sweep, also of earlier ones whose file it is."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.known = path, dict[tuple[str, str], dict[str, Any]]()
        said = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=7"],
            capture_output=True, text=True,
        )  # fmt: skip
        self.commit = said.stdout.strip() or "no git"
        for line in path.read_text().splitlines() if path is not None and path.exists() else ():
            found = json.loads(line)
            self.known[found["configuration"], found["key"]] = found

    def is_good(self, name: str, key: str) -> bool:
        """Whether this one was tried, and all was well."""
        found = self.known.get((name, key))
        return found is not None and Outcome(**found["outcome"]).is_good

    def add(self, name: str, key: str, outcome: Outcome) -> None:
        """Keep an outcome, and say what is wrong with it."""
        found = {"configuration": name, "key": key, "commit": self.commit, "outcome": vars(outcome)}
        self.known[name, key] = found
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(found) + "\n")
        if not outcome.is_good:
            print(f"{name}, {vars(outcome)}"[:1500], file=sys.stderr, flush=True)

    def row(self, name: str, keys: Sequence[str]) -> tuple[str, int]:
        """The row of the table, and the number of kills after which not all was well."""
        found = [self.known[name, key] for key in keys]
        outcomes = [Outcome(**one["outcome"]) for one in found]
        said = Counter(difference[:60] for outcome in outcomes for difference in outcome.differences).most_common(5)
        counts = [len(found), sum(outcome.is_good for outcome in outcomes)]
        counts += [sum(map(bool, of)) for of in (
            [outcome.dead_end for outcome in outcomes], [outcome.unreadable for outcome in outcomes],
            [outcome.lost for outcome in outcomes],
        )]  # fmt: skip
        commits = ", ".join(sorted({one["commit"] for one in found}))
        differ = "; ".join(f"{what} ({count})" for what, count in said)
        return f"| {name} | {' | '.join(map(str, counts))} | {commits} | {differ} |", counts[0] - counts[1]


def planned(
    name: str, trial: Trial, results: Results, options: argparse.Namespace
) -> tuple[list[str], Iterator[tuple[str, Outcome]]]:
    """The keys of all kills of a configuration, and the outcomes of those that are tried now."""
    if options.random:
        draw, victims = random.Random(0), [(0,)] if trial.configuration.processes == 1 else [(1,), (0, 1), (0,)]
        moments = {f"random {number}": (number, draw.random()) for number in range(options.random)}
        left = [key for key in moments if not results.is_good(name, key)]
        return list(moments), (
            (key, trial.kill_after(*moments[key], victims[moments[key][0] % len(victims)])) for key in left
        )
    kills = {
        f"{at} {where} {trial.operations[at]}": (at, where) for at, where in chosen_kills(trial.operations, options)
    }
    left = [key for key in kills if not results.is_good(name, key)]
    if options.full_disk:
        return list(kills), ((key, trial.fill_disk_from(kills[key][0])) for key in left)
    batches = [left[at : at + BATCH] for at in range(0, len(left), BATCH)]
    return list(kills), (
        found for batch in batches for found in zip(batch, trial.kill_at([kills[key] for key in batch]), strict=True)
    )


def sweep(name: str, folder: Path, results: Results, options: argparse.Namespace) -> int:
    """All kills of a configuration, and its row; returns how many went wrong."""
    trial = Trial(name, folder)
    keys, outcomes = planned(name, trial, results, options)
    left, begun = sum(not results.is_good(name, key) for key in keys), time.monotonic()
    for number, (key, outcome) in enumerate(outcomes, start=1):
        results.add(name, key, outcome)
        if number % 10 == 0:
            seconds = (time.monotonic() - begun) / number * (left - number)
            print(f"{name}: {number} of {left}, {seconds / 60:.0f} minutes left", file=sys.stderr, flush=True)
    row, wrong = results.row(name, keys)
    print(row, flush=True)
    return wrong


def main() -> None:
    """Print a table of what became of all kills."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=CONFIGURATIONS, default=["fast", "paper"])
    parser.add_argument("--random", type=int, default=0, help="kills at random moments instead, of each configuration")
    parser.add_argument("--every", type=int, default=1, help="of the file operations, every N-th is a kill")
    parser.add_argument("--six", action="store_true", help="only six kills, where most could be lost")
    parser.add_argument("--full-disk", action="store_true", help="a full disk instead of kills")
    parser.add_argument("--results", type=Path, help="a file for the results, which a later call goes on with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results, wrong = Results(options.results), 0
    print("| configuration | kills | equal | dead ends | unreadable checkpoints | saves lost | commit | what differs |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only:
            wrong += sweep(name, Path(temporary), results, options)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
