import math
from itertools import combinations, pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from opendetr.boxes import box_iou
from opendetr.errors import UserError
from opendetr.inference.tiling import Tile, merge_tiles, tile_boxes
from opendetr.labels import LabelMap
from opendetr.structures import Detections

LABELS = LabelMap((1, 2, 3), ("cat", "dog", "bird"))
SIZE = (900, 1300)  # height, width of the picture
TILES = tile_boxes(*SIZE, tile=400, overlap=0.2)  # tops 0, 250, 500; lefts 0, 300, 600, 900
NEIGHBOURS = [Tile(0, 0, 100, 100), Tile(0, 80, 100, 100)]  # of a picture of 100 x 180 pixels: x 80..100 is shared


def detections(*boxes, scores=None, labels=None, **about) -> Detections:
    """Of cats that are all sure, unless said otherwise."""
    count = len(boxes)
    return Detections(
        torch.tensor(boxes).float().view(-1, 4),
        torch.tensor([0.9] * count if scores is None else scores),
        torch.tensor([0] * count if labels is None else labels, dtype=torch.long),
        LABELS,
        **{"image_size": (100, 100), **about},
    )


def merge_two(left, right) -> Detections:
    return merge_tiles([left, right], NEIGHBOURS, (100, 180))


# Tiles


@given(st.integers(1, 300), st.integers(1, 300), st.integers(20, 350), st.floats(0, 0.8))
def test_tiles_are_equal_cover_the_picture_and_overlap_as_asked(height, width, side, overlap):
    tiles = tile_boxes(height, width, side, overlap)
    tops, lefts = sorted({tile.top for tile in tiles}), sorted({tile.left for tile in tiles})
    assert [(tile.top, tile.left) for tile in tiles] == [(top, left) for top in tops for left in lefts]
    assert {(tile.height, tile.width) for tile in tiles} == {(min(side, height), min(side, width))}
    for starts, length in ((tops, height), (lefts, width)):
        steps = [after - before for before, after in pairwise(starts)]
        assert starts[0] == 0
        assert starts[-1] == max(0, length - side)  # so that the last one ends at the border
        assert all(side - step >= overlap * side for step in steps)
        assert not steps or max(steps) - min(steps) <= 1
        farthest = side - math.ceil(side * overlap)
        assert not steps or (len(steps) - 1) * farthest < length - side  # one tile less would leave a gap


@pytest.mark.parametrize("size", [(1, 1), (400, 400), (399, 20)])
def test_a_picture_that_fits_is_one_tile(size):
    assert tile_boxes(*size, tile=400, overlap=0.9) == [Tile(0, 0, *size)]


@pytest.mark.parametrize(
    ("tile", "overlap", "sentence"),
    [
        (0, 0.2, "--tile must be at least 1 pixel, got 0"),
        (-5, 0.2, "--tile must be at least 1 pixel, got -5"),
        (800, -0.1, "--overlap must be at least 0 and below 1, got -0.1"),
        (800, 1.0, "--overlap must be at least 0 and below 1, got 1.0"),
        (800, float("nan"), "--overlap must be at least 0 and below 1, got nan"),
        (10, 0.95, "--overlap must leave a pixel from one tile of 10 pixels to the next, got 0.95"),
    ],
)
def test_impossible_tiles_are_a_sentence(tile, overlap, sentence):
    with pytest.raises(UserError) as error:
        tile_boxes(1000, 1000, tile, overlap)
    assert str(error.value) == sentence


# An ideal detector: of every object it reports what the tile sees


def clip(boxes, area):
    return boxes.clamp(area[..., [0, 1, 0, 1]], area[..., [2, 3, 2, 3]])


