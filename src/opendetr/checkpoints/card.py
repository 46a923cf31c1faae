"""The model card: facts of a model for others, from the run that made it."""

import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.config import RunConfig
from opendetr.errors import UserError, first_line

WEIGHTS = (".bin", ".pt", ".pth", ".safetensors")
PAPER = "https://arxiv.org/abs/2005.12872"


def model_card(checkpoint: Checkpoint, name: str, licence: str | None = None) -> str:
    """A `README.md` in the hub's form: classes, training data, recipe, AP and licence, and what is not known.

    `licence` is an identifier of the hub, such as `apache-2.0`.
    """
    origin, config = checkpoint.origin, checkpoint.config
    found, data_name = origin.val, Path(origin.data).name or "not recorded"
    results = [] if not found else [
        EvalResult("object-detection", data_name, data_name, kind, found[kind], dataset_split=config.data.val_split)
        for kind in ("AP", "AP50")
        if found[kind] >= 0  # -1 is undefined: nothing to find
    ]  # fmt: skip
    head = ModelCardData(
        model_name=name, license=licence, library_name="transformers", pipeline_tag="object-detection",
        tags=["object-detection", "detr", "opendetr"], eval_results=results or None, ignore_metadata_errors=False,
    )  # fmt: skip
    labels = checkpoint.label_map
    classes = [name for name, category_id in zip(labels.names, labels.category_ids) if category_id is not None]
    lines = [
        "---", head.to_yaml().strip(), "---", "", f"# {name}", "",
        f"A detection transformer ([DETR]({PAPER})): {config.model.backbone}, {config.model.num_encoder_layers} + "
        f"{config.model.num_decoder_layers} layers, {config.model.num_queries} queries. Written by opendetr.", "",
        f"- Classes ({len(classes)}): {', '.join(classes[:100])}",
        *_training(origin, config.data.train_split, data_name),
        f"- Licence: {licence or 'not stated by the author of this file; that of the training data may apply too'}",
        f"- Preprocessing: shorter side {checkpoint.preprocessing.image_size}, longer at most "
        f"{checkpoint.preprocessing.max_size}, mean {_rounded(checkpoint.preprocessing.mean)}, standard deviation "
        f"{_rounded(checkpoint.preprocessing.std)}",
    ]  # fmt: skip
    if found:
        lines += ["", f"| measured on {data_name}, split {config.data.val_split} | |", "|---|---|"]
        lines += [
            f"| {kind} | {found[kind]:.3f} |" if found[kind] >= 0 else f"| {kind} | undefined |"
            for kind in ("AP", "AP50", "AP75")
        ]
    if origin.training is not None:
        lines += ["", "<details><summary>The whole config</summary>", "", "```toml", _public(config).to_toml().strip(),
                  "```", "", "</details>"]  # fmt: skip
    return "\n".join(lines) + "\n"


def push_to_hub(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder as a model of the Hugging Face hub, created if needed; its address. UserError if that fails."""
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        created = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(folder_path=folder, repo_id=repository, commit_message="Written by opendetr")
    except Exception as error:  # the hub's library raises many kinds of errors
        raise UserError(
            f"the model is in {folder}, but '{repository}' on the Hugging Face hub does not take it "
            f"({first_line(error)}); sign in with `hf auth login` and check the name, ORGANISATION/NAME"
        ) from None
    return str(created)


def _training(origin: Origin, split: str, data_name: str) -> list[str]:
    last = origin.training
    if last is None:
        return [f"- Training: not by opendetr; read from {_name(origin.source or 'an unknown source')}"]
    return [
        f"- Training data: {data_name}, split {origin.train_split or split}",
        f"- Training: {last['epoch']:.4g} epochs, {last['step']} steps, {last['seconds'] / 60:.3g} minutes; began with "
        f"{_name(origin.backbone_weights or 'unknown weights')}",
    ]


def _public(config: RunConfig) -> RunConfig:
    """The config without the folders of this machine."""
    values = {"data.root": _name(config.data.root), "train.init": _name(config.train.init)}
    return config.with_values({**values, "model.backbone_weights": _name(config.model.backbone_weights)}, "the card")


def _name(text: str) -> str:
    """The last part of a path on this machine; other texts as they are, without a path in brackets."""
    text = re.sub(r" \((?:[/~.]|\w:)[^)]*\)$", "", text)  # which earlier releases wrote
    path = Path(text)
    local = path.exists() or path.is_absolute() or text.startswith((".", "~")) or path.suffix in WEIGHTS
    return path.name if local else text


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 4) for value in values]
