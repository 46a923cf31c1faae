"""The figures of an analysis for a page: each says how to read it, and what it shows of these detections."""

from html import escape

import numpy as np

from opendetr.evaluation.analysis import LEAST_OBJECTS, AnalysedMetrics, Analysis, ClassCurves
from opendetr.evaluation.calibration import LOWEST
from opendetr.evaluation.judged import RECALLS
from opendetr.evaluation.report import metric_in_words
from opendetr.evaluation.thresholds import GRID
from opendetr.pages.charts import COLOURS, line_chart
from opendetr.pages.page import Markup, figure, paragraph, table
from opendetr.wording import counted

MOST_CELLS = 14  # classes of a confusion matrix that is drawn; of more, the most frequent mistakes are listed
MOST_MISTAKES, MOST_NAMED = 20, 8  # that are listed; classes in a sentence
LEARNED, BEGUN = 0.4, 0.05  # AP50 from which on a model has learned, or has begun to


def learning_verdict(metrics: AnalysedMetrics) -> str:
    """One sentence, to be seen first: whether the model has learned to find objects."""
    ap50, best = metrics.summary["AP50"], metrics.analysis.overall.best
    if best is None or ap50 < BEGUN:
        kind, words = "bad", f"It has not learned to find objects yet: AP50 {metric_in_words(ap50)}."
    else:
        kind, words = ("good", "It has learned") if ap50 >= LEARNED else ("fair", "It has begun to learn")
        words += (
            f": at a score of {best.threshold:.2f} it finds {best.recall:.0%} of the objects, and {best.precision:.0%} "
            f"of what it finds is right (AP50 {metric_in_words(ap50)})."
        )
    return f"<p class='verdict {kind}'>{escape(words)}</p>"


def value_with_interval(metrics: AnalysedMetrics, name: str) -> str:
    """`AP .412 (95 %: .380 to .447)`, for AP or AP50."""
    value = f"{name} {metric_in_words(metrics.summary[name])}"
    if name not in metrics.analysis.intervals:
        return value
    low, high = map(metric_in_words, metrics.analysis.intervals[name])
    return f"{value} (95 %: {low} to {high})"


def analysis_figures(metrics: AnalysedMetrics) -> str:
    """Precision-recall and F1 curves, the best thresholds, confusions and calibration."""
    analysis = metrics.analysis
    charts = _precision_recall(metrics) + _f1_curves(analysis) + _reliability(analysis)
    return (
        f"<div class='grid charts'>{charts}</div>"
        f"<div class='side halves'><div><h3>Thresholds with the best F1</h3>{_thresholds(analysis)}</div>"
        f"<div><h3>What is taken for what</h3>{_confusions(analysis)}</div></div>"
    )


def _readable(content: str, how: str, here: str) -> str:
    """A figure with how to read it, and what it shows here."""
    return figure(content, Markup(f"{paragraph(how)}<p><b>Here:</b> {escape(here)}</p>"))


def _with_objects(analysis: Analysis) -> list[ClassCurves]:
    """The classes that val has, the most frequent first."""
    return sorted((one for one in analysis.classes if one.objects), key=lambda one: -one.objects)


def shown_classes(analysis: Analysis) -> list[ClassCurves]:
    """Those that a chart has colours for beside all classes; none where the only class is all of them."""
    classes = _with_objects(analysis)
    return classes[: len(COLOURS) - 2] if len(classes) > 1 else []


def _precision_recall(metrics: AnalysedMetrics) -> str:
    analysis = metrics.analysis
    curves = [analysis.overall, *shown_classes(analysis)]
    named = {f"{one.name} {np.mean(one.precision):.2f}": one.precision for one in curves if one.precision}
    chart = line_chart(
        "Precision and recall at an IoU of 0.5",
        {name: list(zip(RECALLS.tolist(), values)) for name, values in named.items()},
        "recall: share of the objects that are found", 1.0, with_values=False,
    )  # fmt: skip
    how = (
        "From left to right the threshold falls: more objects are found (recall), and a smaller share of what is found "
        "is right (precision, upwards). The area below a curve, written behind its name, is AP50; a curve that ends "
        "early says that the other objects are not found at any threshold."
    )
    here = f"{value_with_interval(metrics, 'AP50')}, {value_with_interval(metrics, 'AP')}"
    here += "; the interval is that of other pictures of the same kind (bootstrap over pictures)."
    classes = sorted(_with_objects(analysis), key=lambda one: np.mean(one.precision))
    ends = [(one.name, f"{np.mean(one.precision):.2f}") for one in (*classes[:1], *classes[-1:])]
    if len({value for _, value in ends}) > 1:
        weakest, strongest = ends
        here += f" Best is {strongest[0]} with {strongest[1]}, weakest {weakest[0]} with {weakest[1]}."
    return _readable(chart, how, here)


def _f1_curves(analysis: Analysis) -> str:
    curves = [analysis.overall, *shown_classes(analysis)]
    chart = line_chart(
        "F1 over the threshold", {one.name: list(zip(GRID.tolist(), one.f1)) for one in curves},
        "detections with at least this score are kept", 1.0, with_values=False,
    )  # fmt: skip
    how = (
        "F1 is high where both precision and recall are. The top of a curve is the threshold to use; a flat top means "
        "that the choice hardly matters, a narrow one that it does."
    )
    best = analysis.overall.best
    if best is None:
        return _readable(chart, how, "no detection is right yet, at any threshold.")
    return _readable(
        chart, how,
        f"over all classes F1 is best, {best.f1:.2f}, at {best.threshold:.2f}: {best.precision:.0%} of the detections "
        f"are right then, and {best.recall:.0%} of the objects are found.",
    )  # fmt: skip


