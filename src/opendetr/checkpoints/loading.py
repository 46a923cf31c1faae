"""Loads any model by name: a run or model folder, a file of weights, a released name, a Hugging Face folder or id."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from opendetr.checkpoints import native
from opendetr.checkpoints.download import RELEASES, fetch_release
from opendetr.checkpoints.huggingface import load_huggingface
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import OFFICIAL_FILE, load_official
from opendetr.checkpoints.remote_code import MODEL_TYPE, load_with_code
from opendetr.checkpoints.state_dicts import find_weights
from opendetr.checkpoints.weight_files import PICKLED, WEIGHTS, read_weight_file
from opendetr.errors import UserError, first_line
from opendetr.files import read_json
from opendetr.model.detr import DETR
from opendetr.options import EXPORT_SUFFIXES
from opendetr.progress import console

NO_WEIGHTS = (
    "an exported file is a finished graph, which predict, val and info take; here give the model it was made from"
)
OF_FOLDERS = ("model.safetensors", "training.pt")  # files of a model folder, which say less than it
HUB = "hf://"
HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(?<!\.pth)(?<!\.pt)(?<!\.bin)(?<!\.ckpt)(?<!\.safetensors)(@[\w./-]+)?")
HUB_FILES = [  # of the forms of `transformers` and of ours; no code, and no pickles
    "config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json",
    "model-*-of-*.safetensors", "config.toml", "labels.json", "preprocessing.json", "metrics.json",
]  # fmt: skip
HUB_PICKLES = [  # of older ones
    "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin",
]  # fmt: skip
PIECE = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
ADAPTER = re.compile(r"adapter_(config\.json|model\.(safetensors|bin))")
STEP = re.compile(r"checkpoint-(\d+)")  # a folder of transformers' Trainer


def is_exported(model: str | Path) -> bool:
    """Whether a model's name is that of an exported file."""
    return Path(model).suffix in EXPORT_SUFFIXES.values()


def load_checkpoint(
    name: str | Path,
    *,
    dc5: bool | None = None,
    heads: int | None = None,
    state: Mapping[str, Any] | None = None,
    without_head: bool = False,
    image_size: int | None = None,
) -> Checkpoint:
    """Read a model in any format, and print what was read from where. A path that exists comes before a name.

    Args:
        name: a run folder (its `best`, else its `last`) or model folder; a file of weights, such as a `.pth` of the
            official code or a `.ckpt` of Lightning, with the config of the folder it lies in, if any; `detr-r50`,
            `detr-r101`, `detr-r50-dc5` or `detr-r101-dc5`, the paper's released checkpoints; a folder written by
            `save_pretrained` or `convert`; `hf://ORGANISATION/NAME`, whose files tell which kind it is, or the same
            without `hf://` where no such folder exists; `@REVISION` behind it is a branch, tag or commit.
        dc5: for `convert` only: whether a file of weights has a dilated backbone, as in `load_official`.
        heads: for `convert` only: its number of attention heads, as there.
        state: of a Hugging Face folder, the weights to use instead of those in its files: a `state_dict()` of
            `DetrForObjectDetection`, of any release, or what a trainer made of it.
        without_head: for training with new class heads only: whether the class head may be missing.
        image_size: another shorter side of pictures, as `Preprocessing.resized` takes it; None keeps the model's own.

    Returns:
        The model, in eval mode, with its config, labels and preprocessing.

    Raises:
        UserError: no such model, it cannot be read, or it is an exported file.
    """
    found = _read(name, dc5, heads, state, without_head=without_head)
    if image_size is None:
        return found
    resized = found.preprocessing.resized(image_size)
    console.print(f"pictures: shorter side {resized.image_size}, longer at most {resized.max_size}, as asked for")
    return replace(found, preprocessing=resized)


