"""The verbs: what the command line does, as functions. Each checks its arguments and calls the room that does the work.

The file is long because all that users have to know of the arguments stands here.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opendetr.benchmarking.benchmark import Benchmark, print_benchmark, write_benchmark
from opendetr.benchmarking.measure import run_benchmark
from opendetr.checkpoints.conversion import write_model
from opendetr.checkpoints.facts import facts_of
from opendetr.checkpoints.loading import is_exported, load_checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.data.datasets import load_index
from opendetr.devices import resolve_device
from opendetr.engines.engine import GRAPH_ENGINES
from opendetr.errors import UserError
from opendetr.evaluation.coco import CocoMetrics, evaluate_files
from opendetr.evaluation.runner import evaluate_data
from opendetr.exporting.certificate import Certificate
from opendetr.exporting.export import ExportOptions, export_model, export_with_data, format_of
from opendetr.exporting.exported_file import describe_exported
from opendetr.files import require_folder, require_writable
from opendetr.inference.detector import Detector
from opendetr.inference.distributed import Job, predict_distributed
from opendetr.inference.prediction import Tiling, predict_pictures, predict_video
from opendetr.inference.results import Shard
from opendetr.inference.sources import expand_sources
from opendetr.inference.video import is_video
from opendetr.options import (
    Cache,
    EngineName,
    ExportFormat,
    ModelForm,
    PeerName,
    PrecisionName,
    PredictEngine,
    TrainingPrecision,
    require_choice,
)
from opendetr.progress import console
from opendetr.recipes.recipe import load_recipe, resolve_config
from opendetr.threads import settle_threads
from opendetr.training.doctor import Finding, diagnose
from opendetr.training.start import run_training


def train(
    data: str | Path | None = None,
    *,
    recipe: str | None = None,
    preset: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    init: str | Path | None = None,
    new_head: bool = False,
    freeze: Sequence[str] = (),
    epochs: int | None = None,
    minutes: float | None = None,
    patience: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    backbone: str | None = None,
    backbone_weights: str | None = None,
    workers: int | None = None,
    cache: Cache | None = None,
    precision: TrainingPrecision | None = None,
    device: str | None = None,
    threads: int | str | None = None,
    overrides: Sequence[str] = (),
    started: float | None = None,
) -> Path:
    """Train a DETR on a folder of pictures and boxes.

    What is None keeps the recipe's value. Ctrl-C ends the run cleanly, with everything written.

    Args:
        data: the data set's folder; may be left out when resuming.
        recipe: a shipped recipe or a TOML file.
        preset: a model section by name; replaces the recipe's.
        train_split: the split to learn from.
        val_split: the split that chooses the best weights.
        output: the run folder; by default `runs/NAME-OF-DATA`, numbered where it exists.
        resume: a run folder to continue from its last written state.
        init: a model to begin with: a run folder, an official `.pth`, a released name, a Hugging Face folder or id.
        new_head: with `init`, give it fresh class heads for the classes of the data.
        freeze: parts that stay as they are: `backbone`, `input_proj`, `encoder`, `decoder`, `heads`.
        epochs: passes over the training split.
        minutes: a wall-clock budget instead of epochs; of this call when resuming.
        patience: the run ends after so many evaluations on val without a better AP, and keeps `best`; not before half
            of its schedule while learning rates are still to fall.
        seed: of weights, order and augmentation.
        batch_size: pictures per process and step.
        image_size: the shorter side at evaluation; scales all sizes of the recipe.
        backbone: a timm network.
        backbone_weights: `auto`, `none` or a file.
        workers: loader processes.
        cache: `ram` or `disk`: pictures are decoded once, for this run or for later ones too; or `none`.
        precision: `auto`, `fp32` or `bf16`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: that compute: a number, or `auto`: measured at the start and when steps become slower. By default
            `auto` with minutes, and PyTorch's own number with epochs.
        overrides: `section.key=value` strings; they win over everything.
        started: when the budget of `minutes` began, as of `time.time()`; now by default.

    Returns:
        The run folder, with `last` and, where a val split could choose it, `best`.

    Raises:
        UserError: bad input of any kind; nothing has been written then.
    """
    started = started or time.time()
    if minutes is not None and not minutes > 0:
        raise UserError(f"--minutes must be above 0, got {minutes}")
    if batch_size is not None:
        require_positive_batch(batch_size)
    if epochs is not None and minutes is not None:
        raise UserError("--epochs and --minutes exclude each other: give the one that ends the run")
    options = {
        "data.root": None if data is None else str(Path(data).resolve()),
        "data.train_split": train_split, "data.val_split": val_split,
        "train.epochs": epochs, "train.minutes": 0.0 if epochs is not None else minutes, "train.seed": seed,
        "train.patience": patience,
        "train.batch_size": batch_size, "model.backbone": backbone, "model.backbone_weights": backbone_weights,
        "train.workers": workers, "data.cache": cache, "train.precision": precision, "train.device": device,
        "train.init": None if init is None else str(init), "train.new_head": new_head or None,
        "train.freeze": tuple(freeze) or None,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    if new_head and resume is None and init is None and not (recipe and load_recipe(recipe).train.init):
        raise UserError("--num-classes-from data gives a trained model new class heads: name the model by --init MODEL")
    if resume is not None and any(option is not None for option in (recipe, preset, image_size, init)):
        raise UserError(
            "--resume continues a run with its own config: leave out --recipe, --preset, --init and --image-size"
        )
    return run_training(
        given, recipe=recipe, preset=preset, image_size=image_size, overrides=overrides, started=started,
        output=None if output is None else Path(output), resume=None if resume is None else Path(resume),
        threads=threads,
    )  # fmt: skip


def val(
    model: str | Path,
    data: str | Path,
    split: str = "val",
    *,
    batch_size: int = 4,
    engine: EngineName | None = None,
    precision: PrecisionName = "fp32",
    device: str = "auto",
    threads: int | str | None = None,
) -> CocoMetrics:
    """COCO metrics of a model, or of an exported file, on any split of a data set whose categories it knows.

    Where no engine is named, a model is run by PyTorch and a file by what it was exported for.

    `threads` that compute are a number, or `auto`, the default: measured.

    Raises:
        UserError: no such model, data set or split; or a category the model has never heard of.
    """
    require_positive_batch(batch_size)
    engine = engine or ("auto" if is_exported(model) else "torch")
    settle_threads(threads, measure=True, device=_computes_on(model, engine, device))
    detector = Detector.load(model, device, engine, precision)
    index = load_index(Path(data), split)
    origin = Origin() if is_exported(model) else detector.checkpoint.origin
    return evaluate_data(detector.engine, detector.description, origin, index, batch_size=batch_size)


def val_files(detections: str | Path, annotations: str | Path) -> CocoMetrics:
    """COCO metrics of a COCO results file against a COCO annotation file."""
    return evaluate_files(Path(detections), Path(annotations))


def predict(
    model: str | Path,
    sources: Sequence[str],
    output: str | Path,
    *,
    threshold: float = 0.5,
    batch_size: int = 4,
    tile: int | None = None,
    overlap: float = 0.2,
    every: int = 1,
    shards: str | None = None,
    drawn: bool = True,
    engine: PredictEngine = "auto",
    workers: int | None = None,
    precision: PrecisionName = "fp32",
    device: str = "auto",
    threads: int | str | None = None,
) -> Path | str:
    """Detect objects in files, folders, globs, videos, webcams and streams.

    Results are written as they come, and the same call goes on where it was stopped. Pictures that cannot be read are
    left out; the others are finished and written before this is reported.

    Args:
        model: any model that can be loaded, or an exported file.
        sources: pictures, folders, globs, video files, `webcam`, `webcam:1`, `rtsp://...`.
        output: the folder for drawn pictures and videos and for `detections.json`.
        threshold: the lowest score that is reported.
        batch_size: pictures at once, as far as they have one shape; the result does not depend on it.
        tile: cut pictures into tiles of this side in pixels, for objects that are small in huge pictures.
        overlap: the least that neighbouring tiles share, as a share of their side.
        every: of a video, each so many-th frame.
        shards: `I/N`: only part I of N of the pictures; the last part to finish writes `detections.json` of all.
        drawn: whether to write the pictures with their detections drawn.
        engine: what runs the model, as in `Detector.load`; or `ray`: workers on this machine or a cluster, each with
            the engine that `auto` finds. Sources may then be addresses (`s3://...`) and Parquet tables, and `output`
            an address; results are Parquet files, in a local folder `detections.json` too, and nothing is drawn.
        workers: with `ray`, the number of models that work at once.
        precision: `fp32`, `bf16` or `int8`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: that compute: a number, or `auto`, the default: measured. With `ray` those of a worker at most, by
            default its share of the processors.

    Returns:
        `detections.json`: COCO results with `file_name` and `name`. `image_id` is the data set's where all pictures
        belong to one, else the number of the picture, from 1; of a video it is the number of the frame, and `seconds`
        tells when. Of a part, its own file; at an address, that of the Parquet files.

    Raises:
        UserError: no such model or source; or pictures that could not be read, after the others were written.
    """
    _require_threshold(threshold)
    require_positive_batch(batch_size)
    folder, shard = Path(output), Shard.parse(shards)
    tiling = None if tile is None else Tiling(tile, overlap)
    videos = [source for source in sources if is_video(source)]
    if engine == "ray":
        if videos or shard.count > 1:
            raise UserError("--engine ray works on pictures and shares them itself: leave out videos and --shards")
        settle_threads(threads, measure=False, device=resolve_device(device).type)
        job = Job(str(model), "auto", precision, device, str(output), threshold, batch_size, tiling)
        return predict_distributed(job, list(sources), workers)
    if workers is not None:
        raise UserError(
            "--workers belongs to --engine ray; other engines use all threads of this machine in one process"
        )
    settle_threads(threads, measure=True, device=_computes_on(model, engine, device))
    if videos:
        if len(sources) > 1 or shard.count > 1:
            raise UserError(f"{videos[0]} is a video: give it alone, without --shards")
        require_folder(folder)
        return predict_video(
            Detector.load(model, device, engine, precision), videos[0], folder, every, threshold, batch_size,
            tiling, drawn=drawn,
        )  # fmt: skip
    paths = expand_sources(list(sources), folder)
    if not paths:
        raise UserError(
            f"nothing to detect in: every source lies in --output {folder}; choose another folder for results"
        )
    require_folder(folder)
    detector = Detector.load(model, device, engine, precision)
    return predict_pictures(detector, paths, folder, shard, threshold, batch_size, tiling, drawn=drawn)


def convert(
    model: str | Path,
    output: str | Path,
    to: ModelForm,
    *,
    push: str | None = None,
    private: bool = False,
    licence: str | None = None,
    dc5: bool | None = None,
) -> Path:
    """Write a model in another form.

    Args:
        model: any model that can be loaded.
        output: the folder to write; new or empty.
        to: `huggingface`, a folder that `transformers` reads; `official`, a folder with `checkpoint.pth` for the
            official code; `opendetr`, a model folder of ours.
        push: also upload a `huggingface` folder to the hub, as ORGANISATION/NAME.
        private: make that repository a private one, where it does not exist.
        licence: of the model, as the hub calls it (`apache-2.0`), for its card.
        dc5: whether an official `.pth` has a dilated backbone, which its weights do not tell; None believes its stored
            arguments, else its name.

    Returns:
        The folder.

    Raises:
        UserError: no such model or form, a folder that holds something, or a model that the other side cannot be told.
    """
    folder = Path(output).resolve()
    require_choice("to", to, ModelForm)
    if push is not None and to != "huggingface":
        raise UserError(f"--push {push} needs --to huggingface: the hub's libraries read no other form")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and holds something; give the name of a new folder")
    return write_model(load_checkpoint(model, dc5=dc5), folder, to, push, licence, private=private)


def export(
    model: str | Path,
    output: str | Path,
    format: ExportFormat | None = None,
    *,
    precision: PrecisionName = "fp32",
    with_preprocessing: bool = False,
    with_attention: bool = False,
    data: str | Path | None = None,
    split: str = "val",
    max_ap_loss: float | None = None,
    threads: int | str | None = None,
) -> Certificate:
    """Write a model as a file that other programs run, after comparing it with PyTorch.

    Args:
        model: any model that can be loaded.
        output: the file: `.onnx`, `.xml` (OpenVINO, with a `.bin` beside it) or `.pt2` (`torch.export`).
        format: `onnx`, `openvino` or `pt2`; by default the one of the file's suffix.
        precision: `fp32`; `bf16` and `int8` where the format has them.
        with_preprocessing: the graph takes pictures as bytes, already resized, and normalises them itself.
        with_attention: the graph also gives the last layer's cross-attention.
        data: a data set's folder, on which AP is compared too; needed for `int8`, which is calibrated on its split
            `train`, where there is one.
        split: of it, for AP.
        max_ap_loss: how much AP the file may lose there, 0..1; by default 0.005, and 0.0005 for `fp32`.
        threads: that compute: a number, or `auto`, the default: measured.

    Returns:
        The certificate, which is in the file's metadata too.

    Raises:
        UserError: no such model or data, an impossible combination, or an export that differs too much: then nothing
            is written.
    """
    path = Path(output)
    options = ExportOptions(format_of(path, format), precision, with_preprocessing, with_attention, max_ap_loss)
    require_writable(path)
    index = None if data is None else load_index(Path(data), split)
    options.require_possible(index)
    settle_threads(threads, measure=True)
    checkpoint = load_checkpoint(model)
    if data is None or index is None:
        certificate = export_model(checkpoint, path, options)
    else:
        certificate = export_with_data(checkpoint, path, options, Path(data), index)
    console.print(f"{path} is written and certified: {certificate.summary()}")
    return certificate


def benchmark(
    model: str | Path,
    *,
    against: PeerName | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    engines: Sequence[str] = (),
    precisions: Sequence[str] = (),
    seconds: float = 20.0,
    output: str | Path | None = None,
    memory: bool = True,
    device: str = "auto",
    threads: int | str | None = None,
) -> Benchmark:
    """Measure speed, agreement and memory of a model in every engine, in turn on this machine.

    Args:
        model: any model that can be loaded.
        against: also measure the official code or `transformers` with the same weights; ratios refer to it.
        size: height and width of the model's input; by default what its preprocessing makes of 480x640.
        batch: pictures at once.
        engines: `torch`, `openvino`, `onnxruntime`; all that are installed by default.
        precisions: `fp32`, `bf16`, `int8`; by default fp32, bf16 where it is faster here, int8 where it was prepared.
        seconds: of measuring for each row.
        output: a folder for `benchmark.json` and `benchmark.md`.
        memory: whether to measure peak memory, in processes of their own.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: that compute: a number, or `auto`, the default: measured.

    Raises:
        UserError: an impossible request; the peer is missing, or does not know such models.
    """
    if output is not None:
        require_folder(Path(output))
    settle_threads(threads, measure=True, device=resolve_device(device).type)
    found = run_benchmark(
        load_checkpoint(model), size=size, batch=batch, against=against, engines=engines,
        precisions=precisions, seconds=seconds, device=device, memory=memory,
    )  # fmt: skip
    print_benchmark(found)
    if output is not None:
        console.print(f"The tables are in {write_benchmark(found, Path(output))}")
    return found


def explain(
    model: str | Path,
    pictures: Sequence[str] = (),
    output: str | Path = "explained",
    *,
    data: str | Path | None = None,
    split: str = "val",
    slots: bool = False,
    image: int | None = None,
    matching: bool = False,
    points: Sequence[tuple[float, float]] = (),
    layer: int = 0,
    head: int = 0,
    threshold: float = 0.5,
    at_most: int = 12,
    device: str = "auto",
    threads: int | str | None = None,
) -> Path:
    """Show what a model attends to in pictures, what its queries do over a data set, or why objects were missed.

    Args:
        model: any model (`docs/checkpoints.md`).
        pictures: files, folders and globs: attention of encoder, decoder and between queries, layer by layer.
        output: the folder for figures (PNG), raw arrays (npz) and the page `explain.html`.
        data: instead of pictures: a data set's folder, with `slots`, or with `image` and `matching`.
        split: of the data set.
        slots: what every query does over the split, and AP by decoder layer.
        image: the raw id of one of its pictures.
        matching: for that picture, which query took which true object at what cost, and why objects were missed.
        points: x, y in pixels of the picture, whose self-attention the encoder shows; chosen on detections where empty.
        layer: counts from 1; 0 is the last.
        head: counts from 1; 0 is the mean of all.
        threshold: detections with at least this score are explained; the best three where there are none.
        at_most: how many detections of a picture are explained, the best first.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: that compute: a number, or `auto`, the default: measured.

    Returns:
        The page, one HTML file that needs no network.

    Raises:
        UserError: no such model, picture, split, id, layer or head; a point outside the picture; a mixture of requests.
    """
    from opendetr.explanation.explaining import Asked
    from opendetr.explanation.writing import explain_data, explain_sources

    _require_threshold(threshold)
    asked_for = (bool(pictures), data is not None, slots, matching, image is not None)
    if asked_for not in {  # pictures; or data with slots; or data with a picture's matching
        (True, False, False, False, False), (False, True, True, False, False), (False, True, False, True, True),
    }:  # fmt: skip
        raise UserError("explain needs pictures, or --data DIR with --slots, or --data DIR with --image ID --matching")
    if data is not None and (points or layer or head):
        raise UserError("--point, --layer and --head belong to pictures: leave them out with --data")
    if at_most < 1:
        raise UserError(f"--at-most {at_most}: expected 1 or more detections to explain")
    folder, asked = Path(output), Asked(threshold, points, layer, head, at_most)
    require_folder(folder)
    settle_threads(threads, measure=True, device=resolve_device(device).type)
    detector = Detector.of_checkpoint(load_checkpoint(model), device)
    asked.check(detector)
    if data is None:
        return explain_sources(detector, str(model), pictures, folder, asked)
    return explain_data(detector, str(model), Path(data), split, image, folder, threshold)


def info(model: str | Path, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """What a model is: classes, parameters, cost, preprocessing, and where it came from.

    Args:
        model: any model (`docs/checkpoints.md`), or an exported file.
        size: height and width for the cost, rounded as the model rounds them; by default those of a 480x640 picture.

    Returns:
        The facts by name. Of an exported file those in its metadata, which do not hold parameters and cost.

    Raises:
        UserError: no such model, or a size is given with an exported file.
    """
    if not is_exported(model):
        return facts_of(load_checkpoint(model), size)
    if size is not None:
        raise UserError(f"--size is for the cost of a model, and {model} is an exported file, which does not tell it")
    return describe_exported(Path(model))


def demo(
    output: str | Path = "runs/demo",
    *,
    compare: bool = False,
    threads: int | str | None = None,
    started: float | None = None,
) -> Path:
    """Watch a DETR learn: make digit scenes, train until they are learned, measure on 100 others, write a report.

    Args:
        output: where data, runs and the report go.
        compare: spend the same minutes again on the paper's recipe; the report shows both.
        threads: that compute: a number, or `auto`, the default: measured.
        started: when the demo began, as of `time.time()`; now by default.

    Returns:
        The report, one HTML file that needs no network.
    """
    from opendetr.demonstration import run_demo

    settled = settle_threads(threads, measure=True, device=resolve_device("auto").type)
    return run_demo(Path(output), started or time.time(), compare=compare, threads=settled)


def ablate(
    study: str | None = None,
    data: str | Path | None = None,
    output: str | Path | None = None,
    *,
    recipe: str = "fast",
    split: str = "val",
    seeds: int = 2,
    epochs: int | None = None,
    minutes: float | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    threads: int | str | None = None,
) -> Path:
    """Run one of the paper's studies, or one's own, as small trainings, and compare the rows in a table.

    Interrupted and called again it goes on: a row that is finished is never run twice.

    Args:
        study: a shipped study; None makes one's own of `overrides`.
        data: the data set's folder; digit scenes are made where None.
        output: the study's folder; by default `runs/ablate-STUDY`.
        recipe: what the rows change.
        split: to measure on.
        seeds: runs per row.
        epochs: of each run; 3 on digit scenes, 20 on other data, unless `minutes` are given.
        minutes: of each run instead.
        overrides: `section.key=value` for all rows; without a study, `section.key=VALUE,VALUE` are its rows.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: that compute: a number, or `auto`: measured at the start. By default `auto` with minutes, and
            PyTorch's own number with epochs.

    Returns:
        The table as Markdown; CSV and a plot lie beside it.

    Raises:
        UserError: no such study, data or key, or a folder with another study.
    """
    from opendetr.ablation.run import run_study
    from opendetr.ablation.study import Settings, choose_study

    if epochs is not None and minutes is not None:
        raise UserError("--epochs and --minutes exclude each other: give the one that ends each run")
    if seeds < 1 or (epochs is not None and epochs < 1) or (minutes is not None and not minutes > 0):
        raise UserError("--seeds, --epochs and --minutes must be above 0")
    chosen, fixed = choose_study(study, overrides)
    folder = Path(output or Path("runs") / f"ablate-{chosen.name}")
    if data is None and split not in ("val", "test"):
        raise UserError(f"--split {split}: digit scenes are measured on val or test")
    if data is not None and chosen.measure == "instances":
        raise UserError("the study 'instances' counts digits on a canvas of its own making: leave out --data")
    if epochs is None and minutes is None:
        epochs = 3 if data is None else 20
    root = folder / "digits" if data is None else Path(data)
    settings = Settings(str(root.resolve()), recipe, split, epochs, minutes, fixed, digits=data is None)
    settle_threads(threads, measure=minutes is not None, device=resolve_device(device).type)
    table = run_study(chosen, settings, folder, seeds, device)
    console.print(
        f"\n{table.read_text(encoding='utf-8')}\nThe table is {table}; study.csv and study.png lie beside it."
    )
    return table


def doctor(
    data: str | Path,
    *,
    train_split: str = "train",
    recipe: str | None = None,
    image_size: int | None = None,
    seconds: float = 45.0,
    device: str | None = None,
    threads: int | str | None = None,
) -> list[Finding]:
    """Say whether a data set can be learned and what to change: checks of the files, and eight pictures by heart.

    Args:
        data: the data set's folder.
        train_split: the split to look at.
        recipe: what to train with; the default of `train`.
        image_size: the shorter side; chosen by the recipe where None.
        seconds: for learning eight pictures by heart.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: that compute: a number, or `auto`, the default: measured.

    Returns:
        What was found, the most important first.

    Raises:
        UserError: the data cannot be read at all.
    """
    settle_threads(threads, measure=True, device=resolve_device(device or "auto").type)
    options = {"data.root": str(Path(data).resolve()), "data.train_split": train_split, "train.device": device}
    given = {name: value for name, value in options.items() if value is not None}
    config = resolve_config(recipe, None, given, image_size)
    index = load_index(Path(data), train_split)
    return diagnose(config, Path(data), index, seconds)


def _computes_on(model: str | Path, engine: str, device: str) -> str:
    """The kind of device that an engine computes on: PyTorch alone uses another than the CPU."""
    of_graph = engine in GRAPH_ENGINES or is_exported(model)
    return "cpu" if of_graph else resolve_device(device).type


def require_positive_batch(batch_size: int) -> None:
    """Check a batch size.

    Raises:
        UserError: it is below 1.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")


def _require_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold must be between 0 and 1, got {threshold}")
