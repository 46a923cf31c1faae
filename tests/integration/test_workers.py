"""What loader processes are given; where they begin anew (Windows, macOS), all of it must be sent to them."""

import pickle
import time

import pytest
import torch
from tiny import TINY, TINY_FAST

from opendetr.data.loader import DetectionDataset
from opendetr.recipes.recipe import resolve_config
from opendetr.training.setup import prepare_training


@pytest.fixture
def built(monkeypatch):
    """The data sets that are made from now on."""
    made, make = [], DetectionDataset.__init__

    def remembered(dataset, *arguments, **options):
        make(dataset, *arguments, **options)
        made.append(dataset)

    monkeypatch.setattr(DetectionDataset, "__init__", remembered)
    return made


@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
@pytest.mark.parametrize(("recipe", "tiny"), [("paper", TINY), ("fast", TINY_FAST)])
def test_a_trainers_data_sets_can_be_sent_and_give_the_same(built, digits, tmp_path, monkeypatch, recipe, tiny, cache):
    monkeypatch.setenv("OPENDETR_CACHE", str(tmp_path / "cache"))
    options = {"data.root": str(digits), "data.cache": cache, "train.device": "cpu", "train.batch_size": 4}
    if recipe == "fast":
        options |= {"model.backbone": tiny["backbone"], "model.backbone_weights": "none", "train.precision": "fp32"}
    config = resolve_config(recipe, tiny.get("preset"), options, 64, tiny.get("overrides", ()))
    trainer = prepare_training(config, tmp_path / "run", time.time())
    assert trainer.pictures.upright in built
    assert trainer.pictures.dataset in built
    for small in (True, False):
        trainer.pictures.show(trainer.state, small=small)
        for dataset in built:
            image, _, record = dataset[3]
            sent = pickle.loads(pickle.dumps(dataset))[3]
            assert torch.equal(sent[0], image)
            assert sent[2].path == record.path
