"""The data set that a run belongs to, and its weights in words."""

from pathlib import Path

from opendetr.checkpoints.native import Checkpoint, model_folder
from opendetr.data.door import has_split, split_names
from opendetr.data.source import DataSource
from opendetr.errors import UserError
from opendetr.recipes.recipe import load_recipe
from opendetr.wording import listed


def own_data(model: str | Path, split: str | None = None) -> tuple[DataSource, str]:
    """The data set that a run was trained on, and the split that chose its best weights, where none is given.

    Raises:
        UserError: the model is no run; its data set is not known or not there any more; or there was no such split.
    """
    try:
        config_file = model_folder(Path(model)) / "config.toml"
    except UserError:
        raise UserError(f"{model} is no run folder here, so it names no data set: give one by --data DIR") from None
    data = load_recipe(str(config_file)).data
    if not data.root:
        raise UserError(f"{config_file} does not name the data set of the model: give one by --data DIR")
    source = DataSource.of_config(data)
    if (gone := source.missing()) is not None:
        raise UserError(f"{config_file} names the data set {gone}, which is not there: give its folder by --data DIR")
    if split is None and not has_split(source, data.val_split):
        raise UserError(f"{model} was trained without a val split: give --split {listed(split_names(source))}")
    return source, split or data.val_split


def weights_in_words(checkpoint: Checkpoint) -> str:
    """`the best weights of runs/mine`; of a model that is no part of a run, the name that it was loaded by."""
    folder = checkpoint.source
    kind = folder.name.removeprefix(".").removesuffix(".old")  # its name while it is being replaced
    return f"the {kind} weights of {folder.parent}" if kind in ("best", "last") else str(folder)