def _reliability(analysis: Analysis) -> str:
    found = analysis.calibration
    chart = line_chart(
        "Can scores be read as probabilities?",
        {
            "as it should be": [(0.0, 0.0), (1.0, 1.0)],
            "share that is right": [(one.score, one.right) for one in found.bins],
        },
        f"mean score of the detections in a tenth of the scale, from {LOWEST:g} on", 1.0, dashed="as it should be",
        with_values=False,
    )  # fmt: skip
    how = (
        "Of detections with a score of 0.8, 80 % should be right. Points below the dashed line: the model is too "
        "sure; above it: it is right more often than it says. The expected calibration error is the mean distance "
        "from the line. Scores are never changed."
    )
    if found.error is None:
        return _readable(chart, how, f"no detection has a score of {LOWEST:g} or more.")
    sure = "too sure" if found.bias > 0 else "not sure enough"
    here = f"the error is {found.error:.3f} over {counted(found.detections, 'detection')}; on the whole {sure}."
    if found.temperature is not None and found.error_after is not None:
        mends = found.error_after < found.error
        here += (
            f" Logits divided by a temperature of {found.temperature:.2f} would "
            f"{'have an error of' if mends else 'not mend it: the error would be'} {found.error_after:.3f}."
        )
    return _readable(chart, how, here)


def _thresholds(analysis: Analysis) -> str:
    rows = []
    for one in (analysis.overall, *_with_objects(analysis)):
        best = one.best
        values = ["-"] * 4 if best is None else [
            f"{best.threshold:.2f}", f"{best.f1:.2f}", f"{best.precision:.2f}", f"{best.recall:.2f}",
        ]  # fmt: skip
        rows.append([one.name, f"{one.objects:,}", *values])
    header = ["class", "objects", "threshold", "F1", "precision", "recall"]
    how = (
        "The score from which on to keep detections, chosen on these pictures, and what it gives: precision is the "
        "share of the detections that is right, recall the share of the objects that is found. Those that training "
        "found on val stay with the weights: where no threshold is asked for, they are used."
    )
    few = [one.name for one in _with_objects(analysis) if one.objects < LEAST_OBJECTS]
    if few:
        more = f" and {len(few) - MOST_NAMED:,} more" if len(few) > MOST_NAMED else ""
        how += (
            f" With fewer than {LEAST_OBJECTS} objects a threshold is chance, and the model keeps 0.5: "
            f"{', '.join(few[:MOST_NAMED])}{more}."
        )
    return table(header, rows, may_scroll=True) + paragraph(how, is_note=True)


def _confusions(analysis: Analysis) -> str:
    matrix, names = np.array(analysis.confusion), [*(one.name for one in analysis.classes), "background"]
    used = [*np.flatnonzero((matrix.sum(0) + matrix.sum(1))[:-1] > 0).tolist(), len(names) - 1]
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    drawn = _matrix(matrix, names, used) if len(used) <= MOST_CELLS else _frequent(mistakes, names)
    how = (
        "Objects by their class (rows) and what the detection that covers them says (columns), at an IoU of 0.5 and "
        f"the score {analysis.threshold:.2f}, where F1 over all classes is best. The last column counts objects that "
        "no detection covers, the last row detections that cover no object."
    )
    objects, right = int(matrix[:-1].sum()), int(np.trace(matrix))
    found_as_others = int(mistakes[:-1, :-1].sum())
    classes = f" with the right class, {found_as_others:,} with another" if len(analysis.classes) > 1 else ""
    here = (
        f"of {counted(objects, 'object')}, {right:,} are found{classes}, "
        f"{int(matrix[:-1, -1].sum()):,} are missed; {counted(int(matrix[-1].sum()), 'detection')} on background."
    )
    if mistakes.any():
        here += f" The most frequent mistake: {_as_words(mistakes, names, int(mistakes.argmax()))}."
    return f"{drawn}{paragraph(how, is_note=True)}<p class=note><b>Here:</b> {escape(here)}</p>"


def _matrix(matrix: np.ndarray, names: list[str], used: list[int]) -> str:
    """The matrix as a table; a cell is as dark as its share of its row, right ones blue and mistakes red."""
    rows = []
    for row in used:
        cells: list[str] = [names[row]]
        for column in used:
            count, whole = int(matrix[row, column]), max(1, int(matrix[row].sum()))
            colour = "31,119,180" if row == column else "214,72,54"
            share = 0.65 * count / whole
            cells.append(Markup(f'<span class=cell style="background:rgba({colour},{share:.2f})">{count:,}</span>'))
        rows.append(cells)
    return table(["true \\ found", *(names[column] for column in used)], rows)


def _frequent(mistakes: np.ndarray, names: list[str]) -> str:
    order = [place for place in np.argsort(-mistakes, axis=None, kind="stable") if mistakes.flat[place]]
    rows = [[f"{mistakes.flat[place]:,}", _as_words(mistakes, names, int(place))] for place in order[:MOST_MISTAKES]]
    return table(["times", "mistake"], rows, may_scroll=True)


def _as_words(mistakes: np.ndarray, names: list[str], place: int) -> str:
    row, column = divmod(place, len(names))
    return f"{names[row]} is missed" if column == len(names) - 1 else f"{names[row]} is taken for {names[column]}"
