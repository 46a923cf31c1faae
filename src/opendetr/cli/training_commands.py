"""Commands that make models: demo, doctor, train, ablate, and the embedded data set."""

from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer

import opendetr
from opendetr.ablation.study import load_study, study_names
from opendetr.cli import STARTED
from opendetr.cli.application import TRAIN, Answer, app, data_app
from opendetr.cli.parameters import (
    DATA,
    DATA_HELP,
    LENGTH,
    MODEL,
    MORE_DATA,
    OUTPUT,
    RARE,
    SPEED,
    Device,
    KeptClasses,
    Recipe,
    RenamedClasses,
    Report,
    Strict,
    ThreadCount,
    VocOrigin,
    device_option,
    flag,
    option,
    recipe_option,
    threads_option,
)
from opendetr.config import PARTS
from opendetr.files import read_json
from opendetr.options import Augmentation, Cache, HeadFrom, TrackerName, TrainingPrecision
from opendetr.recipes.presets import PRESETS
from opendetr.recipes.recipe import load_recipe
from opendetr.wording import listed

FOUND_PROBLEMS = 1  # exit code of doctor
FAST = load_recipe("fast")  # whose values are the defaults that the help names
PRESET_HELP = f"An architecture instead of the recipe's: {listed(PRESETS)} (for tests)."
STUDIES = "\n\nStudies:\n" + "\n".join(
    fill(load_study(name).title, 76, initial_indent=f"  {name:18} ", subsequent_indent=" " * 21)
    for name in study_names()
)


@app.command(rich_help_panel=TRAIN)
def demo(
    output: Annotated[Path, option(OUTPUT, "DIR", "Folder for the data, the run and report.html.")] = Path("runs/demo"),
    compare: Annotated[
        bool, flag(LENGTH, "Spend the same time on the recipe paper-small; the report shows both.", "--compare")
    ] = False,
    threads: ThreadCount = None,
) -> Answer:
    """Train a DETR on digit scenes and write a report; 3 to 4 minutes on 2 cores, longer on a busy machine.

    Examples:
      opendetr demo
      opendetr demo --compare --output runs/both
    """
    report = opendetr.demo(output, compare=compare, threads=threads, started=STARTED)
    return Answer({"report": str(report), **read_json(report.with_name("report.json"), "the result of a demo")})


@app.command(rich_help_panel=TRAIN)
def doctor(
    data: Annotated[list[str], option(DATA, "DIR", f"{DATA_HELP}; {MORE_DATA}.")],
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    voc_origin: VocOrigin = 0,
    train_split: Annotated[str, option(DATA, "SPLIT", "The split that training would learn from.")] = "train",
    recipe: Recipe = None,
    image_size: Annotated[
        int | None, option(LENGTH, "PIXELS", "Shorter side of the pictures.", default="as train chooses it")
    ] = None,
    seconds: Annotated[float, option(LENGTH, "SECONDS", "Time to overfit eight pictures.")] = 45.0,
    device: Device = "auto",
    threads: ThreadCount = None,
    report: Report = None,
) -> Answer:
    """Check a data set before training: its files, and short trainings on eight pictures; a minute and a half.

    Examples:
      opendetr doctor --data DATA
      opendetr doctor --data DATA --train-split trainval --image-size 320
    """
    found = opendetr.doctor(
        data, classes=classes, rename=rename,
        train_split=train_split, recipe=recipe, image_size=image_size,
        seconds=seconds, device=device, threads=threads, voc_origin=voc_origin, report=report,
    )  # fmt: skip
    findings = [
        {"severity": str(one.severity), "kind": one.kind, "sentence": one.sentence, "is_problem": one.is_problem}
        for one in found
    ]
    return Answer({"findings": findings}, FOUND_PROBLEMS if any(one.is_problem for one in found) else 0)


