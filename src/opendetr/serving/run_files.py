"""What a run folder says of its training while it goes on: checkpoints and the lines of its log. No torch."""

from pathlib import Path
from typing import Any

from opendetr.files import current_folder, read_json_lines, without_infinity

CHECKPOINTS = "checkpoints"  # the folder in a run
MOST_LINES = 5000  # of an answer


def run_of(model: str) -> Path:
    """The folder of the run that a model belongs to; the model's own where it belongs to none."""
    path = Path(model)
    if path.parent.name == CHECKPOINTS:
        return path.parent.parent
    return path.parent if path.name in ("best", "last") and not (path / "metrics.jsonl").exists() else path


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, also of one that has only begun."""
    is_begun = (folder / "config.toml").is_file() and not (folder / "model.safetensors").is_file()
    return is_begun or (folder / "metrics.jsonl").is_file()


def has_model(run: Path) -> bool:
    """Whether a run has saved a model; one that is being replaced is there."""
    folders = (current_folder(run / "best"), current_folder(run / "last"), run)
    return any((folder / "model.safetensors").is_file() for folder in folders)


def checkpoint_names(run: Path) -> list[str]:
    """The kept models of a run, the earliest first."""
    return sorted(path.name for path in (run / CHECKPOINTS).glob("epoch-*") if path.is_dir())


def described_run(run: Path) -> dict[str, Any] | None:
    """Name and checkpoints of a run; None where the folder is none."""
    if not is_run(run):
        return None
    names = checkpoint_names(run)
    return {
        "name": run.resolve().name,
        "checkpoints": [{"name": name, "epoch": int(name.removeprefix("epoch-"))} for name in names if _is_epoch(name)],
    }


def log_lines(run: Path, after: int) -> dict[str, Any]:
    """The lines of the log after the first `after`, and how many it has; `reset` where it has fewer than these.

    A resumed run forgets the lines that its model does not know: whoever has read them begins anew.
    """
    values, _ = read_json_lines(run / "metrics.jsonl")
    lines = [without_infinity(one) for one in values if isinstance(one, dict)]
    reset = after > len(lines)
    begin = 0 if reset else after
    chosen = lines[begin : begin + MOST_LINES]
    return {"lines": chosen, "next": begin + len(chosen), "reset": reset}


def _is_epoch(name: str) -> bool:
    return name.removeprefix("epoch-").isdecimal()
