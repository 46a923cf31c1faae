"""Writes a model in the format of another library, or another library's model in ours."""

from pathlib import Path

from opendetr.checkpoints.card import model_card, push_to_hub
from opendetr.checkpoints.huggingface import differences_there, require_writable_model, save_huggingface
from opendetr.checkpoints.native import Checkpoint, save_checkpoint
from opendetr.checkpoints.official import save_official
from opendetr.checkpoints.public import without_places
from opendetr.checkpoints.remote_code import save_with_code
from opendetr.errors import UserError
from opendetr.files import write_text
from opendetr.options import ModelForm
from opendetr.progress import console


def write_model(
    checkpoint: Checkpoint, folder: Path, to: ModelForm, push: str | None, licence: str | None, *, private: bool
) -> Path:
    """Write a model folder, and upload it where that is asked for; arguments and errors as in `opendetr.convert`."""
    name = push or folder.name
    if to == "huggingface":
        _save_for_transformers(checkpoint, folder, name, licence)
    elif to == "official":
        try:
            save_official(checkpoint, folder)
        except UserError as reason:
            raise UserError(f"{reason}; --to huggingface and --to opendetr write any model") from None
        own = checkpoint.preprocessing
        if own.rounding != "official" or own.resampling != "bilinear" or own.pad_size is not None:
            padded = f", padded to {own.pad_size[0]}x{own.pad_size[1]}" if own.pad_size else ""
            console.print(
                f"the official code resizes by its own rule, not by the model's ('{own.rounding}', {own.resampling}"
                f"{padded}), which the file's argument `opendetr` keeps for opendetr"
            )
    elif push is None:
        save_checkpoint(folder, checkpoint)
    else:
        save_checkpoint(folder, without_places(checkpoint))
        write_text(folder / "README.md", model_card(checkpoint, name, licence, "opendetr"))
    console.print(f"The model is in {folder}")
    if push is not None:
        console.print(f"It is also at {push_to_hub(folder, push, private=private)}")
    return folder


def _save_for_transformers(checkpoint: Checkpoint, folder: Path, name: str, licence: str | None) -> None:
    """As the DETR of `transformers` where that computes the same, else with code of its own."""
    try:
        require_writable_model(checkpoint.model, checkpoint.config.model)
    except UserError as reason:
        console.print(f"{reason}: the folder gets code of its own, so load it with trust_remote_code=True")
        save_with_code(checkpoint, folder, model_card(checkpoint, name, licence, "code"))
    else:
        save_huggingface(checkpoint, folder, model_card(checkpoint, name, licence, "transformers"))
        for sentence in differences_there(checkpoint):
            console.print(sentence)
