"""The paper's studies as small trainings on the user's own data."""

import json
import shutil
import time
import traceback
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from opendetr.ablation.study import RowResults, Settings, Study, StudyRow
from opendetr.ablation.tables import write_tables
from opendetr.boxes import box_iou
from opendetr.config import RunConfig
from opendetr.data.digits import SIDE, crowd_scenes, write_digits
from opendetr.data.door import load_index
from opendetr.data.source import DataSource
from opendetr.errors import UserError, first_line
from opendetr.evaluation.runner import evaluate_split
from opendetr.explanation.slots import survey
from opendetr.files import current_folder, read_json, require_folder, write_json, write_text
from opendetr.inference.detector import Detector
from opendetr.progress import console, warn
from opendetr.recipes.recipe import resolve_config
from opendetr.training.run_folder import read_config, read_metrics
from opendetr.training.setup import prepare_training

SCENES = 2000  # of digits, without --data
INSTANCES = (1, 2, 4, 6, 8, 10, 15, 20, 25, 30)
DIGITS_COUNTED = 30  # of each class and number of instances at least, over several scenes where they hold few
CANVAS = 3 * SIDE  # pixels, of the scenes with many digits


def run_study(study: Study, settings: Settings, output: Path, seeds: int, device: str) -> Path:
    """Train and measure every row with every seed, and write the tables.

    A finished row is never run again, an unfinished one is continued: the same call continues where the last one
    was interrupted.

    `output` is the study's folder; each row keeps its runs there, with the seeds 0, 1, ..., `seeds - 1`. Returns the
    path of `study.md`; `study.csv` and `study.png` lie beside it.

    Raises:
        UserError: the folder holds another study, there are no such data, a row's values do not fit the recipe (nothing
            is written then); or some runs failed (the others are measured and in the tables, unless all failed).
        KeyboardInterrupt: the user stopped it; everything is kept.
    """
    from opendetr import _matplotlib  # noqa: F401  fail now rather than after the first training

    _require_free_keys(study, settings)
    configs = {row.name: _config(row, settings, device) for row in study.rows}  # a wrong value fails at once
    recipe = resolve_config(settings.recipe)
    if study.needs_selected and recipe.model.query_source != "selected":
        raise UserError(
            f"the study '{study.name}' is about selected queries; the recipe '{settings.recipe}' has learned ones"
        )
    description = {"study": asdict(study), "settings": asdict(settings), "recipe": recipe.to_dict()}
    description = json.loads(json.dumps(description))  # as it is read from study.json
    _require_same_study(description, output)
    if settings.digits and not (Path(settings.data) / "annotations" / "test.json").is_file():
        console.print(f"making {SCENES} digit scenes in {settings.data}")
        write_digits(Path(settings.data), SCENES)
    train_split, source = configs[study.baseline].data.train_split, _source(settings)
    learned, measured = (load_index(source, split) for split in (train_split, settings.split))
    measured = measured.with_ids_of(learned.label_map)
    learned.label_map.require_same_categories(measured.label_map, str(measured.source))
    write_json(output / "study.json", description)
    runs = [(row, seed) for seed in range(seeds) for row in study.rows]
    results: RowResults = {}
    failed: dict[tuple[str, int], str] = {}
    trained: list[float] = []
    for number, (row, seed) in enumerate(runs, start=1):
        folder = output / row.folder / f"seed-{seed}"
        result = folder / "result.json"
        if not result.is_file():
            left = ""
            if trained:  # the mean of the finished runs, for all that are left
                seconds = sum(trained) / len(trained) * (len(runs) - number + 1)
                left = f", {timedelta(seconds=round(seconds))} left of the study"
            console.print(f"\n{study.name}: run {number} of {len(runs)}, '{row.name}', seed {seed}{left}")
            begun = time.time()
            try:
                _train(configs[row.name].with_values({"train.seed": seed}, "the study"), folder / "run")
                found = _measure(study, settings, folder / "run", device)
            except Exception as error:  # any error ends one run only
                write_text(folder / "error.txt", "".join(traceback.format_exception(error)))
                reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
                failed[row.name, seed] = reason
                warn(f"row '{row.name}', seed {seed}, failed: {reason}")
                continue
            (folder / "error.txt").unlink(missing_ok=True)
            write_json(result, found | {"row": row.name, "seed": seed})
            trained.append(time.time() - begun)
        results[row.name, seed] = read_json(result, "the result of a row")
        if trained:  # earlier rows already have their tables
            write_tables(study, settings, results, failed, output)
    if not results:
        raise UserError(f"no row of the study could be trained: {next(iter(failed.values()))}")
    write_tables(study, settings, results, failed, output)
    if failed:
        (name, seed), reason = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(runs)} runs of the study failed, the first '{name}', seed {seed} ({reason}); "
            f"{output / 'study.md'} has the others; the same command tries the failed runs again"
        )
    return output / "study.md"


