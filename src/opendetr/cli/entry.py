"""The entry point: runs a command, and turns bad input into one sentence and an exit code."""

import sys
from typing import Annotated, Any

import typer
import typer.main

import opendetr
import opendetr.cli.data_commands
import opendetr.cli.export_commands
import opendetr.cli.inference_commands
import opendetr.cli.serving_commands
import opendetr.cli.training_commands
from opendetr.cli.application import app
from opendetr.errors import DivergedError, UserError
from opendetr.openmp import set_waiting_policy
from opendetr.options import SAY_DC5
from opendetr.wording import one_line

UsageError: Any = typer.BadParameter.__base__  # click's, which newer versions of typer contain
STOPPED = 130  # exit code after Ctrl-C


def main() -> None:
    """Run a command, and exit with one of `EXIT_CODES`; bad input is one sentence."""
    set_waiting_policy()
    code = 2
    try:
        code = app(prog_name="opendetr", standalone_mode=False) or 0  # the name is also that of python -m opendetr
    except UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # whose help is on the screen; typer has no name for it either
            print(one_line(_usage_sentence(error, sys.argv[1:])), file=sys.stderr)
    except UserError as error:
        if not error.is_said_elsewhere:
            print(one_line(f"opendetr: {error}"), file=sys.stderr)
        code = 1 if isinstance(error, DivergedError) else 2
    except OSError as error:  # a full disk, a folder without permission: still one sentence
        sentence = f"opendetr: {error.filename or 'a file'} cannot be used: {error.strerror or error}"
        print(one_line(sentence), file=sys.stderr)
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