def areas(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def tile_xyxy(tile: Tile):
    return torch.tensor([tile.left, tile.top, tile.left + tile.width, tile.top + tile.height]).float()


def look(boxes, labels, tile: Tile, noise: float = 0.0, random: torch.Generator | None = None) -> Detections:
    """What the tile sees of the objects, sides off by up to `noise` pixels; not slivers nor a tenth of an object."""
    seen = clip(boxes, tile_xyxy(tile))
    large = (areas(seen) >= 0.1 * areas(boxes)) | (areas(seen) >= 0.1 * tile.height * tile.width)
    keep = large & ((seen[:, 2:] - seen[:, :2]).amin(1) >= 2)
    seen, count = seen[keep], int(keep.sum())
    seen = seen + noise * (2 * torch.rand(count, 4, generator=random) - 1)
    corner = torch.tensor([tile.left, tile.top, tile.left, tile.top])
    scores = 0.5 + 0.5 * torch.rand(count, generator=random)
    return Detections(seen - corner, scores, labels[keep], LABELS, (tile.height, tile.width))


def assert_each_once(merged: Detections, boxes, labels, iou: float = 0.9) -> None:
    assert len(merged) == len(boxes)
    likeness = box_iou(boxes[:, None], merged.boxes_xyxy) * (labels[:, None] == merged.labels)
    assert likeness[linear_sum_assignment(likeness, maximize=True)].min() > iou


def scene(seed: int, count: int, smallest: float, largest: float):
    """Random objects (boxes_xyxy, labels); no two of a class are hard to tell apart where two tiles overlap."""
    random, picture = torch.Generator().manual_seed(seed), torch.tensor([SIZE[1], SIZE[0]]).float()
    overlaps = [clip(tile_xyxy(one), tile_xyxy(other)) for one, other in combinations(TILES, 2)]
    places = torch.stack([torch.cat([torch.zeros(2), picture]), *overlaps])[:, None]
    boxes, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    for _ in range(4 * count):
        size = (smallest * (largest / smallest) ** torch.rand(2, generator=random)).minimum(picture)
        corner = torch.rand(2, generator=random) * (picture - size)
        box, label = torch.cat([corner, corner + size])[None], torch.randint(3, (1,), generator=random)
        if (box_iou(clip(box, places), clip(boxes[labels == label], places)) < 0.3).all():
            boxes, labels = torch.cat([boxes, box])[:count], torch.cat([labels, label])[:count]
    return boxes, labels


SIZES = {
    "tiny": (25, 6, 20),
    "smaller than the overlap": (25, 20, 80),
    "larger than the overlap": (15, 80, 350),
    "larger than a tile": (5, 400, 1200),
    "all": (25, 6, 1200),
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_every_object_is_found_once(sizes, seed):
    boxes, labels = scene(seed, *SIZES[sizes])
    found = [look(boxes, labels, tile, random=torch.Generator().manual_seed(seed)) for tile in TILES]
    assert sum(map(len, found)) > len(boxes)  # else there was nothing to merge
    merged = merge_tiles(found, TILES, SIZE)
    assert_each_once(merged, boxes, labels)
    assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)


@pytest.mark.parametrize("sizes", ["smaller than the overlap", "larger than the overlap", "larger than a tile"])
@pytest.mark.parametrize("seed", range(3))
def test_tiles_may_disagree_by_a_few_pixels(sizes, seed):
    boxes, labels = scene(seed, *SIZES[sizes])
    random = torch.Generator().manual_seed(seed)
    found = [look(boxes, labels, tile, noise=2, random=random) for tile in TILES]
    assert_each_once(merge_tiles(found, TILES, SIZE), boxes, labels, iou=0.6)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.floats(30, 150), st.floats(30, 150)),
    st.tuples(st.floats(20, 120), st.floats(20, 120)),
    st.sampled_from([(1, 0), (-1, 0), (0, 1), (0, -1)]),
)
def test_a_crowded_pair_of_one_class_stays_a_pair(corner, size, direction):
    """Two boxes of IoU 0.6, anywhere on four tiles: one is a quarter of its side further than the other."""
    tiles = tile_boxes(320, 320, tile=200, overlap=0.4)  # they overlap in 120..200
    corner, size, direction = torch.tensor(corner), torch.tensor(size), torch.tensor(direction)
    box = torch.cat([corner, corner + size])
    boxes = torch.stack([box, box + (0.25 * size * direction).repeat(2)])
    labels = torch.zeros(2, dtype=torch.long)
    merged = merge_tiles([look(boxes, labels, tile) for tile in tiles], tiles, (320, 320))
    assert len(merged) == 2
    if size.max() < 80:  # larger ones may look the same in the overlap, and nothing tells which ends belong together
        assert_each_once(merged, boxes, labels)


