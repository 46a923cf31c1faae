"""Commands that use a model: val, predict, track, explain, info."""

from pathlib import Path
from typing import Annotated, get_args

import typer

import opendetr
from opendetr.cli.application import USE, Answer, app
from opendetr.cli.parameters import (
    DATA,
    DATA_HELP,
    MODEL_HELP,
    MORE_DATA,
    OUTPUT,
    RARE,
    SPEED,
    BatchSize,
    Classes,
    Device,
    ImageSize,
    InputSize,
    KeptClasses,
    Model,
    ModelOrExported,
    Precision,
    RenamedClasses,
    Report,
    Strict,
    ThreadCount,
    VocOrigin,
    flag,
    option,
    parse_point,
    parse_size,
)
from opendetr.errors import UserError
from opendetr.options import EngineName, PredictEngine
from opendetr.wording import listed

ENGINES = f"The program that runs the model: {listed(get_args(EngineName))}."


@app.command(rich_help_panel=USE)
def val(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}, or an exported file.")] = None,
    data: Annotated[
        list[str] | None, option(DATA, "DIR", f"{DATA_HELP}; {MORE_DATA}.", default="what the run was trained on")
    ] = None,
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    voc_origin: VocOrigin = 0,
    split: Annotated[
        str | None, option(DATA, "SPLIT", "The split to measure on.", default="val; without --data the run's own")
    ] = None,
    detections: Annotated[
        Path | None, option(DATA, "FILE", "Measure a COCO results file (predict writes one) instead of a model.")
    ] = None,
    annotations: Annotated[Path | None, option(DATA, "FILE", "With --detections: the COCO annotation file.")] = None,
    strict: Strict = False,
    image_size: ImageSize = None,
    batch_size: BatchSize = 4,
    engine: Annotated[
        EngineName | None, option(SPEED, "ENGINE", ENGINES, default="torch; of an exported file its own")
    ] = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    threads: ThreadCount = None,
    report: Report = None,
    output: Annotated[
        Path | None, option(OUTPUT, "DIR", "Write the page val.html, val.json, and its figures as PNG.")
    ] = None,
) -> Answer:
    """Measure a model on a split: the 12 COCO numbers and AP per class; or measure detections that are there already.

    Examples:
      opendetr val runs/mine
      opendetr val runs/mine --data DATA --split test
      opendetr val --detections found/detections.json --annotations truth.json
    """
    from opendetr.api import val_files
    from opendetr.evaluation.report import print_metrics

    if model is not None and detections is None and annotations is None:
        metrics = opendetr.val(
            model, data or None, split, classes=classes, rename=rename,
            batch_size=batch_size, engine=engine, precision=precision, device=device,
            threads=threads, strict=strict,
            voc_origin=voc_origin, image_size=image_size, report=report, output=output,
        )  # fmt: skip
    elif (
        model is None
        and image_size is None
        and not data
        and split is None
        and detections is not None
        and annotations is not None
    ):
        metrics = val_files(detections, annotations, output)
    else:
        raise UserError("val needs either MODEL, or --detections RESULTS.json --annotations TRUTH.json")
    print_metrics(metrics)
    return Answer(metrics.to_json())


@app.command(rich_help_panel=USE)
def predict(
    model: ModelOrExported,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES", help="Pictures (also https://...), folders, globs, videos, webcam, rtsp://..."
        ),
    ],
    output: Annotated[str, option(OUTPUT, "DIR", "Folder for detections.json and drawn pictures.")],
    tile: Annotated[
        int | None, option(DATA, "PIXELS", "Cut pictures into tiles of this side: for small objects in huge pictures.")
    ] = None,
    every: Annotated[int, option(DATA, "N", "Of a video, use every N-th frame.")] = 1,
    image_size: ImageSize = None,
    threshold: Annotated[
        float | None,
        option(
            OUTPUT,
            "SCORE",
            "The lowest score that is reported, 0 to 1. By default the model's own of each class, else 0.5.",
        ),
    ] = None,
    classes: Classes = None,
    drawn: Annotated[bool, flag(OUTPUT, "Whether to write drawn pictures too.", "--draw/--no-draw")] = (True),
    save_txt: Annotated[bool, flag(OUTPUT, "Write YOLO labels too, a file per picture.", "--save-txt")] = False,
    save_csv: Annotated[bool, flag(OUTPUT, "Write detections.csv too, a line per detection.", "--save-csv")] = False,
    save_coco: Annotated[
        bool,
        flag(OUTPUT, "Write a COCO data set of pictures and detections too, to correct and train on.", "--save-coco"),
    ] = False,
    save_crops: Annotated[bool, flag(OUTPUT, "Write the part of the picture in each box too.", "--save-crops")] = False,
    engine: Annotated[
        PredictEngine,
        option(
            SPEED,
            "ENGINE",
            f"The program that runs the model: {listed(get_args(PredictEngine))}; auto is the fastest prepared one, "
            "ray starts several workers.",
        ),
    ] = "auto",
    batch_size: BatchSize = 4,
    precision: Precision = "fp32",
    device: Device = "auto",
    threads: ThreadCount = None,
    overlap: Annotated[float, option(RARE, "SHARE", "With --tile: smallest overlap, as a share of the side.")] = 0.2,
    shards: Annotated[
        str | None, option(RARE, "I/N", "Take only part I of N of the pictures: one machine of N does each.")
    ] = None,
    workers: Annotated[
        int | None, option(RARE, "N", "With --engine ray: number of models that work at once.", default="by the cores")
    ] = None,
) -> Answer:
    """Detect objects in pictures and videos; the same command continues after a stop.

    Examples:
      opendetr predict runs/mine photos/ --output found
      opendetr predict detr-r50 street.mp4 --output found --classes car,person
      opendetr predict runs/mine aerial.jpg --output found --tile 800 --save-csv
    """
    detections = opendetr.predict(
        model, sources, output, threshold=threshold, batch_size=batch_size, tile=tile, overlap=overlap, every=every,
        image_size=image_size, shards=shards, classes=classes, drawn=drawn, save_txt=save_txt, save_csv=save_csv,
        save_coco=save_coco, save_crops=save_crops, engine=engine, workers=workers, precision=precision,
        device=device, threads=threads,
    )  # fmt: skip
    return Answer({"detections": str(detections)})


