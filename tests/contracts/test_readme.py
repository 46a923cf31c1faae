"""The README's set-up is what it promises, and the page on scripts knows every command."""

import re

import typer.main

import opendetr.cli  # noqa: F401  (registers the commands)
from documented import ROOT
from opendetr.cli.application import app


def test_two_set_up_commands_of_one_line_each():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    set_up = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    assert len(set_up) == 2
    assert set_up[0].endswith("opendetr demo")
    assert "pytest" in set_up[1]


def test_the_page_on_scripts_names_the_object_of_every_command():
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    table = page.partition("| command | the object |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1] if row else "")}
    found = set()
    for name, command in typer.main.get_command(app).commands.items():
        found |= {f"{name} {sub}" for sub in command.commands} if hasattr(command, "commands") else {name}
    assert named == found
