"""Commands about speed and other programs: convert, export, prepare, benchmark."""

from pathlib import Path
from typing import Annotated, get_args

import typer

import opendetr
from opendetr.cli.application import ELSEWHERE, Answer, app
from opendetr.cli.parameters import (
    DATA,
    DATA_HELP,
    LENGTH,
    MORE_DATA,
    OUTPUT,
    RARE,
    SPEED,
    Device,
    ImageSize,
    InputSize,
    KeptClasses,
    Model,
    Precision,
    RenamedClasses,
    ThreadCount,
    VocOrigin,
    flag,
    option,
    parse_size,
    repeatable,
)
from opendetr.options import ExportFormat, ModelForm, OneEngine, PeerName, PrecisionName
from opendetr.wording import listed


@app.command(rich_help_panel=ELSEWHERE)
def convert(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write, new or empty.")],
    to: Annotated[
        ModelForm,
        option(OUTPUT, "FORM", "Whose format: huggingface (transformers), official (the paper's code) or opendetr."),
    ],
    push: Annotated[
        str | None, option(OUTPUT, "ORG/NAME", "Upload the folder to the Hugging Face hub too, with a model card.")
    ] = None,
    private: Annotated[bool, flag(OUTPUT, "With --push: make a private repository.", "--private")] = False,
    image_size: ImageSize = None,
    licence: Annotated[str | None, option(OUTPUT, "NAME", "Licence for the model card, e.g. apache-2.0.")] = None,
    dc5: Annotated[
        bool | None,
        flag(
            RARE,
            "Whether an official .pth has a dilated backbone (DC5), where the file does not say.",
            "--dc5/--no-dc5",
        ),
    ] = None,
    heads: Annotated[
        int | None,
        option(RARE, "N", "How many attention heads a file of weights has, where it does not say.", default="8"),
    ] = None,
) -> Answer:
    """Write a model in another library's format, or convert another library's model to ours.

    Examples:
      opendetr convert runs/mine shared --to huggingface
      opendetr convert facebook/detr-resnet-50 mine --to opendetr
    """
    folder = opendetr.convert(
        model, output, to, push=push, private=private, licence=licence, dc5=dc5, heads=heads, image_size=image_size
    )
    return Answer({"folder": str(folder)})


@app.command(rich_help_panel=ELSEWHERE)
def export(
    model: Model,
    output: Annotated[
        Path,
        option(
            OUTPUT, "FILE", "The file to write: NAME.onnx, NAME.xml (OpenVINO) or NAME.pt2; with --format web a folder."
        ),
    ],
    format: Annotated[
        ExportFormat | None, option(OUTPUT, "FORMAT", f"{listed(get_args(ExportFormat))}.", default="by the suffix")
    ] = None,
    data: Annotated[
        list[str] | None,
        option(
            DATA,
            "DIR",
            f"{DATA_HELP}; {MORE_DATA}. Compares AP too; int8 needs it, to be calibrated on train.",
        ),
    ] = None,
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    voc_origin: VocOrigin = 0,
    split: Annotated[str, option(DATA, "SPLIT", "With --data: the split on which AP is compared.")] = "val",
    image_size: ImageSize = None,
    precision: Precision = "fp32",
    threads: ThreadCount = None,
    max_ap_loss: Annotated[
        float | None,
        option(RARE, "AP", "With --data: the largest loss of AP that is accepted.", default="0.005; of fp32 0.0005"),
    ] = None,
    with_preprocessing: Annotated[
        bool, flag(RARE, "Input is resized uint8 pictures; the file normalises them.", "--with-preprocessing")
    ] = False,
    with_attention: Annotated[
        bool, flag(RARE, "The last decoder layer's attention to the picture is an output too.", "--with-attention")
    ] = False,
) -> Answer:
    """Write a model as a file for other programs, or as a page, after comparing it with PyTorch on real pictures.

    Examples:
      opendetr export runs/mine --output cells.onnx
      opendetr export runs/mine --format web --output page
      opendetr export runs/mine --output cells.xml --precision int8 --data DATA
    """
    certificate = opendetr.export(
        model, output, format, precision=precision, with_preprocessing=with_preprocessing,
        with_attention=with_attention, image_size=image_size, data=data or None, classes=classes, rename=rename,
        voc_origin=voc_origin, split=split, max_ap_loss=max_ap_loss, threads=threads,
    )  # fmt: skip
    return Answer({"file": str(output), "certificate": certificate.to_json()})


@app.command(rich_help_panel=ELSEWHERE)
def prepare(
    model: Model, precision: Precision = "fp32", device: Device = "auto", threads: ThreadCount = None
) -> Answer:
    """Make faster engines for a model on this machine's CPU, once; predict and val with --engine auto then use them.

    Examples:
      opendetr prepare runs/mine
      opendetr prepare detr-r50 --precision bf16
    """
    return Answer({"engine": opendetr.prepare(model, precision=precision, device=device, threads=threads)})


@app.command(rich_help_panel=ELSEWHERE)
def benchmark(
    model: Model,
    size: InputSize = None,
    batch: Annotated[int, option(DATA, "N", "Pictures that go through the model at once.")] = 1,
    seconds: Annotated[float, option(LENGTH, "SECONDS", "Time to measure each row of the table.")] = 20.0,
    engine: Annotated[list[str] | None, repeatable(SPEED, "ENGINE", OneEngine, "all that are installed")] = None,
    precision: Annotated[
        list[str] | None,
        repeatable(SPEED, "NAME", PrecisionName, "fp32; bf16 where it is faster, int8 where it was prepared"),
    ] = None,
    device: Device = "auto",
    threads: ThreadCount = None,
    against: Annotated[
        PeerName | None,
        option(OUTPUT, "CODE", f"Measure the same weights in other code too: {listed(get_args(PeerName))}."),
    ] = None,
    memory: Annotated[bool, flag(OUTPUT, "Whether to measure peak memory too.", "--memory/--no-memory")] = True,
    output: Annotated[Path | None, option(OUTPUT, "DIR", "Folder for benchmark.json and benchmark.md.")] = None,
) -> Answer:
    """Measure speed and memory of a model in every engine, and whether their outputs agree.

    Examples:
      opendetr benchmark runs/mine
      opendetr benchmark detr-r50 --size 800x1066 --against official
    """
    found = opendetr.benchmark(
        model, against=against, size=parse_size(size), batch=batch,
        engines=engine or (), precisions=precision or (), seconds=seconds, output=output, memory=memory, device=device,
        threads=threads,
    )  # fmt: skip
    return Answer(found.to_json())
