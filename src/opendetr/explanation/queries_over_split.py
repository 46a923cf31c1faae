"""What `opendetr explain --slots` shows of a split: what every query does, and what the decoder layers add."""

import numpy as np

from opendetr.data.index import DatasetIndex
from opendetr.detections import Threshold, threshold_in_words
from opendetr.evaluation.report import metric_in_words
from opendetr.explanation import readings, survey_figures
from opendetr.explanation.folder import Folder
from opendetr.explanation.slots import Survey, survey
from opendetr.inference.detector import Detector
from opendetr.wording import counted


def explain_slots(folder: Folder, detector: Detector, index: DatasetIndex, threshold: Threshold) -> None:
    """What every query does over a split: slots, usage, layers, and attention around the boxes."""
    found = survey(detector, index, threshold)
    folder.heading(f"{counted(len(index), 'picture')} of {index.source.name}")
    if found.starts_cxcywh is None:
        shown = f"The {min(survey_figures.MOST_SLOTS, len(found.usage))} busiest of {len(found.usage)} queries"
        caption = f"{shown}, their boxes over the data set (the paper's figure 7)."
        folder.figure("slots", survey_figures.slots_figure(found), caption, readings.SLOTS, readings.of_slots(found))
        caption, here = "How much the places of two queries overlap.", readings.of_overlap(found)
        folder.figure("slots-overlap", survey_figures.overlap_figure(found), caption, readings.OVERLAP, here)
        overlaps = found.specialisation - np.eye(len(found.usage))
        rows = [
            [str(query), f"{usage:.0%} of the pictures", f"{others.max():.2f} (query {others.argmax()})"]
            for query, (usage, others) in enumerate(zip(found.usage, overlaps))
        ]
        folder.table(["query", "detects something in", "overlap with the nearest other slot"], rows)
    else:
        folder.words(
            "The queries of this model have no fixed role: each picture's cells with the highest scores become its "
            "queries. So there are no slots; the figure shows where queries start and how far they move."
        )
        caption = "Selected queries: the proposals they start from, and how far their boxes move in the decoder."
        folder.figure(
            "starts", survey_figures.starts_figure(found), caption, readings.STARTS, readings.of_starts(found)
        )
    caption, here = "Average precision after every decoder layer (figure 4).", readings.of_decoder_layers(found)
    folder.figure("decoder-layers", survey_figures.layers_ap_figure(found), caption, readings.DECODER_LAYERS, here)
    rows = [
        [str(layer), *(metric_in_words(metrics.summary[key]) for key in ("AP", "AP50") for metrics in both)]
        for layer, both in enumerate(found.layers, start=1)
    ]
    folder.table(["decoder layer", "AP", "AP with NMS", "AP50", "AP50 with NMS"], rows)
    if len(found.concentrations):
        _concentration_table(folder, found)
    arrays = {
        "boxes_cxcywh": found.boxes_cxcywh, "scores": found.scores, "starts_cxcywh": found.starts_cxcywh,
        "concentrations": found.concentrations, "widenings": found.widenings, "by_gradient": found.by_gradient,
    }  # fmt: skip
    if found.starts_cxcywh is None:  # only learned queries are the same in every picture
        arrays |= {"usage": found.usage, "overlap": found.specialisation}
    folder.arrays("slots", arrays)


def _concentration_table(folder: Folder, found: Survey) -> None:
    """The concentration of attention around boxes: medians over detections."""
    everywhere, around = found.concentrations, found.widenings
    gradient, wide = found.by_gradient.T
    even = np.median(around)
    folder.words(
        "How much denser the attention is around a detection than elsewhere: the share of a map within the "
        "detection's box, widened by one cell on every side, over that widened box's share of the picture (1 for "
        "attention that is spread evenly); the last column divides by the share of the box itself, which is smaller "
        f"(evenly spread attention has {even:.2f} there). Medians over {len(everywhere)} detections that reach "
        f"{threshold_in_words(found.threshold)}; by gradient over {len(gradient)} of them, from a sample of pictures."
    )
    by_layer = everywhere.mean(-1)
    rows = [
        [f"layer {number}", *(f"{value:.2f}" for value in np.median(heads, axis=0)), *_medians(heads.mean(-1), around)]
        for number, heads in enumerate(everywhere.swapaxes(0, 1), start=1)
    ]
    none = ["-"] * everywhere.shape[-1]
    rows.append(["mean of layers", *none, *_medians(by_layer.mean(-1), around)])
    if len(gradient):
        rows.append(["by gradient, all layers", *none, *_medians(gradient, wide)])
    heads = (f"head {number}" for number in range(1, everywhere.shape[-1] + 1))
    folder.table(["decoder attention", *heads, "mean of heads", "over the box's own share"], rows)


def _medians(concentrations: np.ndarray, widenings: np.ndarray) -> list[str]:
    return [f"{np.median(concentrations):.2f}", f"{np.median(concentrations * widenings):.2f}"]
