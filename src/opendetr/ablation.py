"""The paper's studies as small trainings on the user's own data. A study is data: rows of config values."""

import csv
import io
import itertools
import json
import shutil
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opendetr.boxes import box_iou
from opendetr.checkpoints.native import resumable_folder
from opendetr.config import RunConfig, load_recipe, resolve_config
from opendetr.data.datasets import load_index
from opendetr.data.digits import SIDE, crowd_scenes, write_digits
from opendetr.errors import UserError, nearest
from opendetr.evaluation.runner import evaluate_split
from opendetr.explanation.slots import survey
from opendetr.files import current_folder, read_json, require_folder, write_bytes, write_json, write_text
from opendetr.inference.detector import Detector
from opendetr.progress import console
from opendetr.training.setup import prepare

LEARNED = 0.5  # AP50 of the baseline below which a study says nothing
SCENES = 2000  # of digits, where no data are given
INSTANCES = (1, 2, 4, 6, 8, 10, 15, 20, 25, 30)
Results = dict[tuple[str, int], dict[str, Any]]  # by row and seed
CANVAS = 3 * SIDE  # pixels, of the scenes with many digits


@dataclass(frozen=True)
class Row:
    """One training of a study."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)  # dotted names of the config
    paper: dict[str, float] = field(default_factory=dict)  # the paper's difference to its baseline on COCO, in points

    @property
    def folder(self) -> str:
        """The name of the row's folder."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name).strip("-")


@dataclass(frozen=True)
class Study:
    """Rows to be compared."""

    name: str
    title: str
    about: str
    baseline: str
    rows: list[Row]
    measure: str = "split"  # what is measured: AP on the split; by decoder layer; of crowds of digits
    needs_selected: bool = False  # whether it is about queries that are selected


@dataclass(frozen=True)
class Settings:
    """What all rows of a study share."""

    data: str
    recipe: str
    split: str = "val"
    epochs: int | None = None
    minutes: float | None = None
    fixed: dict[str, Any] = field(default_factory=dict)  # config values of all rows
    digits: bool = False  # the data are digit scenes, made where they are missing


def study_names() -> list[str]:
    """The studies shipped with the package."""
    files = resources.files("opendetr.studies").iterdir()
    return sorted(path.name.removesuffix(".toml") for path in files if path.name.endswith(".toml"))


def load_study(name: str) -> Study:
    """A shipped study.

    Raises:
        UserError: there is none of that name; names the nearest.
    """
    if name not in study_names():
        raise UserError(f"ablate {name}: unknown study; {nearest(name, study_names())}")
    text = resources.files("opendetr.studies").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    rows = [Row(row["name"], row.get("set", {}), row.get("paper", {})) for row in content["rows"]]
    return Study(
        name, content["title"], content["about"], content["baseline"], rows, content.get("measure", "split"),
        content.get("needs_selected", False),
    )  # fmt: skip


def own_study(axes: dict[str, list[Any]]) -> Study:
    """Every combination of the given values; the first is the baseline.

    Args:
        axes: dotted config name -> values.
    """
    rows = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values))
        rows.append(Row(", ".join(f"{name}={value}" for name, value in chosen.items()), chosen))
    return Study("own", "Study of " + " and ".join(axes), "Values given with --set.", rows[0].name, rows)