@pytest.mark.parametrize("x", [(120, 200), (160, 190), (60, 120), (120, 210), (110, 200), (60, 123), (5, 315)])
@pytest.mark.parametrize("y", [(120, 200), (40, 120), (110, 210), (140, 180), (5, 315)])
def test_objects_that_end_at_the_edges_of_tiles(x, y):
    tiles = tile_boxes(320, 320, tile=200, overlap=0.4)  # they overlap in 120..200
    boxes, labels = torch.tensor([[x[0], y[0], x[1], y[1]]]).float(), torch.tensor([1])
    assert_each_once(merge_tiles([look(boxes, labels, tile) for tile in tiles], tiles, (320, 320)), boxes, labels)
    random = torch.Generator().manual_seed(0)
    found = [look(boxes, labels, tile, 2, random) for tile in tiles]
    assert_each_once(merge_tiles(found, tiles, (320, 320)), boxes, labels, iou=0.7)


@pytest.mark.parametrize("box", [(80, 20, 120, 60), (50, 50, 150, 150), (90, 90, 110, 110), (10, 90, 190, 110)])
def test_tiles_without_overlap_join_what_meets_at_their_seam(box):
    tiles = tile_boxes(200, 200, tile=100, overlap=0.0)
    boxes, labels = torch.tensor([box]).float(), torch.tensor([0])
    found = [look(boxes, labels, tile) for tile in tiles]
    assert torch.equal(merge_tiles(found, tiles, (200, 200)).boxes_xyxy, boxes)


# By hand


def test_one_tile_says_what_it_says_in_the_order_of_scores():
    boxes = [(10, 10, 30, 30), (10, 10, 30, 30), (-5, 20, 110, 90), (10, 11, 30, 30)]
    alone = detections(*boxes, scores=[0.5, 0.9, 0.5, 0.7], labels=[0, 0, 1, 0], image_id=7, file_name="a.jpg")
    merged = merge_tiles([alone], [Tile(0, 0, 100, 100)], (100, 100))
    order = [1, 3, 0, 2]
    assert torch.equal(merged.boxes_xyxy, alone.boxes_xyxy[order])
    assert torch.equal(merged.scores, alone.scores[order])
    assert torch.equal(merged.labels, alone.labels[order])
    assert (merged.image_id, merged.file_name, merged.label_map) == (7, "a.jpg", LABELS)


@pytest.mark.parametrize("tiles", [TILES, TILES[:1]])
def test_nothing_found(tiles):
    merged = merge_tiles([detections() for _ in tiles], tiles, SIZE)
    assert (len(merged), merged.boxes_xyxy.shape, merged.image_size) == (0, (0, 4), SIZE)


def test_every_tile_needs_its_detections():
    with pytest.raises(ValueError, match="argument"):
        merge_tiles([detections()], NEIGHBOURS, (100, 180))


def test_detections_made_in_inference_mode_are_merged_and_left_alone():
    with torch.inference_mode():
        left, right = detections((70, 10, 96, 30), scores=[0.6]), detections((0, 10, 16, 30), scores=[0.8])
    merged = merge_two(left, right)
    assert merged.boxes_xyxy.tolist() == [[70, 10, 96, 30]]
    assert merged.scores.tolist() == pytest.approx([0.8])  # the highest that the object got
    assert (left.boxes_xyxy.tolist(), left.scores.tolist()) == ([[70, 10, 96, 30]], pytest.approx([0.6]))


def test_the_tile_that_sees_more_around_the_object_tells_its_box():
    seen_from_left, seen_from_right = (82, 50, 92, 60), (3, 51, 13, 61)  # 8 pixels from the left tile's edge
    assert merge_two(detections(seen_from_left), detections(seen_from_right)).boxes_xyxy.tolist() == [[82, 50, 92, 60]]


def test_nothing_is_suppressed_within_a_tile():
    twice = (85, 40, 95, 60)
    merged = merge_two(detections(twice, twice), detections((5, 40, 15, 60)))
    assert merged.boxes_xyxy.tolist() == [list(twice), list(twice)]


