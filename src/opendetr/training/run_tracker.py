"""The lines of a run's log in the user's experiment tracker, through Accelerate; `metrics.jsonl` stays the source."""

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from opendetr.config import RunConfig
from opendetr.errors import UserError, first_line
from opendetr.options import TrackerName
from opendetr.progress import warn

PROJECT = "opendetr"  # in which a tracker lists the runs
GROUPS = {"step": "train", "epoch": "epoch", "val": "val"}  # kinds of lines; what their figures are listed under
PLACE = {"kind", "step", "seconds"}  # of a line: not figures


def require_tracker(name: TrackerName) -> None:
    """Check that a tracker can be used; UserError if its package is missing."""
    if name == "none":
        return
    if find_spec(name) is None:
        package = "'opendetr[log]'" if name == "tensorboard" else name
        raise UserError(f"--log-to {name} needs the package {name}: pip install {package}")
    if name not in LOGGER_TYPE_TO_CLASS:
        raise UserError(f"--log-to {name} needs a newer accelerate: pip install --upgrade accelerate")


class RunTracker:
    """One run at a tracker: every line that the log gets is sent, with its step.

    What fails at its begin is an error; what fails later is a warning, and nothing more is sent: no tracker ends a
    training.

    Args:
        name: of the tracker; not `none`.
        folder: of the run; TensorBoard's files lie in its `tensorboard`.
        config: sent when the run begins, without the folder of the data.
        run_id: of a run that is continued there; empty for a new one.
        step: of the run, from which on lines are sent.

    Raises:
        UserError: the tracker could not begin.
    """

    def __init__(self, name: TrackerName, folder: Path, config: RunConfig, run_id: str, step: int) -> None:
        require_tracker(name)
        self.name = name
        new_id = run_id or f"{folder.name}-{uuid.uuid4().hex[:8]}"
        place: dict[str, tuple[str, dict[str, Any]]] = {
            "tensorboard": ("tensorboard", {"logging_dir": folder, "purge_step": step + 1}),
            "wandb": (PROJECT, {"id": new_id, "name": folder.name, "resume": "allow", "dir": str(folder)}),
            "trackio": (PROJECT, {"name": new_id, "resume": "allow"}),
            "mlflow": (PROJECT, {"run_id": run_id or None, "run_name": folder.name}),
        }
        project, options = place[name]
        try:
            self.tracker: Any = LOGGER_TYPE_TO_CLASS[name](project, **options)
            if hasattr(self.tracker, "start"):  # earlier versions of Accelerate start it at once
                self.tracker.start()
            self.id: str = self.tracker.tracker.info.run_id if name == "mlflow" else new_id
            if not run_id and name != "tensorboard":  # which would list the config as a run of its own
                self.tracker.store_init_configuration(_flat(config))
        except Exception as error:  # of any library
            raise UserError(
                f"--log-to {name} could not begin ({first_line(error)}): mend that, or leave --log-to out"
            ) from None
        self.fails = False

    def send(self, line: Mapping[str, Any]) -> None:
        """Send the figures of a line of the log."""
        group = GROUPS.get(line["kind"])
        if group is None or self.fails:
            return
        figures = {
            f"{group}/{name.removeprefix('val_')}": value
            for name, value in line.items()
            if name not in PLACE and isinstance(value, int | float)
        }
        self._try(lambda: self.tracker.log(figures, step=line["step"]))

    def end(self) -> None:
        """Say that the run is over, or paused."""
        self._try(self.tracker.finish)

    def _try(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self.fails = True
            warn(f"{self.name} fails ({first_line(error)}): nothing more is sent to it; the training goes on.")


def _flat(config: RunConfig) -> dict[str, Any]:
    """Dotted names and values, as trackers take them."""
    values = {f"{section}.{name}": value for section, found in asdict(config).items() for name, value in found.items()}
    del values["data.root"]
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in values.items()}
