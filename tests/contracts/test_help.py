"""The help of every command: it fits 80 columns, groups its options, and shows examples that work."""

import ast
import re
import shlex
import subprocess
import sys

import pytest
import typer.main

from documented import parse
from opendetr.ablation.study import study_names
from opendetr.cli import main
from opendetr.cli.application import COMMAND_PANELS, app
from opendetr.cli.parameters import PANELS
from opendetr.recipes.presets import PRESETS
from opendetr.recipes.recipe import recipe_names


def commands_of(group, names=()) -> dict[tuple[str, ...], typer.core.TyperCommand]:
    """All commands below a group, by their words."""
    found = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= commands_of(command, (*names, name)) if inner else {(*names, name): command}
    return found


COMMANDS = commands_of(typer.main.get_command(app))
GROUPS = [(), ("data",)]


@pytest.fixture
def help_of(monkeypatch, capsys):
    def show(words, option="--help", columns="80") -> str:
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(sys, "argv", ["opendetr", *words, option])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 0
        return capsys.readouterr().out

    return show


def examples_in(text: str) -> list[str]:
    return re.findall("^ +(opendetr .*?) *$", text.partition("╭")[0], flags=re.MULTILINE)


@pytest.mark.parametrize("words", [*GROUPS, *COMMANDS], ids=" ".join)
def test_help_fits_80_columns_and_its_examples_parse(words, help_of):
    shown = help_of(words)
    assert max(map(len, shown.splitlines())) <= 80
    assert help_of(words, "-h") == shown
    examples = [example for example in examples_in(shown) if "COMMAND" not in example]
    assert 1 <= len(examples) <= 3
    for example in examples:
        assert shlex.split(example)[1 : len(words) + 1] == list(words)
        parse(shlex.split(example)[1:])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_has_a_sentence_and_a_group_in_one_order(words, help_of):
    command = COMMANDS[words]
    options = [one for one in command.get_params(typer.Context(command)) if one.param_type_name == "option"]
    panels = [one.rich_help_panel for one in options if "--help" not in one.opts]
    assert panels == sorted(panels, key=PANELS.index)
    assert all(one.help for one in command.params)
    titles = re.findall("^╭─ (.+?) ─", help_of(words), flags=re.MULTILINE)
    assert titles == [title for title in ("Arguments", *PANELS) if title in titles]


def test_all_commands_are_in_groups(help_of):
    assert re.findall("^╭─ (.+?) ─", help_of(()), flags=re.MULTILINE) == ["Options", *COMMAND_PANELS]


def test_help_lists_recipes_presets_and_studies(help_of):
    shown = help_of(["train"], columns="300")
    for option, names in (("--recipe", recipe_names()), ("--preset", PRESETS)):
        line = next(line for line in shown.splitlines() if line.startswith(f"│ {option} "))
        assert set(names) <= set(re.findall(r"[\w-]+", line))
    shown = help_of(["ablate"])
    assert set(study_names()) <= set(re.findall(r"^ +([\w-]+)  +", shown.partition("╭")[0], flags=re.MULTILINE))


def test_help_that_is_piped_fits_too_shows_brackets_and_loads_no_torch():
    code = (
        "import sys; from opendetr.cli import main; sys.argv = ['opendetr', 'track', '-h']\n"
        "try: main()\n"
        "finally: print({'torch', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(ran.stderr.replace("set()", "()")) == ()
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "pip install 'opendetr[track]'" in ran.stdout
    assert "[default: all]" in ran.stdout
