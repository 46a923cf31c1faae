"""One seed, one result; what a run was made by is noted; pictures of rare classes are shown more often."""

import getpass
import json
import platform
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny import TINY, TINY_FAST

from opendetr import api
from opendetr.checkpoints.native import load_folder
from opendetr.errors import UserError
from opendetr.training.manifest import manifest_in_words, write_manifest
from opendetr.training.run_folder import RunFolder


def weights(run):
    return load_folder(run / "last").model.state_dict()


def equal(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("options", [TINY, TINY_FAST], ids=["paper", "fast"])
def test_two_runs_of_one_seed_are_equal_to_the_last_bit(digits, tmp_path, options):
    """Also where one of them has loader processes, which share no generator with it."""
    options = options | {"epochs": 1, "threads": 1, "deterministic": True, "augment": "strong", "balanced": True}
    options.pop("precision", None)
    first = api.train(digits, **options, seed=3, output=tmp_path / "first")
    assert not torch.are_deterministic_algorithms_enabled()
    second = api.train(digits, **options | {"workers": 2}, seed=3, output=tmp_path / "second")
    other = api.train(digits, **options, seed=4, output=tmp_path / "other")
    assert equal(weights(first), weights(second))
    assert not equal(weights(first), weights(other))
    assert load_folder(first).config.train.precision == "fp32"


def test_minutes_cannot_be_deterministic(digits, run):
    """However they are given."""
    for options in ({"minutes": 1}, {"overrides": ["train.minutes=1"]}):
        with pytest.raises(UserError, match=r"train\.minutes must be 0 with train\.deterministic"):
            api.train(digits, **options, deterministic=True)
    with pytest.raises(UserError, match=r"train\.minutes must be 0 with train\.deterministic"):
        api.train(resume=run, minutes=1, deterministic=True)


@pytest.mark.parametrize("content", ['{"sessions": 3}', '{"sessions": null}', '{"sessions": [1]}', "[]", '{"sess'])
def test_a_damaged_manifest_begins_anew(run, tmp_path, content):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "manifest.json").write_text(content)
    api.train(resume=copy, epochs=3)
    assert len(json.loads((copy / "manifest.json").read_text())["sessions"]) == 1


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A run of two sessions."""
    folder = tmp_path_factory.mktemp("manifest") / "run"
    api.train(digits, **TINY, epochs=1, seed=5, output=folder)
    return api.train(resume=folder, epochs=2)


def test_the_manifest_says_what_made_a_run(run, tiny_run):
    first, second = json.loads((run / "manifest.json").read_text())["sessions"]
    assert (first["seed"], first["versions"]["torch"]) == (5, torch.__version__)
    assert first["versions"]["python"] == platform.python_version()
    assert first["pictures"] == second["pictures"]
    assert first["config"] != second["config"]  # another number of epochs
    assert first["began"] <= second["began"]
    assert first["command"].split()[0].endswith(Path(sys.argv[0]).name)
    assert first["git"] is None or len(first["git"]["commit"]) == 40


def test_a_page_shows_it_without_what_is_private(run):
    page = (run / "report.html").read_text()
    assert "What made this run" in page
    assert f"torch {torch.__version__}" in page
    shown = page[page.index("What made this run") :]
    for private in (str(Path.home()), str(run.parent), platform.node(), f"/{getpass.getuser()}/"):
        assert private not in shown


def test_a_page_shows_no_secrets_of_addresses(tmp_path):
    session = {
        "command": "opendetr train --data 'https://alice:token@host/set.zip?sig=SECRET' --data https://b.org/x?key=SECRET",
        "seed": 0, "deterministic": False, "config": "", "pictures": "", "versions": {}, "git": None,
        "machine": {"description": ""},
    }  # fmt: skip
    write_manifest(tmp_path, session, None)
    shown = dict(manifest_in_words(tmp_path))["Command"]
    assert not any(secret in shown for secret in ("alice", "token", "SECRET"))
    assert "set.zip" in shown


def test_it_stays_in_the_run_folder(run, tmp_path):
    """Models that leave it, and copies of it, do not have it."""
    assert not list(run.glob("*/manifest.json"))
    api.convert(run, tmp_path / "own", to="opendetr")
    assert not (tmp_path / "own" / "manifest.json").exists()


def test_a_run_that_goes_on_elsewhere_takes_its_sessions_along(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    more = api.train(resume=copy, output=tmp_path / "more", epochs=3)
    assert len(json.loads((more / "manifest.json").read_text())["sessions"]) == 3
    assert len(json.loads((copy / "manifest.json").read_text())["sessions"]) == 2


def test_a_run_that_is_killed_while_it_goes_on_elsewhere_has_its_sessions(run, tmp_path, monkeypatch):
    """Once it has a `last`, it is that folder that is continued."""

    def interrupt(*_):
        raise KeyboardInterrupt

    more = tmp_path / "more"
    with monkeypatch.context() as killed:
        killed.setattr(RunFolder, "write_config", interrupt)
        with pytest.raises(KeyboardInterrupt):
            api.train(resume=run, output=more, epochs=3)
    assert (more / "last" / "training.pt").is_file()
    api.train(resume=more, epochs=3)
    assert len(json.loads((more / "manifest.json").read_text())["sessions"]) == 4
