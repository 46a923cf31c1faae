"""A training from its arguments to its end: builds the config, chooses the run folder, trains the model."""

import json
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from opendetr.checkpoints.adapt import require_same_architecture
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import Checkpoint
from opendetr.config import RunConfig
from opendetr.data.augmentation import OwnTransform
from opendetr.data.data_check import write_accounts
from opendetr.data.source import DataSource
from opendetr.devices import deterministic_where, resolve_device
from opendetr.errors import UserError
from opendetr.progress import console
from opendetr.recipes.recipe import resolve_config
from opendetr.threads import settle_threads
from opendetr.training.ending import sum_up
from opendetr.training.processes import gone_peers_are_said, restarted_run
from opendetr.training.run_folder import is_unsaved, read_config
from opendetr.training.run_tracker import require_tracker
from opendetr.training.setup import prepare_training


def run_training(
    given: Mapping[str, Any],
    recipe: str | None,
    preset: str | None,
    image_size: int | None,
    overrides: Sequence[str],
    output: Path | None,
    resume: Path | None,
    started: float,
    threads: int | str | None,
    report: Path | None = None,
    transform: str | None = None,
    *,
    accept_data: bool = False,
) -> Path:
    """Train, and print what the run is and what comes next.

    `given` maps dotted config names to values that win over the recipe's; the others are those of `opendetr.api.train`.

    Raises:
        UserError: bad input of any kind; nothing has been written then.
    """
    trained = None
    if resume is None:
        config, trained = _new_config(given, recipe, preset, image_size, overrides)
        usual = resolve_config(recipe, preset, trained=None if trained is None else trained.config.model)
        of = " with ".join(filter(None, (recipe or ("fast" if preset is None else "paper"), preset)))
        begun_with = f"the recipe {of}"
    else:
        usual, begun_with = read_config(resume), "as before"
        config = usual.with_values(given, "the command line").with_overrides(overrides)
        if config.train.init and is_unsaved(resume):  # the run begins anew
            trained = load_checkpoint(config.train.init, without_head=config.train.new_head)
    if (again := restarted_run(output, resume, resolve_device(config.train.device))) is not None:
        if again != resume:
            config = usual = read_config(again)  # which has all that was given, and what was chosen since
        given, overrides, image_size, output, resume, begun_with = {}, (), None, None, again, "as before"
    if not config.data.root:
        raise UserError("--data is missing: give the folder of the data set to learn from")
    if config.train.deterministic and config.train.precision == "auto":  # what it measures differs from run to run
        config = config.with_values({"train.precision": "fp32"}, "--deterministic")
    own_transform = None if transform is None else OwnTransform(transform)
    require_tracker(config.train.log_to)
    if report is not None:
        data = config.data
        write_accounts(report, DataSource.of_config(data), (data.train_split, data.val_split))
    settled = settle_threads(threads, measure=config.train.minutes > 0, device=resolve_device(config.train.device).type)
    with gone_peers_are_said(), deterministic_where(config.train.deterministic):  # its speed is measured so too
        trainer = prepare_training(
            config, resume if output is None else output, started, resume, trained=trained,
            fresh_minutes=bool(given.get("train.minutes")), accept_data=accept_data, threads=settled,
            own_transform=own_transform,
        )  # fmt: skip
        run = trainer.folder.path
        asked = [*given, *(override.partition("=")[0].strip() for override in overrides)]
        asked += [] if image_size is None else ["data.image_size"]
        if resume is None and trainer.config != config:
            begun_with += ", what it leaves open chosen as said above"
        _say_config(f"The config of the run is {run / 'config.toml'}: {begun_with}", config, usual, asked)
        trainer.fit()
        sum_up(trainer)
    return run


def _say_config(sentence: str, config: RunConfig, usual: RunConfig, asked: Sequence[str]) -> None:
    """Print the sentence, and which of the values that were asked for are not the usual ones."""
    values = {name: attrgetter(name)(config) for name in dict.fromkeys(asked) if name != "data.root"}
    differ = {name: value for name, value in values.items() if value != attrgetter(name)(usual)}
    console.print(f"{sentence}, with these changes:" if differ else f"{sentence}, unchanged.")
    for name, value in differ.items():
        console.print(f"  {name} = {json.dumps(value)}", soft_wrap=True)


def _new_config(
    given: Mapping[str, Any], recipe: str | None, preset: str | None, image_size: int | None, overrides: Sequence[str]
) -> tuple[RunConfig, Checkpoint | None]:
    """The config of a new run, and the trained model that it starts from."""
    without_model = [override for override in overrides if not override.startswith("model.")]
    train = resolve_config(recipe, preset, given, image_size, without_model).train
    if not train.init:
        return resolve_config(recipe, preset, given, image_size, overrides), None
    if preset is not None or "model.backbone" in given or "model.backbone_weights" in given:
        raise UserError("--init brings its own architecture: leave out --preset, --backbone and its weights")
    trained = load_checkpoint(train.init, without_head=train.new_head)
    config = resolve_config(recipe, None, given, image_size, overrides, trained.config.model)
    require_same_architecture(trained.config.model, config.model)
    return config, trained
