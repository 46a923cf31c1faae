import colorsys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from opendetr.drawing import fonts, labelled_boxes
from opendetr.drawing.labelled_boxes import class_colour, draw_boxes, enlargement, luminance, text_colour
from opendetr.drawing.placement import place_labels
from opendetr.labels import LabelMap
from opendetr.structures import Detections

LABELS = LabelMap((1, 2, 7), ("cat", "dog", "horse"))
GREY = (128, 128, 128)


def boxes_of(*boxes):
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def grey(width, height):
    return Image.new("RGB", (width, height), GREY)


def drawn(image, boxes, labels, scores=None, label_map=LABELS):
    scores = None if scores is None else torch.tensor(scores)
    return draw_boxes(image, boxes, torch.tensor(labels, dtype=torch.long), label_map, scores)


def pixels_of(image, category_id):
    return (np.asarray(image) == class_colour(category_id)).all(-1)


def overlaps(rectangles):
    return [
        (a, b) for a, b in combinations(rectangles, 2)
        if min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
    ]  # fmt: skip


def rectangles(places, sizes):
    return [
        (left, top, left + size[wording][0], top + size[wording][1])
        for (wording, left, top), size in zip(places, sizes)
    ]


@pytest.mark.parametrize("canvas", [(480, 360), (100, 2000), (2000, 40)])
def test_every_label_is_inside_the_picture(canvas):
    generator = np.random.default_rng(0)
    corners = np.sort(generator.uniform(0, 1, (60, 2, 2)), axis=1) * canvas
    boxes = np.concatenate([corners.reshape(-1, 4), [[0, 0, *canvas], [0, 0, 1, 1], [*canvas, *canvas]]])
    sizes = [[(min(90, canvas[0]), 17), (30, 17)]] * len(boxes)
    for left, top, right, bottom in rectangles(place_labels(boxes, sizes, canvas), sizes):
        assert left >= 0
        assert top >= 0
        assert right <= canvas[0]
        assert bottom <= canvas[1]


def test_no_label_covers_another_while_there_is_room_and_the_first_has_its_choice():
    boxes = np.tile([100.0, 100, 300, 260], (12, 1))
    sizes = [[(90, 17), (30, 17)]] * 12
    places = place_labels(boxes, sizes, (480, 360))
    assert places[0] == (0, 100, 83)  # on its box, at the left
    assert {wording for wording, _, _ in places} == {0}
    assert overlaps(rectangles(places, sizes)) == []


def test_where_names_have_no_room_the_scores_still_have():
    boxes = np.tile([0.0, 20, 60, 80], (6, 1))
    sizes = [[(60, 17), (30, 17)]] * 6
    places = place_labels(boxes, sizes, (100, 100))
    assert [wording for wording, _, _ in places] == [0, 0, 0, 0, 0, 1]
    assert overlaps(rectangles(places, sizes)) == []


def test_more_labels_than_have_room_stay_at_their_boxes_in_the_picture():
    sizes = [[(40, 17)]] * 30
    places = place_labels(np.tile([0.0, 0, 40, 20], (30, 1)), sizes, (50, 40))
    assert places[0] == (0, 0, 0)  # the first stays at its box, which is at the upper edge
    assert all(0 <= left <= 10 and 0 <= top <= 23 for _, left, top in places)


def test_a_label_at_the_upper_edge_is_drawn_whole():
    inside = pixels_of(drawn(grey(500, 400), boxes_of([100, 200, 300, 300]), [0], [0.9]), 1)
    edge = pixels_of(drawn(grey(500, 400), boxes_of([100, 0, 300, 100]), [0], [0.9]), 1)
    height = np.flatnonzero(inside[:, 110]).min() - 200  # of the label, which stands on the box
    assert -25 < height < -12
    ground = edge[: -height - 2, 100:140]
    assert ground[:, 0].all()
    assert 0.3 < ground.mean() < 0.95  # text and its ground


def test_the_better_detection_is_on_top_whatever_the_order():
    boxes = boxes_of([100, 100, 300, 260], [100, 100, 300, 260])
    for labels, scores in (([0, 1], [0.35, 0.77]), ([1, 0], [0.77, 0.35])):
        image = drawn(grey(480, 360), boxes, labels, scores)
        better, worse = pixels_of(image, 2), pixels_of(image, 1)
        assert better[200, 100]  # the line
        assert better[90, 101]  # the label on the box
        assert worse.sum() > 100  # its label is elsewhere
        assert not worse[80:100, 100:140].any()


def test_boxes_are_drawn_to_the_edge_of_the_picture_and_broken_ones_are_left_out():
    image = drawn(grey(500, 400), boxes_of([-50, -9, 700, 900], [float("nan"), 0, 9, 9]), [0, 1], [0.5, 0.9])
    lines = pixels_of(image, 1)
    assert lines[-1].all()
    assert lines[50:, 0].all()
    assert lines[50:, -1].all()
    assert not pixels_of(image, 2).any()
    assert np.array_equal(drawn(grey(500, 400), boxes_of(), [], []), grey(500, 400))


def test_a_box_thinner_than_a_pixel_is_seen():
    image = drawn(grey(500, 400), boxes_of([200, 200, 200.2, 200.2]), [0])
    assert pixels_of(image, 1)[200, 200]


def test_a_box_outside_the_picture_leaves_no_trace():
    outside = boxes_of([-90, 20, -10, 80], [600, 20, 700, 80], [20, -50, 90, 0], [5, 5, 5, 90])
    assert np.array_equal(drawn(grey(500, 400), outside, [0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6]), grey(500, 400))


