"""The learning curves on the page and as PNG: every point is a number of the log."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from test_analysis import random_case
from test_run_table import make_run

from opendetr import _matplotlib, api
from opendetr.evaluation.analysis import analyse
from opendetr.evaluation.analysis_plots import class_ap_plot
from opendetr.evaluation.coco import evaluate_arrays
from opendetr.evaluation.run_page import learning_charts, learning_curves
from opendetr.training.run_plots import curves_plot

LOGGED = {  # the chart and the curve, and what of the log it shows
    ("ap", "AP"): "val_AP", ("ap", "AP50"): "val_AP50", ("loss", "loss"): "loss",
    ("loss-terms", "class"): "loss_class", ("loss-terms", "L1"): "loss_l1", ("loss-terms", "GIoU"): "loss_giou",
    ("matched", "IoU"): "matched_iou", ("matched", "right class"): "matched_accuracy",
    ("match-stability", "same query as before"): "val_match_stability",
    ("learning-rate", "learning rate"): "lr", ("speed", "pictures/s"): "pictures_per_second",
}  # fmt: skip


def log_of(seed=0, steps=6):
    """Lines of a log with random numbers, an evaluation after every second step."""
    rng, lines = np.random.default_rng(seed), []
    names = ("loss", "loss_class", "loss_l1", "loss_giou", "matched_iou", "pictures_per_second")
    for step in range(1, steps + 1):
        figures = dict(zip(names, rng.random(len(names)).tolist()))
        more = {"lr": 1e-4 * rng.random(), "matched_accuracy": 100 * rng.random()}
        lines.append({"kind": "step", "epoch": step / 2, "step": 20 * step, "seconds": 1.0 * step, **figures, **more})
        if step % 2 == 0:
            kept = None if step == 2 else rng.random()
            val = {"val_AP": rng.random(), "val_AP50": rng.random(), "val_match_stability": kept}
            lines.append({"kind": "val", "epoch": step / 2, "step": 20 * step, "seconds": 1.0 * step, **val})
    return lines


def logged_points(lines, key):
    scale = 0.01 if key == "matched_accuracy" else 1
    return [(line["step"], scale * line[key]) for line in lines if line.get(key) is not None]


def test_every_curve_is_that_of_the_log():
    lines = log_of()
    charts = {chart.name: chart for chart in learning_charts(lines, num_classes=2)}
    assert {(name, curve) for name, chart in charts.items() for curve in chart.curves} == set(LOGGED)
    for (name, curve), key in LOGGED.items():
        np.testing.assert_allclose(charts[name].curves[curve], logged_points(lines, key))
    assert {"ap", "match-stability"}.isdisjoint(
        chart.name for chart in learning_charts([line for line in lines if line["kind"] == "step"], num_classes=2)
    )
    assert "right class" not in learning_curves(lines, num_classes=1)


def test_the_page_draws_the_numbers_of_the_log():
    """Read back from the places in the picture, by the numbers at its axes."""
    lines = log_of()
    drawn = learning_curves(lines, num_classes=2)
    for title, name, key in (
        ("Average precision on held-out pictures", "AP50", "val_AP50"), ("Matched queries", "IoU", "matched_iou"),
        ("Matched-query stability", "same query as before", "val_match_stability"),
    ):  # fmt: skip
        (chart,) = [part for part in drawn.split("<svg")[1:] if f">{title}</text>" in part]
        texts = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"[^>]*>([\d.,]+)</text>', chart)
        of_x = [(float(x), float(value)) for x, _, anchor, value in texts if anchor == "middle"]
        of_y = [(float(y) - 4, float(value)) for _, y, anchor, value in texts if anchor == "end"]
        (points,) = re.findall(rf'<polyline points="([^"]*)"[^>]*><title>{name}</title>', chart)
        places = np.array([[float(place) for place in point.split(",")] for point in points.split()])
        values = [np.polyval(np.polyfit(*zip(*ticks), 1), places[:, axis]) for axis, ticks in enumerate((of_x, of_y))]
        expected = np.array(logged_points(lines, key))
        np.testing.assert_allclose(np.transpose(values), expected, atol=0.5)  # places have one decimal
        np.testing.assert_allclose(values[1], expected[:, 1], atol=1e-3)


def test_figures_for_papers_draw_the_numbers_of_the_log():
    logs = {"a": log_of(0), "b": log_of(1)}
    charts = {run: learning_charts(lines, num_classes=2) for run, lines in logs.items()}
    for several in zip(*charts.values()):
        (axes,) = curves_plot(dict(zip(logs, several))).axes
        drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
        for run, chart in zip(logs, several):
            for curve in chart.curves:
                label = f"{run}: {curve}" if len(chart.curves) > 1 else run
                np.testing.assert_allclose(drawn[label], logged_points(logs[run], LOGGED[chart.name, curve]))
        assert len(axes.get_legend().get_texts()) == len(axes.lines) == 2 * len(several[0].curves)


def test_the_curves_of_runs_are_files(tmp_path):
    for run in ("a", "b"):
        make_run(tmp_path / "runs" / run)
        (tmp_path / "runs" / run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log_of()))
    rows = api.runs(tmp_path / "runs", tmp_path / "figures")
    assert [row.run for row in rows] == ["a", "b"]
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {name for name, _ in LOGGED}
    assert Image.open(tmp_path / "figures" / "ap.png").width == pytest.approx(3.4 * _matplotlib.DPI, rel=0.1)
    make_run(tmp_path / "new")  # a line of an epoch, nothing measured
    api.runs(tmp_path / "new", tmp_path / "others")
    assert "ap" not in {path.stem for path in (tmp_path / "others").iterdir()}


def test_bars_of_classes_are_the_ap_of_the_evaluator():
    truth, found = random_case(0)
    expected = evaluate_arrays(truth, found).per_class
    (axes,) = class_ap_plot(analyse(truth, found)).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    ap50, ap = ([bar.get_width() for bar in bars] for bars in axes.containers)
    assert dict(zip(names, zip(ap, ap50))) == {name: (of["AP"], of["AP50"]) for name, of in expected.items()}
    assert ap == sorted(ap)
