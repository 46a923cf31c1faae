from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendetr.data.index import DatasetIndex, Record, index_of_records
from opendetr.labels import LabelMap
from opendetr.recipes.recipe import load_recipe, resolve_config
from opendetr.training import choices
from opendetr.training.choices import choose_size, fit_batch, fit_to_data, fit_to_time, measure_objects


def index_of(*pictures, names=("cell", "rod"), size=(640, 480)) -> DatasetIndex:
    """Pictures given as lists of (label, side of a square box)."""
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    records = [
        Record(
            number, Path(f"{number}.png"), *size, np.array([label for label, _ in objects], dtype=np.int64),
            np.array([[0, 0, side, side] for _, side in objects], dtype=np.float32).reshape(-1, 4),
        )
        for number, objects in enumerate(pictures)
    ]  # fmt: skip
    return index_of_records(records, LabelMap.from_categories(categories, "data.json"), Path("data.json"))


def test_objects_are_measured_against_the_shorter_side():
    objects = measure_objects(index_of([(0, 96)] * 9, [(1, 24)] * 6))
    assert objects.smallest_kind == pytest.approx(24 / 480)
    assert objects.large == pytest.approx(96 / 480)
    assert objects.pixels == 480


def test_a_class_of_few_objects_does_not_decide():
    assert measure_objects(index_of([(0, 96)] * 9 + [(1, 4)])).smallest_kind == pytest.approx(0.2)


@pytest.mark.parametrize(("rare", "smallest_kind"), [(5, 0.2), (30, 0.2), (60, 0.01)])
def test_a_kind_weighs_by_its_share_of_the_objects(rare, smallest_kind):
    pictures = [[(0, 96)]] * 2000 + [[(1, 4.8)]] * rare
    assert measure_objects(index_of(*pictures)).smallest_kind == pytest.approx(smallest_kind)


def test_of_a_hundred_equal_kinds_the_smallest_few_decide():
    names = tuple(map(str, range(100)))
    pictures = [[(kind, 48 + kind)] * 10 for kind in range(100)]
    assert measure_objects(index_of(*pictures, names=names)).smallest_kind == pytest.approx(49 / 480)


def test_nothing_to_measure():
    assert measure_objects(index_of([], [])).smallest_kind == 1


@pytest.mark.parametrize(("most", "queries"), [(1, 30), (12, 30), (30, 80), (100, 250), (200, 300), (400, 400)])
def test_queries_for_the_fullest_picture(most, queries):
    config, said = fit_to_data(load_recipe("fast"), index_of([(0, 96)] * most, [(0, 96)]))
    assert config.model.num_queries == queries >= most
    assert any(f"{queries} queries" in sentence and f"{most} object" in sentence for sentence in said)


@pytest.mark.parametrize(("side", "strides"), [(24, (8,)), (200, ())])
def test_small_objects_get_finer_cells(side, strides):
    config, _ = fit_to_data(load_recipe("fast"), index_of([(0, side)] * 5))
    assert config.model.proposal_strides == strides


def test_large_objects_are_not_zoomed_into_and_small_ones_not_out_of():
    large, _ = fit_to_data(load_recipe("fast"), index_of([(0, 400)] * 5))
    small, _ = fit_to_data(load_recipe("fast"), index_of([(0, 24)] * 5))
    assert (large.data.zoom_in, large.data.zoom_out) == (0.9, 1.5)
    assert (small.data.zoom_in, small.data.zoom_out) == (0.5, 1.0)


def test_what_is_given_is_kept():
    fixed = ["model.num_queries=7", "model.proposal_strides=[8]", "data.zoom_in=0.8"]
    config, said = fit_to_data(resolve_config("fast", overrides=fixed), index_of([(0, 400)] * 50))
    assert (config.model.num_queries, config.model.proposal_strides) == (7, (8,))
    assert (config.data.zoom_in, config.data.zoom_out) == (0.8, 1.5)
    assert said == []  # only how far to zoom out was open, which is said where it is decided whether to zoom
    paper = load_recipe("paper")
    assert fit_to_data(paper, index_of([(0, 400)])) == (paper, [])


def fitted(seconds, side=40, pixel_seconds=1e-5, size=(640, 480)):
    objects = measure_objects(index_of([(0, side)] * 5, size=size))
    return fit_to_time(load_recipe("fast"), objects, 1, pixel_seconds, seconds)


