"""Prediction by Ray: every worker holds the model in a process of its own, on this machine or on many."""

import importlib.util
import logging
import os
import pickle
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from opendetr.devices import resolve_device
from opendetr.errors import UserError
from opendetr.files import require_folder
from opendetr.inference.detector import Detector
from opendetr.inference.prediction import Tiling, as_setting, detect_pictures, found_in_words
from opendetr.inference.results import write_entries
from opendetr.inference.sources import report_left_out
from opendetr.options import EngineName, PrecisionName
from opendetr.progress import console, show_progress
from opendetr.wording import counted

if TYPE_CHECKING:
    from opendetr.inference.parquet import Piece

PART = 256  # pictures that are written together, lost and repeated where a worker dies
PACKAGES = ("ray", "pyarrow", "fsspec")


@dataclass(frozen=True)
class Job:
    """The settings of every worker."""

    model: str
    engine: EngineName
    precision: PrecisionName
    device: str
    output: str
    threshold: float | None
    batch_size: int
    tiling: Tiling | None
    classes: tuple[str | int, ...] | None = None  # names or raw category ids; None for all
    image_size: int | None = None  # as in `Detector.load`

    def load(self) -> Detector:
        """The model, ready to detect."""
        return Detector.load(self.model, self.device, self.engine, self.precision, image_size=self.image_size)

    def indices(self, detector: Detector) -> list[int] | None:
        """The class indices that are reported; None for all."""
        return None if self.classes is None else sorted(detector.description.label_map.indices_of(self.classes))


def predict_distributed(job: Job, sources: list[str], workers: int | None = None) -> Path | str:
    """Detect in pictures by several workers, and write Parquet parts as they are done.

    The same call continues after a stop: pictures that are in the output are left out.

    Args:
        job: the settings. The engine is chosen here, once, for all workers.
        sources: as in `list_pictures`.
        workers: number of processes, each with a model; by default as many as fit with this process's threads.

    Returns:
        `detections.json` in a folder of this machine, elsewhere the address of the Parquet parts.

    Raises:
        UserError: the extra `ray`, the model or a source is missing; or, after the others were written, pictures
            could not be read.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--engine ray needs the package {missing[0]}: pip install 'opendetr[ray]'")
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}")
    from opendetr.inference.parquet import Parts, digest, list_pictures

    pictures, parts = list_pictures(sources, job.output), Parts(job.output)
    if parts.local is not None:
        require_folder(parts.local)
    job = replace(job, output=str(parts.local or job.output), device=resolve_device(job.device).type)
    if Path(job.model).exists():  # workers may live in another folder
        job = replace(job, model=str(Path(job.model).resolve()))
    detector = job.load()
    least = detector.description.threshold(job.threshold)
    tiling = None if job.tiling is None else [job.tiling.side, job.tiling.overlap]
    settings = {
        "model": detector.identity, "pictures": digest(pictures), "threshold": as_setting(least), "tiling": tiling,
        "classes": job.indices(detector),
    }  # fmt: skip
    done = parts.done(settings)
    if done:
        console.print(f"{counted(len(done), 'picture is', 'pictures are')} done; continuing from {parts.folder}")
    job = replace(job, engine=detector.engine.name)
    del detector
    count, found, broken = _run(job, pictures, done, workers)
    console.print(found_in_words(found, count, len(done) + count, least, parts.folder))
    if parts.local is not None:
        write_entries(parts.local / "detections.json", parts.entries())
    report_left_out(broken)
    return str(parts.system.unstrip_protocol(parts.folder)) if parts.local is None else parts.local / "detections.json"


def _run(job: Job, pictures: "list[Piece]", done: set[int], workers: int | None) -> tuple[int, int, list[str]]:
    """Let workers do the rest; returns the numbers of new pictures and detections, and what could not be read."""
    named = [one for piece in pictures if isinstance(piece, list) for one in piece if one.position not in done]
    stored = [piece for piece in pictures if not isinstance(piece, list) and not done.issuperset(piece.positions)]
    if not named and not stored:
        return 0, 0, []
    with _ray() as ray:
        kind = "GPU" if job.device == "cuda" else "CPU"
        there = int(ray.cluster_resources().get(kind, 1))
        workers = workers or max(1, there if kind == "GPU" else there // torch.get_num_threads())
        share = there / workers if workers > there else there // workers  # of a worker: whole threads if they last
        size = min(PART, max(1, ceil(len(named) / (4 * workers))))  # small, so that all workers have work until the end
        pieces = [*(named[at : at + size] for at in range(0, len(named), size)), *stored]
        console.print(f"{counted(workers, 'worker')} by Ray, each with {share:g} {kind}; the engine is {job.engine}")
        threads = torch.get_num_threads()
        if kind == "CPU":
            threads = max(1, min(threads, int(share)))
        answers = (
            ray.data.from_items([{"piece": pickle.dumps(piece)} for piece in pieces], override_num_blocks=len(pieces))
            .map_batches(
                Worker, fn_constructor_args=[job, threads, frozenset(done), secrets.token_hex(4)], batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=workers), **{f"num_{kind.lower()}s": share},
            )
            .iter_rows()
        )  # fmt: skip
        count, found, broken = 0, 0, []
        total = len(named) + sum(len(set(piece.positions) - done) for piece in stored)
        outcomes = chain.from_iterable(pickle.loads(answer["outcomes"]) for answer in answers)
        # Why a picture could not be read, or the number of its detections.
        for sentence, detections in show_progress(outcomes, "detecting", total):
            if sentence:
                broken.append(sentence)
            else:
                count, found = count + 1, found + detections
        return count, found, broken


class Worker:
    """Detects in the pictures of a piece and writes their results, part by part. Ray calls it in its process."""

    def __init__(self, job: Job, threads: int, done: frozenset[int], run: str) -> None:
        """Load the model. Positions in `done` are left out; `run` is a part of file names, different in every run."""
        from opendetr.inference.parquet import Parts

        torch.set_num_threads(threads)
        self.job, self.done, self.run = job, done, run
        self.detector, self.parts = job.load(), Parts(job.output)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Detect in one piece; returns the outcome of each picture."""
        outcomes, broken = list[tuple[str, int]](), list[str]()
        try:
            todo = (one for one in pickle.loads(batch["piece"][0]) if one.position not in self.done)
            while pictures := list(islice(todo, PART)):
                found = detect_pictures(
                    self.detector, pictures, self.job.threshold, self.job.batch_size, self.job.tiling,
                    broken.append, classes=self.job.indices(self.detector),
                )  # fmt: skip
                placed = [(one.picture.position, one.detections) for one in found]
                if placed:
                    self.parts.write(f"{pictures[0].position:09}-{self.run}", placed)
                outcomes += [("", len(detections)) for _, detections in placed]
        except UserError as error:  # the rest of a table that cannot be read
            broken.append(str(error))
        return {"outcomes": [pickle.dumps([*outcomes, *((sentence, 0) for sentence in broken)])]}


@contextmanager
def _ray() -> Iterator[Any]:
    """Ray: the cluster of `RAY_ADDRESS` or that is connected already, else one on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before the import: switches usage reports off
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # failures are raised; other lines are for its developers
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    begun = not ray.is_initialized()
    if begun:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        if begun:
            ray.shutdown()
