"""Labels in the figures of `explain`, on stubs of what a model saw."""

from itertools import combinations
from unittest.mock import Mock

import torch
from PIL import Image

from opendetr.boxes import cxcywh_to_xyxy
from opendetr.explanation import explaining, figures
from opendetr.explanation.false_alarms import ExplainedDetection, FalseAlarm
from opendetr.explanation.folder import Folder
from opendetr.explanation.look import Explained, Look
from opendetr.explanation.matching import ObjectMatch
from opendetr.explanation.verdicts import Verdict
from opendetr.labels import LabelMap

LABELS = LabelMap((1, 2), ("cat", "n" * 60))
SEEN = Mock(
    spec=Look,
    image=Image.new("RGB", (640, 480)),
    in_pixels=lambda boxes: cxcywh_to_xyxy(boxes) * torch.tensor([640, 480, 640, 480]),
    boxes_xyxy=lambda: torch.zeros(1, 4),
)


def test_no_label_covers_another_and_long_names_stay_in_the_figure():
    box = (0.5, 0.4, 0.4, 0.3)
    corner, outside = (0.9, 0.9, 0.1, 0.1), (2.0, 2.0, 1.0, 1.0)
    found = [(0, 0.9, box, 0), (0, 0.77, box, None), (1, 0.35, corner, None), (0, 0.3, outside, None)]
    verdict = Verdict.of("double", name="cat", number=1, iou=0.9, finder=0)
    detections = [
        ExplainedDetection(0, label, LABELS.names[label], score, where, finds, FalseAlarm.DOUBLE, verdict)
        for label, score, where, finds in found
    ]
    match = Mock(spec=ObjectMatch, reason=None, taken_by=None, box_cxcywh=box)
    match.name = "cat"
    figure = figures.matching_figure(SEEN, LABELS, [0], [match], detections)
    figure.draw_without_rendering()
    left, right = figure.axes
    assert left.get_title() == "1 true object; dashed: 0 missed; thin: the matched queries"
    assert [text.get_text() for text in left.texts] == ["1: cat"]
    texts = {text.get_text(): text.get_window_extent() for text in right.texts}
    assert [text[:3] for text in texts] == ["B: ", "A: ", "1: "]  # the best last, on top; none outside the picture
    assert all(a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0 for a, b in combinations(texts.values(), 2))
    (long,) = (text for text in texts if text.startswith("B: n"))
    assert long.endswith("… 0.35")
    assert texts[long].x1 <= right.get_window_extent().x1


def test_points_lie_in_cells_of_their_own():
    centres = torch.tensor([[10.0, 10], [10, 10], [12, 11], [100, 50], [200, 50], [300, 50], [400, 50]])
    seen = Mock(
        spec=Look,
        image=SEEN.image,
        boxes_xyxy=lambda: torch.cat([centres - 4, centres + 4], dim=1),
        cells_at=lambda points: [int(x) // 32 for x, _ in points],
    )
    explained = Mock(spec=Explained, queries=list(range(len(centres))))
    assert explaining._points_on(seen, explained) == [(10.0, 10.0), (100.0, 50.0), (200.0, 50.0), (300.0, 50.0)]


def test_links_reach_files_with_any_name(tmp_path):
    name = "50% of #1?"
    folder = Folder(tmp_path, "title")
    folder.arrays(name, {"a": 1})
    assert 'href="50%25%20of%20%231%3F.npz"' in folder.finish().read_text(encoding="utf-8")
    Folder(tmp_path, "title").finish()
    assert not (tmp_path / f"{name}.npz").exists()  # it was listed by the page before
