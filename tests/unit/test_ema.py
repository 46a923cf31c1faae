import torch

from opendetr.config import LossConfig
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS
from opendetr.training.ema import AveragedModel


def tiny():
    torch.manual_seed(0)
    return build_model(PRESETS["detr-tiny"], LossConfig(), 3)


def test_a_constant_model_is_its_own_average():
    model = tiny()
    averaged = AveragedModel(model, 0.1)
    for step in range(1, 5):
        averaged.update(step, step / 100)
    assert all(torch.equal(a, b) for a, b in zip(averaged.model.state_dict().values(), model.state_dict().values()))


def test_the_average_follows_and_forgets_the_random_weights():
    model = tiny()
    averaged = AveragedModel(model, 0.1)
    weight = model.class_embed.bias
    with torch.no_grad():
        weight.fill_(0.0)
    averaged.model.class_embed.bias.fill_(-1.0)  # stands for the random weights
    for step in range(1, 201):
        with torch.no_grad():
            weight.fill_(1.0 if step > 100 else 0.0)
        averaged.update(step, step / 200)
        if step == 100:
            assert averaged.model.class_embed.bias[0].abs() < 1e-3
    # Over the last tenth of 200 steps (reach 11 at first, 21 at the end) the old value has faded to below 2 %.
    assert 0.98 < float(averaged.model.class_embed.bias[0]) < 1.0


def test_the_reach_is_a_fraction_of_the_run():
    short, long = tiny(), tiny()
    reaches = []
    for model, progress in ((short, 1.0), (long, 0.5)):  # the same 100 steps: of 100, and of 200
        averaged = AveragedModel(model, 0.05)
        before = averaged.model.class_embed.bias.clone()
        with torch.no_grad():
            model.class_embed.bias.add_(1.0)
        averaged.update(100, progress)
        reaches.append(1 / float((averaged.model.class_embed.bias - before)[0]))
    assert [round(reach, 3) for reach in reaches] == [6.0, 11.0]


def test_the_average_is_neither_trained_nor_in_training_mode():
    averaged = AveragedModel(tiny().train(), 0.1)
    assert not averaged.model.training
    assert not any(parameter.requires_grad for parameter in averaged.model.parameters())
