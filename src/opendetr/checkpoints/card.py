"""The model card: facts of a model for others, from the run that made it."""

from pathlib import Path
from typing import Literal

from huggingface_hub import EvalResult, ModelCardData

from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.checkpoints.public import without_places
from opendetr.errors import UserError, first_line

PAPER = "https://arxiv.org/abs/2005.12872"
Loader = Literal["transformers", "code", "opendetr"]  # who reads the folder; code: transformers, with the folder's code
USE: dict[Loader, list[str]] = {
    "transformers": [
        "```python", "from transformers import pipeline", "", 'detect = pipeline("object-detection", model="{name}")',
        'detect("picture.jpg", threshold=0.5)', "```",
    ],
    "code": [
        "```python", "from transformers import pipeline", "",
        'detect = pipeline("object-detection", model="{name}", trust_remote_code=True)',
        'detect("picture.jpg", threshold=0.5)', "```", "",
        "`trust_remote_code=True` runs `modeling_opendetr.py`, which opendetr wrote from its own source. It needs "
        "torch, torchvision, timm and transformers 5. It is for detection: there is no loss, and attention is not "
        "returned. Weights stay in float32; `torch.autocast` is for half precision. Pictures of different sizes in one "
        "batch are padded, which changes scores a little; one at a time they are those of opendetr, which reads this "
        "folder too: `opendetr predict {address} photos/`.",
    ],
    "opendetr": [
        "```bash", "opendetr predict {address} photos/ --output found", "```", "",
        "```python", "from opendetr import Detector", "", 'Detector.load("{address}").predict("picture.jpg")', "```",
    ],
}  # fmt: skip


def model_card(checkpoint: Checkpoint, place: str, licence: str | None, loader: Loader) -> str:
    """A `README.md` in the hub's form: use, classes, training data, recipe, AP and licence, and what is not known.

    `place` is ORGANISATION/NAME on the hub, or the name of the folder; `licence` is an identifier of the hub, such as
    `apache-2.0`. Places on this machine are not named.
    """
    checkpoint, name = without_places(checkpoint), place.split("/")[-1]
    address = f"hf://{place}" if "/" in place else place
    origin, config = checkpoint.origin, checkpoint.config
    found, data_name = origin.val, Path(origin.data).name or "not recorded"
    results = [] if not found else [
        EvalResult("object-detection", data_name, data_name, kind, found[kind], dataset_split=config.data.val_split)
        for kind in ("AP", "AP50")
        if found[kind] >= 0  # -1 is undefined: nothing to find
    ]  # fmt: skip
    head = ModelCardData(
        model_name=name, license=licence, pipeline_tag="object-detection",
        library_name="opendetr" if loader == "opendetr" else "transformers",
        tags=["object-detection", "detr", "opendetr"] + ["custom_code"] * (loader == "code"),
        eval_results=results or None, ignore_metadata_errors=False,
    )  # fmt: skip
    labels = checkpoint.label_map
    classes = [name for name, category_id in zip(labels.names, labels.category_ids) if category_id is not None]
    lines = [
        "---", head.to_yaml().strip(), "---", "", f"# {name}", "",
        f"A detection transformer ([DETR]({PAPER})): {config.model.backbone}, {config.model.num_encoder_layers} + "
        f"{config.model.num_decoder_layers} layers, {config.model.num_queries} queries. Written by opendetr.", "",
        *(line.replace("{name}", place).replace("{address}", address) for line in USE[loader]), "",
        f"- Classes ({len(classes)}): {', '.join(classes[:100])}",
        *_thresholds(checkpoint),
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
        lines += ["", "<details><summary>The whole config</summary>", "", "```toml", config.to_toml().strip(),
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
        return [f"- Training: not by opendetr; read from {origin.source or 'an unknown source'}"]
    return [
        f"- Training data: {data_name}, split {origin.train_split or split}",
        f"- Training: {last['epoch']:.4g} epochs, {last['step']} steps, {last['seconds'] / 60:.3g} minutes; began with "
        f"{origin.backbone_weights or 'unknown weights'}",
    ]


def _thresholds(checkpoint: Checkpoint) -> list[str]:
    labels, fitted = checkpoint.label_map, checkpoint.origin.thresholds
    if not fitted:
        return []
    said = [f"{name} {score:.2f}" for name, score, known in zip(labels.names, fitted, labels.category_ids)
            if known is not None]  # fmt: skip
    return [f"- Thresholds with the best F1 on the split {checkpoint.config.data.val_split}, which opendetr uses where "
            f"none is given: {', '.join(said[:100])}"]  # fmt: skip


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 4) for value in values]
