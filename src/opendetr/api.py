"""The commands as functions. Each checks its arguments and calls the room that does the work.

An argument that is None takes its default. A path is what pathlib makes of it: an empty `output` is the current folder.

The file is long because it documents every argument of every command.
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
from opendetr.exporting.certificate import Certificate, print_certificate
from opendetr.exporting.export import ExportOptions, export_model, export_with_data, format_of
from opendetr.exporting.exported_file import describe_exported
from opendetr.exporting.fastest_engine import prepare_engines
from opendetr.files import require_folder, require_writable
from opendetr.inference.detector import Detector
from opendetr.inference.distributed import Job, predict_distributed
from opendetr.inference.label_files import Saving
from opendetr.inference.prediction import Tiling, predict_pictures, predict_video
from opendetr.inference.results import Shard
from opendetr.inference.sources import expand_sources
from opendetr.inference.tracking import require_trackers, track_video
from opendetr.inference.video import is_video
from opendetr.options import (
    Cache,
    EngineName,
    ExportFormat,
    ModelForm,
    OneEngine,
    PeerName,
    PrecisionName,
    PredictEngine,
    TrainingPrecision,
    require_choice,
    require_score,
)
from opendetr.progress import console
from opendetr.recipes.recipe import load_recipe, resolve_config
from opendetr.threads import settle_threads
from opendetr.training.doctor import Finding, diagnose
from opendetr.training.start import run_training

WORTH_MEASURING = 32  # pictures: measuring the best number of threads takes longer than it saves on fewer


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

    None keeps the recipe's value. Ctrl-C ends the run cleanly, with everything written.

    Args:
        data: the data set's folder; may be left out when resuming.
        recipe: a shipped recipe or a TOML file.
        preset: a model section by name; replaces the recipe's.
        train_split: the split to learn from.
        val_split: the split that chooses the best weights.
        output: the run folder; by default `runs/NAME-OF-DATA`, numbered where it exists.
        resume: a run folder to continue from its last written state.
        init: a model to start from: a run folder, an official `.pth`, a released name, a Hugging Face folder or id.
        new_head: with `init`, new class heads for the classes of the data.
        freeze: parts that are not trained: `backbone`, `input_proj`, `encoder`, `decoder`, `heads`.
        epochs: number of passes over the training split.
        minutes: a wall-clock budget instead of epochs; of this call when resuming.
        patience: number of evaluations on val without a better AP after which the run ends, and keeps `best`; those of
            the first half of its schedule do not count while learning rates are still to fall.
        seed: random seed of weights, order and augmentation.
        batch_size: pictures per process and step.
        image_size: the shorter side at evaluation; scales all sizes of the recipe.
        backbone: a timm network.
        backbone_weights: `auto`, `none` or a file.
        workers: loader processes.
        cache: `ram` or `disk`: pictures are decoded once, for this run or for later ones too; or `none`.
        precision: `auto`, `fp32` or `bf16`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`: the fastest, measured at the start and when steps become slower. By
            default `auto` with minutes, and PyTorch's own number with epochs.
        overrides: `section.key=value` strings; they win over everything.
        started: when the budget of `minutes` began, as of `time.time()`; now by default.

    Returns:
        The run folder, with `last`, the page `report.html` and, where a val split could choose it, `best`.

    Raises:
        UserError: bad input of any kind; nothing has been written then.
    """
    if minutes is not None and not minutes > 0:
        raise UserError(f"--minutes must be above 0, got {minutes}")
    _require_positive_batch(batch_size)
    if epochs is not None and minutes is not None:
        raise UserError("--epochs and --minutes exclude each other: give the one that ends the run")
    if new_head and resume is None and init is None and not (recipe and load_recipe(recipe).train.init):
        raise UserError("--num-classes-from data gives a trained model new class heads: name the model by --init MODEL")
    if resume is not None and any(option is not None for option in (recipe, preset, image_size, init)):
        raise UserError(
            "--resume continues a run with its own config: leave out --recipe, --preset, --init and --image-size"
        )
    options = {
        "data.root": None if data is None else str(Path(data).resolve()), "data.train_split": train_split,
        "data.val_split": val_split, "data.cache": cache, "model.backbone": backbone,
        "model.backbone_weights": backbone_weights, "train.epochs": epochs,
        "train.minutes": 0.0 if epochs is not None else minutes, "train.patience": patience, "train.seed": seed,
        "train.batch_size": batch_size, "train.workers": workers, "train.precision": precision, "train.device": device,
        "train.init": None if init is None else str(init), "train.new_head": new_head or None,
        "train.freeze": tuple(freeze) or None,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    return run_training(
        given, recipe, preset, image_size, overrides, None if output is None else Path(output),
        None if resume is None else Path(resume), started or time.time(), threads,
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

    By default PyTorch runs a model, and the engine that it was exported for a file; `threads` is a number, or `auto`,
    the default: the fastest.

    Raises:
        UserError: no such model, data set or split; or a category that the model lacks.
    """
    _require_positive_batch(batch_size)
    engine = ("auto" if is_exported(model) else "torch") if engine is None else engine
    require_choice("engine", engine, EngineName)
    require_choice("precision", precision, PrecisionName)
    settle_threads(threads, measure=True, device=_computes_on(model, engine, device))
    index = load_index(Path(data), split)
    detector = Detector.load(model, device, engine, precision, len(index))
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
    classes: Sequence[str | int] | None = None,
    drawn: bool = True,
    save_txt: bool = False,
    save_csv: bool = False,
    save_coco: bool = False,
    save_crops: bool = False,
    engine: PredictEngine = "auto",
    workers: int | None = None,
    precision: PrecisionName = "fp32",
    device: str = "auto",
    threads: int | str | None = None,
) -> Path | str:
    """Detect objects in files, folders, globs, videos, webcams and streams.

    Results are written one by one, and the same call continues after a stop. Pictures that cannot be read are left out;
    the others are written before this is reported.

    Args:
        model: any model that can be loaded, or an exported file.
        sources: pictures, folders, globs, video files, `webcam`, `webcam:1`, `rtsp://...`.
        output: the folder for drawn pictures and videos and for `detections.json`.
        threshold: the lowest score that is reported.
        batch_size: pictures at once, as far as they have one shape; the result does not depend on it.
        tile: cut pictures into tiles of this side in pixels, for objects that are small in huge pictures.
        overlap: smallest overlap of neighbouring tiles, as a share of their side.
        every: use every N-th frame of a video.
        shards: `I/N`: only part I of N of the pictures; the last part to finish writes `detections.json` of all.
        classes: names or raw category ids of the classes that are reported; None for all.
        drawn: whether to write the pictures with their detections drawn.
        save_txt: whether to write YOLO labels, `labels/NAME.txt` for every picture, and `classes.txt`.
        save_csv: whether to write `detections.csv`, a line per detection.
        save_coco: whether to write `coco/`, a data set of the pictures and detections to start labelling from.
        save_crops: whether to write the part of the picture in each box, `crops/CLASS/NAME-01.jpg`. In these four files
            boxes are clipped to their picture.
        engine: what runs the model, as in `Detector.load`; or `ray`: workers on this machine or a cluster, each with
            the engine that `auto` chooses. Sources may then be addresses (`s3://...`) and Parquet tables, and `output`
            an address; results are Parquet files, in a local folder `detections.json` too, and nothing is drawn.
        workers: with `ray`, the number of models that work at once.
        precision: `fp32`, `bf16` or `int8`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`: the fastest, measured, which is the default for many
            pictures. With `ray` the most of a worker, by default its share of the processors.

    Returns:
        `detections.json`: COCO results with `file_name` and `name`. `image_id` is the data set's where all pictures
        belong to one, else the number of the picture, from 1; in a video the number of the frame, with its time in
        `seconds`. Of a part, its own file; at an address, that of the Parquet files.

    Raises:
        UserError: no such model or source; or pictures that could not be read, after the others were written.
    """
    require_score("--threshold", threshold)
    _require_positive_batch(batch_size)
    require_choice("engine", engine, PredictEngine)
    require_choice("precision", precision, PrecisionName)
    folder, shard = Path(output), Shard.parse(shards)
    tiling, saving = None if tile is None else Tiling(tile, overlap), Saving(save_txt, save_csv, save_coco, save_crops)
    videos = [source for source in sources if is_video(source)]
    named = tuple(classes) if classes else None
    if engine == "ray":
        if saving.names:
            raise UserError(f"--engine ray writes Parquet tables: leave out {', '.join(saving.names)}")
        if videos or shard.count > 1:
            raise UserError("--engine ray works on pictures and shares them itself: leave out videos and --shards")
        settle_threads(threads, measure=False, device=resolve_device(device).type)
        job = Job(str(model), "auto", precision, device, str(output), threshold, batch_size, tiling, named)
        return predict_distributed(job, list(sources), workers)
    if workers is not None:
        raise UserError("--workers belongs to --engine ray; other engines use all threads of one process")
    if videos and (len(sources) > 1 or shard.count > 1):
        raise UserError(f"{videos[0]} is a video: give it alone, without --shards")
    paths = [] if videos else expand_sources(list(sources), folder)
    if not videos and not paths:
        raise UserError(f"nothing to detect in: every source lies in --output {folder}; choose another folder")
    require_folder(folder)
    many = bool(videos) or len(paths) >= WORTH_MEASURING
    settle_threads(threads, measure=many, device=_computes_on(model, engine, device))
    detector = Detector.load(model, device, engine, precision, len(paths) // shard.count)
    indices = None if named is None else detector.description.label_map.indices_of(named)
    if videos:
        return predict_video(
            detector, videos[0], folder, every, threshold, batch_size, tiling, drawn=drawn, classes=indices,
            saving=saving,
        )  # fmt: skip
    return predict_pictures(
        detector, paths, folder, shard, threshold, batch_size, tiling, drawn=drawn, classes=indices, saving=saving
    )


def track(
    model: str | Path,
    video: str,
    output: str | Path,
    *,
    threshold: float = 0.5,
    every: int = 1,
    classes: Sequence[str | int] | None = None,
    drawn: bool = True,
    engine: EngineName = "auto",
    precision: PrecisionName = "fp32",
    device: str = "auto",
    threads: int | str | None = None,
) -> Path:
    """Follow objects through a video, webcam or stream: each has one id in all frames (ByteTrack; extra `track`).

    Args:
        model: any model that can be loaded, or an exported file.
        video: a video file, `webcam`, `webcam:1`, `rtsp://...`.
        output: the folder for `tracks.json`, `tracks.csv` and the drawn video.
        threshold: the lowest score with which an object begins to be followed; lower ones continue its track.
        every: use every N-th frame.
        classes: names or raw category ids of the classes that are followed; None for all.
        drawn: whether to write the video with boxes, ids and the lines along which objects came.
        engine: what runs the model, as in `Detector.load`.
        precision: `fp32`, `bf16` or `int8`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.

    Returns:
        `tracks.json`: COCO results with `track_id` (from 1), `seconds`, `file_name` and `name`; `image_id` is the
        number of the frame, from 1. `tracks.csv` has the same with clipped boxes.

    Raises:
        UserError: the package `trackers` is not installed; no such model, class or video; or a part of the video could
            not be read, after the rest was written.
    """
    require_score("--threshold", threshold)
    if not is_video(video):
        raise UserError(
            f"{video} is no video; expected a video file, webcam, webcam:1 or an address such as rtsp://..."
        )
    require_trackers()
    folder = Path(output)
    require_folder(folder)
    settle_threads(threads, measure=True, device=_computes_on(model, engine, device))
    detector = Detector.load(model, device, engine, precision)
    indices = detector.description.label_map.indices_of(classes) if classes else None
    return track_video(detector, video, folder, every, threshold, drawn=drawn, classes=indices)


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
    """Write a model in another format.

    Args:
        model: any model that can be loaded.
        output: the folder to write; new or empty.
        to: `huggingface`, a folder that `transformers` reads, with code of its own where the DETR of that library
            computes something else; `official`, a folder with `checkpoint.pth` for the official code; `opendetr`, a
            model folder of ours.
        push: also upload the folder (not an `official` one) to the hub, as ORGANISATION/NAME, with a model card; what
            is uploaded names no folder of this machine.
        private: make that repository a private one, where it does not exist.
        licence: of the model, as the hub calls it (`apache-2.0`), for its card.
        dc5: whether an official `.pth` has a dilated backbone, which its weights do not show; None takes its stored
            arguments, else its name.

    Returns:
        The folder.

    Raises:
        UserError: no such model or form, a folder that is not empty, or a model that the format cannot represent.
    """
    folder = Path(output).resolve()
    require_choice("to", to, ModelForm)
    if push is not None and to == "official":
        raise UserError(f"--push {push} needs --to huggingface or --to opendetr: nothing reads a .pth from the hub")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; give the name of a new folder")
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
        with_preprocessing: the input is resized uint8 pictures, which the graph normalises.
        with_attention: the last layer's cross-attention is an output too.
        data: a data set's folder, on which AP is compared too; `int8` needs it, to calibrate on its split `train`.
        split: the split of `data` for AP.
        max_ap_loss: largest allowed loss of AP there, 0..1; by default 0.005, and 0.0005 for `fp32`.
        threads: number of threads, or `auto`, the default: the fastest, measured.

    Returns:
        The certificate, which is in the file's metadata too.

    Raises:
        UserError: no such model or data, an impossible combination, or an export that differs too much; nothing is
            written then.
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
    print_certificate(certificate, path)
    return certificate


def prepare(
    model: str | Path, *, precision: PrecisionName = "fp32", device: str = "auto", threads: int | str | None = None
) -> str:
    """Export a model for every engine that is installed, compare and time them, and keep all of it beside the model.

    From then on `auto` is the fastest of them. It takes a minute or more; the same call returns at once afterwards.

    Returns:
        the name of the fastest.

    Raises:
        UserError: no such model; it runs on a GPU, where PyTorch is used; or no engine can run it in this precision.
    """
    require_choice("precision", precision, PrecisionName)
    if is_exported(model):
        raise UserError(f"{model} is an exported file, which its engine runs as it is; give the model it was made from")
    if resolve_device(device).type != "cpu":
        raise UserError("PyTorch runs models on a GPU, and needs no engine; give --device cpu for engines of the CPU")
    settle_threads(threads, measure=True, device="cpu")
    return prepare_engines(load_checkpoint(model), precision).name


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
        seconds: of measuring per row.
        output: a folder for `benchmark.json` and `benchmark.md`.
        memory: whether to measure peak memory, in processes of their own.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.

    Raises:
        UserError: an impossible request; the peer is not installed, or cannot run this model.
    """
    if batch < 1:
        raise UserError(f"--batch {batch}: expected 1 or more")
    if not seconds > 0:
        raise UserError(f"--seconds {seconds:g}: expected more than 0")
    for engine in engines:
        require_choice("engine", engine, OneEngine)
    for precision in precisions:
        require_choice("precision", precision, PrecisionName)
    if against is not None:
        require_choice("against", against, PeerName)
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
        matching: for that picture, which query was matched to which object, at what cost, why one was missed, and what
            each false alarm is.
        points: x, y in pixels of the picture, for the encoder's self-attention, to and from the cells there; by default
            on detections.
        layer: number of the layer, from 1; 0 is the last.
        head: number of the attention head, from 1; 0 is the mean.
        threshold: lowest score of the detections that are explained; the best three where none reaches it.
        at_most: most detections explained per picture, best first.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.

    Returns:
        The page, one HTML file that needs no network.

    Raises:
        UserError: no such model, picture, split, id, layer or head; a point outside the picture; contradictory options.
    """
    from opendetr.explanation.explaining import Asked
    from opendetr.explanation.writing import explain_data, explain_sources

    require_score("--threshold", threshold)
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
    """Facts of a model: classes, parameters, cost, preprocessing and origin.

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
    """Run the demo: write digit scenes, train until AP50 is high enough, measure on 100 others, write a report.

    Args:
        output: folder for the data, the runs and the report.
        compare: spend the same minutes again on the paper's recipe; the report shows both.
        threads: number of threads, or `auto`, the default: the fastest, measured.
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

    The same call continues an interrupted study: a finished row is never run twice.

    Args:
        study: a shipped study; None makes a study of `overrides`.
        data: the data set's folder; None writes digit scenes.
        output: the study's folder; by default `runs/ablate-STUDY`.
        recipe: the recipe that the rows change.
        split: the split to measure on.
        seeds: runs per row.
        epochs: of each run; by default 3 on digit scenes and 20 on other data.
        minutes: of each run, instead of epochs.
        overrides: `section.key=value` for all rows; without a study, `section.key=VALUE,VALUE` are its rows.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`: the fastest, measured at the start. By default `auto` with minutes, and
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
    folder = Path("runs") / f"ablate-{chosen.name}" if output is None else Path(output)
    if data is None and split not in ("val", "test"):
        raise UserError(f"--split {split}: digit scenes are measured on val or test")
    if data is not None and chosen.measure == "instances":
        raise UserError("the study 'instances' counts digits on a canvas of its own making: leave out --data")
    if minutes is None:
        epochs = epochs or (3 if data is None else 20)
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
    """Check a data set for training and say what to change: its files, and whether eight pictures can be overfitted.

    Args:
        data: the data set's folder.
        train_split: the training split to check.
        recipe: a shipped recipe or a TOML file, as in `train`.
        image_size: the shorter side; by default chosen by the recipe.
        seconds: for overfitting eight pictures.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.

    Returns:
        The findings, the most important first.

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
    """The kind of device that an engine computes on; only PyTorch uses another than the CPU."""
    return "cpu" if engine in GRAPH_ENGINES or is_exported(model) else resolve_device(device).type


def _require_positive_batch(batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
