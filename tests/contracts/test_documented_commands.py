"""Every command that a page shows is one that the command line takes. No command runs here, and none needs a file."""

import shlex
from textwrap import dedent

import pytest

from documented import ROOT, Block, commands_of, documented_commands, mentioned_commands, parse, unknown_options


def distinct(commands):
    """One parameter per command, called by the first place that shows it."""
    first = {}
    for command in commands:
        first.setdefault(command.words, command)
    return [pytest.param(list(words), id=f"{one.place} {shlex.join(words)}") for words, one in first.items()]


@pytest.mark.parametrize("words", distinct(documented_commands()))
def test_every_command_in_a_block_parses(words):
    parse(words)


@pytest.mark.parametrize("words", distinct(mentioned_commands()))
def test_every_command_in_a_sentence_exists_and_has_its_options(words):
    assert not unknown_options(words)


def test_the_readme_shows_the_commands_that_everyone_needs():
    shown = {command.words[0] for command in documented_commands() if command.place.startswith("README.md")}
    assert shown >= {"train", "val", "predict"}


def test_wrong_commands_would_be_seen():
    with pytest.raises(Exception, match=r"(?i)no such option"):
        parse(["val", "runs/mine", "--datas", "DATA"])
    with pytest.raises(Exception, match=r"(?i)missing (option|parameter)"):
        parse(["predict", "runs/mine", "photos/"])
    with pytest.raises(Exception, match=r"(?i)no such command"):
        parse(["evaluate", "runs/mine"])
    with pytest.raises(Exception, match=r"(?i)is not one of|invalid value"):
        parse(["export", "runs/mine", "--output", "page", "--format", "paper"])
    assert unknown_options(["train", "--log-too", "tensorboard", "--minutes", "5"]) == {"--log-too"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("opendetr demo   # it's quick; opendetr train", ["demo"]),
        ("$ opendetr info runs/mine", ["info runs/mine"]),
        ("opendetr val \\\n    runs/mine > found.json 2>&1", ["val runs/mine"]),
        ("RAY_ADDRESS=auto .venv/bin/opendetr predict m 's3://b/*.jpg'", ["predict m 's3://b/*.jpg'"]),
        ("pip install opendetr && opendetr demo", ["demo"]),
        ("git clone x/opendetr; pip install ./opendetr", []),
        ("for seed in 0 1; do opendetr train --seed $seed; done", ["train --seed 1"]),
        ('A="--data D"; B=$A\nsrun torchrun --nnodes 2 -m opendetr train $B & wait', ["train --data D"]),
        ("torchrun --at $(hostname | head -1) -m opendetr train", ["train"]),
        ("docker run --rm -v here:/there opendetr info fast", ["info fast"]),
        ("docker build -t opendetr . && docker run opendetr:cuda demo", ["demo"]),
        ("opendetr train --minutes 5 [changes] ...", ["train --minutes 5"]),
        ("# opendetr nonsense", []),
    ],
)  # fmt: skip
def test_commands_are_found_in_what_a_shell_would_run(code, expected):
    block = Block(ROOT / "README.md", 10, "bash", dedent(code) + "\n")
    assert [shlex.join(command.words) for command in commands_of(block)] == expected


def test_the_place_of_a_command_is_its_line():
    block = Block(ROOT / "README.md", 10, "bash", "opendetr val \\\n  runs/a\nopendetr val runs/b\n")
    assert [command.place for command in commands_of(block)] == ["README.md:10", "README.md:12"]