def parse_axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`section.key=1,2,3` as a name with its values; values are TOML, and anything that is not is a text.

    Raises:
        UserError: there is no `=`, or nothing behind it.
    """
    axes = {}
    for text in texts:
        name, separator, values = text.partition("=")
        if not separator or not values.strip():
            raise UserError(f"--set {text}: expected section.key=VALUE or section.key=VALUE,VALUE,...")
        try:
            axes[name.strip()] = list(tomllib.loads(f"values = [{values}]")["values"])
        except tomllib.TOMLDecodeError:
            axes[name.strip()] = [value.strip() for value in values.split(",")]
    return axes


def run_study(study: Study, settings: Settings, output: Path, seeds: int, device: str) -> Path:
    """Train and measure every row with every seed, and write the tables.

    A row that is finished is never run again, an unfinished one is continued: the same call goes on where the last one
    was interrupted.

    Args:
        study: the rows.
        settings: what they share.
        output: the study's folder; each row keeps its run there.
        seeds: 0, 1, ...: so many runs per row.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        `study.md`; `study.csv` and `study.png` lie beside it.

    Raises:
        UserError: the folder holds another study, or a row's values do not fit the recipe.
        KeyboardInterrupt: the user stopped it; everything is kept.
    """
    from opendetr import _matplotlib  # noqa: F401  said now rather than after the first training

    configs = {row.name: _config(row, settings, device) for row in study.rows}  # a wrong value is said at once
    if study.needs_selected and resolve_config(settings.recipe).model.query_source != "selected":
        raise UserError(
            f"the study '{study.name}' is about selected queries; the recipe '{settings.recipe}' has learned ones"
        )
    _require_same_study(study, settings, output)
    if settings.digits:
        _make_digits(Path(settings.data))
    train_split = configs[study.baseline].data.train_split
    learned, measured = (load_index(Path(settings.data), split) for split in (train_split, settings.split))
    learned.label_map.require_same_categories(measured.label_map, str(measured.source))
    runs = [(row, seed) for seed in range(seeds) for row in study.rows]
    results: Results = {}
    trained: list[float] = []
    for number, (row, seed) in enumerate(runs, start=1):
        folder = output / row.folder / f"seed-{seed}"
        result = folder / "result.json"
        if not result.is_file():
            left = f", {_minutes(trained, len(runs) - number + 1)} left of the study" if trained else ""
            console.print(f"\n{study.name}: run {number} of {len(runs)}, '{row.name}', seed {seed}{left}")
            begun = time.time()
            try:
                _train(configs[row.name].with_values({"train.seed": seed}, "the study"), folder / "run")
            except UserError as error:  # such as a table of positions that is too small: the other rows go on
                console.print(f"Row '{row.name}' cannot be trained: {error}", style="yellow")
                continue
            write_json(result, _measure(study, settings, folder / "run", device) | {"row": row.name, "seed": seed})
            trained.append(time.time() - begun)
        results[row.name, seed] = read_json(result, "the result of a row")
        _write_tables(study, settings, results, output)
    return output / "study.md"


def _make_digits(folder: Path) -> None:
    """Make the data set of studies without --data, where it is missing."""
    if not (folder / "annotations" / "test.json").is_file():
        console.print(f"Making {SCENES} digit scenes in {folder}")
        write_digits(folder, SCENES)


def _config(row: Row, settings: Settings, device: str) -> RunConfig:
    options = {
        "data.root": settings.data, "data.val_split": "none", "train.device": device,
        "train.epochs": settings.epochs, "train.minutes": settings.minutes or 0.0,
    }  # fmt: skip
    config = resolve_config(settings.recipe, None, {name: v for name, v in options.items() if v is not None})
    return config.with_values({**settings.fixed, **row.values}, f"row '{row.name}'")


def _require_same_study(study: Study, settings: Settings, output: Path) -> None:
    """Write down what the folder's study is; refuse to mix it with another."""
    path = output / "study.json"
    content = json.loads(json.dumps({"study": asdict(study), "settings": asdict(settings)}))
    require_folder(output)
    if path.is_file() and read_json(path, "the description of a study") != content:
        raise UserError(
            f"--output {output} holds a study with other rows or settings ({path} has them); give the same ones to "
            f"continue it, or another folder"
        )
    write_json(path, content)


def _train(config: RunConfig, run: Path) -> None:
    """Train a row, or finish it, with what was chosen at its start."""
    resume = run if (current_folder(run / "last") / "training.pt").is_file() else None
    if resume is None:  # whatever is there was killed before its first save
        shutil.rmtree(run, ignore_errors=True)
    else:
        chosen = load_recipe(str(resumable_folder(run) / "config.toml"))
        config = chosen.with_values({"train.device": config.train.device}, "the study")
    trainer = prepare(config, run, time.time(), resume)
    write_text(run / "config.toml", trainer.config.to_toml())
    trainer.fit()
    if trainer.plan.interrupted():
        console.print("The study is kept; the same command continues it.")
        raise KeyboardInterrupt