@pytest.mark.parametrize(
    ("size", "factor"),
    [((120, 90), 4), ((200, 150), 3), ((500, 375), 1), ((4000, 3000), 1), ((640, 40), 3), ((1, 4000), 1)],
)
def test_only_small_pictures_are_enlarged(size, factor):
    assert enlargement(size) == enlargement(size[::-1]) == factor
    image = drawn(grey(*size), boxes_of([1, 1, 60, 30]), [0], [0.9])
    assert image.size == (size[0] * factor, size[1] * factor)


def test_boxes_of_an_enlarged_picture_are_at_their_objects():
    image = drawn(grey(120, 90), boxes_of([30, 40, 60, 80]), [0])
    rows, columns = np.nonzero(pixels_of(image, 1)[160:])  # without the label, which stands on the box
    assert (columns.min(), columns.max(), rows.max() + 160) == (120, 239, 319)


def test_text_grows_with_the_picture():
    def height(side):
        image = drawn(grey(side, side), boxes_of([side / 4, side / 2, side / 2, side * 0.75]), [0], [0.9])
        return side // 2 - np.flatnonzero(pixels_of(image, 1).any(1)).min()

    assert 15 <= height(480) <= 20
    assert height(2400) == pytest.approx(0.022 * 2400, rel=0.15)  # about the same share as in the smaller picture


def test_a_class_has_one_colour_in_all_pictures_and_models():
    assert [class_colour(number) for number in (1, 2, 3)] == [(38, 60, 255), (255, 140, 188), (129, 153, 61)]
    of_model, of_another = LabelMap((None, 7), ("N/A", "horse")), LABELS
    box = boxes_of([100, 100, 300, 260])
    first = drawn(grey(480, 360), box, [1], label_map=of_model)
    assert np.array_equal(first, drawn(grey(480, 360), box, [2], label_map=of_another))


def test_ninety_classes_have_colours_that_differ():
    colours = np.array([class_colour(number) for number in range(91)])
    nearest = min(np.abs(a - b).max() for a, b in combinations(colours, 2))
    assert nearest >= 11  # of 255, in the channel where two classes differ most
    assert min(np.abs(a - b).max() for a, b in combinations(colours[:20], 2)) >= 50


@pytest.mark.parametrize("ground", [class_colour(number) for number in range(0, 91, 3)])
def test_text_has_contrast(ground):
    dark, light = sorted([luminance(ground), luminance(text_colour(ground))])
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_luminance_is_that_of_the_standard():
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((0, 0, 0)) == 0
    assert luminance((0, 255, 0)) == pytest.approx(0.7152)
    assert luminance((188, 188, 188)) == pytest.approx(0.5, abs=0.01)  # the middle of sRGB
    assert colorsys.rgb_to_hsv(*class_colour(1))[1] > 0.8


def test_names_of_other_scripts_and_long_ones_are_written(capsys):
    for name in ("Übergröße", "Łódź café", "эритроцит", "κύτταρο", "two\nlines", "x" * 300):
        label_map = LabelMap((1,), (name,))
        image = drawn(grey(480, 360), boxes_of([100, 100, 300, 260]), [0], [0.9], label_map)
        assert not np.array_equal(image, drawn(grey(480, 360), boxes_of([100, 100, 300, 260]), [0], None, label_map))
        columns = np.flatnonzero(pixels_of(image, 1)[86:98].any(0))
        assert columns.max() - columns.min() < 0.61 * 480
    assert capsys.readouterr().out == ""


def test_a_name_that_no_font_can_write_becomes_an_id_which_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: [])
    fonts.font_file.cache_clear()
    labelled_boxes._written_name.cache_clear()
    try:
        for _ in range(2):
            image = drawn(grey(480, 360), boxes_of([100, 100, 300, 260]), [0], None, LabelMap((7,), ("红细胞",)))
    finally:
        fonts.font_file.cache_clear()
        labelled_boxes._written_name.cache_clear()
    assert np.array_equal(
        image, drawn(grey(480, 360), boxes_of([100, 100, 300, 260]), [0], None, LabelMap((7,), ("id 7",)))
    )
    said = capsys.readouterr().out
    assert said.count("no font of this machine can write 红细胞: drawn pictures say 'id 7' instead") == 1


def test_a_font_of_the_system_is_used_where_the_bundled_one_lacks_characters(monkeypatch):
    from matplotlib import get_data_path

    other = f"{get_data_path()}/fonts/ttf/STIXGeneral.ttf"
    character = next(chr(code) for code in range(0x2900, 0x2B00) if not fonts._has(fonts.font_file("a"), chr(code)))
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ["damaged.ttf", other])
    fonts.font_file.cache_clear()
    try:
        assert fonts.font_file("plain").endswith("DejaVuSans.ttf")
        assert fonts.font_file(f"a{character}") == other
    finally:
        fonts.font_file.cache_clear()


def test_drawing_changes_neither_the_picture_nor_the_detections():
    picture = grey(120, 90)
    found = Detections(
        boxes_of([-5, 2, 60, 300], [4, 4, 30, 30]), torch.tensor([0.3, 0.8]), torch.tensor([2, 0]), LABELS, (90, 120)
    )
    before = replace(found, boxes_xyxy=found.boxes_xyxy.clone(), scores=found.scores.clone()).to_coco()
    image = found.plot(picture)
    assert found.to_coco() == before
    assert np.array_equal(picture, grey(120, 90))
    assert image.mode == "RGB"
    assert np.array_equal(image, drawn(picture, found.boxes_xyxy, [2, 0], [0.3, 0.8]))
