"""The application: what all commands have in common, in their help and for scripts."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial, wraps
from inspect import Parameter, cleandoc, signature
from json import dumps
from typing import Any, NamedTuple

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from opendetr.cli.parameters import OUTPUT, PANELS, AsJson, Quiet

TRAIN, USE, ELSEWHERE = COMMAND_PANELS = "Train", "Use a model", "Speed and other programs"  # groups of commands
EXIT_CODES = (
    "Exit codes: 0 done; 1 doctor or data check found a problem, a training diverged, or opendetr has a bug (with a "
    "traceback); 2 bad input, with one sentence on standard error; 130 stopped by Ctrl-C."
)


class Answer(NamedTuple):
    """What a command found, as `--json` prints it, and its exit code."""

    value: dict[str, Any]
    exit_code: int = 0


class _Command(TyperCommand):
    """A command whose `--help` stands in a group like its other options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                _hide_type(parameter)

    def get_help_option(self, ctx: Any) -> Any:
        """As typer's."""
        return _without_value(super().get_help_option(ctx), OUTPUT)


class _Group(TyperGroup):
    """A group of commands."""

    def get_help_option(self, ctx: Any) -> Any:
        """As typer's."""
        return _without_value(super().get_help_option(ctx), None)


class _Root(_Group):
    """All commands, in the order of their groups, whichever file is read first."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        panel_of: Any = {name: getattr(command, "rich_help_panel", None) for name, command in self.commands.items()}
        return sorted(self.commands, key=lambda name: COMMAND_PANELS.index(panel_of[name]))


def _without_value(option: Any, panel: str | None) -> Any:
    """Show an option in a group of the help, without the `<bool>` of newer versions of typer."""
    option.metavar, option.rich_help_panel = "", panel
    return option


def _hide_type(argument: Any) -> None:
    """Show no `<list[str]>` beside an argument, as newer versions of typer do; its name and its help say it."""
    argument.display_type_rich = lambda ctx: None


def marked(text: str) -> str:
    """A text in rich's markup, as typer reads it: a paragraph in one line, indented lines as they are, not dimmed."""
    in_lines = re.sub(r"(?<=\S)\n(?=\S)", " ", escape(text))
    return re.sub("^( +.+)$", r"[not dim]\1[/]", in_lines, flags=re.MULTILINE)


class App(typer.Typer):
    """An application whose commands all have the options for scripts, `--quiet` and `--json`.

    The help of a command is its docstring, with examples; its options are shown in the order of their groups.
    """

    def command(self, name: str | None = None, *, more_help: str = "", **options: Any) -> Callable[[Any], Any]:
        """As typer's, for functions that return an `Answer`; `more_help` follows the docstring."""

        def decorate(function: Callable[..., Answer]) -> Callable[..., Answer]:
            @wraps(function)
            def run(*, quiet: bool, json: bool, **given: Any) -> int:
                return _answer(partial(function, **given), quiet=quiet, as_json=json)

            shared = {"quiet": Quiet, "json": AsJson}
            added = [Parameter(key, Parameter.KEYWORD_ONLY, default=False, annotation=shared[key]) for key in shared]
            own = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in signature(function).parameters.values()]
            run.__signature__ = signature(function).replace(  # type: ignore[attr-defined]
                parameters=sorted([*own, *added], key=_place)
            )
            run.__annotations__ = function.__annotations__ | shared
            help_ = marked(cleandoc(function.__doc__ or "") + more_help)
            super(App, self).command(name, cls=_Command, help=help_, **options)(run)
            return function

        return decorate


def _place(parameter: Parameter) -> int:
    """Arguments first, then options in the order of their groups."""
    declared = parameter.annotation.__metadata__[0]
    return PANELS.index(declared.rich_help_panel) + 1 if isinstance(declared, OptionInfo) else 0


def _answer(command: Callable[[], Answer], *, quiet: bool, as_json: bool) -> int:
    """Run a command; its exit code."""
    from opendetr.files import without_infinity
    from opendetr.progress import IS_FIRST, silence

    with silence() if quiet else nullcontext(), _nothing_on_standard_output() if as_json else nullcontext():
        answer = command()
    if as_json and IS_FIRST:
        print(dumps(without_infinity(answer.value), indent=1, allow_nan=False).replace("\x7f", "\\u007f"))
    return answer.exit_code


@contextmanager
def _nothing_on_standard_output() -> Iterator[None]:
    """What this process, libraries in other languages and child processes write there goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


app = App(
    name="opendetr",
    cls=_Root,
    help=marked("""DETR (detection transformer): train on a folder of pictures and boxes, measure, detect.

Examples:
  opendetr demo
  opendetr train --data DATA --minutes 30 --output runs/mine
  opendetr predict runs/mine photos/ --output found

opendetr COMMAND -h explains a command."""),
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["--help", "-h"]},
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = App(
    cls=_Group,
    help=marked("""Make and convert data sets.

Examples:
  opendetr data digits DATA
  opendetr data convert DATA cells-yolo --to yolo"""),
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(data_app, name="data", short_help="Make and convert data sets.", rich_help_panel=TRAIN)