def _measure(study: Study, settings: Settings, run: Path, device: str) -> dict[str, Any]:
    """AP on the split, and what else the study measures."""
    detector = Detector.load(run, device)
    checkpoint = detector.checkpoint
    index = load_index(Path(settings.data), settings.split)
    metrics = evaluate_split(
        detector.model, detector.model.scoring, checkpoint.label_map, index, checkpoint.preprocessing,
        device=detector.device,
    )  # fmt: skip
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {
        "AP": metrics.summary["AP"], "AP50": metrics.summary["AP50"], "AP75": metrics.summary["AP75"],
        "epochs": history[-1]["epoch"], "seconds": history[-1]["seconds"],
    }  # fmt: skip
    if study.measure == "layers":
        layers = survey(detector, index, 0.5).layers
        found["layers"] = [
            {f"{key}{suffix}": m.summary[key] for m, suffix in zip(both, ("", " with NMS")) for key in ("AP", "AP50")}
            for both in layers
        ]
    if study.measure == "instances":
        found["instances"] = {str(count): _found_share(detector, count) for count in INSTANCES}
    return found


def _found_share(detector: Detector, count: int) -> float:
    """Of `count` digits of one class on a large canvas, the share that is found; over one scene of every class."""
    checkpoint = detector.checkpoint
    size = round(checkpoint.preprocessing.image_size * CANVAS / SIDE)  # digits as large as the model learned them
    preprocessing = replace(checkpoint.preprocessing, image_size=size, max_size=size)
    larger = Detector(replace(checkpoint, preprocessing=preprocessing), str(detector.device))
    found = shown = 0
    for digit, picture, boxes in crowd_scenes(count, CANVAS):
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


def _write_tables(study: Study, settings: Settings, results: Results, output: Path) -> None:
    """`study.md`, `study.csv` and `study.png` of what is finished so far."""
    lines = io.StringIO()
    columns = ["row", "seed", "AP", "AP50", "AP75", "epochs", "seconds"]
    writer = csv.DictWriter(lines, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results.values())
    write_text(output / "study.csv", lines.getvalue())
    write_text(output / "study.md", "\n".join(_markdown(study, settings, results)) + "\n")
    write_bytes(output / "study.png", _plot(study, results))


def _markdown(study: Study, settings: Settings, results: Results) -> Iterator[str]:
    by_row = {row.name: [r for (name, _), r in sorted(results.items()) if name == row.name] for row in study.rows}
    base = by_row[study.baseline]
    learned = bool(base) and float(np.mean([result["AP50"] for result in base])) >= LEARNED
    yield f"# {study.title}\n"
    length = f"{settings.epochs} epochs" if settings.minutes is None else f"{settings.minutes:g} minutes"
    set_here = {name for row in study.rows for name in {**settings.fixed, **row.values}}
    if set_here & {"train.epochs", "train.minutes"}:
        length = "as many epochs or minutes as each row says"
    yield f"{study.about} Recipe `{settings.recipe}`, {length} a run, on {settings.split} of {settings.data}.\n"
    if base and not learned:
        yield (
            f"**The baseline '{study.baseline}' has not learned (AP50 {np.mean([r['AP50'] for r in base]):.3f}, below "
            f"{LEARNED}): nothing can be concluded from these rows. Give the runs more epochs.**\n"
        )
    with_paper = any(row.paper for row in study.rows)
    paper = " COCO, paper: AP | AP50 |" if with_paper else ""
    yield f"| row | seeds | AP | difference | AP50 | difference |{paper}"
    yield "|---|---|---|---|---|---|" + "---|---|" * with_paper
    for row in study.rows:
        found = by_row[row.name]
        cells = [row.name, str(len(found))]
        for key in ("AP", "AP50"):
            values = [100 * result[key] for result in found]
            cells.append(_mean_and_spread(values))
            compared = learned and found and row.name != study.baseline
            own = [100 * result[key] for result in base]
            cells.append(_difference(values, own) if compared else "-")
        if with_paper:
            cells += [f"{row.paper[key]:+.1f}" if key in row.paper else "-" for key in ("AP", "AP50")]
        yield "| " + " | ".join(cells) + " |"
    yield "\nAP in points (0 to 100): mean of the seeds, and how far the farthest seed is from it."
    if learned:
        yield "A difference in brackets is within the spread of the seeds, or of one seed only: it says nothing."
    if settings.minutes is not None:
        yield "Runs of equal minutes may differ in picture size and passes too: config.toml of each run tells."
    for row in study.rows:
        for result in by_row[row.name]:
            yield from _extra(result)


