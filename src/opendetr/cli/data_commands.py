"""Commands about data sets: check, stats, convert."""

from pathlib import Path
from typing import Annotated, get_args

import typer

import opendetr
from opendetr.cli.application import Answer, data_app
from opendetr.cli.parameters import DATA, DATA_HELP, OUTPUT, KeptClasses, RenamedClasses, VocOrigin, flag, option
from opendetr.options import DataFix, DataFormat
from opendetr.wording import listed


@data_app.command("convert")
def convert_data(
    source: Annotated[str, typer.Argument(metavar="SRC", help=f"{DATA_HELP}.")],
    output: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write, new or empty.")],
    to: Annotated[DataFormat, option(OUTPUT, "FORMAT", f"{listed(get_args(DataFormat))}.")],
    split: Annotated[
        list[str] | None, option(DATA, "SPLIT", "A split to write; may be given again.", default="all")
    ] = None,
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    voc_origin: VocOrigin = 0,
    copies: Annotated[bool, flag(OUTPUT, "Copy the pictures instead of linking to them.", "--copy")] = False,
) -> Answer:
    """Write a data set in another format, with all digits of its numbers.

    What the format cannot hold, such as ids, is in opendetr.json beside the labels: opendetr reads the same from there.

    Examples:
      opendetr data convert DATA cells-yolo --to yolo
      opendetr data convert DATA cats --to coco --split val --classes cat
    """
    folder = opendetr.convert_data(
        source,
        output,
        to,
        splits=split or (),
        copies=copies,
        classes=classes,
        rename=rename,
        voc_origin=voc_origin,
    )
    return Answer({"folder": str(folder)})


IMAGE_SIZE = option(DATA, "PIXELS", "Shorter side of pictures in training.", default="as train chooses it")


@data_app.command("check")
def check_data(
    data: Annotated[list[str], typer.Argument(metavar="DIR...", help=f"{DATA_HELP}; several are joined.")],
    output: Annotated[
        Path | None, option(OUTPUT, "DIR", "Folder for data-check.html, with pictures, and findings.json.")
    ] = None,
    fix: Annotated[
        DataFix | None,
        option(OUTPUT, "drop|clip", "Write a clean copy into --output; clip keeps boxes that reach out, clipped."),
    ] = None,
    image_size: Annotated[int | None, IMAGE_SIZE] = None,
    num_queries: Annotated[
        int, option(DATA, "N", "Number of object queries, to compare with the fullest picture.", default="not compared")
    ] = 0,
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    voc_origin: VocOrigin = 0,
) -> Answer:
    """Look at the entries, boxes, classes and pictures of all splits, without training.

    The exit code is 1 where there are errors. The data set itself is never changed.

    Examples:
      opendetr data check DATA
      opendetr data check DATA --output checked
      opendetr data check DATA --output checked --fix clip
    """
    found = opendetr.check_data(
        data, output, fix=fix, image_size=image_size, num_queries=num_queries, classes=classes, rename=rename,
        voc_origin=voc_origin,
    )  # fmt: skip
    findings = [
        {"severity": str(one.severity), "kind": one.kind, "sentence": one.sentence, "count": one.count} for one in found
    ]
    return Answer({"findings": findings}, int(any(one.is_problem for one in found)))


@data_app.command("stats")
def data_stats(
    data: Annotated[list[str], typer.Argument(metavar="DIR...", help=f"{DATA_HELP}; several are joined.")],
    output: Annotated[Path, option(OUTPUT, "DIR", "Folder for data-stats.html.")] = Path("stats"),
    image_size: Annotated[int | None, IMAGE_SIZE] = None,
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    voc_origin: VocOrigin = 0,
) -> Answer:
    """Draw classes, sizes of boxes, objects per picture and positions of all splits as one page.

    Example:
      opendetr data stats DATA --output stats
    """
    page = opendetr.data_stats(
        data, output, image_size=image_size, classes=classes, rename=rename, voc_origin=voc_origin
    )
    return Answer({"page": str(page)})
