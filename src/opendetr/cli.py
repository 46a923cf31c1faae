"""The command line: one command is one function of api/. torch is imported when a command runs, not for its help.

The file is long because every option of every command stands here.
"""

import time

# The start of the process, as near as Python code gets. The operating system's own figure would not do: a process that
# a shell became by exec is as old as the shell.
STARTED = time.time()

import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from functools import partial, wraps
from inspect import Parameter, signature
from json import dumps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import typer
import typer.main

import opendetr
from opendetr.errors import UserError
from opendetr.files import read_json
from opendetr.openmp import set_waiting_policy
from opendetr.options import (
    SAY_DC5,
    Cache,
    EngineName,
    ExportFormat,
    HeadFrom,
    ModelForm,
    OneEngine,
    PeerName,
    PrecisionName,
    PredictEngine,
    TrainingPrecision,
)

UsageError: Any = typer.BadParameter.__base__  # click's, which newer versions of typer contain
FOUND_PROBLEMS, STOPPED = 1, 130  # exit codes: of doctor; after Ctrl-C
EXIT_CODES = (
    "Exit codes: 0 done; 1 doctor found a problem, or opendetr has a bug (with a traceback); 2 bad input, with one "
    "sentence on standard error; 130 stopped by Ctrl-C."
)


class Answer(NamedTuple):
    """What a command found, as `--json` prints it, and its exit code."""

    value: dict[str, Any]
    exit_code: int = 0


Quiet = Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only, on standard error.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")
]


class App(typer.Typer):
    """An application whose commands all have the options for scripts, `--quiet` and `--json`."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """As typer's, for functions that return an `Answer`."""
        register = super().command(name, **options)

        def decorate(function: Callable[..., Answer]) -> Callable[..., Answer]:
            @wraps(function)
            def run(*, quiet: bool, json: bool, **given: Any) -> int:
                return _answer(partial(function, **given), quiet=quiet, as_json=json)

            own, shared = signature(function), {"quiet": Quiet, "json": AsJson}
            added = [Parameter(key, Parameter.KEYWORD_ONLY, default=False, annotation=shared[key]) for key in shared]
            run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
            run.__annotations__ = function.__annotations__ | shared
            register(run)
            return function

        return decorate


def _answer(command: Callable[[], Answer], *, quiet: bool, as_json: bool) -> int:
    """Run a command; its exit code."""
    from opendetr.progress import silence

    with silence() if quiet else nullcontext(), redirect_stdout(sys.stderr) if as_json else nullcontext():
        answer = command()
    if as_json:
        print(dumps(answer.value, indent=1, allow_nan=False))
    return answer.exit_code


