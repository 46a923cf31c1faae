"""What a GPU run does differently, as far as it can be seen without a GPU: on tensors without contents."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from opendetr.benchmarking import process_memory
from opendetr.checkpoints.adapt import train_mode
from opendetr.data.loader import DetectionDataset, training_loader
from opendetr.devices import describe_machine, memory_format, place, resolve_device, send
from opendetr.errors import UserError
from opendetr.loss.criterion import LossWeights, Normalisers, build_criterion, set_loss, statistics
from opendetr.loss.matcher import CostWeights, matching_cost
from opendetr.model.attention import MultiheadAttention
from opendetr.model.build import build_model
from opendetr.model.denoising import make_denoising
from opendetr.recipes.presets import PRESETS
from opendetr.recipes.recipe import load_recipe
from opendetr.structures import Batch, Matches, Targets

CUDA, MPS, CPU = torch.device("cuda"), torch.device("mps"), torch.device("cpu")
CLASSES, QUERIES = 3, 6


def tiny(recipe):
    """A model of the recipe's kind, and the recipe."""
    config, preset = load_recipe(recipe), PRESETS["detr-tiny"]
    sizes = {"backbone": "test_resnet", "backbone_weights": "auto", "embed_dim": 32, "feedforward_dim": 64}
    if recipe == "fast":
        sizes |= {"proposal_strides": (8,), "encoder_strides": (16,)}
    model = replace(config.model if recipe == "fast" else preset, num_queries=QUERIES, dropout=0.0, **sizes)
    return build_model(model, config.loss, CLASSES), config


def things_to_learn(device=CPU):
    """Two padded pictures, with three objects and with one."""
    mask = torch.zeros(2, 64, 96, dtype=torch.bool, device=device)
    labels, boxes = torch.zeros(2, 3, dtype=torch.long, device=device), torch.rand(2, 3, 4, device=device)
    return torch.rand(2, 3, 64, 96, device=device), mask, Targets(labels, boxes, torch.tensor([3, 1], device=device))


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_a_gpu_that_is_not_there_is_one_sentence(two_gpus):
    assert resolve_device("auto") == resolve_device("cuda") == CUDA
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"--device cuda:2 is not available: this machine's GPUs are cuda:0 to cuda:1"):
        resolve_device("cuda:2")


def test_figures_of_a_gpu_name_it_and_count_its_memory(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card of {device}")
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda number: 10 + number)
    assert describe_machine(CUDA) == f"Card of cuda, {describe_machine()}"
    assert describe_machine(CPU) == describe_machine()
    assert process_memory._own_peak() == 21


class Asked(torch.Tensor):
    """Remembers how it was to be copied."""

    def to(self, device, non_blocking=False):
        self.asked = device.type, non_blocking
        return self


@pytest.mark.parametrize(("device", "waits_not"), [(CUDA, True), (MPS, False), (CPU, False)])
def test_only_cuda_copies_while_python_goes_on(device, waits_not):
    assert send(torch.zeros(2).as_subclass(Asked), device).asked == (device.type, waits_not)
    pictures = torch.zeros(1, 3, 8, 8).as_subclass(Asked)
    batch = Batch(pictures, torch.zeros(1, 8, 8, dtype=torch.bool).as_subclass(Asked), torch.ones(1, 2).long(), (1,))
    moved = batch.to(device)
    assert moved.images.asked == moved.padding_mask.asked == (device.type, waits_not)


@pytest.mark.parametrize(("device", "pinned"), [(CUDA, True), (MPS, False), (CPU, False)])
def test_memory_is_pinned_for_cuda_alone_whatever_the_machine_has(two_gpus, monkeypatch, device, pinned):
    asked = []
    monkeypatch.setattr("opendetr.data.loader.DataLoader", lambda *_, **options: asked.append(options) or [])
    training_loader(Mock(spec=DetectionDataset), [], 0, device)
    assert asked[0]["pin_memory"] is pinned


def test_convolutions_are_channels_last_but_on_mps():
    assert memory_format(CUDA) == memory_format(CPU) == torch.channels_last
    assert memory_format(MPS) == torch.contiguous_format
    assert place(torch.nn.Conv2d(3, 4, 3), CPU).weight.stride() == (27, 1, 9, 3)


class OnMps(torch.Tensor):
    """Says that it is on MPS."""

    device = MPS


def test_attention_on_mps_is_not_pytorchs_fused_one(monkeypatch):
    fused, attention, tokens = [], MultiheadAttention(8, 2, 0.1).eval(), torch.rand(2, 5, 8)
    expected, asked = attention(tokens, tokens, tokens), torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *of: fused.append(of) or asked(*of))
    torch.testing.assert_close(attention(tokens, tokens, tokens), expected)
    assert len(fused) == 1
    there = tokens.as_subclass(OnMps)
    torch.testing.assert_close(attention(there, there, there).as_subclass(torch.Tensor), expected)
    assert len(fused) == 1


@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_what_a_step_computes_stays_on_the_device(recipe):
    """A tensor on the CPU among those of a GPU is an error here as there."""
    model, config = tiny(recipe)
    with FakeTensorMode(allow_non_fake_inputs=True):
        train_mode(place(model, CUDA))
        images, mask, targets = things_to_learn(CUDA)
        extra = config.loss.denoising_queries
        output = model(images, mask, make_denoising(targets, CLASSES, extra) if extra else None)
        cost = matching_cost(output, targets, model.scoring, CostWeights())
        matches = Matches(*torch.zeros(4, 4 * len(output.logits), dtype=torch.long, device=CUDA))
        normalisers = Normalisers.of_batch(targets, QUERIES, model.scoring)
        losses = set_loss(output, targets, matches, model.scoring, normalisers)
        figures = statistics(output, targets, matches, model.scoring)
        found = [*output, cost, *normalisers, *losses.values(), LossWeights().total(losses), *figures.values()]
        assert {tensor.device.type for tensor in found} == {"cuda"}


class Waits(TorchDispatchMode):
    """Counts what makes Python wait for a GPU: numbers that are read, and results whose size hangs on numbers."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_a_step_waits_for_the_device_as_seldom_as_it_can(recipe):
    """Beside the copy of each matching: twice, to find the denoising queries that are in use."""
    model, config = tiny(recipe)
    train_mode(model)
    images, mask, targets = things_to_learn()
    extra, criterion = config.loss.denoising_queries, build_criterion(config.loss, QUERIES, model.scoring)
    with Waits() as waits:
        denoising = make_denoising(targets, CLASSES, extra) if extra else None
        output = model(images, mask, denoising)
        criterion(output, targets, denoising, criterion.normalisers(targets, denoising)).total.backward()
    assert waits.found == (["nonzero"] * 2 if recipe == "fast" else [])
