"""What a run was made by, for whoever repeats it: command, versions, machine, data, seed, and the user's code."""

import hashlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opendetr.checkpoints.public import without_paths
from opendetr.config import RunConfig
from opendetr.cores import available_cores
from opendetr.devices import describe_machine
from opendetr.files import read_note, write_json

MANIFEST = "manifest.json"  # stays in the run folder: no model folder has it, so nothing uploads or packs it
PACKAGES = ("opendetr", "torch", "torchvision", "timm", "accelerate", "numpy", "pillow")
GIT_SECONDS = 5.0
SECRETS = re.compile(r"(?<=://)[^\s/@]*@|(?<=\S)\?[^\s'\"]+")  # of addresses: user and password, signatures


def describe_session(config: RunConfig, pictures: Tensor, transform: str, device: torch.device) -> dict[str, Any]:
    """One session of a run, in what JSON knows.

    `pictures` are the `picture_digests` of the training split, `transform` is the name of the user's own, or empty.
    """
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    versions["torch"] = torch.__version__  # says for which GPUs it was built
    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "seed": config.train.seed,
        "deterministic": config.train.deterministic,
        "config": _digest(config.to_toml().encode()),
        "transform": transform,
        "pictures": _digest(pictures.numpy().tobytes()),
        "versions": versions,
        "machine": {"description": describe_machine(device), "cores": available_cores(), "cuda": torch.version.cuda},
        "git": _git_state(Path.cwd()),
    }


def write_manifest(run: Path, session: Mapping[str, Any], continued: Path | None) -> None:
    """Add a session to the manifest of a run, after those of the run that is continued, perhaps in this folder."""
    here, before = _sessions(run), [] if continued is None else _sessions(continued)
    sessions = here if here[: len(before)] == before else before  # those here may have been killed at once
    write_json(run / MANIFEST, {"sessions": [*sessions, session]}, durable=True)


def transform_of(run: Path) -> str:
    """The name of the user's own transform in the latest session of a run; empty for none, or where it is unknown."""
    sessions = _sessions(run)
    found = sessions[-1].get("transform") if sessions else ""
    return found if isinstance(found, str) else ""


def manifest_in_words(run: Path) -> list[tuple[str, str]]:
    """Names and values of the latest session as a page may show them: without paths, host and user name."""
    sessions = _sessions(run)
    if not sessions:
        return []
    latest = sessions[-1]
    git = latest["git"]
    code = f"commit {git['commit'][:12]}{', with changes' if git['is_changed'] else ''}" if git else "not under git"
    return [
        ("Command", without_paths(SECRETS.sub("", latest["command"]))),
        ("Seed", f"{latest['seed']}{', deterministic' if latest['deterministic'] else ''}"),
        ("Machine", latest["machine"]["description"]),
        ("Versions", ", ".join(f"{name} {number}" for name, number in latest["versions"].items())),
        ("Code in the current folder", code),
        ("Training pictures", f"digest {latest['pictures']}"),
        ("Config", f"digest {latest['config']}"),
        ("Sessions", str(len(sessions))),
    ]


def _sessions(run: Path) -> list[Any]:
    """Those of a run's manifest; none where it is missing or damaged."""
    found = read_note(run / MANIFEST).get("sessions")
    return found if isinstance(found, list) and all(isinstance(one, dict) for one in found) else []


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of a folder under git, and whether files differ from it; None where there is none."""
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=GIT_SECONDS,
                           check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "is_changed": bool(changes)}