app = App(
    name="opendetr",
    help="DETR (detection transformer): train on a folder of pictures and boxes, measure, detect.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = App(help="Make data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

MODEL_HELP = "A run folder, an official .pth or released name, a Hugging Face folder or id"
Model = Annotated[str, typer.Argument(help=f"{MODEL_HELP}.")]
ModelOrExported = Annotated[str, typer.Argument(help=f"{MODEL_HELP}, an exported file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[PrecisionName, typer.Option(help="Precision of the computation.")]
ThreadCount = Annotated[
    str | None, typer.Option(help="Number of threads, or auto to measure the fastest.  (default: auto)")
]
BatchSize = Annotated[int, typer.Option(help="Pictures at once.")]
InputSize = Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the input.  (default: of a 480x640 picture)")]
Recipe = Annotated[str | None, typer.Option(help="A shipped recipe or a TOML file.")]


def _repeatable(choices: Any, what: str, default: str) -> Any:
    """An option that is given once per value; typer has no lists of Literal."""
    help_ = f"{what} to measure; repeat the option for several.  (default: {default})"
    return typer.Option(metavar="|".join(get_args(choices)), help=help_)


def main() -> None:
    """Run a command, and exit with one of `EXIT_CODES`; bad input is one sentence."""
    set_waiting_policy()
    code = 2
    try:
        code = app(prog_name="opendetr", standalone_mode=False) or 0  # the name is also that of python -m opendetr
    except UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # whose help is on the screen; typer has no name for it either
            print(_usage_sentence(error, sys.argv[1:]), file=sys.stderr)
    except UserError as error:
        print(f"opendetr: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder without permission: still one sentence
        print(f"opendetr: {error.filename or 'a file'} cannot be used: {error.strerror or error}", file=sys.stderr)
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    if code == STOPPED:  # typer's newer versions return it
        print("opendetr: stopped", file=sys.stderr)
    sys.exit(code)


def _usage_sentence(error: Any, words: list[str]) -> str:
    """What is wrong with the words of a command line, with the command's name before it and its help after it."""
    command: Any = typer.main.get_command(app)
    name = "opendetr"
    for word in words:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        name += f" {word}"
    option, near = getattr(error, "option_name", ""), getattr(error, "possibilities", None)
    if option in ("--dc5", "--no-dc5"):
        way_out = SAY_DC5.format(path="X.pth", option=option)
        return (
            f"{name}: {option} belongs to convert, for a .pth whose name does not say it: {way_out}; a new DC5 model "
            f"is --preset detr-r50-dc5"
        )
    if hasattr(error, "possibilities"):
        wrong = f"no option {option}" + (f"; did you mean {near[0]}?" if near else "")
    else:
        wrong = " ".join(error.format_message().replace("Value error, ", "").split()).removesuffix(".")
        wrong = wrong[0].lower() + wrong[1:]
    return f"{name}: {wrong}{' See' if wrong.endswith('?') else '; see'} {name} --help"


def _version(show: bool) -> bool:
    if show:
        print(opendetr.__version__)
        raise typer.Exit
    return show


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the data, the run and report.html.")] = Path("runs/demo"),
    compare: Annotated[bool, typer.Option("--compare", help="Train with the paper's recipe too; report both.")] = False,
    threads: ThreadCount = None,
) -> Answer:
    """Train a DETR on digit scenes and write a report; 3 to 4 minutes on 2 cores, longer on a busy machine."""
    report = opendetr.demo(output, compare=compare, threads=threads, started=STARTED)
    return Answer({"report": str(report), **read_json(report.with_name("report.json"), "the result of a demo")})


@app.command()
def train(
    data: Annotated[Path | None, typer.Option(help="The data set's folder; not needed with --resume.")] = None,
    recipe: Recipe = None,
    preset: Annotated[str | None, typer.Option(help="A model by name, e.g. detr-r50; replaces the recipe's.")] = None,
    train_split: Annotated[str | None, typer.Option(help="The split to learn from.")] = None,
    val_split: Annotated[str | None, typer.Option(help="The split that chooses the best weights.")] = None,
    output: Annotated[Path | None, typer.Option(help="The run folder.  (default: runs/NAME-OF-DATA)")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run.")] = None,
    init: Annotated[str | None, typer.Option(help="Start from this model: a folder, .pth, name or hub id.")] = None,
    num_classes_from: Annotated[
        HeadFrom | None,
        typer.Option(help="With --init: whose classes the model detects; data makes new heads.  (default: model)"),
    ] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="A part not to train, e.g. backbone, encoder.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of passes over the training split.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall-clock budget, from process start to exit.")] = None,
    patience: Annotated[int | None, typer.Option(help="Evaluations without a better AP that end the run.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of weights, order and augmentation.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures per process and step.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Shorter side at evaluation; scales all sizes.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Any timm network.")] = None,
    backbone_weights: Annotated[str | None, typer.Option(help="ImageNet weights: auto, none, or a file.")] = None,
    workers: Annotated[int | None, typer.Option(help="Loader processes.")] = None,
    cache: Annotated[Cache | None, typer.Option(help="Where decoded pictures are kept.")] = None,
    precision: Annotated[TrainingPrecision | None, typer.Option(help="Precision of matrix products.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    threads: Annotated[
        str | None,
        typer.Option(help="Number of threads, or auto to measure the fastest.  (default: auto with --minutes)"),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; wins over everything.")] = None,
) -> Answer:
    """Train on a folder of pictures and boxes. What is not given comes from the recipe."""
    run = opendetr.train(
        data, init=init, new_head=num_classes_from == "data", freeze=freeze or (), recipe=recipe, preset=preset,
        train_split=train_split, val_split=val_split, output=output, resume=resume, epochs=epochs, minutes=minutes,
        patience=patience, seed=seed, batch_size=batch_size, image_size=image_size, backbone=backbone,
        backbone_weights=backbone_weights, workers=workers, cache=cache, precision=precision,
        device=device, threads=threads, overrides=set_ or (), started=STARTED,
    )  # fmt: skip
    from opendetr.training.run_folder import summary_of

    return Answer(summary_of(run))


@app.command()
def val(
    model: Annotated[str | None, typer.Argument(help=f"{MODEL_HELP}, an exported file.")] = None,
    data: Annotated[Path | None, typer.Option(help="The data set's folder.")] = None,
    split: Annotated[str, typer.Option(help="The split to measure on.")] = "val",
    detections: Annotated[Path | None, typer.Option(help="Instead of a model: a COCO results file.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="With --detections: the COCO annotation file.")] = None,
    batch_size: BatchSize = 4,
    engine: Annotated[
        EngineName | None,
        typer.Option(help="The engine that runs the model.  (default: torch, or the exported file's own)"),
    ] = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    threads: ThreadCount = None,
) -> Answer:
    """The 12 COCO numbers and AP per class, of a model on a split or of ready-made detections."""
    from opendetr.api import val_files
    from opendetr.evaluation.report import print_metrics

    if model is not None and data is not None and detections is None and annotations is None:
        metrics = opendetr.val(
            model, data, split, batch_size=batch_size, engine=engine, precision=precision, device=device,
            threads=threads,
        )  # fmt: skip
    elif model is None and data is None and detections is not None and annotations is not None:
        metrics = val_files(detections, annotations)
    else:
        raise UserError("val needs either MODEL --data DIR, or --detections RESULTS.json --annotations TRUTH.json")
    print_metrics(metrics)
    return Answer(metrics.to_json())


@app.command()
def predict(
    model: ModelOrExported,
    sources: Annotated[list[str], typer.Argument(help="Pictures, folders, globs, videos, webcam, rtsp://...")],
    output: Annotated[str, typer.Option(help="Folder for drawn pictures and detections.json.")],
    threshold: Annotated[float, typer.Option(help="The lowest score that is reported.")] = 0.5,
    batch_size: BatchSize = 4,
    tile: Annotated[int | None, typer.Option(help="Cut huge pictures into tiles of this side, in pixels.")] = None,
    overlap: Annotated[float, typer.Option(help="With --tile: smallest overlap, as a share of its side.")] = 0.2,
    every: Annotated[int, typer.Option(help="Of a video: use every N-th frame.")] = 1,
    shards: Annotated[str | None, typer.Option(help="I/N: detect in part I of N of the pictures only.")] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(help="Names or ids of the classes that are reported; repeatable, or with commas."),
    ] = None,
    drawn: Annotated[bool, typer.Option("--draw/--no-draw", help="Write drawn pictures too.")] = True,
    save_txt: Annotated[bool, typer.Option("--save-txt", help="YOLO labels, one file per picture.")] = False,
    save_csv: Annotated[bool, typer.Option("--save-csv", help="detections.csv, one line per detection.")] = False,
    save_coco: Annotated[
        bool, typer.Option("--save-coco", help="A COCO data set of pictures and detections, to correct and train on.")
    ] = False,
    save_crops: Annotated[bool, typer.Option("--save-crops", help="The part of the picture in each box.")] = False,
    engine: Annotated[
        PredictEngine,
        typer.Option(help="The engine that runs the model; auto is the fastest, ray starts several workers."),
    ] = "auto",
    workers: Annotated[int | None, typer.Option(help="With --engine ray: models that work at once.")] = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    threads: ThreadCount = None,
) -> Answer:
    """Detect objects in pictures and videos; the same command continues after a stop."""
    detections = opendetr.predict(
        model, sources, output, threshold=threshold, batch_size=batch_size, tile=tile, overlap=overlap, every=every,
        shards=shards, classes=classes, drawn=drawn, save_txt=save_txt, save_csv=save_csv, save_coco=save_coco,
        save_crops=save_crops, engine=engine, workers=workers, precision=precision, device=device, threads=threads,
    )  # fmt: skip
    return Answer({"detections": str(detections)})


@app.command()
def track(
    model: ModelOrExported,
    video: Annotated[str, typer.Argument(help="A video file, webcam, webcam:1, rtsp://...")],
    output: Annotated[Path, typer.Option(help="Folder for tracks.json, tracks.csv and the drawn video.")],
    threshold: Annotated[float, typer.Option(help="The lowest score that begins a track.")] = 0.5,
    every: Annotated[int, typer.Option(help="Use every N-th frame.")] = 1,
    classes: Annotated[
        list[str] | None,
        typer.Option(help="Names or ids of the classes that are followed; repeatable, or with commas."),
    ] = None,
    drawn: Annotated[bool, typer.Option("--draw/--no-draw", help="Write the drawn video too.")] = True,
    engine: Annotated[EngineName, typer.Option(help="Runs the model.")] = "auto",
    precision: Precision = "fp32",
    device: Device = "auto",
    threads: ThreadCount = None,
) -> Answer:
    """Follow objects through a video: every object has one id in all frames."""
    tracks = opendetr.track(
        model, video, output, threshold=threshold, every=every, classes=classes, drawn=drawn, engine=engine,
        precision=precision, device=device, threads=threads,
    )  # fmt: skip
    return Answer({"tracks": str(tracks)})


@app.command()
def explain(
    model: Model,
    pictures: Annotated[list[str] | None, typer.Argument(help="Pictures, folders, globs.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for figures, arrays and explain.html.")] = Path("explained"),
    data: Annotated[Path | None, typer.Option(help="Instead of pictures: a data set's folder.")] = None,
    split: Annotated[str, typer.Option(help="With --data: the split.")] = "val",
    slots: Annotated[bool, typer.Option("--slots", help="With --data: what each query does over the split.")] = False,
    image: Annotated[int | None, typer.Option(help="With --data and --matching: the id of a picture.")] = None,
    matching: Annotated[bool, typer.Option("--matching", help="What was found, missed, and wrongly found.")] = False,
    point: Annotated[
        list[str] | None, typer.Option(help="x,y in pixels: the encoder's attention to and from it.")
    ] = None,
    layer: Annotated[int, typer.Option(help="Layer, from 1; 0 is the last.")] = 0,
    head: Annotated[int, typer.Option(help="Attention head, from 1; 0 is the mean.")] = 0,
    threshold: Annotated[float, typer.Option(help="The lowest score that is explained.")] = 0.5,
    at_most: Annotated[int, typer.Option(help="Most detections explained per picture, best first.")] = 12,
    device: Device = "auto",
    threads: ThreadCount = None,
) -> Answer:
    """Show what a model attends to, what its queries do, and why an object was missed."""
    page = opendetr.explain(
        model, pictures or (), output, data=data, split=split, slots=slots, image=image, matching=matching,
        points=[_parse_point(text) for text in point or ()], layer=layer, head=head, threshold=threshold,
        at_most=at_most, device=device, threads=threads,
    )  # fmt: skip
    return Answer({"page": str(page)})


@app.command()
def info(
    model: ModelOrExported,
    size: InputSize = None,
) -> Answer:
    """What a model is: classes, parameters, GFLOPs, preprocessing, origin."""
    from opendetr.evaluation.report import print_info

    facts = opendetr.info(model, _parse_size(size))
    print_info(facts)
    return Answer(facts)


@app.command()
def convert(
    model: Model,
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    to: Annotated[
        ModelForm, typer.Option(help="The format to write: Hugging Face's, the official code's, or opendetr's.")
    ],
    push: Annotated[
        str | None, typer.Option(help="Also upload the folder to the Hugging Face hub: ORGANISATION/NAME.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make the repository private.")] = False,
    licence: Annotated[str | None, typer.Option(help="Licence for the model card, e.g. apache-2.0.")] = None,
    dc5: Annotated[
        bool | None,
        typer.Option(
            "--dc5/--no-dc5", help="Whether a .pth has a dilated backbone (DC5), where the file does not say."
        ),
    ] = None,
) -> Answer:
    """Write a model in another library's format, or convert another library's model to ours."""
    folder = opendetr.convert(model, output, to, push=push, private=private, licence=licence, dc5=dc5)
    return Answer({"folder": str(folder)})


@app.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Option(help="The file: .onnx, .xml or .pt2.")],
    format: Annotated[ExportFormat | None, typer.Option(help="Format of the file.  (default: by its suffix)")] = None,
    precision: Precision = "fp32",
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Input is uint8 pictures; the graph normalises them.")
    ] = False,
    with_attention: Annotated[
        bool, typer.Option("--with-attention", help="The last layer's cross-attention is an output too.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Compare AP on this data set; int8 needs it.")] = None,
    split: Annotated[str, typer.Option(help="The split of --data for AP; int8 is calibrated on train.")] = "val",
    max_ap_loss: Annotated[
        float | None, typer.Option(help="Largest loss of AP.  (default: 0.005; fp32: 0.0005)")
    ] = None,
    threads: ThreadCount = None,
) -> Answer:
    """Write the model as a file for other programs, after comparing it with PyTorch on real pictures."""
    certificate = opendetr.export(
        model, output, format, precision=precision, with_preprocessing=with_preprocessing,
        with_attention=with_attention, data=data, split=split, max_ap_loss=max_ap_loss, threads=threads,
    )  # fmt: skip
    return Answer({"file": str(output), "certificate": certificate.to_json()})


@app.command()
def prepare(
    model: Model, precision: Precision = "fp32", device: Device = "auto", threads: ThreadCount = None
) -> Answer:
    """Make faster engines for a model on this machine's CPU, once; predict and val with --engine auto then use them."""
    return Answer({"engine": opendetr.prepare(model, precision=precision, device=device, threads=threads)})


@app.command()
def benchmark(
    model: Model,
    against: Annotated[PeerName | None, typer.Option(help="Also measure the same weights in other code.")] = None,
    size: InputSize = None,
    batch: BatchSize = 1,
    engine: Annotated[list[str] | None, _repeatable(OneEngine, "An engine", "all that are installed")] = None,
    precision: Annotated[
        list[str] | None, _repeatable(PrecisionName, "A precision", "fp32; bf16 where faster, int8 where prepared")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of measuring per row.")] = 20.0,
    output: Annotated[Path | None, typer.Option(help="Folder for benchmark.json and benchmark.md.")] = None,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")] = True,
    device: Device = "auto",
    threads: ThreadCount = None,
) -> Answer:
    """Measure speed and memory of every engine, and whether their outputs agree."""
    found = opendetr.benchmark(
        model, against=against, size=_parse_size(size), batch=batch,
        engines=engine or (), precisions=precision or (), seconds=seconds, output=output, memory=memory, device=device,
        threads=threads,
    )  # fmt: skip
    return Answer(found.to_json())


@app.command()
def ablate(
    study: Annotated[str | None, typer.Argument(help="A study by name; none with --set.")] = None,
    data: Annotated[Path | None, typer.Option(help="The data set's folder.  (default: digit scenes)")] = None,
    output: Annotated[Path | None, typer.Option(help="The study's folder.  (default: runs/ablate-STUDY)")] = None,
    recipe: Annotated[str, typer.Option(help="The recipe that the rows change.")] = "fast",
    split: Annotated[str, typer.Option(help="The split to measure on.")] = "val",
    seeds: Annotated[int, typer.Option(help="Runs per row.")] = 2,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each run.  (default: 3 on digits, else 20)")] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of each run, instead of epochs.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=VALUE for all rows, or VALUE,VALUE for a study.")
    ] = None,
    device: Device = "auto",
    threads: ThreadCount = None,
) -> Answer:
    """Run one of the paper's studies as small trainings; the same command continues after a stop."""
    table = opendetr.ablate(
        study, data, output, recipe=recipe, split=split, seeds=seeds, epochs=epochs, minutes=minutes,
        overrides=set_ or (), device=device, threads=threads,
    )  # fmt: skip
    return Answer({"table": str(table), "csv": str(table.with_suffix(".csv"))})


@app.command()
def doctor(
    data: Annotated[Path, typer.Option(help="The data set's folder.")],
    train_split: Annotated[str, typer.Option(help="The training split to check.")] = "train",
    recipe: Recipe = None,
    image_size: Annotated[int | None, typer.Option(help="Shorter side of the pictures.  (default: chosen)")] = None,
    seconds: Annotated[float, typer.Option(help="Time for overfitting eight pictures.")] = 45.0,
    device: Device = "auto",
    threads: ThreadCount = None,
) -> Answer:
    """Check a data set for training: its files, and whether a model can overfit eight pictures; about a minute."""
    found = opendetr.doctor(
        data, train_split=train_split, recipe=recipe, image_size=image_size, seconds=seconds, device=device,
        threads=threads,
    )  # fmt: skip
    findings = [asdict(finding) for finding in found]
    return Answer({"findings": findings}, FOUND_PROBLEMS if any(one.is_problem for one in found) else 0)


@data_app.command()
def digits(
    folder: Annotated[Path, typer.Argument(help="Folder to write the data set to.")],
    scenes: Annotated[int, typer.Option(help="Training scenes; val and test get a fifth each, at most 100.")] = 500,
    seed: Annotated[int, typer.Option(help="Random seed of the scenes.")] = 0,
) -> Answer:
    """Write the embedded data set, handwritten digits on photographs, as a COCO folder."""
    from opendetr.data.digits import write_digits
    from opendetr.progress import console

    counts = write_digits(folder, scenes, seed)
    console.print(f"{folder}: " + ", ".join(f"{count} {split}" for split, count in counts.items()) + " scenes")
    return Answer({"folder": str(folder), "scenes": counts})


def _parse_point(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--point {text}: expected x,y in pixels of the picture, e.g. 320,240") from None
    return x, y


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) > 0 and int(width) > 0):
        raise UserError(f"--size {text}: expected HEIGHTxWIDTH in pixels, e.g. 800x1066")
    return int(height), int(width)
