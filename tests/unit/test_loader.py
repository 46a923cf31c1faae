import multiprocessing
from collections import Counter
from dataclasses import replace
from itertools import chain, islice
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from opendetr.config import DataConfig
from opendetr.data import loader
from opendetr.data.cache import build_cache
from opendetr.data.door import load_index
from opendetr.data.loader import DetectionDataset, collate, epoch_order, group_equal_shapes, training_loader
from opendetr.data.transforms import Preprocessing, training_transform
from opendetr.errors import UserError
from opendetr.recipes.recipe import load_recipe
from opendetr.structures import Target

PREPROCESSING = Preprocessing(40, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CONFIG = replace(
    DataConfig(),
    image_size=40,
    max_size=64,
    train_sizes=tuple(range(24, 48)),
    crop_resize=(40,),
    crop_min=16,
    crop_max=40,
)


@pytest.fixture
def dataset(coco_folder):
    index = load_index(coco_folder((1, 2, 0, 3, 1)), "train")
    return DetectionDataset(index, training_transform(CONFIG, PREPROCESSING), seed=7)


def same(one, other) -> bool:
    return torch.equal(one[0], other[0]) and all(map(torch.equal, one[1], other[1])) and one[2].path == other[2].path


def test_a_key_alone_decides_a_sample(dataset):
    first = [dataset[key] for key in range(15)]
    torch.manual_seed(99)
    torch.rand(5)
    for key in (14, 3, 0, 3, 7):
        assert same(dataset[key], first[key])
    state = torch.get_rng_state()
    dataset[4]
    assert torch.equal(torch.get_rng_state(), state)  # nor does a sample disturb others


def test_a_sample_leaves_the_random_numbers_of_gpus_alone(dataset, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(0)
    assert seeded == [0]  # what dropout on a GPU would draw from
    dataset[4]
    assert seeded == [0]


def test_every_epoch_and_every_seed_draws_anew(dataset):
    for position in range(5):
        epochs = [dataset[epoch * 5 + position] for epoch in range(6)]
        assert {sample[2].image_id for sample in epochs} == {position + 1}
        assert len({sample[0].numpy().tobytes() for sample in epochs}) >= 5
    other = DetectionDataset(dataset.index, dataset.transform, seed=8)
    assert sum(same(dataset[key], other[key]) for key in range(10)) <= 1


def test_evaluation_draws_nothing(coco_folder):
    dataset = DetectionDataset(load_index(coco_folder(), "train"), PREPROCESSING.transform())
    assert all(same(dataset[position], dataset[position + len(dataset)]) for position in range(4))
    image, target, record = dataset[3]
    assert image.shape == (3, 40, 53)
    assert target.labels.tolist() == record.labels.tolist()
    assert type(image) is torch.Tensor  # not torchvision's subclass, which is slow and does not pickle well


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_asked_for_whoever_reads_them(dataset, workers):
    batches = epoch_order(5, epoch=2, seed=0, batch_size=2)
    loaded = list(training_loader(dataset, batches, workers))
    assert len(loaded) == 2
    for (batch, targets), keys in zip(loaded, batches):
        expected, expected_targets = collate([dataset[key] for key in keys])
        assert torch.equal(batch.images, expected.images)
        assert batch.image_ids == tuple(key % 5 + 1 for key in keys)
        assert all(map(torch.equal, targets, expected_targets))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_of_another_size_than_annotated_is_one_sentence_whoever_reads_it(dataset, workers):
    path = dataset.index.records[2].path
    Image.new("RGB", (48, 64)).save(path)
    loader = training_loader(dataset, [[0], [1], [2]], workers)
    with pytest.raises(UserError) as caught:
        list(loader)
    if workers:
        loader._shutdown_workers()  # left to the garbage collector, it would wait for 5 seconds
    assert str(caught.value).startswith(f"{path} is 48x64 pixels, but {dataset.index.source} says 64x48")
    assert "\n" not in str(caught.value)


def test_endless_batches_are_read_as_they_are_needed(dataset):
    endless = chain.from_iterable(epoch_order(5, epoch, 0, 2) for epoch in iter(int, 1))
    assert len(list(islice(training_loader(dataset, endless, 0), 7))) == 7


@pytest.fixture
def spawned():
    """Processes begin anew and are sent what they need, as on Windows and macOS; Linux copies the one that is there."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_processes_that_begin_anew_read_the_same(spawned, coco_folder):
    """With all that the recipe `fast` sends them: its augmentation, and a cache."""
    chosen = {"data.image_size": 64, "data.max_size": 106, "data.zoom_probability": 0.5, "data.zoom_in": 0.5,
              "data.zoom_out": 1.5, "data.horizontal_flip": 0.5}  # fmt: skip
    config = load_recipe("fast").with_values(chosen, "a test").data
    transform = training_transform(config, replace(PREPROCESSING, image_size=64, max_size=106, multiple_of=32))
    index = load_index(coco_folder((1, 2, 0, 3)), "train")
    dataset = DetectionDataset(index, transform, 7, build_cache(config, index.sizes, workers=1))
    batches = [keys for epoch in range(2) for keys in epoch_order(4, epoch, 0, 2)]
    loaded = list(training_loader(dataset, batches, workers=1))
    assert len(loaded) == 4
    for (batch, targets), keys in zip(loaded, batches):
        expected, expected_targets = collate([dataset[key] for key in keys])
        assert torch.equal(batch.images, expected.images)
        assert all(map(torch.equal, targets, expected_targets))


@pytest.mark.parametrize(("batches_of_room", "left"), [(100, 4), (10, 3), (2, 0), (None, 0)])
def test_loader_processes_are_as_many_as_can_hand_over_their_batches(
    dataset, monkeypatch, capsys, batches_of_room, left
):
    """A container's /dev/shm has 64 MB, and a process that finds it full is killed."""
    of_batch = 2 * dataset[0][0].nbytes

    def disk_usage(path):
        if batches_of_room is None:
            raise FileNotFoundError(path)
        return SimpleNamespace(total=64e6, free=2 * batches_of_room * of_batch)

    monkeypatch.setattr(loader.shutil, "disk_usage", disk_usage)
    for _ in range(2):
        assert loader.workers_with_room(dataset, [0, 1], 4) == left
    assert capsys.readouterr().out.count("too small (64 MB)") == (0 < left < 4 or batches_of_room == 2)


def test_batches_come_where_no_process_has_room(dataset, monkeypatch):
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: SimpleNamespace(total=64e6, free=0))
    assert [batch.image_ids for batch, _ in training_loader(dataset, [[0, 1], [2]], 2)] == [(1, 2), (3,)]
    assert list(training_loader(dataset, [], 2)) == []


numbers = {"length": st.integers(1, 60), "epoch": st.integers(0, 5), "seed": st.integers(0, 9)}


def shapes_of(length, rare):
    """None, or a list in which one of so many pictures stands upright."""
    return None if rare == 0 else ["tall" if n % rare == 0 else "wide" for n in range(length)]


@given(**numbers, batch_size=st.integers(1, 8), world_size=st.integers(1, 4), rare=st.integers(0, 30))
def test_an_epoch_shows_every_picture_once_but_for_a_rest(length, epoch, seed, batch_size, world_size, rare):
    given_ = (length, epoch, seed, batch_size)
    shapes = shapes_of(length, rare)
    processes = [epoch_order(*given_, rank, world_size, shapes) for rank in range(world_size)]
    assert processes == [epoch_order(*given_, rank, world_size, shapes) for rank in range(world_size)]
    assert len({len(batches) for batches in processes}) == 1
    assert {len(batch) for batches in processes for batch in batches} == {batch_size}
    keys = [key for batches in processes for batch in batches for key in batch]
    assert {key // length for key in keys} == {epoch}
    per_step = batch_size * world_size
    times = Counter(key % length for key in keys)
    if length >= per_step:
        assert set(times.values()) == {1}
        assert length - per_step < len(keys) <= length
    else:  # repeated to fill one batch per process, as evenly as can be
        assert len(keys) == per_step
        assert len(times) == length
        assert max(times.values()) - min(times.values()) <= 1


@given(
    length=numbers["length"], seed=numbers["seed"], batch_size=st.integers(1, 8), world_size=st.integers(1, 4),
    rare=st.integers(0, 30),
)  # fmt: skip
def test_every_picture_is_seen_in_the_end(length, seed, batch_size, world_size, rare):
    """In an epoch a picture is left out with a chance below one half: in 50 epochs never, by any measure."""
    shapes, ranks = shapes_of(length, rare), range(world_size)
    seen = {
        key % length
        for epoch in range(50)
        for rank in ranks
        for batch in epoch_order(length, epoch, seed, batch_size, rank, world_size, shapes)
        for key in batch
    }
    assert seen == set(range(length))


def test_mixed_steps_come_anywhere():
    shapes = ["wide"] * 200 + ["tall"] * 3
    places = set()
    for epoch in range(50):
        kinds = [{shapes[key % 203] for key in batch} for batch in epoch_order(203, epoch, 0, 4, shapes=shapes)]
        places |= {step for step, kind in enumerate(kinds) if len(kind) > 1}
    assert len(places) > 20  # of 50 steps


@given(**numbers, batch_size=st.integers(1, 4))
def test_a_step_sees_the_same_pictures_on_any_number_of_processes(length, epoch, seed, batch_size):
    alone = epoch_order(length, epoch, seed, batch_size * 2)
    both = zip(*(epoch_order(length, epoch, seed, batch_size, rank, 2) for rank in range(2)))
    assert [sorted(step) for step in alone] == [sorted(one + other) for one, other in both]


def test_the_order_changes_with_epoch_and_seed():
    orders = {
        tuple(key % 20 for batch in epoch_order(20, epoch, seed, 4) for key in batch)
        for epoch in range(4)
        for seed in range(4)
    }
    assert len(orders) == 16


def test_collate_pads_right_and_bottom(dataset, monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *shape: torch.full(shape, torch.nan))  # memory has been used before
    record = dataset.index.records[0]
    images = [torch.rand(3, height, width) + 1 for height, width in ((5, 4), (7, 4), (5, 9))]
    targets = [Target(torch.arange(count), torch.rand(count, 4)) for count in (2, 0, 3)]
    batch, stacked = collate([(image, target, record) for image, target in zip(images, targets)])
    assert batch.images.shape == (3, 3, 7, 9)
    assert batch.padding_mask.dtype == torch.bool
    for row, image in enumerate(images):
        height, width = image.shape[1:]
        assert torch.equal(batch.images[row, :, :height, :width], image)
        inside = torch.zeros(7, 9, dtype=torch.bool)
        inside[:height, :width] = True
        assert torch.equal(batch.padding_mask[row], ~inside)
        assert not batch.images[row, :, ~inside].any()
        count = len(targets[row].labels)
        assert int(stacked.counts[row]) == count
        assert torch.equal(stacked.boxes_cxcywh[row, :count], targets[row].boxes_cxcywh)
        assert torch.equal(stacked.labels[row, :count], targets[row].labels)
    assert batch.original_sizes.tolist() == [[48, 64]] * 3
    assert batch.image_ids == (1, 1, 1)


def test_no_mask_where_nothing_is_padded(dataset):
    sample = (
        torch.rand(3, 5, 9),
        Target(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4)),
        dataset.index.records[0],
    )
    batch, targets = collate([sample, sample])
    assert batch.padding_mask is None
    assert (targets.labels.shape, targets.counts.tolist()) == ((2, 0), [0, 0])


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1)), max_size=120), st.integers(1, 5))
def test_groups_have_one_shape_and_lose_nothing(shapes, batch_size):
    seen: list[int] = []
    for group in group_equal_shapes(enumerate(shapes), lambda item: item[1], batch_size):
        assert 1 <= len(group) <= batch_size
        assert len({shape for _, shape in group}) == 1
        assert [number for number, _ in group] == sorted(number for number, _ in group)
        seen += [number for number, _ in group]
    assert sorted(seen) == list(range(len(shapes)))


