"""What the pages show: their commands, as lists of words, and their Python code."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import typer
import typer.main

import opendetr.cli  # noqa: F401  (registers the commands)
from opendetr.cli.application import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/**/*.md")])
SHELLS = {"bash", "sh", "shell", "console"}
BEFORE_A_PROGRAM = {"do", "then", "else", "!", "time", "exec", "env", "nice", "-n", "19", "srun", "sudo", "nohup"}
COMMANDS: Any = typer.main.get_command(app)
NUMBERS = {"N", "SEED", "MINUTES", "SECONDS", "EPOCHS", "PIXELS", "PORT"}  # what pages write for a number of the user's

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+) *(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4,}opendetr [^\n]*\n?)+")  # a paragraph of its own
_INLINE = re.compile(r"`((?:\.venv/bin/)?opendetr [^`\n]+)`")
_ASSIGNED = re.compile(r"\b([A-Za-z_]+)=(\"[^\"]*\"|'[^']*'|[^\s;&|]+)")
_OPERATORS = set("();<>|&")
_LEFT_TO_THE_READER = re.compile(r"\.\.\.|…|\[.*\]")  # "and so on", and what may be added


class Block(NamedTuple):
    """Code that a page shows; `line` is the page's line of its first line."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


class Command(NamedTuple):
    """A command of opendetr that a page shows: its words without the program, and the whole line it stands in."""

    place: str
    words: tuple[str, ...]
    line: str


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks between fences, also within lists and tabs, and indented commands."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 2, found["language"].lower(), dedent(found["code"]))
    outside = without_blocks(text)
    for found in _INDENTED.finditer(outside):
        yield Block(page, outside.count("\n", 0, found.start()) + 1, "bash", dedent(found[0]))


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of opendetr in a block of shell code, with the variables that the block assigns."""
    variables: dict[str, str] = {}

    def expanded(text: str) -> str:
        return re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], "1"), text)

    code = re.sub(r"\\\n\s*", lambda found: " \0", block.code)  # a line goes on; its number is that of its beginning
    number = block.line
    for line in code.splitlines():
        here, number = number, number + 1 + line.count("\0")
        shown = re.sub(r"\$\([^()]*\)", "1", line.replace("\0", "").strip().removeprefix("$ "))
        if shown.startswith("#"):
            continue
        for name, value in _ASSIGNED.findall(shown):
            variables[name] = expanded(value.strip("\"'"))
        words = _words(expanded(shown) if "opendetr" in shown else "")
        for command in _programs(words):
            yield Command(f"{block.place.rpartition(':')[0]}:{here}", tuple(command), " ".join(words))


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    return list(lexer)


def _is_program(word: str) -> bool:
    """Whether a word is opendetr, with or without a folder, or the name of its image."""
    return word.rpartition("/")[2].partition(":")[0] == "opendetr"


def _programs(words: list[str]) -> Iterator[list[str]]:
    """What follows the program in each of the commands that a line joins by ;, && or |."""
    commands: list[list[str]] = [[]]
    for word in words:
        commands += [[]] if set(word) <= _OPERATORS else []
        commands[-1] += [] if set(word) <= _OPERATORS else [word]
    for command in commands:
        for place, word in enumerate(command):
            before = command[:place]
            runs = all(one in BEFORE_A_PROGRAM or "=" in one for one in before)
            if _is_program(word) and (runs or before[-1] == "-m" or before[:2] == ["docker", "run"]):
                rest = [one for one in command[place + 1 :] if not _LEFT_TO_THE_READER.fullmatch(one)]
                yield from [rest] if rest else []
                break


def without_blocks(text: str) -> str:
    """The text of a page without its blocks between fences; every line keeps its number."""
    return _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)


def documented_commands() -> list[Command]:
    """All commands in the blocks of all pages, in their order."""
    blocks = (block for page in PAGES for block in blocks_of(page) if block.language in SHELLS)
    return [command for block in blocks for command in commands_of(block)]


def mentioned_commands() -> list[Command]:
    """All commands within sentences and tables, which may leave out what they are not about."""
    found = []
    for page in PAGES:
        text = without_blocks(page.read_text(encoding="utf-8"))
        for match in _INLINE.finditer(text):
            block = Block(page, text.count("\n", 0, match.start()) + 1, "bash", match[1] + "\n")
            found += [
                command
                for command in commands_of(block)
                if command.words[0] != "COMMAND" and command.words[0][-1] != ":"
            ]
    return found


def resolved(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that words name, its name, and the words after it. Raises where there is none."""
    name, command = "opendetr", COMMANDS
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, command, words = command.resolve_command(command.make_context(name, list(words)), words)
    return command, name, words


def parse(words: list[str]) -> None:
    """Parse the words of a command as the application does, without running it. Raises what it would say."""
    command, name, rest = resolved(words)
    if not {"-h", "--help", "--version"} & set(rest):
        command.make_context(name, ["1" if word in NUMBERS else word for word in rest])


def unknown_options(words: list[str]) -> set[str]:
    """Which options a command does not have. Raises where there is no such command."""
    command, _, rest = resolved(words)
    known = {name for one in command.get_params(typer.Context(command)) for name in (*one.opts, *one.secondary_opts)}
    return {word.partition("=")[0] for word in rest if re.match("--?[a-z]", word)} - known - {"-h", "--help"}
