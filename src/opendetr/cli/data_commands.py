"""Commands about data sets: convert."""

from pathlib import Path
from typing import Annotated, get_args

import typer

import opendetr
from opendetr.cli.application import Answer, data_app
from opendetr.cli.parameters import DATA, DATA_HELP, OUTPUT, KeptClasses, RenamedClasses, flag, option
from opendetr.options import DataFormat
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
    copies: Annotated[bool, flag(OUTPUT, "Copy the pictures instead of linking to them.", "--copy")] = False,
) -> Answer:
    """Write a data set in another format, with all digits of its numbers.

    What the format cannot hold, such as ids, is in opendetr.json beside the labels: opendetr reads the same from there.

    Examples:
      opendetr data convert DATA cells-yolo --to yolo
      opendetr data convert DATA cats.coco --to coco --split val --classes cat --copy
    """
    folder = opendetr.convert_data(
        source, output, to, splits=split or (), copies=copies, classes=classes, rename=rename
    )
    return Answer({"folder": str(folder)})
