"""What a run may be continued with: its own config, categories, pictures and transform, and nothing else."""

import re
from dataclasses import replace

import pytest
import torch

from opendetr.checkpoints.native import load_folder
from opendetr.data.door import load_index
from opendetr.errors import UserError
from opendetr.labels import LabelMap
from opendetr.training import resume
from opendetr.training.run_folder import load_training_state


@pytest.fixture
def begun(digits, tiny_run, monkeypatch):
    """Continues the tiny run after two epochs and three steps of the third, with something changed."""
    config, index = load_folder(tiny_run).config, load_index(digits, "train")

    def resumed(change=(), index=index, accept_data=False, transform="", had="", without=()):
        stored = load_training_state(tiny_run)
        stored["state"] |= {"step": 3, "transform": had}
        stored = {name: value for name, value in stored.items() if name not in without}
        monkeypatch.setattr(resume, "load_training_state", lambda run: stored)
        return resume.resumed_model(
            config.with_overrides(change), tiny_run, index, accept_data=accept_data, transform=transform
        )

    resumed.index, resumed.run = index, tiny_run
    return resumed


def test_it_goes_on_where_it_was(begun, capsys):
    checkpoint, state = begun()
    assert f"continuing {begun.run} after 2 whole epochs and 3 steps" in " ".join(capsys.readouterr().out.split())
    assert (state["state"]["epoch"], state["state"]["step"]) == (2, 3)
    weights = load_folder(begun.run / "last").model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in checkpoint.model.state_dict().items())


@pytest.mark.parametrize(
    "change",
    ["model.num_queries=7", "loss.giou_cost=9", "data.image_size=96", "data.max_size=999", "train.batch_size=3",
     "train.accumulate=2", "train.seed=5", "train.init=detr-r50", 'train.freeze=["backbone"]', "data.balanced=true"],
)  # fmt: skip
def test_what_would_make_it_another_run_is_refused(begun, change):
    name = re.match(r"model|loss|[^=]+", change)[0]
    with pytest.raises(UserError, match=rf"--resume {begun.run}: {name} cannot change within a run; start a new one"):
        begun([change])


def test_what_may_change_may(begun):
    begun(["train.epochs=9", "train.patience=3", "data.cache=none"])


def test_other_categories_are_named(begun):
    ids, names = begun.index.label_map.category_ids, begun.index.label_map.names
    other = replace(begun.index, label_map=LabelMap(ids, ("letter", *names[1:])))
    with pytest.raises(UserError, match=rf"the run has the categories {ids[0]} '{names[0]}'.* has {ids[0]} 'letter'"):
        begun(index=other)


def test_other_pictures_are_told_and_may_be_accepted(begun, capsys):
    fewer = begun.index.subset(range(1, len(begun.index)))
    with pytest.raises(UserError, match=r"is not what the run learned from: .*; continue with the data it began with"):
        begun(index=fewer)
    capsys.readouterr()
    _, state = begun(index=fewer, accept_data=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "which is accepted" in said
    assert "2 whole epochs and 0 steps" in said  # places in the epoch mean other pictures
    assert state["state"]["step"] == 0
    _, state = begun(accept_data=True)
    assert "accepted" not in capsys.readouterr().out  # nothing has changed
    assert state["state"]["step"] == 3
    _, state = begun(index=fewer, without=["pictures"])  # of an earlier version
    assert state["state"]["step"] == 3


@pytest.mark.parametrize(
    ("had", "transform", "said"),
    [
        ("mine:blur", "", "give --transform mine:blur again, by which its pictures are transformed"),
        ("mine:blur", "mine:crop", "give --transform mine:blur again, by which its pictures are transformed"),
        ("", "mine:blur", "leave out --transform, which it has not had so far"),
    ],
)
def test_a_run_keeps_the_transform_that_it_began_with(begun, had, transform, said):
    with pytest.raises(UserError, match=f"a run goes on with the transform it began with: {said}"):
        begun(had=had, transform=transform)
    begun(had=had, transform=had)
