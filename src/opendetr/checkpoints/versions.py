"""Model folders of newer versions: what they say that is not known here is left out where only training needs it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from opendetr.config import RunConfig
from opendetr.errors import UserError
from opendetr.progress import warn
from opendetr.version import __version__

OF_TRAINING = ("data", "loss", "train")  # sections of a config that do not change what a trained model computes


def is_newer(version: Any) -> bool:
    """Whether a version is later than this one; what is no version is not."""

    def numbers(text: str) -> list[int]:
        found = re.match(r"\d{1,9}(?:\.\d{1,9})*", text)
        return [int(part) for part in found[0].split(".")] if found else []

    return isinstance(version, str) and numbers(version) > numbers(__version__)


@contextmanager
def newer_is_said(version: Any, advice: str) -> Iterator[None]:
    """Add both versions, and the advice, to the sentence of a UserError about a folder of a newer version."""
    try:
        yield
    except UserError as error:
        if not is_newer(version):
            raise
        raise UserError(f"{error}; it was written by opendetr {version}, and this is {__version__}: {advice}") from None


def stored_config(sections: Mapping[str, Any], version: Any, source: str) -> RunConfig:
    """The config in a model folder that a version of opendetr wrote; what a newer one added for training is said.

    Raises:
        UserError: an unknown key, or one of a newer version that has not to do with training alone.
    """
    known = {item.name: {key.name for key in fields(item.default_factory)} for item in fields(RunConfig)}  # type: ignore[arg-type]
    left_out = [
        f"{section}.{key}" for section in OF_TRAINING for key in _keys(sections, section)
        if is_newer(version) and key not in known[section]
    ]  # fmt: skip
    kept = {
        section: {key: value for key, value in keys.items() if f"{section}.{key}" not in left_out}
        if isinstance(keys, Mapping) else keys
        for section, keys in sections.items()
    }  # fmt: skip
    with newer_is_said(version, "read it with that version"):
        config = RunConfig.from_dict(kept, source)
    if left_out:
        warn(
            f"{source} was written by opendetr {version}, and this is {__version__}: {', '.join(left_out)} are unknown "
            f"here and left out, for they have to do with training and its data alone"
        )
    return config


def _keys(sections: Mapping[str, Any], section: str) -> list[str]:
    keys = sections.get(section)
    return list(keys) if isinstance(keys, Mapping) else []