def test_pictures_without_companions_do_not_pile_up():
    read, given_out = [], 0

    def items():
        for item in range(200):
            read.append(item)
            yield item

    for group in group_equal_shapes(items(), lambda item: (item,), 2):
        assert len(read) - given_out <= 16
        given_out += len(group)
    assert given_out == 200


def test_equal_shapes_fill_their_batches():
    groups = list(group_equal_shapes(range(10), lambda item: (item % 2,), 2))
    assert [len(group) for group in groups] == [2, 2, 2, 2, 1, 1]


def test_pictures_of_one_shape_come_together():
    shapes = ["tall" if n % 3 == 0 else "wide" for n in range(32)]
    for epoch in range(3):
        batches = epoch_order(32, epoch, 0, 4, shapes=shapes)
        assert len(batches) == 8
        assert sorted(key % 32 for batch in batches for key in batch) == list(range(32))
        mixed = [batch for batch in batches if len({shapes[key % 32] for key in batch}) > 1]
        assert len(mixed) <= 1  # 11 tall and 21 wide pictures: 3 and 1 are left over
    assert epoch_order(32, 0, 0, 4, shapes=shapes) != epoch_order(32, 1, 0, 4, shapes=shapes)


def test_processes_agree_on_shapes():
    shapes = ["tall" if n % 2 else "wide" for n in range(32)]
    both = [epoch_order(32, 0, 0, 4, rank, 2, shapes) for rank in (0, 1)]
    assert not {key for batch in both[0] for key in batch} & {key for batch in both[1] for key in batch}
    for first, second in zip(*both):
        assert len({shapes[key] for key in first + second}) == 1


