"""`--augment`, `--no-flip` and `--transform` of a whole run."""

import sys

import pytest
import torch
from tiny import TINY, TINY_FAST

from opendetr import api
from opendetr.checkpoints.native import load_folder
from opendetr.cli import main
from opendetr.errors import UserError
from opendetr.training.run_folder import RunFolder

MODULE = """
from torchvision.transforms import v2
turn = v2.RandomAffine(20)
def fails():
    return lambda image, objects: 1 / 0
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's in the current folder."""
    (tmp_path / "my_own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_own", raising=False)


def interrupt(*_, **__):
    raise KeyboardInterrupt


def weights(run):
    return load_folder(run / "last").model.state_dict()


def equal(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_transform_of_ones_own_is_used_and_must_be_given_again(digits, tmp_path, module):
    """With the same result from a loader process, and after a resume; the config of the run does not name it."""
    options = TINY | {"epochs": 2, "seed": 0, "threads": 1}
    whole = api.train(digits, **options, transform="my_own:turn", output=tmp_path / "whole")
    without = api.train(digits, **options, output=tmp_path / "without")
    loaders = options | {"workers": 1}
    parts = api.train(digits, **loaders, transform="my_own:turn", output=tmp_path / "parts")
    assert equal(weights(whole), weights(parts))
    assert not equal(weights(whole), weights(without))
    assert "my_own" not in (parts / "config.toml").read_text()
    with pytest.raises(UserError, match="give --transform my_own:turn again"):
        api.train(resume=parts, epochs=3)
    with pytest.raises(UserError, match="leave out --transform"):
        api.train(resume=without, epochs=3, transform="my_own:turn")
    for run in (whole, parts):
        api.train(resume=run, epochs=3, transform="my_own:turn", threads=1)
    assert equal(weights(whole), weights(parts))


def test_a_run_that_was_killed_before_its_first_save_knows_its_transform(digits, tmp_path, module, monkeypatch):
    options = TINY | {"epochs": 1, "seed": 0, "threads": 1}
    whole = api.train(digits, **options, transform="my_own:turn", output=tmp_path / "whole")
    run = tmp_path / "run"
    with monkeypatch.context() as killed:
        killed.setattr(RunFolder, "save_last", interrupt)
        with pytest.raises(KeyboardInterrupt):
            api.train(digits, **options, transform="my_own:turn", output=run)
    with pytest.raises(UserError, match="give --transform my_own:turn again"):
        api.train(resume=run, threads=1)
    api.train(resume=run, transform="my_own:turn", threads=1)
    assert equal(weights(whole), weights(run))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_transform_that_fails_is_one_sentence(digits, tmp_path, module, monkeypatch, capfd, workers):
    command = [
        "opendetr",
        "train",
        "--data",
        str(digits),
        "--preset",
        "detr-tiny",
        "--image-size",
        "64",
        "--epochs",
        "1",
    ]
    command += ["--workers", str(workers), "--device", "cpu", "--transform", "my_own:fails", "--output", "run"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as exits:
        main()
    assert exits.value.code == 2
    said = capfd.readouterr().err
    assert "--transform my_own:fails fails on " in said
    assert "ZeroDivisionError" in said
    assert "Traceback" not in said


def test_augmentation_by_name(digits, tmp_path):
    """What is said there wins over the recipe; single values win over it."""
    options = TINY_FAST | {"epochs": 1}
    run = api.train(digits, **options, augment="none", output=tmp_path / "none")
    data = load_folder(run).config.data
    assert (data.horizontal_flip, data.vertical_flip, data.zoom_probability, data.colour) == (0, 0, 0, 0)
    more = (*options.pop("overrides"), "data.colour=0.3")
    run = api.train(digits, **options, augment="light", no_flip=True, overrides=more, output=tmp_path / "light")
    data = load_folder(run).config.data
    assert (data.horizontal_flip, data.vertical_flip, data.zoom_probability, data.colour) == (0, 0, 0.3, 0.3)
    with pytest.raises(UserError, match="leave out --augment and --no-flip"):
        api.train(resume=run, augment="none")
