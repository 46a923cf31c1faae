"""The figures of an analysis: what they draw and say is what was counted."""

import re

import numpy as np
import pytest
from test_analysis import random_case

from opendetr.evaluation.analysis import analyse
from opendetr.evaluation.analysis_page import MOST_CELLS, MOST_MISTAKES, MOST_NAMED, analysis_figures, learning_verdict
from opendetr.evaluation.coco import FoundArrays, TruthArrays


@pytest.fixture(scope="module")
def measured():
    return analyse(*random_case(0))


def test_the_matrix_and_its_sentence(measured):
    text, matrix = analysis_figures(measured), np.array(measured.analysis.confusion)
    cells = [int(count.replace(",", "")) for count in re.findall(r"<span class=cell[^>]*>([\d,]+)</span>", text)]
    assert cells == matrix.ravel().tolist()
    right, others = np.trace(matrix), matrix[:-1, :-1].sum() - np.trace(matrix)
    assert (
        f"of {matrix[:-1].sum()} objects, {right} are found with the right class, {others} with another, "
        f"{matrix[:-1, -1].sum()} are missed; {matrix[-1].sum()} detections on background"
    ) in text


def test_figures_say_the_numbers_of_the_analysis(measured):
    text, analysis = analysis_figures(measured), measured.analysis
    low, high = analysis.intervals["AP50"]
    assert f"AP50 {measured.summary['AP50']:.3f} (95 %: {low:.3f} to {high:.3f})" in text
    for one in (analysis.overall, *analysis.classes):
        row = (one.name, one.objects, *(f"{value:.2f}" for value in (one.best.threshold, one.best.f1)))
        assert "".join(f"<td>{value}</td>" for value in row) in text
    assert f"the error is {analysis.calibration.error:.3f} over" in text
    assert f"a temperature of {analysis.calibration.temperature:.2f}" in text
    assert text.count("<polyline") == 4 + 4 + 2  # three classes and all; the dashed line


def test_of_many_classes_the_most_frequent_mistakes_are_listed():
    metrics = analyse(*random_case(0, pictures=30, classes=MOST_CELLS + 6))
    text, matrix = analysis_figures(metrics), np.array(metrics.analysis.confusion)
    np.fill_diagonal(matrix, 0)
    listed = [int(count) for count in re.findall(r"<tr><td>(\d+)</td><td>[^<]+ is (?:missed|taken for)", text)]
    assert listed == sorted(matrix.ravel().tolist(), reverse=True)[:MOST_MISTAKES]
    assert "class=cell" not in text
    few = [one.name for one in metrics.analysis.classes if 0 < one.objects < 10]
    assert f" and {len(few) - MOST_NAMED} more." in text.split("a threshold is chance, and the model keeps 0.5: ")[1]


def test_one_sentence_says_whether_it_learned(measured):
    best = measured.analysis.overall.best
    assert "It has learned: " in learning_verdict(measured)
    assert f"it finds {best.recall:.0%} of the objects" in learning_verdict(measured)
    truth, _ = random_case(0)
    nothing = analyse(truth, FoundArrays(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0)))
    assert "It has not learned to find objects yet: AP50 0.000." in learning_verdict(nothing)
    text = analysis_figures(nothing)
    assert "weakest" in analysis_figures(measured)
    assert "weakest" not in text
    assert "no detection is right yet" in text
    assert "no detection has a score of 0.05 or more" in text


def test_a_split_without_objects_has_figures_too():
    truth = TruthArrays([1], [1], ["a"], np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0),
                        np.zeros(0, bool))  # fmt: skip
    metrics = analyse(truth, FoundArrays(np.array([0]), np.array([0]), np.array([[1.0, 1, 5, 5]]), np.array([0.9])))
    assert "of 0 objects, 0 are found, 0 are missed; 1 detection on background" in analysis_figures(metrics)
    assert "AP50 -." in learning_verdict(metrics)
