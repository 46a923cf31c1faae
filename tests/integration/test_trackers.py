"""`--log-to`: the lines of the log in an experiment tracker, without a network."""

import json

import pytest
from tiny import TINY

from opendetr import api
from opendetr.errors import UserError
from opendetr.training import run_tracker
from opendetr.training.run_folder import load_training_state, read_metrics


def lines_of(run, kind):
    return [line for line in read_metrics(run) if line["kind"] == kind]


@pytest.fixture
def scalars():
    """A function that reads TensorBoard's files: the (step, value) of a figure."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(run, name):
        found = reading.EventAccumulator(str(run / "tensorboard")).Reload()
        return [(event.step, pytest.approx(event.value)) for event in found.Scalars(name)]

    return read


def test_tensorboard_shows_the_log_and_a_resumed_run_goes_on_without_doubles(digits, tmp_path, scalars):
    run = api.train(digits, **TINY, epochs=2, output=tmp_path / "run", log_to="tensorboard")
    api.train(resume=run, epochs=3)
    vals, epochs = lines_of(run, "val"), lines_of(run, "epoch")
    assert len(epochs) == 3
    assert [(line["step"], line["val_AP"]) for line in vals] == scalars(run, "val/AP")
    assert [(line["step"], line["loss"]) for line in epochs] == scalars(run, "epoch/loss")
    assert [(line["step"], line["lr"]) for line in epochs] == scalars(run, "epoch/lr")


def test_a_tracker_that_fails_does_not_end_the_training(digits, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")

    def fails(*_, **__):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(run_tracker.LOGGER_TYPE_TO_CLASS["tensorboard"], "log", fails)
    run = api.train(digits, **TINY, epochs=2, output=tmp_path / "run", log_to="tensorboard")
    assert len(lines_of(run, "epoch")) == 2
    said = " ".join("".join(capsys.readouterr()).split())
    assert said.count("tensorboard fails (the server is gone): nothing more is sent to it") == 1


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_written(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(run_tracker, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--log-to wandb needs the package wandb: pip install wandb"):
        api.train(digits, **TINY, epochs=1, output=tmp_path / "run", log_to="wandb")
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_cannot_begin_is_one_sentence(digits, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")

    def fails(*_, **__):
        raise PermissionError("no key")

    monkeypatch.setitem(run_tracker.LOGGER_TYPE_TO_CLASS, "tensorboard", fails)
    with pytest.raises(UserError, match=r"--log-to tensorboard could not begin \(no key\)"):
        api.train(digits, **TINY, epochs=1, output=tmp_path / "run", log_to="tensorboard")


def test_mlflow_continues_its_run(digits, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")  # its default
    run = api.train(digits, **TINY, epochs=2, output=tmp_path / "run", log_to="mlflow")
    api.train(resume=run, epochs=3)
    (found,) = mlflow.search_runs(experiment_names=["opendetr"], output_format="list")
    assert found.info.run_id == load_training_state(run)["state"]["tracker_id"]
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "val/AP")
    assert [(item.step, item.value) for item in history] == [
        (line["step"], line["val_AP"]) for line in lines_of(run, "val")
    ]
    assert "data.root" not in found.data.params


def test_wandb_writes_offline(digits, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = api.train(digits, **TINY, epochs=1, output=tmp_path / "run", log_to="wandb")
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert folder.name.endswith(load_training_state(run)["state"]["tracker_id"])
    assert wandb.run is None


def test_trackio_writes_here(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    run = api.train(digits, **TINY, epochs=2, output=tmp_path / "run", log_to="trackio")
    api.train(resume=run, epochs=3)
    assert list((tmp_path / "trackio").iterdir())
    assert json.dumps(load_training_state(run)["state"]["tracker_id"]).startswith('"run-')
