"""Loads any model by name: a run or model folder, an official `.pth` or released name, a Hugging Face folder or id."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from opendetr.checkpoints import native
from opendetr.checkpoints.download import RELEASES, fetch_release
from opendetr.checkpoints.huggingface import load_huggingface
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import OFFICIAL_FILE, load_official
from opendetr.checkpoints.remote_code import MODEL_TYPE, load_with_code
from opendetr.errors import UserError, first_line
from opendetr.files import read_json
from opendetr.model.detr import DETR
from opendetr.options import EXPORT_SUFFIXES
from opendetr.progress import console

NO_WEIGHTS = (
    "an exported file is a finished graph, which predict, val and info take; here give the model it was made from"
)
HUB = "hf://"
HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(?<!\.pth)(?<!\.pt)(?<!\.bin)(?<!\.safetensors)(@[\w./-]+)?")
HUB_FILES = [  # of the forms of `transformers` and of ours; no code, and no pickles
    "config.json", "preprocessor_config.json", "model.safetensors",
    "config.toml", "labels.json", "preprocessing.json", "metrics.json",
]  # fmt: skip


def is_exported(model: str | Path) -> bool:
    """Whether a model's name is that of an exported file."""
    return Path(model).suffix in EXPORT_SUFFIXES.values()


def load_checkpoint(
    name: str | Path,
    *,
    dc5: bool | None = None,
    state: Mapping[str, Tensor] | None = None,
    image_size: int | None = None,
) -> Checkpoint:
    """Read a model in any format, and print what was read from where. A path that exists comes before a name.

    Args:
        name: a run folder (its `best`, else its `last`) or model folder; a `.pth` of the official code; `detr-r50`,
            `detr-r101`, `detr-r50-dc5` or `detr-r101-dc5`, the paper's released checkpoints; a folder written by
            `save_pretrained` or `convert`; `hf://ORGANISATION/NAME`, whose files tell which kind it is, or the same
            without `hf://` where no such folder exists; `@REVISION` behind it is a branch, tag or commit.
        dc5: for `convert` only: whether an official `.pth` has a dilated backbone, as in `load_official`.
        state: of a Hugging Face folder, the weights to use instead of those in its files: a `state_dict()` of
            `DetrForObjectDetection`, of any release.
        image_size: another shorter side of pictures, as `Preprocessing.resized` takes it; None keeps the model's own.

    Returns:
        The model, in eval mode, with its config, labels and preprocessing.

    Raises:
        UserError: no such model, it cannot be read, or it is an exported file.
    """
    found = _read(name, dc5, state)
    if image_size is None:
        return found
    resized = found.preprocessing.resized(image_size)
    console.print(f"pictures: shorter side {resized.image_size}, longer at most {resized.max_size}, as asked for")
    return replace(found, preprocessing=resized)


def _read(name: str | Path, dc5: bool | None, state: Mapping[str, Tensor] | None) -> Checkpoint:
    text, path = str(name), Path(name)
    if state is not None and not (path / "config.json").is_file():
        raise UserError(f"{path} has no config.json: a state dict of transformers needs the folder of its config")
    if is_exported(path) and not path.is_dir():
        raise UserError(f"{path}{'' if path.is_file() else ' does not exist'}: {NO_WEIGHTS}")
    if path.is_file() and path.suffix == ".safetensors":
        raise UserError(f"{path} holds weights only; give the folder it lies in, {path.parent}, with its config")
    if text.startswith(HUB):
        found = _of_hub(text.removeprefix(HUB), "on the Hugging Face hub it cannot be had")
    elif path.is_file() or (text in RELEASES and not path.exists()):
        found = load_official(path if path.is_file() else fetch_release(text), dc5=dc5)
    elif (path / OFFICIAL_FILE).is_file():
        found = load_official(path / OFFICIAL_FILE, dc5=dc5)
    elif (path / "config.json").is_file():
        found = _of_transformers(path, state)
    elif not path.exists() and HUB_NAME.fullmatch(text):
        found = _of_hub(text, "it is no folder here, and as a name on the Hugging Face hub it cannot be had")
    elif not path.exists() and (similar := difflib.get_close_matches(path.stem, RELEASES, 1)):
        raise UserError(f"{path} does not exist; did you mean '{similar[0]}', one of the paper's released checkpoints?")
    else:
        return _without_dc5(native.load_folder(path), dc5)
    for remark in found.origin.read:
        console.print(remark)
    found = replace(found, origin=replace(found.origin, source=text))
    return found if found.origin.format == "official" else _without_dc5(found, dc5)


def load_model(name: str | Path, *, state: Mapping[str, Tensor] | None = None) -> DETR:
    """The bare model of any name that `load_checkpoint` takes, in eval mode on the CPU; arguments as there."""
    return load_checkpoint(name, state=state).model


def _without_dc5(found: Checkpoint, dc5: bool | None) -> Checkpoint:
    if dc5 is not None:
        raise UserError(f"{found.source} says itself whether it is a DC5 model: leave out --dc5 and --no-dc5")
    return found


def _of_hub(name: str, problem: str) -> Checkpoint:
    """A model of the Hugging Face hub, from the local cache or downloaded: a folder of ours or of `transformers`."""
    from huggingface_hub import snapshot_download

    repository, at, revision = name.partition("@")
    if at and not revision:
        raise UserError(f"{HUB}{name}: the revision is missing; expected a branch, tag or commit after @")

    def fetched(patterns: list[str]) -> Path:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))

    try:
        folder = fetched(HUB_FILES)
        if not (folder / "model.safetensors").is_file():
            folder = fetched([*HUB_FILES, "pytorch_model.bin"])
    except Exception as error:  # the hub's library raises many kinds of errors
        raise UserError(
            f"'{name}': {problem} ({first_line(error)}); check the spelling, or connect to the network once"
        ) from None
    return native.load_folder(folder) if (folder / "config.toml").is_file() else _of_transformers(folder)


def _of_transformers(folder: Path, state: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """A folder of `save_pretrained`, or one that brings its own code."""
    config = read_json(folder / "config.json", "the config of a Hugging Face model")
    brings_code = isinstance(config, dict) and config.get("model_type") == MODEL_TYPE
    return load_with_code(folder, state) if brings_code else load_huggingface(folder, state)
