"""How a run is continued: where it was, its model, and the state of its random numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from opendetr.checkpoints.native import Checkpoint, load_folder
from opendetr.config import RunConfig
from opendetr.data.index import DatasetIndex
from opendetr.errors import UserError
from opendetr.progress import console
from opendetr.training.run_folder import load_training_state
from opendetr.wording import counted


@dataclass
class RunState:
    """Where a run is."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the unfinished epoch
    progress: float = 0.0  # 0..1, up to where the flip trials that were due are done
    flip_seconds: float = 0.0  # that they took
    flip_trial: list[Any] = field(default_factory=list)  # the values of the `FlipTrial` that said most


def random_state() -> dict[str, Any]:
    """The state of torch's generators."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # do not start an unused GPU
    cuda = torch.cuda.get_rng_state_all() if in_use else []
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    return {"random": torch.get_rng_state(), "cuda_random": cuda, "mps_random": mps}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["random"])
    for number, of_gpu in enumerate(state["cuda_random"][: torch.cuda.device_count()]):  # there may be fewer now
        torch.cuda.set_rng_state(of_gpu, number)
    for of_mps in state.get("mps_random", ()) if torch.backends.mps.is_available() else ():
        torch.mps.set_rng_state(of_mps)


def resumed_model(config: RunConfig, run: Path, index: DatasetIndex) -> tuple[Checkpoint, dict[str, Any]]:
    """The model of a run's `last`, and its training state; UserError if config or data are not those of the run."""
    state = load_training_state(run)
    checkpoint = load_folder(run / "last")
    fixed = (
        "model", "loss", "data.image_size", "data.max_size", "train.batch_size", "train.accumulate", "train.seed",
        "train.init", "train.new_head", "train.freeze",
    )  # fmt: skip
    for name in fixed:
        if attrgetter(name)(checkpoint.config) != attrgetter(name)(config):
            raise UserError(f"--resume {run}: {name} cannot change within a run; start a new one without --resume")
    if config.train.init and not config.train.new_head:  # the model may know more categories than the data have
        checkpoint.label_map.require_same_categories(index.label_map, str(index.source))
    elif checkpoint.label_map != index.label_map:
        raise UserError(
            f"--resume {run}: the run has the categories {checkpoint.label_map.describe()}, but {index.source} has "
            f"{index.label_map.describe()}; continue with the data it began with"
        )
    done = state["state"]
    done_so_far = f"{counted(done['epoch'], 'whole epoch')} and {counted(done['step'], 'step')}"
    console.print(f"continuing {run} after {done_so_far}")
    return checkpoint, state
