"""Writes the reference of the command line from the command line itself, where a page has MARKER."""

import re
from html import escape
from typing import Any

MARKER = "<!-- every command -->"


def on_page_markdown(markdown: str, /, **_: Any) -> str:
    """The page with all commands."""
    return markdown.replace(MARKER, all_commands()) if MARKER in markdown else markdown


def all_commands() -> str:
    """Every command and sub-command in Markdown: what it does, examples, and its options by group."""
    import typer.main

    import opendetr.cli  # noqa: F401  (registers the commands)
    from opendetr.cli.application import app

    root: Any = typer.main.get_command(app)
    context = root.make_context("opendetr", ["train"])
    parts, panel = [], ""
    for name in root.list_commands(context):
        command = root.commands[name]
        if command.rich_help_panel != panel:
            panel = command.rich_help_panel
            parts.append(f"## {panel}")
        inner = getattr(command, "commands", {"": command})
        parts += [_one_command(f"opendetr {name} {sub}".rstrip(), each) for sub, each in inner.items()]
    return "\n\n".join([*parts, "## Exit codes", _plain(root.epilog).removeprefix("Exit codes: ").capitalize()])


def _one_command(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts = [f"### {name}", *_described(_plain(command.help)), f"```text\n{usage}\n```"]
    panels: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or getattr(parameter, "hidden", False):
            continue
        is_argument = parameter.param_type_name == "argument"
        panel = "Arguments" if is_argument else parameter.rich_help_panel or "Options"
        options = ", ".join([*parameter.opts, *parameter.secondary_opts])
        names = (parameter.metavar or parameter.name.upper()) if is_argument else options
        value = "" if is_argument else parameter.metavar or ""
        text, default = _without_default(_plain(record[1]))
        cells = [f"`{names} {value}`".replace(" `", "`"), text.replace("|", "\\|"), default]
        panels.setdefault(panel, []).append(" | ".join(cells))
    for panel, rows in panels.items():
        table = "\n".join(f"| {row} |" for row in rows)
        parts.append(f"| {panel} | | default |\n|---|---|---|\n{table}")
    return "\n\n".join(parts)


def _plain(markup: str) -> str:
    """A text without rich's markup."""
    from rich.text import Text

    return Text.from_markup(markup).plain


def _described(text: str) -> list[str]:
    """Paragraphs as they are, and indented lines, such as examples, as blocks of code."""
    parts: list[str] = []
    for is_code, lines in _runs(text.splitlines()):
        block = "\n".join(line.removeprefix("  ") if is_code else line for line in lines).strip("\n")
        if block.strip():
            language = "bash" if block.lstrip().startswith("opendetr ") else "text"
            parts.append(f"```{language}\n{block}\n```" if is_code else escape(block, quote=False))
    return parts


def _runs(lines: list[str]) -> list[tuple[bool, list[str]]]:
    runs: list[tuple[bool, list[str]]] = []
    for line in lines:
        is_code = line.startswith("  ")
        if not runs or runs[-1][0] != is_code:
            runs.append((is_code, []))
        runs[-1][1].append(line)
    return runs


def _without_default(text: str) -> tuple[str, str]:
    """A help text and its default; a required option says so."""
    found = re.search(r"\s*\[(?:default: (?P<default>.+?)|(?P<required>required))\]\s*$", text, flags=re.DOTALL)
    if found is None:
        return escape(text, quote=False), ""
    return escape(text[: found.start()], quote=False), f"`{found['default']}`" if found["default"] else "required"