def _require_free_keys(study: Study, settings: Settings) -> None:
    """Check that `--set` changes no value that the study sets."""
    ours = {"train.seed": "--seeds", "data.root": "--data", "data.val_split": "--split", "train.device": "--device"}
    for name in {**settings.fixed, **{name: None for row in study.rows for name in row.values}}:
        if name in ours:
            raise UserError(f"--set {name}: a study takes it from {ours[name]}")
    for name in settings.fixed:
        if all(name in row.values for row in study.rows):
            raise UserError(f"--set {name}: every row of the study '{study.name}' sets it itself")


def _config(row: StudyRow, settings: Settings, device: str) -> RunConfig:
    options = {
        "data.root": settings.data, "data.val_split": "none", "train.device": device,
        "train.epochs": settings.epochs, "train.minutes": settings.minutes or 0.0,
    }  # fmt: skip
    config = resolve_config(settings.recipe, None, {name: v for name, v in options.items() if v is not None})
    return config.with_values({**settings.fixed, **row.values}, f"row '{row.name}'")


def _source(settings: Settings) -> DataSource:
    """The data of all rows."""
    fixed = {name: value for name, value in settings.fixed.items() if name.startswith("data.")}
    return DataSource.of_config(RunConfig().with_values({**fixed, "data.root": settings.data}, "the study").data)


def _require_same_study(description: Any, output: Path) -> None:
    """Check that the folder holds the same study."""
    require_folder(output)
    path = output / "study.json"
    if not path.is_file():
        return
    different = _first_difference(read_json(path, "the description of a study"), description)
    if different is not None:
        key, there, now = different
        raise UserError(
            f"--output {output} holds another study: {key} is {there!r} in {path} and {now!r} now; give the same to "
            f"continue that study, or another folder"
        )


def _first_difference(there: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The dotted name of the first value that differs, with both values; None for a missing one."""
    if isinstance(there, list) and isinstance(now, list):
        there, now = ({str(place): value for place, value in enumerate(values)} for values in (there, now))
    if not (isinstance(there, dict) and isinstance(now, dict)):
        return None if there == now else (key, there, now)
    names = dict.fromkeys([*there, *now])
    found = (_first_difference(there.get(name), now.get(name), f"{key}.{name}".lstrip(".")) for name in names)
    return next((different for different in found if different is not None), None)


def _train(config: RunConfig, run: Path) -> None:
    """Train or continue a row, with the values chosen at its start."""
    resume = run if (current_folder(run / "last") / "training.pt").is_file() else None
    if resume is None:  # the run was killed before its first save
        shutil.rmtree(run, ignore_errors=True)
    else:
        chosen = read_config(run)
        config = chosen.with_values({"train.device": config.train.device}, "the study")
    trainer = prepare_training(config, run, time.time(), resume)
    trainer.fit()
    if trainer.plan.interrupted():
        console.print("The study is kept; the same command continues it.")
        raise KeyboardInterrupt


def _measure(study: Study, settings: Settings, run: Path, device: str) -> dict[str, Any]:
    """AP on the split, and the other measures of the study."""
    detector = Detector.load(run, device, "torch")
    index = load_index(_source(settings), settings.split).with_ids_of(detector.checkpoint.label_map)
    metrics = evaluate_split(detector.engine, detector.description, index)
    history = [line for line in read_metrics(run) if line["kind"] == "epoch"]
    found: dict[str, Any] = {key: metrics.summary[key] for key in ("AP", "AP50", "AP75")}
    found |= {"epochs": history[-1]["epoch"], "seconds": history[-1]["seconds"]}
    if study.measure == "layers":
        found["layers"] = [
            {f"{key}{suffix}": m.summary[key] for m, suffix in zip(both, ("", " with NMS")) for key in ("AP", "AP50")}
            for both in survey(detector, index, 0.5).layers
        ]
    if study.measure == "instances":
        found["instances"] = {str(count): _found_share(detector, count) for count in INSTANCES}
    return found


def _found_share(detector: Detector, count: int) -> float:
    """The share of `count` digits of one class on a large canvas that is found, over the classes.

    A digit is found if a detection of its class has a score and an IoU of at least 0.5, one to one.
    """
    checkpoint = detector.checkpoint
    size = round(checkpoint.preprocessing.image_size * CANVAS / SIDE)  # digits of the size in training
    preprocessing = replace(checkpoint.preprocessing, image_size=size, max_size=size)
    larger = Detector.of_checkpoint(replace(checkpoint, preprocessing=preprocessing), str(detector.device))
    found = shown = 0
    scenes = (scene for seed in range(-(-DIGITS_COUNTED // count)) for scene in crowd_scenes(count, CANVAS, seed))
    for digit, picture, boxes in scenes:
        ((_, detections),) = larger.stream([(digit, picture)])
        named = torch.tensor([name == str(digit) for name in detections.names], dtype=torch.bool)
        named = torch.where(named)[0][detections.scores[named].argsort(descending=True)]
        taken: set[int] = set()
        overlaps = box_iou(detections.boxes_xyxy[named][:, None], torch.tensor(boxes, dtype=torch.float32)[None])
        for row in overlaps:  # best first, each takes the free digit it fits best
            free = {number: float(iou) for number, iou in enumerate(row) if number not in taken and iou >= 0.5}
            if free:
                taken.add(max(free, key=free.__getitem__))
        found, shown = found + len(taken), shown + len(boxes)
    return found / shown