@app.command(rich_help_panel=USE)
def track(
    model: ModelOrExported,
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video file, webcam, webcam:1, rtsp://...")],
    output: Annotated[Path, option(OUTPUT, "DIR", "Folder for tracks.json, tracks.csv and the drawn video.")],
    every: Annotated[int, option(DATA, "N", "Use every N-th frame.")] = 1,
    image_size: ImageSize = None,
    threshold: Annotated[
        float | None,
        option(
            OUTPUT,
            "SCORE",
            "The lowest score that begins a track, 0 to 1. By default the model's own of each class, else 0.5.",
        ),
    ] = None,
    classes: Classes = None,
    drawn: Annotated[bool, flag(OUTPUT, "Whether to write the drawn video too.", "--draw/--no-draw")] = True,
    engine: Annotated[EngineName, option(SPEED, "ENGINE", ENGINES)] = "auto",
    precision: Precision = "fp32",
    device: Device = "auto",
    threads: ThreadCount = None,
) -> Answer:
    """Follow objects through a video: every object has one id in all frames.

    It needs the package trackers: pip install 'opendetr[track]'

    Examples:
      opendetr track runs/mine street.mp4 --output followed
      opendetr track detr-r50 webcam --output followed --classes person
    """
    tracks = opendetr.track(
        model, video, output, threshold=threshold, every=every, image_size=image_size, classes=classes,
        drawn=drawn, engine=engine, precision=precision, device=device, threads=threads,
    )  # fmt: skip
    return Answer({"tracks": str(tracks)})


@app.command(rich_help_panel=USE)
def explain(
    model: Model,
    pictures: Annotated[
        list[str] | None, typer.Argument(metavar="PICTURES", help="Pictures, folders, globs; none with --data.")
    ] = None,
    data: Annotated[
        list[str] | None,
        option(DATA, "DIR", f"{DATA_HELP}; {MORE_DATA}. For --slots, or --image with --matching."),
    ] = None,
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    voc_origin: VocOrigin = 0,
    split: Annotated[str, option(DATA, "SPLIT", "With --data: the split.")] = "val",
    image: Annotated[
        str | None,
        option(DATA, "NAME", "With --data and --matching: a picture's file name, or its id in the annotations."),
    ] = None,
    image_size: ImageSize = None,
    matching: Annotated[
        bool, flag(OUTPUT, "With --image: what was found, what was missed and why, and false alarms.", "--matching")
    ] = False,
    slots: Annotated[bool, flag(OUTPUT, "With --data: what each object query does over the split.", "--slots")] = False,
    point: Annotated[
        list[str] | None,
        option(
            OUTPUT,
            "X,Y",
            "In pixels: show the encoder's attention to and from this point; may be given again.",
            default="on detections",
        ),
    ] = None,
    layer: Annotated[int, option(OUTPUT, "N", "The layer whose attention is shown, from 1; 0 is the last.")] = 0,
    head: Annotated[int, option(OUTPUT, "N", "The attention head, from 1; 0 is the mean of all.")] = 0,
    threshold: Annotated[
        float | None,
        option(
            OUTPUT,
            "SCORE",
            "The lowest score that is explained, 0 to 1. By default the model's own of each class, else 0.5.",
        ),
    ] = None,
    at_most: Annotated[int, option(OUTPUT, "N", "Most detections explained per picture, the best first.")] = 12,
    output: Annotated[Path, option(OUTPUT, "DIR", "Folder for explain.html, figures and arrays.")] = Path("explained"),
    device: Device = "auto",
    threads: ThreadCount = None,
) -> Answer:
    """Show what a model attends to, what its queries do, and why an object was missed, on one page.

    Examples:
      opendetr explain runs/mine photo.jpg --output why
      opendetr explain runs/mine --data DATA --image photo.jpg --matching
      opendetr explain runs/mine --data DATA --slots
    """
    page = opendetr.explain(
        model, pictures or (), output, data=data or None, classes=classes, rename=rename, voc_origin=voc_origin,
        split=split, slots=slots, image=image, matching=matching,
        points=[parse_point(text) for text in point or ()], layer=layer, head=head, threshold=threshold,
        at_most=at_most, image_size=image_size, device=device, threads=threads,
    )  # fmt: skip
    return Answer({"page": str(page)})


@app.command(rich_help_panel=USE)
def info(model: ModelOrExported, size: InputSize = None) -> Answer:
    """Say what a model is: classes, parameters, GFLOPs, preprocessing, origin; of a preset or recipe its architecture.

    Examples:
      opendetr info fast
      opendetr info runs/mine
      opendetr info detr-r50 --size 800x1066
    """
    from opendetr.evaluation.report import print_info

    facts = opendetr.info(model, parse_size(size))
    print_info(facts)
    return Answer(facts)
