"""How a run is continued: where it was, its model, and the state of its random numbers."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opendetr.checkpoints.native import Checkpoint, load_folder
from opendetr.config import RunConfig
from opendetr.data.index import DatasetIndex
from opendetr.data.picture_digests import changes_in_words, picture_digests
from opendetr.errors import UserError
from opendetr.progress import console
from opendetr.training.run_folder import load_training_state, resumable_folder
from opendetr.version import __version__
from opendetr.wording import counted

MOST = 10**12  # steps or seconds of a run: more is no run


@dataclass
class RunState:
    """Where a run is."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the unfinished epoch
    progress: float = 0.0  # 0..1, up to where the flip trials that were due are done
    flip_seconds: float = 0.0  # that they took
    flip_trial: list[Any] = field(default_factory=list)  # the values of the `FlipTrial` that said most
    evaluation_due: bool = False  # of these weights on val
    transform: str = ""  # the user's own, `module:name`
    tracker_id: str = ""  # of the run, at the tracker it is logged to


def seed_generators(seed: int) -> None:
    """Seed the generators of torch, Python and numpy in this process."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state() -> dict[str, Any]:
    """The state of the generators of torch, Python and numpy in this process."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # do not start an unused GPU
    cuda = [torch.cuda.get_rng_state()] if in_use else []
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "random": torch.get_rng_state(), "cuda_random": cuda, "mps_random": mps,
        "python_random": [version, list(numbers), gauss],
        "numpy_random": [kind, [int(key) for key in keys], *rest],
    }  # fmt: skip


def restore_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["random"])
    if (of_gpus := state["cuda_random"]) and torch.cuda.is_available():  # earlier versions kept the state of every GPU
        torch.cuda.set_rng_state(of_gpus[min(torch.cuda.current_device(), len(of_gpus) - 1)])
    for of_mps in state.get("mps_random", ()) if torch.backends.mps.is_available() else ():
        torch.mps.set_rng_state(of_mps)
    if "python_random" in state:
        version, numbers, gauss = state["python_random"]
        random.setstate((version, tuple(numbers), gauss))
    if "numpy_random" in state:
        kind, keys, *rest = state["numpy_random"]
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))


NUMBER = (int, float)
RANDOM_KEYS: dict[str, tuple[type, ...]] = {  # of `random_state`
    "random": (Tensor,), "cuda_random": (list,), "mps_random": (list,), "python_random": (list,),
    "numpy_random": (list,),
}  # fmt: skip
STATE_KEYS: dict[str, tuple[type, ...]] = {  # of training.pt, and the kinds of their values
    "state": (dict,), "steps_per_epoch": (int,), "spent": NUMBER, "began": NUMBER,
    "total_seconds": (*NUMBER, type(None)), "optimizer": (dict,), "weights": (dict, type(None)),
    "sizing": (dict,), "evaluating": NUMBER, "means": (dict,), "latest": (dict,), "log_lines": (int,),
    "other_processes": (list,), "pictures": (Tensor,), "pace": (dict,), **RANDOM_KEYS,
}  # fmt: skip
ADDED_LATER = {  # earlier versions lack them
    "sizing", "mps_random", "python_random", "numpy_random", "evaluating", "means", "latest", "log_lines",
    "other_processes", "pictures", "pace",
}  # fmt: skip
MEANS_KEYS: dict[str, tuple[type, ...]] = {"sums": (dict,), "pictures": (int,), "steps": (int,), "seconds": NUMBER}
RUN_KEYS: dict[str, tuple[type, ...]] = {
    "epoch": (int,), "step": (int,), "skipped": (int,), "progress": NUMBER, "flip_seconds": NUMBER,
    "flip_trial": (list,), "evaluation_due": (bool,), "tracker_id": (str,), "transform": (str,),
}  # fmt: skip
SIZING_KEYS: dict[str, tuple[type, ...]] = {
    "is_open": (bool,), "done": (list,), "expected": NUMBER, "pixels": (int,), "seconds": NUMBER,
}  # fmt: skip

PACE = ("step_seconds", "evaluation_seconds", "saving_seconds")  # of the plan: when it ends a run in minutes