def test_other_classes_at_the_same_place_are_other_objects():
    merged = merge_two(detections((85, 40, 95, 60), labels=[0]), detections((5, 40, 15, 60), labels=[1]))
    assert sorted(merged.labels.tolist()) == [0, 1]


def test_neighbours_across_a_seam_are_not_joined():
    """One ends at the left tile's edge, the other begins at the right tile's; they are at different heights."""
    assert len(merge_two(detections((60, 10, 100, 30)), detections((0, 40, 60, 60)))) == 2
    assert len(merge_two(detections((60, 10, 100, 30)), detections((0, 25, 60, 45)))) == 2


def test_a_fragment_with_a_smaller_box_belongs_to_the_object_that_covers_it():
    """The left tile sees an airplane whole, the right one the tip of its wing."""
    plane, tip = (20, 10, 95, 90), (0, 30, 15, 45)
    assert merge_two(detections(plane), detections(tip)).boxes_xyxy.tolist() == [list(plane)]
    whole = (8, 30, 15, 45)  # ends before the tile's edge, so it is no fragment
    assert len(merge_two(detections(plane), detections(whole))) == 2
    other_plane = (70, 30, 95, 45)  # the fragment is rather one of this
    merged = merge_two(detections(plane, other_plane), detections(tip))
    assert sorted(merged.boxes_xyxy.tolist()) == [list(plane), list(other_plane)]


def test_a_sliver_that_is_a_few_pixels_off_belongs_to_its_object_too():
    sliver = (0, 42, 5, 50)
    assert merge_two(detections((40, 20, 82, 60)), detections(sliver)).boxes_xyxy.tolist() == [[40, 20, 82, 60]]


def test_a_small_object_just_inside_the_edge_counts_once():
    assert len(merge_two(detections((83, 40, 86, 44)), detections((3, 40, 6, 44)))) == 1
    assert len(merge_two(detections((83, 40, 86, 44), (70, 40, 79, 44)), detections((3, 40, 6, 44)))) == 2


def test_sides_of_large_fragments_may_be_off_by_more():
    """The object crosses an overlap of 20 pixels; both tiles see it end 12 pixels before their edge."""
    tiles = [Tile(0, 0, 400, 400), Tile(0, 380, 400, 400)]
    merged = merge_tiles([detections((90, 20, 388, 220)), detections((12, 20, 310, 220))], tiles, (400, 780))
    assert merged.boxes_xyxy.tolist() == [[90, 20, 690, 220]]


def test_what_a_tile_guesses_beyond_its_edge_is_cut_off_but_not_at_the_border_of_the_picture():
    merged = merge_two(detections((-3, 20, 130, 40)), detections((-10, 20, 25, 40)))
    assert merged.boxes_xyxy.tolist() == [[-3, 20, 105, 40]]


def test_an_unsure_detection_does_not_take_the_place_of_a_sure_one():
    left = detections((87, 40, 94, 60), scores=[0.9])
    right = detections((7, 40, 14, 60), (8, 40, 14, 60), scores=[0.1, 0.8])  # the unsure one is more alike
    merged = merge_two(left, right)
    assert merged.scores.tolist() == pytest.approx([0.9, 0.1])


def test_objects_that_look_alike_in_one_overlap_are_told_apart_by_other_tiles():
    """Both fill what the middle tiles of the upper two rows share, and the corners there."""
    tiles = tile_boxes(260, 180, tile=100, overlap=0.2)
    boxes, labels = torch.tensor([[44, 6, 150, 230], [27, 84, 130, 250]]).float(), torch.tensor([0, 0])
    for seed, order, shift in product(range(8), ([0, 1], [1, 0]), (0, 1)):
        # scores differ, and the tiles do not list them in one order
        random = torch.Generator().manual_seed(seed)
        found = [look(boxes[order].roll(n * shift, 0), labels, tile, 0.0, random) for n, tile in enumerate(tiles)]
        assert_each_once(merge_tiles(found, tiles, (260, 180)), boxes, labels)
