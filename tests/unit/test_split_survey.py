"""The survey of a split, with a stand-in for the process that computes."""

import asyncio

import pytest

from opendetr.serving.process import Compute, ComputeGone, Late
from opendetr.serving.settings import ModelSettings
from opendetr.serving.survey import SplitSurvey

FOUND = {"objects": 1, "detections": 1, "missed": {}, "false_alarms": {}, "confusions": [], "evidence": []}
PICTURES = {
    "names": ["a.png", "b.png", "c.png"], "sizes": [(4, 3)] * 3, "image_ids": [1, 2, 3], "objects": [1] * 3,
    "identity": "0",
}  # fmt: skip


class Ending(Compute):
    """Ends, or is late, over one picture."""

    def __init__(self, error, times):
        super().__init__(ModelSettings("run"))
        self.error, self.times, self.asked = error, times, []

    async def call(self, name, arguments, *, deadline=None, priority):
        self.asked.append(arguments["number"])
        if arguments["number"] == 1 and self.asked.count(1) <= self.times:
            raise self.error
        return FOUND


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENDETR_CACHE", str(tmp_path))
    monkeypatch.setattr("opendetr.serving.survey.PAUSE", 0)


def surveyed(compute):
    async def run():
        survey = SplitSurvey(compute, "val", PICTURES)
        survey.start()
        while survey.state != "done":
            await asyncio.sleep(0)
        return survey.progress()

    return asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize("error", [ComputeGone(was_sent=True), Late(was_sent=True)])
def test_a_picture_over_which_the_process_ends_again_and_again_is_passed_over(error):
    compute = Ending(error, times=10**6)
    (problem,) = surveyed(compute)["problems"]
    assert problem.startswith("b.png: the process that computes")
    assert compute.asked == [0, 1, 1, 2]


@pytest.mark.parametrize("error", [ComputeGone(), Late()])
def test_a_picture_that_only_waited_is_asked_for_again(error):
    compute = Ending(error, times=5)
    assert surveyed(compute)["problems"] == []
    assert compute.asked == [0, *[1] * 6, 2]
