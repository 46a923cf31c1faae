"""The README's commands exist, and its numbers of set-up commands is what it promises."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

import opendetr.cli  # noqa: F401  (registers the commands)
from opendetr.cli.application import app

README = (Path(__file__).parents[2] / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", README, flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("opendetr ")]


def test_two_set_up_commands_of_one_line_each():
    set_up = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(set_up) == 2
    assert set_up[0].endswith("opendetr demo")
    assert "pytest" in set_up[1]


def test_the_tour_has_commands():
    assert {shlex.split(command)[1] for command in commands()} >= {"train", "val", "predict"}


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_parses(command):
    """Parsed by the real command line, without running it."""
    words = shlex.split(command.split("#")[0])[1:]
    group = typer.main.get_command(app)
    context = group.make_context("opendetr", list(words), resilient_parsing=False)
    name, sub, rest = group.resolve_command(
        context, context.protected_args + context.args if hasattr(context, "protected_args") else words
    )
    if hasattr(sub, "commands"):
        name, sub, rest = sub.resolve_command(context, rest)
    sub.make_context(name, list(rest), parent=context)


def test_the_page_on_scripts_names_the_object_of_every_command():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "command-line.md").read_text()
    table = page.partition("| command | the object |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1] if row else "")}
    found = set()
    for name, command in typer.main.get_command(app).commands.items():
        found |= {f"{name} {sub}" for sub in command.commands} if hasattr(command, "commands") else {name}
    assert named == found
