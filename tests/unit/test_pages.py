"""Pages: text is escaped, charts show their numbers, pictures keep nothing but pixels."""

import re

import numpy as np
import pytest
from PIL import Image

from opendetr.labels import LabelMap
from opendetr.pages.boxed_pictures import MOST_NAMES, Thumbnail
from opendetr.pages.charts import MOST_POINTS, histogram, line_chart, round_ticks, thinned
from opendetr.pages.page import Markup, bar, image, page, table

LABELS = LabelMap((1, 7), ("<cat> & dog", "bird"))


def test_text_is_escaped_and_markup_is_not():
    assert "<title>a &lt; b</title>" in page("a < b", "")
    assert "<td>&lt;i&gt;</td><td><i></td>" in table([], [["<i>", Markup("<i>")]])
    assert 'href="a&amp;b.png"' in image(b"", "a&b.png")


def test_bars_are_shares_of_the_largest():
    half, whole = (float(re.search(r"width:([\d.]+)rem", bar(value, 1000))[1]) for value in (500, 1000))
    assert whole == 2 * half > 0
    assert "1,000" in bar(1000, 1000)
    assert "width:0.00rem" in bar(0, 0)


def test_the_legend_of_a_chart_has_the_last_values():
    chart = line_chart("Loss & more", {"a": [(0, 2.0), (10, 0.5)], "unknown": []}, "step")
    assert "a 0.5</tspan>" in chart
    assert "Loss &amp; more" in chart
    assert chart.count("<polyline") == 1
    assert line_chart("empty", {}, "step").count("<polyline") == 0
    assert line_chart("one", {"a": [(3, 0.0)]}, "step").count("<circle") == 1


def test_higher_values_are_drawn_higher():
    (points,) = re.findall(r'<polyline points="([^"]*)"', line_chart("", {"a": [(0, 0.0), (1, 0.5), (2, 1.0)]}, "", 1))
    xs, ys = zip(*(map(float, point.split(",")) for point in points.split()))
    assert xs[0] < xs[1] < xs[2]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11)  # places have one decimal
    assert ys[0] > ys[1] > ys[2]


@pytest.mark.parametrize("length", [1, MOST_POINTS, MOST_POINTS + 1, 12345])
def test_a_long_curve_keeps_its_last_point_and_its_mean(length):
    points = [(float(x), float(x)) for x in range(length)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    assert kept[-1] == points[-1]
    assert [y for _, y in kept] == pytest.approx([x for x, _ in kept])
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.037), (880, 881), (0, 123456), (5, 5)])
def test_ticks_are_few_and_within(low, high):
    ticks = round_ticks(low, high)
    assert len(ticks) <= 11
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert low == high or len(ticks) >= 2


def test_a_histogram_has_a_bar_for_every_count():
    chart = histogram("sizes", [4.0, 8.0, 16.0], [3, 1], "pixels", {8.0: "APm", 99.0: "outside"})
    heights = [float(height) for height in re.findall(r'height="([\d.]+)" fill="#', chart)]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.2)
    assert "APm" in chart
    assert "outside" not in chart


def test_a_thumbnail_keeps_nothing_but_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x013B] = "SECRETMAKER", "SECRETARTIST"
    path = tmp_path / "photo.jpg"
    picture = Image.new("RGB", (900, 600), (200, 20, 20))
    picture.save(path, exif=exif, comment=b"SECRETCOMMENT", icc_profile=b"SECRETPROFILE")
    with Image.open(path) as opened:
        opened.load()
        thumbnail = Thumbnail.of(opened, "one")
    assert path.read_bytes().count(b"SECRET") >= 4
    assert b"SECRET" not in thumbnail.jpeg
    assert (thumbnail.width, thumbnail.height) == (900, 600)
    assert len(thumbnail.jpeg) < 40_000


def boxed(boxes, labels, **options):
    thumbnail = Thumbnail.of(Image.new("RGB", (200, 100)), "one")
    return thumbnail.boxed(np.array(boxes, dtype=float).reshape(-1, 4), np.array(labels, dtype=int), LABELS, **options)


def test_boxes_and_names_stay_in_the_picture():
    drawn = boxed([[-50, -50, 500, 500], [190, 90, 200, 100]], [0, 1], scores=[0.9, 0.8])
    for x, y, width, height in re.findall(
        r'<rect x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)" height="([\d.]+)"', drawn
    ):
        assert 0 <= float(x) <= float(x) + float(width) <= 400  # the longer side has 400 units
        assert 0 <= float(y) <= float(y) + float(height) <= 200
    assert "&lt;cat&gt; &amp; dog 0.90" in drawn
    assert drawn.count("<text") == 2


def rectangles_of_names(drawn):
    return [
        tuple(map(int, found)) for found in re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', drawn)
    ]


def test_no_name_covers_another_and_the_best_is_on_top_whatever_the_order():
    for labels, scores in (([0, 1], [0.35, 0.77]), ([1, 0], [0.77, 0.35])):
        drawn = boxed([[20, 40, 120, 90]] * 2, labels, scores=scores)
        (ax, ay, aw, ah), (bx, by, bw, bh) = rectangles_of_names(drawn)
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
        assert drawn.rindex("0.35</title>") < drawn.rindex("0.77</title>")  # what comes last is on top
        assert drawn.rindex("0.35</text>") < drawn.rindex("0.77</text>")


def test_long_names_are_shortened_and_boxes_outside_left_out():
    label_map = LabelMap((1,), ("n" * 60,))
    thumbnail = Thumbnail.of(Image.new("RGB", (200, 100)), "one")
    boxes = np.array([[20.0, 40, 120, 90], [300, 300, 400, 400], [0, 0, float("nan"), 5]])
    drawn = thumbnail.boxed(boxes, np.zeros(3, dtype=int), label_map, [0.9, 0.8, 0.7])
    ((x, _, width, _),) = rectangles_of_names(drawn)
    assert x + width <= 400
    assert re.search(r">n{10,}… 0\.90</text>", drawn)
    assert drawn.count("<title>") == 1


def test_many_boxes_have_their_names_under_the_mouse_only():
    drawn = boxed([[0, 0, 9, 9]] * (MOST_NAMES + 1), [0] * (MOST_NAMES + 1))
    assert (drawn.count("<text"), drawn.count("<title>")) == (0, MOST_NAMES + 1)


def test_a_picture_shown_twice_is_in_the_page_once():
    assert "data:image/jpeg" in boxed([], [])
    again = boxed([], [], is_repeated=True)
    assert "data:image/jpeg" not in again
    assert 'href="#one"' in again
