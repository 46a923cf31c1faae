"""Writes a model in the format of another library, or another library's model in ours."""

from pathlib import Path

from opendetr.checkpoints.card import model_card, push_to_hub
from opendetr.checkpoints.huggingface import save_huggingface
from opendetr.checkpoints.native import Checkpoint, save_checkpoint
from opendetr.checkpoints.official import save_official
from opendetr.options import ModelForm
from opendetr.progress import console


def write_model(
    checkpoint: Checkpoint, folder: Path, to: ModelForm, push: str | None, licence: str | None, *, private: bool
) -> Path:
    """Write a model folder, and upload it where that is asked for; arguments and errors as in `opendetr.convert`."""
    if to == "huggingface":
        save_huggingface(checkpoint, folder, model_card(checkpoint, (push or folder.name).split("/")[-1], licence))
    elif to == "official":
        save_official(checkpoint, folder)
    else:
        save_checkpoint(folder, checkpoint)
    console.print(f"The model is in {folder}")
    if push is not None:
        console.print(f"It is also at {push_to_hub(folder, push, private=private)}")
    return folder
