"""Equations become MathML while the site is built: browsers show it without a script and without a network."""

import logging
import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.equations")  # a warning ends a strict build

# What pymdownx.arithmatex leaves of $...$ and $$...$$.
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, /, **_: Any) -> str:
    """The page with its equations in MathML."""
    return EQUATION.sub(_in_mathml, html)


def _in_mathml(equation: re.Match[str]) -> str:
    is_block = equation[1] == "div"
    mathml = convert(unescape(equation[2]), display="block" if is_block else "inline")
    if "\\" in mathml:
        log.warning("latex2mathml does not know a command of this equation: %s", equation[2])
    return f'<div class="equation">{mathml}</div>' if is_block else mathml