@app.command(rich_help_panel=TRAIN)
def train(
    data: Annotated[
        list[str] | None, option(DATA, "DIR", f"{DATA_HELP}; {MORE_DATA}. Not needed with --resume.")
    ] = None,
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    voc_origin: Annotated[
        int | None, option(DATA, "0|1", "The number of the first pixel in Pascal VOC's coordinates.", default="0")
    ] = None,
    val_share: Annotated[
        float | None,
        option(
            DATA, "SHARE", "The share of the training pictures that becomes val, where there is none.", default="none"
        ),
    ] = None,
    train_split: Annotated[
        str | None, option(DATA, "SPLIT", "The split to learn from.", default=FAST.data.train_split)
    ] = None,
    val_split: Annotated[
        str | None,
        option(DATA, "SPLIT", "The split that chooses the best weights; none: no split.", default=FAST.data.val_split),
    ] = None,
    strict: Strict = False,
    recipe: Annotated[str | None, recipe_option(default="fast; with --preset paper")] = None,
    preset: Annotated[str | None, option(MODEL, "NAME", PRESET_HELP)] = None,
    init: Annotated[
        str | None, option(MODEL, "MODEL", "Start from this model: a run folder, .pth, released name or hub id.")
    ] = None,
    num_classes_from: Annotated[
        HeadFrom | None,
        option(
            MODEL,
            "data|model",
            "With --init: whose classes the model detects; data gives it new class heads.",
            default="model",
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None, option(MODEL, "PART", f"A part not to train: {listed(PARTS)}; may be given again.")
    ] = None,
    backbone: Annotated[
        str | None, option(MODEL, "NAME", "A timm network, e.g. resnet50.tv_in1k.", default=FAST.model.backbone)
    ] = None,
    minutes: Annotated[
        float | None, option(LENGTH, "MINUTES", "Time from the start of the command to its end, instead of --epochs.")
    ] = None,
    epochs: Annotated[
        int | None, option(LENGTH, "N", "Number of passes over the training split.", default=FAST.train.epochs)
    ] = None,
    patience: Annotated[
        int | None, option(LENGTH, "N", "End after N evaluations without a better AP.", default="never")
    ] = None,
    resume: Annotated[Path | None, option(LENGTH, "RUN", "Continue the run in this folder.")] = None,
    accept_data: Annotated[
        bool, flag(LENGTH, "With --resume: use pictures and boxes that have changed since.", "--accept-data")
    ] = False,
    batch_size: Annotated[
        int | None, option(LENGTH, "N", "Pictures per step, in each process.", default="chosen by their size")
    ] = None,
    image_size: Annotated[
        int | None,
        option(
            LENGTH,
            "PIXELS",
            "Shorter side of pictures at evaluation; the sizes in training follow it.",
            default="chosen by data and time",
        ),
    ] = None,
    device: Annotated[str | None, device_option(default=FAST.train.device)] = None,
    precision: Annotated[
        TrainingPrecision | None,
        option(SPEED, "auto|fp32|bf16", "Precision of matrix products.", default=FAST.train.precision),
    ] = None,
    threads: Annotated[str | None, threads_option(default="auto with --minutes, else PyTorch's number")] = None,
    workers: Annotated[
        int | None, option(SPEED, "N", "Processes that read pictures.", default="chosen for the device")
    ] = None,
    cache: Annotated[
        Cache | None,
        option(SPEED, "none|ram|disk", "Where decoded pictures are kept for later epochs.", default=FAST.data.cache),
    ] = None,
    output: Annotated[Path | None, option(OUTPUT, "DIR", "The run folder.", default="runs/NAME-OF-DATA")] = None,
    report: Report = None,
    save_every: Annotated[
        float | None,
        option(
            RARE,
            "MINUTES",
            "How often to save within an epoch too, for --resume.",
            default=f"{FAST.train.save_every:g}",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        option(RARE, "N", "Keep models of N epochs, evenly spread, in checkpoints.", default=FAST.train.keep),
    ] = None,
    augment: Annotated[
        Augmentation | None,
        option(
            DATA,
            "none|light|strong",
            "How much training pictures are changed.",
            default="the recipe's",
        ),
    ] = None,
    no_flip: Annotated[bool, flag(DATA, "Never mirror pictures or turn them upside down.", "--no-flip")] = False,
    devices: Annotated[
        int | None, option(SPEED, "N", "GPUs, or processes on the CPU, that train together.", default=1)
    ] = None,
    balanced: Annotated[bool, flag(DATA, "Show pictures of rare classes more often.", "--balanced")] = False,
    deterministic: Annotated[
        bool, flag(RARE, "Only operations that give the same bits again; needs --epochs.", "--deterministic")
    ] = False,
    transform: Annotated[
        str | None,
        option(RARE, "MODULE:NAME", "A torchvision v2 transform of your own, for training pictures."),
    ] = None,
    log_to: Annotated[
        TrackerName | None,
        option(
            RARE,
            "tensorboard|wandb|mlflow|trackio",
            "An experiment tracker that gets the log too.",
            default=FAST.train.log_to,
        ),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        option(
            RARE,
            "WEIGHTS",
            "What the backbone starts from: auto (ImageNet), none (random) or a file.",
            default=FAST.model.backbone_weights,
        ),
    ] = None,
    seed: Annotated[
        int | None, option(RARE, "N", "Random seed of weights, order and augmentation.", default=FAST.train.seed)
    ] = None,
    set_: Annotated[
        list[str] | None,
        option(
            RARE,
            "KEY=VALUE",
            "Any value of config.toml, e.g. loss.giou_weight=0; wins over other options; may be given again.",
            "--set",
        ),
    ] = None,
) -> Answer:
    """Train on a folder of pictures and boxes; Ctrl-C saves, --resume continues.

    Options that are not given have the recipe's values; the defaults below are those of fast,
    the recipe for a few hundred pictures and some minutes; paper is for large data and days.

    Examples:
      opendetr train --data DATA --minutes 30 --output runs/mine
      opendetr train --resume runs/mine --minutes 30
      opendetr train --data DATA --init detr-r50 --num-classes-from data
    """
    run = opendetr.train(
        data or None, classes=classes, rename=rename,
        init=init, new_head=num_classes_from == "data", freeze=freeze or (), recipe=recipe, preset=preset,
        train_split=train_split, val_split=val_split, strict=strict or None, voc_origin=voc_origin,
        val_share=val_share, report=report, output=output, resume=resume,
        accept_data=accept_data, save_every=save_every, keep=keep, log_to=log_to,
        augment=augment, no_flip=no_flip, transform=transform, balanced=balanced or None,
        deterministic=deterministic, devices=devices,
        epochs=epochs, minutes=minutes,
        patience=patience, seed=seed, batch_size=batch_size, image_size=image_size, backbone=backbone,
        backbone_weights=backbone_weights, workers=workers, cache=cache, precision=precision,
        device=device, threads=threads, overrides=set_ or (), started=STARTED,
    )  # fmt: skip
    from opendetr.progress import IS_FIRST
    from opendetr.training.run_folder import summary_of

    return Answer(summary_of(run) if IS_FIRST else {})  # others may be ahead of the one that writes


@app.command(rich_help_panel=TRAIN)
def replay(
    capture: Annotated[Path, typer.Argument(metavar="CAPTURE", help="A step that train kept: RUN/captures/step-N.pt.")],
) -> Answer:
    """Repeat a training step whose numbers were not finite, and name the first module where they are not.

    Examples:
      opendetr replay runs/mine/captures/step-120.pt
    """
    return Answer(asdict(opendetr.replay(capture)))


@app.command(rich_help_panel=TRAIN, more_help=STUDIES)
def ablate(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A study of the list above; none where --set makes one of your own."),
    ] = None,
    data: Annotated[list[str] | None, option(DATA, "DIR", f"{DATA_HELP}; {MORE_DATA}.", default="digit scenes")] = None,
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    split: Annotated[str, option(DATA, "SPLIT", "The split to measure on.")] = "val",
    recipe: Annotated[str, recipe_option()] = ("fast"),
    set_: Annotated[
        list[str] | None,
        option(
            MODEL,
            "KEY=VALUE",
            "A value of config.toml for all trainings; KEY=VALUE,VALUE makes a study of your own.",
            "--set",
        ),
    ] = None,
    seeds: Annotated[int, option(LENGTH, "N", "Trainings per row of the table.")] = 2,
    epochs: Annotated[
        int | None, option(LENGTH, "N", "Epochs of each training.", default="3 on digit scenes, else 20")
    ] = None,
    minutes: Annotated[
        float | None, option(LENGTH, "MINUTES", "Minutes of each training, instead of --epochs.")
    ] = None,
    output: Annotated[Path | None, option(OUTPUT, "DIR", "The study's folder.", default="runs/ablate-STUDY")] = None,
    device: Device = "auto",
    threads: Annotated[str | None, threads_option(default="auto with --minutes")] = None,
) -> Answer:
    """Run one of the paper's studies as small trainings; the same command continues after a stop.

    Examples:
      opendetr ablate losses
      opendetr ablate queries --data DATA --minutes 10
      opendetr ablate --set model.num_decoder_layers=1,3,6 --output runs/depth
    """
    table = opendetr.ablate(
        study, data or None, output, classes=classes, rename=rename,
        recipe=recipe, split=split, seeds=seeds, epochs=epochs, minutes=minutes,
        overrides=set_ or (), device=device, threads=threads,
    )  # fmt: skip
    return Answer({"table": str(table), "csv": str(table.with_suffix(".csv"))})


@app.command(rich_help_panel=TRAIN)
def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with runs in it, also some levels below.")] = (
        Path("runs")
    ),
    output: Annotated[
        Path | None, option(OUTPUT, "DIR", "Draw the learning curves of these runs as PNG, for papers.")
    ] = None,
) -> Answer:
    """Compare runs: AP of their best weights on val, and by which values their configs differ; the best first.

    Examples:
      opendetr runs
      opendetr runs runs/cells --output figures
    """
    from opendetr.training.run_table import print_runs

    rows = opendetr.runs(folder, output)
    print_runs(rows)
    return Answer({"runs": [row.to_json() for row in rows]})


@data_app.command()
def digits(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write the data set to.")],
    scenes: Annotated[
        int, option(DATA, "N", "Pictures of the split train; val and test get a fifth each, at most 100.")
    ] = 500,
    seed: Annotated[int, option(DATA, "N", "Random seed of the pictures.")] = 0,
) -> Answer:
    """Write the embedded data set, handwritten digits on photographs, as a COCO folder.

    Examples:
      opendetr data digits DATA
      opendetr data digits DATA --scenes 2000 --seed 1
    """
    from opendetr.data.digits import write_digits
    from opendetr.progress import console

    counts = write_digits(folder, scenes, seed)
    console.print(f"{folder}: " + ", ".join(f"{count} {split}" for split, count in counts.items()) + " scenes")
    return Answer({"folder": str(folder), "scenes": counts})
