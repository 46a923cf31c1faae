"""The queue of a label review, as the page gets it: what may be wrong, what is proposed, what is decided. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opendetr.data.corrections import Edit, id_of
from opendetr.data.label_log import Decision, LabelLog, writable_folder
from opendetr.errors import UserError
from opendetr.explanation.suspects import LabelFault, Suspect
from opendetr.serving.survey import SplitSurvey
from opendetr.wording import one_line

EDIT_OF = {
    LabelFault.MISSING: Edit.ADD, LabelFault.WRONG_CLASS: Edit.CLASS, LabelFault.SHIFTED: Edit.MOVE,
    LabelFault.SPURIOUS: Edit.DELETE,
}  # fmt: skip


class LabelReview:
    """The review of a split.

    Args:
        survey: of the split.
        labels: `split_labels` of `data_work`.
        asked: the folder for the decisions and the corrected file, where the user gave one.

    Raises:
        UserError: the labels cannot be reviewed, or no folder can be written.
    """

    def __init__(self, survey: SplitSurvey, labels: Mapping[str, Any], asked: Path | None) -> None:
        self.survey = survey
        if labels["folder"] is None and asked is None:
            raise UserError(
                f"{labels['place']} is in no folder of this machine, so no label can be reviewed: give a folder for "
                f"the decisions and the corrected file by --review DIR"
            )
        self.log = LabelLog(labels["content"], labels["split"], writable_folder(labels["folder"] or Path(), asked))
        self.is_beside = asked is None
        self.problem: str | None = None  # why the corrected file could not be written
        self.classes = [
            {"category_id": id_of(one), "name": one_line(str(one["name"]))} for one in labels["content"]["categories"]
        ]
        self._category_of: dict[int, Any] = labels["categories"]
        self._name_of = {one["category_id"]: one["name"] for one in self.classes}

    def state(self, offset: int, limit: int) -> dict[str, Any]:
        """A part of the queue, the likeliest faults first, and what is decided."""
        version, decisions = self.log.version, self.log.decisions
        live = [one for one in decisions if one.is_live]
        suspects = self.survey.suspects()
        entries = [entry for one in suspects if (entry := self._entry(one, live)) is not None]
        return {
            "version": version, "file": self.log.corrected.name, "beside": self.is_beside, "problem": self.problem,
            "classes": self.classes,
            "survey": self.survey.progress(), "total": len(entries),
            "left_out": len(suspects) - len(entries),
            "decided": sum(bool(entry["decisions"]) for entry in entries),
            "edits": sum(one.correction.edit != Edit.KEEP for one in live), "live": len(live),
            "queue": entries[offset : offset + limit],
        }  # fmt: skip

    def picture(self, number: int) -> dict[str, Any]:
        """The labels of a picture with the decisions made."""
        image_id = self.survey.image_ids[number]
        width, height = self.survey.sizes[number]
        objects = []
        for own_id, one in self.log.labels_of(image_id).items():
            box = _corners(one.get("bbox"))
            if box is not None:
                category = id_of(one, "category_id")
                name = self._name_of.get(category, "?")
                objects.append({"annotation": own_id, "category_id": category, "name": name, "box_xyxy": box})
        size = {"width": width, "height": height}
        return {"number": number, "name": self.survey.names[number], "image_id": image_id, **size, "objects": objects}

    def _entry(self, suspect: Suspect, live: list[Decision]) -> dict[str, Any] | None:
        """An entry of the queue; None where the labels lack its class, or it is smaller than a pixel."""
        evidence, number = suspect.evidence, suspect.picture
        (width, height), image_id = self.survey.sizes[number], self.survey.image_ids[number]
        annotation, category = self.survey.annotation(suspect), self._category_of.get(evidence.label)
        if category is None:
            return None
        x, y, w, h = evidence.box_cxcywh
        left, top = max(0.0, (x - w / 2) * width), max(0.0, (y - h / 2) * height)
        right, bottom = min(float(width), (x + w / 2) * width), min(float(height), (y + h / 2) * height)
        if right - left < 1 or bottom - top < 1:
            return None
        bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
        of_it = [one.number for one in live if one.correction.is_about(image_id, annotation, bbox)]
        return {
            "key": f"{number}-{f'q{evidence.query}' if annotation is None else annotation}",
            "picture": number, "name": self.survey.names[number], "image_id": image_id, "width": width,
            "height": height, "fault": str(suspect.fault), "edit": str(EDIT_OF[suspect.fault]),
            "suspicion": suspect.suspicion, "annotation": annotation, "iou": evidence.iou, "score": evidence.score,
            "given_score": evidence.given, "category_id": category, "class": self._name_of[category],
            "given": None if evidence.given_label is None else self._name_of.get(
                self._category_of.get(evidence.given_label), "?"
            ),
            "bbox": bbox, "decisions": of_it,
        }  # fmt: skip


def _corners(bbox: Any) -> list[float] | None:
    """A box x, y, width, height as corners; None where it is none."""
    try:
        x, y, width, height = map(float, bbox)
    except (TypeError, ValueError):
        return None
    return [x, y, x + width, y + height]