def test_more_time_gives_larger_pictures_up_to_the_data():
    sizes = [fitted(minutes * 60)[0].data.image_size for minutes in (1, 5, 20, 60, 600)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == 480  # the pictures have no more
    assert all(size % 32 == 0 for size in sizes)


def test_epochs_leave_the_size_to_the_objects():
    config, (said, _) = fitted(None, side=96)
    assert config.data.image_size == 320  # objects of a fifth of the side have their 64 pixels
    assert config.data.max_size == 533
    assert "64 pixels" in said


def test_objects_stay_visible_however_short_the_time():
    config, _ = fitted(4, side=24)
    assert config.data.image_size * 24 / 480 >= choices.SMALLEST_PIXELS
    larger, _ = fitted(4, side=96)
    assert larger.data.image_size < config.data.image_size


def test_what_the_time_is_too_short_for_is_said():
    """Small objects would need 640 pixels, of which there is time for 5 passes over one picture, and never over 100."""
    objects = measure_objects(index_of([(0, 10)] * 5, size=(640, 480)))
    for pictures, pixels, size in ((1, None, 480), (1, 1e7, 480), (100, 1e6, 128)):
        found, said = choose_size(objects, pictures, pixels)
        assert found == size
        assert "objects below 12 pixels are hardly found" in said
    _, said = choose_size(measure_objects(index_of([(0, 200)])), 100, 1e9)
    assert "Warning" not in said


@given(
    side=st.integers(4, 400), pictures=st.integers(1, 5000), pixels=st.floats(1e4, 1e12),
    more=st.floats(1, 100),
)  # fmt: skip
def test_small_objects_never_leave_too_few_passes(side, pictures, pixels, more):
    objects = measure_objects(index_of([(0, side)] * 5))
    size, _ = choose_size(objects, pictures, pixels)
    for_large, _ = choose_size(measure_objects(index_of([(0, 470)] * 5)), pictures, pixels)
    if size > max(for_large, 128):  # only for the sake of small objects
        assert size - 32 < for_large or pixels / (size**2 * objects.aspect) >= 5 * pictures
    assert choose_size(objects, pictures, pixels * more)[0] >= size


def test_an_update_of_more_pictures_than_the_recipe_knows_is_remarked():
    config = resolve_config("fast", image_size=320)
    assert "learning rate" not in fit_batch(config, 1)[1]
    found, said = fit_batch(config, 8)
    assert found.train.batch_size == 4
    assert "An update sees 32; the learning rate stays that of 4" in said


def test_where_memory_is_short_smaller_steps_are_summed():
    config = resolve_config("fast", image_size=320)
    found, said = fit_batch(config, 1, lambda _, batch: batch <= 1)
    assert (found.train.batch_size, found.train.accumulate) == (1, 4)
    assert "to fit into memory" in said
    found, _ = fit_batch(config, 1, lambda *_: False)  # one picture is the least
    assert (found.train.batch_size, found.train.accumulate) == (1, 4)
    found, _ = fit_batch(config, 1, lambda _, batch: batch <= 4)
    assert (found.train.batch_size, found.train.accumulate) == (4, 1)


def test_a_picture_seen_a_few_times_needs_no_zoom():
    zoomed, said = fitted(None)  # 50 epochs
    assert zoomed.data.zoom_probability == 0.6
    assert said[-1].startswith("zooming: ")
    still, said = fitted(20, pixel_seconds=2e-4)
    assert still.data.zoom_probability == 0
    assert [sentence for sentence in said if "zoom" in sentence] == [
        "no zooming: every picture is seen fewer than 8 times"
    ]
    fixed = resolve_config("fast", image_size=320, overrides=["data.zoom_probability=0.3"])
    config, said = fit_to_time(fixed, measure_objects(index_of([(0, 9)])), 1, 1e-5, 1.0)
    assert (config.data.image_size, config.data.zoom_probability, said) == (320, 0.3, [])


def test_small_pictures_are_not_enlarged():
    assert fitted(None, size=(200, 200))[0].data.image_size == 192


@pytest.mark.parametrize(("size", "max_size"), [((640, 480), 533), ((1200, 400), 960)])
@pytest.mark.parametrize("image_size", [None, 320])
def test_long_pictures_have_room_whether_their_size_is_given_or_chosen(image_size, size, max_size):
    objects = measure_objects(index_of([(0, 96)], size=size))
    config, _ = fit_to_time(resolve_config("fast", image_size=image_size), objects, 1, 1e-5, None)
    assert (config.data.image_size, config.data.max_size) == (320, max_size)


def test_a_given_length_is_kept_where_the_size_is_chosen():
    fixed = resolve_config("fast", overrides=["data.max_size=400", "data.train_sizes=[256, 288]"])
    config, _ = fit_to_time(fixed, measure_objects(index_of([(0, 96)])), 1, 1e-5, None)
    assert (config.data.max_size, config.data.train_sizes) == (400, (256, 288))