@pytest.mark.parametrize(
    ("wide", "tall", "batch_size", "world_size"), [(200, 3, 4, 1), (202, 1, 4, 1), (320, 31, 4, 8)]
)
def test_pictures_of_a_rare_shape_are_seen(wide, tall, batch_size, world_size):
    shapes = ["wide"] * wide + ["tall"] * tall
    seen = set()
    for epoch in range(50):
        for rank in range(world_size):
            batches = epoch_order(len(shapes), epoch, 0, batch_size, rank, world_size, shapes)
            seen |= {key % len(shapes) for batch in batches for key in batch}
    assert seen == set(range(len(shapes)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_replaced_by_the_next_and_said_in_its_batch(dataset, workers):
    whole = [dataset[key] for key in range(5)]
    dataset.index.records[1].path.write_bytes(b"no picture")
    dataset.index.records[2].path.unlink()
    with pytest.raises(UserError, match=r"train_1\.png cannot be read"):
        dataset[1]
    dataset.skips_broken = True
    batches = list(training_loader(dataset, [[0, 1], [2, 3], [4, 6]], workers))
    assert [batch.image_ids for batch, _ in batches] == [(1, 4), (4, 4), (5, 4)]
    said = [" ".join(batch.left_out) for batch, _ in batches]
    assert "train_1.png cannot be read" in said[0]
    assert "train_2.png does not exist" in said[0]
    assert said[1:] == ["", ""]
    assert torch.equal(whole[4][0], batches[2][0].images[0, :, : whole[4][0].shape[1], : whole[4][0].shape[2]])


def test_where_no_picture_can_be_used_the_first_is_named(dataset):
    dataset.skips_broken = True
    for record in dataset.index.records:
        record.path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"not one of the 5 pictures of .* can be used: .*train_3\.png cannot"):
        dataset[3]