def _extra(result: dict[str, Any]) -> Iterator[str]:
    """What a study measures beside AP."""
    if "layers" in result:
        names = list(result["layers"][0])
        yield f"\n## By decoder layer, seed {result['seed']}\n"
        yield "| layer | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|"
        for layer, values in enumerate(result["layers"], start=1):
            yield f"| {layer} | " + " | ".join(f"{100 * values[name]:.1f}" for name in names) + " |"
    if "instances" in result:
        yield f"\n## Share of digits found, by their number in a scene, seed {result['seed']}\n"
        yield "| digits | found |\n|---|---|"
        for count, share in result["instances"].items():
            yield f"| {count} | {share:.0%} |"


def _mean_and_spread(values: list[float]) -> str:
    if not values:
        return "-"
    mean = float(np.mean(values))
    return f"{mean:.1f}" + (f" ± {max(abs(value - mean) for value in values):.1f}" if len(values) > 1 else "")


def _difference(values: list[float], base: list[float]) -> str:
    """The difference of the means; in brackets where it is within the spread of either."""
    difference = float(np.mean(values) - np.mean(base))
    spread = max(float(np.abs(np.array(found) - np.mean(found)).max()) for found in (values, base))
    words = f"{difference:+.1f}"
    certain = abs(difference) > spread and min(len(values), len(base)) > 1
    return words if certain else f"({words})"


def _plot(study: Study, results: Results) -> bytes:
    """A bar per row with a dot per seed; or the curve that the study is about."""
    from opendetr._matplotlib import Figure, png_of

    figure = Figure(figsize=(7, 0.45 * max(len(study.rows), 5) + 1), layout="constrained")
    axes = figure.subplots()
    if study.measure == "split":
        for place, row in enumerate(reversed(study.rows)):
            values = [result["AP"] for (name, _), result in results.items() if name == row.name]
            if values:
                axes.barh(place, float(np.mean(values)), color="0.8" if row.name != study.baseline else "tab:blue")
                axes.plot(values, [place] * len(values), "o", color="black", markersize=4)
        axes.set_yticks(range(len(study.rows)), [row.name for row in reversed(study.rows)], fontsize=8)
        axes.set(xlabel="AP", xlim=(0, None))
    for (_, seed), result in results.items():
        if study.measure == "layers":
            for name in result["layers"][0]:
                axes.plot([values[name] for values in result["layers"]], marker=".", label=f"{name}, seed {seed}")
            layers = len(result["layers"])
            axes.set_xticks(range(layers), [str(layer) for layer in range(1, layers + 1)])
            axes.set(xlabel="decoder layer", ylim=(0, 1))
        elif study.measure == "instances":
            counts, shares = zip(*((int(count), share) for count, share in result["instances"].items()))
            axes.plot(counts, shares, marker=".", label=f"seed {seed}")
            axes.set(xlabel="digits in the scene", ylabel="share found", ylim=(0, 1.02))
    if study.measure != "split":
        axes.legend(fontsize=7)
    axes.set_title(study.title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure)


def _minutes(seconds: list[float], runs: int) -> str:
    """How long so many more runs will take, by what the others took."""
    return str(timedelta(seconds=round(sum(seconds) / len(seconds) * runs)))
