"""What learning takes here, what is said of it, and the size that is chosen again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from opendetr.data.index import DatasetIndex, Record, index_of_records
from opendetr.labels import LabelMap
from opendetr.model.build import build_model
from opendetr.recipes.recipe import resolve_config
from opendetr.training import speed as speed_module
from opendetr.training.choices import fit_to_data, measure_objects
from opendetr.training.sizing import Sizing
from opendetr.training.speed import Speed, expectations, fits_in_memory, look_at_speed, memory_problem, minutes_in_words

CPU = torch.device("cpu")


def index_of(*counts: int, side: int = 96) -> DatasetIndex:
    """Pictures of 640 x 480 with so many square objects each."""
    records = [
        Record(number, Path(f"{number}.png"), 640, 480, np.zeros(count, dtype=np.int64), boxes(count, side))
        for number, count in enumerate(counts)
    ]
    return index_of_records(records, LabelMap((1,), ("cell",)), Path("data.json"))


def boxes(count: int, side: int) -> np.ndarray:
    return np.tile(np.array([[0, 0, side, side]], dtype=np.float32), (count, 1))


def tiny(index: DatasetIndex):
    options = {"model.backbone": "test_resnet", "model.backbone_weights": "none", "train.precision": "fp32"}
    config, _ = fit_to_data(resolve_config("fast", options=options), index)
    return config, build_model(config.model, config.loss, 1)


def test_the_look_has_the_objects_of_the_data(monkeypatch):
    seen = []
    monkeypatch.setattr(speed_module, "make_denoising", lambda targets, *_: seen.append(targets) and None)
    index = index_of(30, 10)
    look_at_speed(*tiny(index), CPU, measure_objects(index).in_a_picture)
    assert seen[0].counts.tolist() == [20] * 4
    assert seen[0].labels.shape == (4, 20)


def test_the_look_leaves_the_model_as_it_was_and_finds_more_than_nothing():
    index = index_of(5)
    config, model = tiny(index)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = look_at_speed(config, model, CPU, 5)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert found.seconds_per_pixel > 0
    assert found.bytes_per_pixel > 4 * 3  # at least the picture itself


def test_a_wider_model_keeps_more():
    index = index_of(5)
    config, model = tiny(index)
    wider = config.with_values({"model.embed_dim": 256, "model.feedforward_dim": 1024}, "test")
    narrow, wide = (
        look_at_speed(c, m, CPU, 5).bytes_per_pixel
        for c, m in ((config, model), (wider, build_model(wider.model, wider.loss, 1)))
    )
    assert wide > narrow


def expected(seconds, *, pictures=1000, per_pixel=1e-6, size=320, side=96, done=0, **values):
    options = {
        "data.image_size": size,
        "data.max_size": 2 * size,
        "train.minutes": 10.0,
        "train.small_first": 0.0,
        **values,
    }
    config = resolve_config("fast", options=options)
    objects, speed = measure_objects(index_of(3, side=side)), Speed(per_pixel, 100.0)
    return [said for said in expectations(config, objects, pictures, speed, seconds, epochs_done=done) if said]


def test_epochs_are_foretold_in_minutes():
    (said,) = expected(None, **{"train.epochs": 30})
    each = 1.2e-6 * 320**2 * 4 / 3  # seconds a picture
    assert f"about {1 / each:.3g} pictures a second" in said
    assert f"30 epochs of 1,000 pictures will take about {30 * 1000 * each / 60:.0f} minutes" in said
    (small,) = expected(None, **{"train.epochs": 30, "train.small_first": 0.5})
    assert f"about {30 * 1000 * each * (1 - 5 / 18) / 60:.0f} minutes" in small


def test_minutes_are_foretold_in_passes_and_too_few_are_warned_of():
    (said,) = expected(3600.0)
    assert f"{0.9 * 3600 / (1.2e-6 * 320**2 * 4 / 3) / 1000:.1f} passes over 1,000" in said
    said, warning = expected(60.0)
    passes = 0.9 * 60 / (1.2e-6 * 320**2 * 4 / 3) / 1000
    assert f"{passes:.1f} passes" in said
    assert warning.startswith("this is too short to learn much")
    enough = int(warning.split("--minutes ")[1].split(" ")[0])
    # 10 minutes of which 1 was left for steps: nine, and five passes
    assert enough == pytest.approx(9 + 5 / passes, abs=1)
    assert len(expected((enough - 9) * 60.0)) == 1


def test_objects_too_small_for_the_size_ask_for_the_minutes_of_a_larger_one():
    said = expected(600.0, size=128, side=24, pictures=2000)
    assert len(said) == 2
    assert "at 240 pixels, which its smallest objects need" in said[1]


def test_where_no_time_or_no_epoch_is_left_nothing_is_foretold():
    assert expected(-7.0) == []
    assert expected(None, done=30, **{"train.epochs": 30}) == []
    assert len(expected(60.0, done=10)) == 1  # of a resumed run, whose earlier passes count


def test_lengths_of_time_in_words():
    words = [minutes_in_words(minutes) for minutes in (0.001, 0.5, 3.456, 42.4, 600, 20_000)]
    assert words == ["1 second", "30 seconds", "3.46 minutes", "42 minutes", "10 hours", "13.9 days"]


def test_a_step_beyond_the_memory_is_said_before_it_is_made():
    index = index_of(5)
    config, model = tiny(index)
    config = config.with_values({"data.image_size": 640, "data.max_size": 1066, "train.batch_size": 4}, "test")
    objects, kept = measure_objects(index), Speed(1e-6, 1000.0)
    needed = 1.5 * 1000 * 4 * 640**2 * 4 / 3
    assert memory_problem(config, objects, replace(kept, free_bytes=needed * 1.1), model) is None
    kept = replace(kept, free_bytes=needed * 0.9)
    assert not fits_in_memory(objects, kept, model, config, 4)
    assert fits_in_memory(objects, kept, model, config, 2)
    said = memory_problem(config, objects, kept, model)
    assert said.startswith("a step of 4 pictures needs about 3.3 GB of memory and 2.9 GB are free")


def sizing(expected=1e-6):
    return Sizing(measure_objects(index_of(3, side=40)), 1000, Speed(expected, 100.0), is_open=True)


def test_speed_is_compared_twice():
    watched = sizing()
    watched.observe(1000, 1.0)
    assert not watched.is_due(0.05)
    assert watched.is_due(0.12)
    assert not watched.is_due(0.2)
    assert watched.is_due(0.31)
    assert not watched.is_due(0.9)


def test_a_size_that_was_given_stays():
    fixed = replace(sizing(), is_open=False)
    fixed.observe(1000, 1.0)
    assert not fixed.is_due(0.5)


@pytest.mark.parametrize(("factor", "changes"), [(1.0, 0), (1.4, 0), (0.7, 0), (4.0, -1), (0.25, 1)])
def test_another_speed_than_expected_gives_another_size(factor, changes):
    config = resolve_config("fast", options={"data.image_size": 256, "data.max_size": 426})
    found, said = sizing().chosen_again(config, 300.0, factor * 1.2e-6)
    difference = found.data.image_size - 256
    assert (difference > 0) - (difference < 0) == changes
    assert bool(said) == bool(changes)
    if changes:
        assert ("slow" if factor > 1 else "fast") in said
        assert found.data.max_size == round(426 * found.data.image_size / 256)


def test_the_second_comparison_is_with_what_the_first_one_found():
    config, watched = resolve_config("fast", options={"data.image_size": 256, "data.max_size": 426}), sizing()
    config, _ = watched.chosen_again(config, 300.0, 4e-6)
    assert watched.chosen_again(config, 300.0, 4e-6) == (config, "")