def _read(
    name: str | Path, dc5: bool | None, heads: int | None, state: Mapping[str, Any] | None, *, without_head: bool
) -> Checkpoint:
    text, path = str(name), Path(name)
    if state is not None and not (path / "config.json").is_file():
        raise UserError(f"{path} has no config.json: a state dict of transformers needs the folder of its config")
    if is_exported(path) and not path.is_dir():
        raise UserError(f"{path}{'' if path.is_file() else ' does not exist'}: {NO_WEIGHTS}")
    _require_whole(path)
    if state is None:
        _refuse_output_of_trainer(path)
    if path.name in OF_FOLDERS and (path.parent / "config.toml").is_file():
        raise UserError(f"{path} holds weights only; give the folder it lies in, {path.parent}, with its config")
    if path.is_file() and (beside := _of_config_beside(path)) is not None:
        path, state = path.parent, beside
    file = fetch_release(text) if text in RELEASES and not path.exists() else path
    file = path / OFFICIAL_FILE if (path / OFFICIAL_FILE).is_file() else file
    if text.startswith(HUB):
        found = _of_hub(text.removeprefix(HUB), "on the Hugging Face hub it cannot be had")
    elif file.is_file():
        found = load_official(file, dc5=dc5, heads=heads, without_head=without_head)
        dc5 = heads = None
    elif (path / "config.json").is_file():
        found = _of_transformers(path, state, without_head=without_head)
    elif not path.exists() and HUB_NAME.fullmatch(text):
        found = _of_hub(text, "it is no folder here, and as a name on the Hugging Face hub it cannot be had")
    elif not path.exists() and (similar := difflib.get_close_matches(path.stem, RELEASES, 1)):
        raise UserError(f"{path} does not exist; did you mean '{similar[0]}', one of the paper's released checkpoints?")
    else:
        return _said_by_itself(native.load_folder(path), dc5, heads)
    for remark in found.origin.read:
        console.print(remark)
    return _said_by_itself(replace(found, origin=replace(found.origin, source=text)), dc5, heads)


def _require_whole(path: Path) -> None:
    """Check that a path is no part of a model; UserError names the whole."""
    if path.is_file() and PIECE.fullmatch(path.name):
        raise UserError(f"{path} is one piece of a model's weights; give the folder of all pieces, {path.parent}")
    if path.is_file() and (path.name == "config.json" or path.name.endswith(".index.json")):
        raise UserError(f"{path} holds no weights; give its folder, {path.parent}")
    beside = (path / "adapter_config.json").is_file() and not (path / "config.json").is_file()
    if beside or (path.is_file() and ADAPTER.fullmatch(path.name)):
        raise UserError(
            f"{path} is an adapter of PEFT (LoRA), no model without the one it changes; merge them by "
            f"merge_and_unload(), and give what save_pretrained then writes"
        )


def _refuse_output_of_trainer(path: Path) -> None:
    """Check that a folder does not only hold folders with checkpoints; UserError names the newest."""
    whole = (WEIGHTS, PICKLED, f"{WEIGHTS}.index.json", f"{PICKLED}.index.json", OFFICIAL_FILE, "best", "last")
    if not path.is_dir() or any((path / name).exists() for name in whole):
        return
    steps = {int(step[1]): inner for inner in path.iterdir() if (step := STEP.fullmatch(inner.name))}
    if steps:
        raise UserError(
            f"{path} holds no model itself, but checkpoints of a training by transformers; give one of them, the "
            f"newest is {steps[max(steps)]}"
        )


def _said_by_itself(found: Checkpoint, dc5: bool | None, heads: int | None) -> Checkpoint:
    """Check that nothing is said of a model that its own config says."""
    if dc5 is not None:
        raise UserError(f"{found.source} says itself whether it is a DC5 model: leave out --dc5 and --no-dc5")
    if heads is not None:
        raise UserError(f"{found.source} says itself how many attention heads it has: leave out --heads")
    return found


def load_model(name: str | Path, *, state: Mapping[str, Any] | None = None) -> DETR:
    """The bare model of any name that `load_checkpoint` takes, in eval mode on the CPU; arguments as there."""
    return load_checkpoint(name, state=state).model


def _of_config_beside(path: Path) -> Any:
    """The content of a file of weights beside the `config.json` they belong to, which says more; None of any other."""
    if not (path.parent / "config.json").is_file():
        return None
    content = read_weight_file(path, "weights of a DETR")
    return None if find_weights(content, str(path)).library == "official" else content


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
        if not (folder / WEIGHTS).is_file() and not (folder / f"{WEIGHTS}.index.json").is_file():
            folder = fetched([*HUB_FILES, *HUB_PICKLES])
    except Exception as error:  # the hub's library raises many kinds of errors
        raise UserError(
            f"'{name}': {problem} ({first_line(error)}); check the spelling, or connect to the network once"
        ) from None
    return native.load_folder(folder) if (folder / "config.toml").is_file() else _of_transformers(folder)


def _of_transformers(folder: Path, state: Mapping[str, Any] | None = None, *, without_head: bool = False) -> Checkpoint:
    """A folder of `save_pretrained`, or one that brings its own code."""
    config = read_json(folder / "config.json", "the config of a Hugging Face model")
    brings_code = isinstance(config, dict) and config.get("model_type") == MODEL_TYPE
    if brings_code:
        return load_with_code(folder, state)
    return load_huggingface(folder, state, without_head=without_head)
