from dataclasses import replace

import pytest
import torch

from opendetr.config import LossConfig
from opendetr.model import precision
from opendetr.model.build import build_model
from opendetr.model.precision import fit_precision
from opendetr.recipes.presets import PRESETS


@pytest.fixture(scope="module")
def model():
    return build_model(PRESETS["detr-tiny"], LossConfig(), 3)


@pytest.fixture
def machine(monkeypatch):
    def with_gains(products, backbone):
        monkeypatch.setattr(precision, "gain_of_products", lambda device: products)
        monkeypatch.setattr(precision, "_gain_of_backbone", lambda model, device, training: backbone)

    return with_gains


@pytest.mark.parametrize(
    ("asked", "products", "backbone", "chosen", "backbone_in_fp32"),
    [
        ("fp32", 4.0, 4.0, "fp32", False),
        ("auto", 0.02, 0.02, "fp32", False),
        ("auto", 4.0, 0.1, "bf16", True),
        ("auto", 4.0, 2.0, "bf16", False),
        ("bf16", 0.02, 0.02, "bf16", True),
    ],
)
def test_what_is_faster_is_chosen(model, machine, asked, products, backbone, chosen, backbone_in_fp32):
    machine(products, backbone)
    found, said = fit_precision(model, torch.device("cpu"), asked)
    assert found == chosen
    assert model.backbone.in_full_precision == backbone_in_fp32
    assert chosen in said


def test_the_measurement_itself(model):
    found, said = fit_precision(model, torch.device("cpu"), "auto")
    assert found in ("fp32", "bf16")
    assert "times the speed of fp32" in said


def test_the_look_at_the_backbone_teaches_its_batch_norm_nothing(monkeypatch):
    monkeypatch.setattr(precision, "gain_of_products", lambda device: 4.0)
    monkeypatch.setattr(precision, "SURELY_SLOWER", 0.0)  # whatever machine this is
    fresh = build_model(replace(PRESETS["detr-tiny"], backbone_weights="none"), LossConfig(), 3).train()
    before = {name: buffer.clone() for name, buffer in fresh.named_buffers()}
    assert any("running_mean" in name for name in before)
    fit_precision(fresh, torch.device("cpu"), "bf16", training=True)
    assert all(parameter.grad is None for parameter in fresh.parameters())
    assert all(torch.equal(before[name], buffer) for name, buffer in fresh.named_buffers())
    assert fresh.backbone.training


def test_autocast_stops_at_a_backbone_in_full_precision(model):
    for in_full_precision, expected in ((True, torch.float32), (False, torch.bfloat16)):
        model.backbone.in_full_precision = in_full_precision
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert model.backbone(torch.zeros(1, 3, 64, 64), None)[-1].map.dtype == expected
    model.backbone.in_full_precision = False


def test_training_is_looked_at_with_a_backward_pass(model, monkeypatch):
    learned = []

    def gain(device, work):
        work()
        learned.append(any(parameter.grad is not None for parameter in model.backbone.parameters()))
        return 4.0

    monkeypatch.setattr(precision, "_gain", gain)
    fit_precision(model, torch.device("cpu"), "bf16")
    assert not any(learned)
    fit_precision(model, torch.device("cpu"), "bf16", training=True)
    assert learned[-1]


def test_small_maps_do_not_decide_against_half_precision(model, monkeypatch):
    def gain(device, work):
        work()
        return 0.9 if seen[-1] < 200 else 2.0

    seen = []
    monkeypatch.setattr(precision, "gain_of_products", lambda device: 4.0)
    monkeypatch.setattr(precision, "_gain", gain)
    watch = model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    fit_precision(model, torch.device("cpu"), "bf16")
    watch.remove()
    assert not model.backbone.in_full_precision
