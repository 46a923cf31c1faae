"""The survey of a split: the model over every picture, in the background, and the gallery sorted by what came out."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from opendetr.errors import UserError
from opendetr.explanation.suspects import LabelEvidence, Suspect, rank_suspects
from opendetr.files import append_line, cache_folder, read_json_lines
from opendetr.serving.process import BACKGROUND, Compute, ComputeGone, Late, QueueFull, WorkFailed

PAUSE = 0.5  # seconds before a picture is asked for again where there is no place or no model
SORTS = ("name", "worst", "false_alarms", "missed", "confusion")
MOST_LOST = 2  # times that the process may end, or be late, over a picture
FORMAT = 1  # of what is kept


class SplitSurvey:
    """What the model makes of every picture of a split.

    Args:
        compute: what runs the model.
        split: its name.
        pictures: `split_pictures` of `data_work`.
    """

    def __init__(self, compute: Compute, split: str, pictures: Mapping[str, Any]) -> None:
        self.compute, self.split = compute, split
        self.names: list[str] = pictures["names"]
        self.sizes: list[tuple[int, int]] = pictures["sizes"]
        self.image_ids: list[Any] = pictures["image_ids"]
        self.objects: list[int] = pictures["objects"]
        self.results: dict[int, dict[str, Any]] = {}
        self._task: asyncio.Task[None] | None = None
        self._ranked: tuple[int, list[Suspect]] = (0, [])
        self._kept = cache_folder() / "surveys" / f"{pictures['identity']}-{FORMAT}.jsonl"
        self._read()

    @property
    def state(self) -> str:
        """none, running or done."""
        if len(self.results) == len(self.names):
            return "done"
        return "running" if self._task is not None and not self._task.done() else "none"

    def start(self) -> None:
        """Begin, or go on; nothing where it runs or is done."""
        if self.state == "none":
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End it; what is known stays."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def progress(self) -> dict[str, Any]:
        """How far it is, and what it says of the split so far."""
        missed, alarms, confusions = Counter[str](), Counter[str](), Counter[tuple[int, int]]()
        results = list(self.results.values())
        for one in results:
            missed.update(one["missed"])
            alarms.update(one["false_alarms"])
            confusions.update((true, found) for true, found in one["confusions"])
        return {
            "state": self.state, "done": len(results), "pictures": len(self.names),
            "objects": sum(one["objects"] for one in results),
            "detections": sum(one["detections"] for one in results),
            "missed": dict(missed.most_common()), "false_alarms": dict(alarms.most_common()),
            "confusions": [
                {"true": true, "found": found, "count": count} for (true, found), count in confusions.most_common()
            ],
            "problems": [one["problem"] for one in results if "problem" in one][:20],
        }  # fmt: skip

    def sorted(self, sort: str, confusion: tuple[int, int] | None = None) -> list[int]:
        """The numbers of the pictures in an order of `SORTS`; those that the survey has not reached come last.

        By confusion, only pictures with any are listed, or those with the one from a true to a found label.
        """
        numbers = range(len(self.names))
        if sort == "name":
            return sorted(numbers, key=lambda number: (self.names[number], number))
        if sort == "confusion":
            of = {number: self._confusions(number, confusion) for number in list(self.results)}
            return sorted((number for number in of if of[number]), key=lambda number: (-of[number], number))
        known = sorted(list(self.results), key=lambda number: (*self._badness(number, sort), number))
        reached = set(known)
        return known + [number for number in numbers if number not in reached]

    def listed(self, number: int) -> dict[str, Any]:
        """A picture in the gallery."""
        width, height = self.sizes[number]
        result = self.results.get(number)
        found = None if result is None else {name: value for name, value in result.items() if name != "evidence"}
        return {
            "number": number, "name": self.names[number], "image_id": self.image_ids[number], "width": width,
            "height": height, "objects": self.objects[number], "survey": found and found | {"error": error_of(found)},
        }  # fmt: skip

    def suspects(self) -> list[Suspect]:
        """What may be wrong with the labels, as far as the survey is."""
        known = sorted(list(self.results))  # once: while these are ranked, more may come
        if self._ranked[0] != len(known):
            self._ranked = (len(known), rank_suspects((number, self._evidence(number)) for number in known))
        return self._ranked[1]

    def annotation(self, suspect: Suspect) -> Any:
        """The id of the object that an entry is about; None where it is about none."""
        own = suspect.evidence.number
        return None if own is None else self.results[suspect.picture]["evidence"][own]["annotation"]

    def _evidence(self, number: int) -> list[LabelEvidence]:
        return [
            LabelEvidence(**{name: value for name, value in one.items() if name not in ("annotation", "box_cxcywh")},
                          box_cxcywh=tuple(one["box_cxcywh"]))
            for one in self.results[number]["evidence"]
        ]  # fmt: skip

    def _confusions(self, number: int, wanted: tuple[int, int] | None) -> int:
        found = [tuple(one) for one in self.results[number]["confusions"]]
        return len(found) if wanted is None else found.count(wanted)

    def _badness(self, number: int, sort: str) -> tuple[float, ...]:
        one = self.results[number]
        missed, alarms = (sum(one[name].values()) for name in ("missed", "false_alarms"))
        if sort == "worst":
            return -error_of(one), -(missed + alarms)
        return (-alarms, -missed) if sort == "false_alarms" else (-missed, -alarms)

    async def _run(self) -> None:
        for number in range(len(self.names)):
            if number not in self.results:
                self._keep(number, await self._ask(number))

    async def _ask(self, number: int) -> dict[str, Any]:
        """What the model makes of a picture, once it has nothing else to do.

        A picture over which the process ends again and again is passed over, else no survey would come to its end.
        """
        lost = 0
        while True:
            try:
                found: dict[str, Any] = await self.compute.call(
                    "survey_picture", {"split": self.split, "number": number}, priority="background"
                )
                return found
            except WorkFailed as error:
                return _unusable(f"{self.names[number]}: the server has a fault ({error}); its console says more")
            except UserError as error:
                return _unusable(str(error))
            except (ComputeGone, Late) as error:
                lost += error.was_sent
                if lost == MOST_LOST:
                    what = "ended" if isinstance(error, ComputeGone) else f"had no answer within {BACKGROUND:g} seconds"
                    return _unusable(f"{self.names[number]}: the process that computes {what}; the picture is left out")
                await asyncio.sleep(PAUSE)
            except QueueFull:
                await asyncio.sleep(PAUSE)

    def _keep(self, number: int, result: dict[str, Any]) -> None:
        self.results[number] = result
        if "problem" not in result:  # the picture may be mended
            with suppress(OSError):  # a cache that cannot be written costs time only
                self._kept.parent.mkdir(parents=True, exist_ok=True)
                append_line(self._kept, json.dumps([number, result]))

    def _read(self) -> None:
        """What an earlier survey of the same model, labels and pictures has kept."""
        with suppress(OSError):
            for value in read_json_lines(Path(self._kept))[0]:
                if isinstance(value, list) and len(value) == 2 and 0 <= value[0] < len(self.names):
                    self.results[value[0]] = value[1]


def _unusable(problem: str) -> dict[str, Any]:
    """The result of a picture that cannot be used."""
    nothing: dict[str, Any] = {"missed": {}, "false_alarms": {}, "confusions": [], "evidence": []}
    return {"objects": 0, "detections": 0, "problem": problem, **nothing}


def error_of(result: Mapping[str, Any]) -> float:
    """1 minus the F1 of a picture's detections: 0 where all is right, 1 where nothing is."""
    missed, every = sum(result["missed"].values()), result["objects"] + result["detections"]
    found = result["objects"] - missed
    return 1 - 2 * found / every if every else 0.0
