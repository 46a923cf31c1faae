"""Trainings whose numbers stop being finite: no such weights are written, and the step can be repeated."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import opendetr
from opendetr import api
from opendetr.checkpoints.native import load_folder
from opendetr.cli import main
from opendetr.errors import DivergedError
from opendetr.training import validation
from opendetr.training.step import TrainingStep

TINY = {
    "preset": "detr-tiny", "image_size": 64, "batch_size": 4, "workers": 0, "device": "cpu", "precision": "fp32",
    "threads": 1, "seed": 0,
}  # fmt: skip


@pytest.fixture
def infinite_gradient(monkeypatch):
    """A function that makes the gradient of the given updates of the next run infinite."""

    def at(*numbers: int) -> None:
        done, real = [0], TrainingStep.add_gradients

        def add_gradients(step, micro_batches):
            figures = real(step, micro_batches)
            done[0] += 1
            if done[0] in numbers:
                next(p for p in step.model.parameters() if p.grad is not None).grad[0] = float("inf")
            return figures

        monkeypatch.setattr(TrainingStep, "add_gradients", add_gradients)

    return at


def test_a_single_step_is_left_out_and_changes_nothing(digits, tmp_path, infinite_gradient, monkeypatch):
    """Weights, averages and the statistics of batch norm are those from before it."""
    seen, real = [], TrainingStep.__call__

    def call(step, micro_batches):
        before = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
        figures = real(step, micro_batches)
        after = step.model.state_dict()
        seen.append(all(torch.equal(tensor, after[name]) for name, tensor in before.items()))
        return figures

    infinite_gradient(2)
    monkeypatch.setattr(TrainingStep, "__call__", call)
    run = api.train(digits, **TINY, epochs=1, output=tmp_path / "run")
    assert seen[:3] == [False, True, False]
    assert [path.name for path in (run / "captures").iterdir()] == ["step-2.pt"]
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["skipped_steps"] == 1


def test_three_in_a_row_end_the_run_and_the_last_weights_stay(digits, tmp_path, infinite_gradient, monkeypatch, capsys):
    run = api.train(digits, **TINY, epochs=1, output=tmp_path / "run")
    kept = {path: path.read_bytes() for path in (run / "last").iterdir()}
    infinite_gradient(2, 3, 4)
    monkeypatch.setattr("sys.argv", ["opendetr", "train", "--resume", str(run), "--epochs", "3"])
    monkeypatch.setattr("opendetr.cli.training_commands.STARTED", time.time())  # else minutes ago: a save would be due
    with pytest.raises(SystemExit) as exits:
        main()
    assert exits.value.code == 1
    said = capsys.readouterr().err
    assert "3 steps in a row" in said
    assert "the learning rate is too high" in said
    assert "best and last" in said
    assert {path: path.read_bytes() for path in (run / "last").iterdir()} == kept


@pytest.mark.parametrize("lr", ["1e6", "1e30"])
def test_weights_that_are_not_finite_or_answer_so_are_never_written(digits, tmp_path, lr):
    with pytest.raises(DivergedError, match="no weights were written"):
        api.train(digits, **TINY, epochs=3, output=tmp_path / "run", overrides=[f"train.lr={lr}"])
    assert not (tmp_path / "run" / "last").exists()
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize("epochs_before", [0, 1])
def test_weights_that_answer_so_on_val_only_are_not_kept(digits, tmp_path, monkeypatch, epochs_before):
    """They are saved before they are measured; then the save before them returns, or none is left."""
    run = tmp_path / "run"
    options = {"resume": run} if epochs_before else {"data": digits, "output": run, **TINY}
    kept = {}
    if epochs_before:
        api.train(digits, **TINY, epochs=1, output=run)
        kept = {path: path.read_bytes() for path in (run / "last").iterdir()}
    real = validation.detect_split

    def answers(*arguments, **named):
        for position, found in real(*arguments, **named):
            yield position, replace(found, scores=found.scores * float("nan"))

    monkeypatch.setattr(validation, "detect_split", answers)
    left = "best and last" if epochs_before else "no weights were written"
    with pytest.raises(DivergedError, match=f"the answers on val are not finite.*{left}"):
        api.train(**options, epochs=epochs_before + 1)
    found = {path: path.read_bytes() for path in (run / "last").glob("*")}
    assert found == kept
    assert not (run / ".previous").exists()
    monkeypatch.undo()
    if kept:
        assert len(api.train(resume=run, epochs=2).parts) > 1


def test_a_step_is_repeated_exactly(digits, tmp_path, infinite_gradient, monkeypatch, capsys):
    """Its loss to the last bit; what made its gradient infinite here is not in the model, so all is finite then."""
    losses, real = [], TrainingStep.__call__
    monkeypatch.setattr(
        TrainingStep, "__call__", lambda step, batches: (losses.append(real(step, batches)), losses[-1])[1]
    )
    infinite_gradient(2)
    run = api.train(digits, **TINY, epochs=1, output=tmp_path / "run", overrides=["model.dropout=0.1"])
    monkeypatch.undo()
    found = opendetr.replay(run / "captures" / "step-2.pt")
    assert found.loss == float(losses[1]["loss"])
    assert (found.where, found.module, found.weights, len(found.pictures)) == ("", "", [], 4)
    assert "all is finite here" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("damage", "where", "module"),
    [
        (lambda c: c["weights"]["transformer.encoder.layers.0.ffn.linear1.weight"].fill_(float("nan")), "weights",
         "transformer.encoder.layers.0.ffn.linear1.weight"),
        (lambda c: c["micro_batches"][0]["images"].fill_(float("nan")), "pictures", ""),
        (lambda c: c["weights"]["transformer.encoder.layers.0.ffn.linear2.weight"].fill_(3e38), "forward",
         "transformer.encoder.layers.0.ffn.linear2"),
    ],
    ids=["weights", "pictures", "forward"],
)  # fmt: skip
def test_the_first_module_is_named(digits, tmp_path, infinite_gradient, monkeypatch, damage, where, module):
    infinite_gradient(1)
    run = api.train(digits, **TINY, epochs=1, output=tmp_path / "run")
    monkeypatch.undo()
    path = run / "captures" / "step-1.pt"
    content = torch.load(path, weights_only=True)
    damage(content)
    torch.save(content, path)
    found = opendetr.replay(path)
    assert (found.where, found.module) == (where, module)


def test_what_is_no_capture_is_one_sentence(tmp_path, monkeypatch, capsys):
    Path(tmp_path / "step.pt").write_bytes(b"nothing")
    monkeypatch.setattr("sys.argv", ["opendetr", "replay", str(tmp_path / "step.pt")])
    with pytest.raises(SystemExit) as exits:
        main()
    assert exits.value.code == 2
    assert "a step that opendetr train kept" in capsys.readouterr().err


def test_a_healthy_run_keeps_no_steps(digits, tmp_path):
    run = api.train(digits, **TINY, epochs=1, output=tmp_path / "run")
    assert not (run / "captures").exists()
    assert load_folder(run).config.train.epochs == 1
