"""What a training says at its end: how good the model is, where it is, and what to do next."""

import math
from typing import Any

from opendetr.data.door import has_split
from opendetr.data.source import DataSource
from opendetr.progress import console, print_command, warn
from opendetr.training.choices import FEWEST_PASSES
from opendetr.training.loop import Trainer
from opendetr.training.processes import of_all_processes
from opendetr.training.run_folder import summary_of
from opendetr.wording import counted

LEARNED = 0.05  # AP50 on val from which on a model has learned something
MOST_LISTED = 20  # pictures that could not be used
KNOWS_BOXES = 0.5  # IoU of matched boxes, likewise, where there is no val


def sum_up(trainer: Trainer) -> None:
    """Print what the run has come to; the last lines say so where it has learned nothing, and what would help."""
    left_out = list(dict.fromkeys(of_all_processes(trainer.accelerator, list(trainer.pictures.left_out))))
    if not trainer.accelerator.is_main_process:
        return
    run, data = trainer.folder.path, trainer.config.data
    found, names = summary_of(run), ("best", "last", "report.html", "config.toml", "metrics.jsonl")
    if (val := found["val"]) is not None:
        precision = trainer.config.train.precision  # val measures in fp32, which may differ in the third decimal
        computed = "" if precision == "fp32" else f" (computed in {precision})"
        within = "" if not (bounds := val.get("AP_interval")) else f" (95 %: {bounds[0]:.3f} to {bounds[1]:.3f})"
        said = f"AP {val['AP']:.3f}{within}, AP50 {val['AP50']:.3f} on {data.val_split}{computed}"
        at, end = (round(found[name], 1) for name in ("val_epoch", "epoch"))
        console.print(f"\n{said}, at epoch {at:g} of {end:g}.", style="bold")
    else:
        console.print(f"\nThe model was not measured: {_why_not_measured(trainer)}.")
    there = [name for name in names if (run / name).exists()]
    console.print(f"The run is in {run}: {', '.join(there)}. Next:")
    source = DataSource.of_config(data)
    split = next((name for name in ("test", data.val_split) if has_split(source, name)), "SPLIT")
    options = [] if source.val_share else source.as_options()  # the run alone knows which pictures are val
    print_command("opendetr", "val", run, *options, "--split", split)
    print_command("opendetr", "predict", run, "PICTURES", "--output", "found")
    if left_out:
        shown = "\n  ".join(left_out[:MOST_LISTED])
        more = f"\n  and {len(left_out) - MOST_LISTED} more" if len(left_out) > MOST_LISTED else ""
        warn(f"{counted(len(left_out), 'picture')} could not be used and had no part in training:\n  {shown}{more}")
    if (found_nothing := learned_nothing(trainer, val)) is not None:
        warn(*found_nothing)


def _why_not_measured(trainer: Trainer) -> str:
    """Why no evaluation was finished."""
    split = trainer.config.data.val_split
    if trainer.val_index is None:
        return "no val split was asked for" if split == "none" else f"'{split}' cannot choose the best weights"
    if trainer.plan.interrupted():
        return f"the run was stopped before the first evaluation on {split}"
    return f"there was no time for an evaluation on {split}"


def learned_nothing(trainer: Trainer, val: dict[str, Any] | None) -> tuple[str, list[object]] | None:
    """A sentence on a run whose model finds nothing, with a command that helps; None where it has learned something.

    `val` is what was measured of its weights, if anything was.
    """
    run, config, history = trainer.folder.path, trainer.config, trainer.folder.history
    last = next((line for line in reversed(history) if line.get("matched_iou") is not None), None)
    if val is not None:
        has_learned, shown = val["AP50"] >= LEARNED or val["AP"] < 0, f"AP50 {val['AP50']:.3f}"  # below 0: undefined
    else:
        iou = 0.0 if last is None else last["matched_iou"]
        has_learned, shown = iou >= KNOWS_BOXES, f"its boxes overlap the true ones by {iou:.2f} (IoU) in training"
    if has_learned:
        return None
    passes = trainer.state.epoch + trainer.state.step / trainer.pictures.steps_per_epoch
    said = f"the model has learned almost nothing yet ({shown}): the run made {passes:.1f} passes over its pictures."
    resume: list[object] = ["opendetr", "train", "--resume", run]
    if trainer.plan.interrupted():
        return f"{said} It was stopped; continue it:", resume
    if passes < FEWEST_PASSES and trainer.plan.total_seconds is not None:
        more = math.ceil((FEWEST_PASSES / max(passes, 1e-3) - 1) * trainer.plan.elapsed() / 60)
        return f"{said} Continue it:", [*resume, "--minutes", max(1, more)]
    if passes < 10 * FEWEST_PASSES:
        epochs, minutes = ["--epochs", 2 * config.train.epochs], ["--minutes", math.ceil(config.train.minutes)]
        return f"{said} Continue it:", resume + (minutes if config.train.minutes else epochs)
    return f"{said} Ask whether the data can be learned:", [
        "opendetr",
        "doctor",
        *DataSource.of_config(config.data).as_options(),
    ]
