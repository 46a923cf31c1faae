"""How a run is continued: where it was, its model, and the state of its random numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opendetr.checkpoints.native import Checkpoint, load_folder
from opendetr.config import RunConfig
from opendetr.data.datasets import DatasetIndex
from opendetr.errors import UserError
from opendetr.progress import console
from opendetr.training.run_folder import load_training_state


@dataclass
class RunState:
    """Where a run is."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the unfinished epoch
    progress: float = 0.0  # up to here, 0..1, flips have been tried as far as they were due


def random_state() -> dict[str, Any]:
    """The state of torch's generators."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # a GPU that is not used shall not be started
    cuda = torch.cuda.get_rng_state_all() if in_use else []
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    return {"random": torch.get_rng_state(), "cuda_random": cuda, "mps_random": mps}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["random"])
    of_gpus = state["cuda_random"][: torch.cuda.device_count()]  # there may be fewer than before
    for number, of_gpu in enumerate(of_gpus):
        torch.cuda.set_rng_state(of_gpu, number)
    for of_mps in state.get("mps_random", ()) if torch.backends.mps.is_available() else ():
        torch.mps.set_rng_state(of_mps)


def resumed_model(config: RunConfig, run: Path, index: DatasetIndex) -> tuple[Checkpoint, dict[str, Any]]:
    """The model of a run's `last`, and its training state.

    Raises:
        UserError: the run cannot be continued with this config or these data.
    """
    state = load_training_state(run)
    checkpoint = load_folder(run / "last")
    then, now = checkpoint.config, config
    fixed = (
        "model", "loss", "data.image_size", "data.max_size", "train.batch_size", "train.accumulate", "train.seed",
        "train.init", "train.new_head", "train.freeze",
    )  # fmt: skip
    for name in fixed:
        if _value(then, name) != _value(now, name):
            raise UserError(f"--resume {run}: {name} cannot change within a run; start a new one without --resume")
    if config.train.init and not config.train.new_head:  # the model may know more categories than the data have
        checkpoint.label_map.require_same_categories(index.label_map, str(index.source))
    elif checkpoint.label_map != index.label_map:
        raise UserError(
            f"--resume {run}: the run learned the categories {checkpoint.label_map.describe()}, but {index.source} has "
            f"{index.label_map.describe()}; continue with the data it began with"
        )
    begun = state["state"]["epoch"]
    console.print(f"continuing {run} after {begun} whole epochs and {state['state']['step']} steps")
    return checkpoint, state


def _value(config: RunConfig, name: str) -> object:
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