def require_state(state: Any, path: Path) -> None:
    """Check the content of a `training.pt`, before anything is made of it.

    Raises:
        UserError: it is something else, a value is missing, unknown or of another kind, or a number is impossible.
    """
    _require_keys(state, STATE_KEYS, STATE_KEYS.keys() - ADDED_LATER, str(path))
    _require_keys(state["state"], RUN_KEYS, {"epoch", "step"}, f"{path}, 'state'")
    _require_keys(state.get("sizing", {}), SIZING_KEYS, set(), f"{path}, 'sizing'")
    _require_keys(state.get("pace", {}), dict.fromkeys(PACE, NUMBER), set(), f"{path}, 'pace'")
    for name in {"means", "latest"} & state.keys():
        _require_keys(state[name], MEANS_KEYS, MEANS_KEYS.keys(), f"{path}, '{name}'")
    for of_process in state.get("other_processes", ()):
        _require_keys(of_process, RANDOM_KEYS, RANDOM_KEYS.keys(), f"{path}, 'other_processes'")
    if not state["steps_per_epoch"]:
        raise UserError(f"{path}: 'steps_per_epoch' is 0: the state is damaged; start a new run without --resume")


def _require_keys(values: Any, kinds: Mapping[str, tuple[type, ...]], needed: Collection[str], source: str) -> None:
    wrong = ""
    if not isinstance(values, dict):
        wrong = f"it is of the type {type(values).__name__}"
    elif unknown := [name for name in values if name not in kinds]:
        wrong = f"it has the unknown key {unknown[0]!r:.50}"
    elif missing := sorted(set(needed) - set(values)):
        wrong = f"it lacks '{missing[0]}'"
    else:
        for name, value in values.items():
            if not isinstance(value, kinds[name]) or (isinstance(value, bool) and bool not in kinds[name]):
                wrong = f"its '{name}' is of the type {type(value).__name__}"
            elif isinstance(value, int | float) and not 0 <= value < MOST:  # written so that NaN is refused too
                wrong = f"its '{name}' is no number from 0 to {MOST:.0e}"
    if wrong:
        raise UserError(
            f"{source} is damaged, or of another version than opendetr {__version__}: {wrong}; start a new run without "
            f"--resume"
        )


def require_same_transform(run: Path, before: str, now: str) -> None:
    """Check that a run goes on with the user's own transform, or without one, as it began; UserError if not."""
    if now == before:
        return
    so = f"give --transform {before} again, by which its pictures are transformed"
    if not before:
        so = "leave out --transform, which it has not had so far"
    raise UserError(f"--resume {run}: a run goes on with the transform it began with: {so}")


def resumed_model(
    config: RunConfig, run: Path, index: DatasetIndex, *, accept_data: bool, transform: str
) -> tuple[Checkpoint, dict[str, Any]]:
    """The model of a run's `last`, and its training state.

    With `accept_data` pictures and boxes of the training split may have changed; then the unfinished epoch starts
    again, since places in it mean other pictures.

    Raises:
        UserError: config or data are not those of the run.
    """
    state = load_training_state(run)
    require_state(state, resumable_folder(run) / "training.pt")
    checkpoint = load_folder(run / "last")
    fixed = (
        "model", "loss", "data.image_size", "data.max_size", "train.batch_size", "train.accumulate", "train.seed",
        "train.init", "train.new_head", "train.freeze", "data.balanced",
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
    require_same_transform(run, done.get("transform", ""), transform)
    if "pictures" in state:  # earlier versions do not know them
        changes = changes_in_words(state["pictures"], picture_digests(index.under(checkpoint.label_map)))
        if changes and not accept_data:
            raise UserError(
                f"--resume {run}: {index.source} is not what the run learned from: {changes}; continue with the data "
                f"it began with, or give --accept-data to go on with these from the start of an epoch"
            )
        if changes:
            console.print(f"{index.source}: {changes}, which is accepted")
            done["step"] = 0
    done_so_far = f"{counted(done['epoch'], 'whole epoch')} and {counted(done['step'], 'step')}"
    console.print(f"continuing {run} after {done_so_far}")
    return checkpoint, state
