"""Options and arguments of commands: how they are declared, the groups of their help, and those of several commands."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from opendetr.errors import UserError
from opendetr.options import PrecisionName
from opendetr.recipes.recipe import recipe_names
from opendetr.wording import listed

DATA, MODEL, LENGTH, SPEED, OUTPUT, RARE = PANELS = (
    "Data", "Model", "Length and learning", "Speed", "Output", "Rarely needed",
)  # fmt: skip


def option(panel: str, metavar: str, help_: str, *names: str, default: object = None) -> Any:
    """An option in a group of the help.

    Args:
        panel: the group.
        metavar: what stands for its value.
        help_: a sentence.
        names: other than the parameter's own.
        default: the default in words, where the parameter's own does not say it.
    """
    said = "" if default is None else f"  [dim]\\[default: {default}][/]"  # as typer writes it, in rich's markup
    return typer.Option(*names, metavar=metavar, help=help_ + said, rich_help_panel=panel)


def flag(panel: str, help_: str, *names: str) -> Any:
    """An option without a value; arguments as of `option`."""
    return option(panel, "", help_, *names)


DATA_HELP = "A data set: a folder or zip archive in the form of COCO, YOLO, Pascal VOC, CSV or LabelMe"
MODEL_HELP = "A run folder, an official .pth or released name (detr-r50), a Hugging Face folder or id"
MORE_DATA = "given again, sets are joined by the names of their classes"
KeptClasses = Annotated[
    list[str] | None,
    option(
        DATA,
        "NAME,...",
        "Only these classes; objects of others are left out. May be given again.",
        "--classes",
        default="all",
    ),
]
RenamedClasses = Annotated[
    list[str] | None,
    option(
        DATA, "OLD=NEW", "Another name for a class; classes of one name become one. May be given again.", "--rename"
    ),
]
VocOrigin = Annotated[
    int, option(DATA, "0|1", "The number of the first pixel in Pascal VOC's coordinates.", "--voc-origin")
]
Report = Annotated[
    Path | None,
    option(OUTPUT, "FILE", "Write what of the data is used, and every entry that is not, with the reason, as JSON."),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}.")]
ModelOrExported = Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}, or an exported file.")]
Precision = Annotated[
    PrecisionName,
    option(SPEED, "fp32|bf16|int8", "Precision of the computation; bf16 and int8 are faster on many processors."),
]
device_option = partial(option, SPEED, "NAME", "auto (a GPU where there is one), cpu, cuda or mps.")
Device = Annotated[str, device_option()]
threads_option = partial(option, SPEED, "N", "Number of threads, or auto: measure which is the fastest.")
ThreadCount = Annotated[str | None, threads_option(default="auto")]
BatchSize = Annotated[int, option(SPEED, "N", "Pictures that go through the model at once.")]
InputSize = Annotated[
    str | None, option(DATA, "HEIGHTxWIDTH", "Size of the model's input, in pixels.", default="a 480x640 picture's")
]
ImageSize = Annotated[
    int | None,
    option(
        DATA, "PIXELS", "Shorter side of the pictures, the longer in proportion.", "--image-size",
        default="the model's own",
    ),
]  # fmt: skip
recipe_option = partial(
    option, MODEL, "NAME", f"{listed(recipe_names())}, or a TOML file, such as a run's config.toml."
)
Recipe = Annotated[str | None, recipe_option(default="fast")]
Classes = Annotated[
    list[str] | None,
    option(OUTPUT, "NAME,...", "Only these classes, by name or raw category id; may be given again.", default="all"),
]
Strict = Annotated[
    bool, flag(DATA, "Stop at a picture that cannot be used, instead of leaving it out and saying so.", "--strict")
]
Quiet = Annotated[bool, flag(OUTPUT, "Print warnings and errors only, on standard error.", "--quiet")]
AsJson = Annotated[
    bool, flag(OUTPUT, "Print one JSON object on standard output, all else on standard error.", "--json")
]


def repeatable(panel: str, metavar: str, choices: Any, default: str) -> Any:
    """An option that is given once per value; typer has no lists of Literal."""
    help_ = f"{listed(get_args(choices))}; give the option again for another."
    return option(panel, metavar, help_, default=default)


def parse_point(text: str) -> tuple[float, float]:
    """`x,y`; UserError otherwise."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--point {text}: expected x,y in pixels of the picture, e.g. 320,240") from None
    return x, y


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`HEIGHTxWIDTH`; UserError otherwise."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) > 0 and int(width) > 0):
        raise UserError(f"--size {text}: expected HEIGHTxWIDTH in pixels, e.g. 800x1066")
    return int(height), int(width)
