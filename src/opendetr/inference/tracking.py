"""Objects followed through a video by ByteTrack (Zhang et al. 2022, arXiv 2110.06864), of the package `trackers`.

ByteTrack predicts where each object goes on and gives its next detection the same id: first among sure detections, then
among unsure ones, so that an object that is half hidden keeps its id.
"""

from collections import deque
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from opendetr.detections import Detections, Threshold
from opendetr.drawing.tracks import Point, draw_tracks
from opendetr.errors import UserError, first_line
from opendetr.inference.detector import Detector
from opendetr.inference.label_files import write_table
from opendetr.inference.prediction import detect_frames
from opendetr.inference.results import Results, Shard, StoredEntries
from opendetr.inference.sources import file_stem, report_left_out
from opendetr.inference.video import Video, VideoDrawing
from opendetr.progress import console
from opendetr.raw_values import RawId
from opendetr.wording import counted

# The lowest score that continues a track, as a share of the one that begins it. The paper takes .1 and .6 of a detector
# whose doubles were removed; DETR's unsure doubles (of other queries) would keep tracks alive whose object is gone.
UNSURE = 0.5
LEAST_OVERLAP = 0.2  # IoU of a detection with where its track expects it (the paper's code)
TRACE_SECONDS = 2.0  # of the line that is drawn behind an object
COLUMNS = ("seconds", "track_id")  # of tracks.csv, beside those of every table


class Tracker:
    """Gives the detections of one object the same id, from 1, in all frames; an object keeps its class.

    A lost object is waited for during a second of the video.
    """

    def __init__(self, threshold: Threshold, frames_per_second: float) -> None:
        """Detections from `threshold` on begin tracks, unsure ones only continue them; frames come at this rate.

        The threshold is a number, or one per class index.

        Raises:
            UserError: the package `trackers` is not installed.
        """
        self._make, self._threshold = _import_tracker(), threshold
        self._settings = {
            "frame_rate": frames_per_second, "lost_track_buffer": 30,  # frames at 30 a second
            "minimum_iou_threshold": LEAST_OVERLAP,
        }  # fmt: skip
        self._of_class: dict[int, Any] = {}  # one per class: ByteTrack itself does not look at classes
        self._numbers: dict[tuple[int, int], int] = {}  # class, the package's id -> ours

    @property
    def count(self) -> int:
        """Objects so far."""
        return len(self._numbers)

    def follow(self, found: Detections) -> tuple[Detections, list[int]]:
        """The detections of the next frame that belong to a track, and the id of each.

        A track begins with the second of two frames in a row that show its object.
        """
        for label in set(found.labels.tolist()) - self._of_class.keys():
            least = self._threshold if isinstance(self._threshold, int | float) else self._threshold[label]
            self._of_class[label] = self._make(
                **self._settings, track_activation_threshold=least, high_conf_det_threshold=least
            )
        rows: list[int] = []
        ids: list[int] = []
        for label, tracker in self._of_class.items():
            of_class = (found.labels == label).nonzero()[:, 0]
            given = found[of_class].to_supervision()
            given.data["row"] = of_class.numpy()
            tracked = tracker.update(given)
            for row, number in zip(tracked.data.get("row", ()), tracked.tracker_id):
                if number >= 0:
                    rows.append(int(row))
                    ids.append(self._numbers.setdefault((label, int(number)), len(self._numbers) + 1))
        order = np.argsort(rows)  # as the scoring orders them
        return found[[rows[at] for at in order]], [ids[at] for at in order]


def require_trackers() -> None:
    """Check before long work that `trackers` is installed.

    Raises:
        UserError: it is not.
    """
    _import_tracker()


def track_video(
    detector: Detector,
    source: str,
    folder: Path,
    every: int,
    threshold: float | None,
    *,
    drawn: bool,
    classes: Collection[int] | None,
) -> Path:
    """Follow objects through a video, webcam or stream; Ctrl-C ends it and keeps the results.

    Returns:
        `tracks.json`; beside it are `tracks.csv` and the drawn video.

    Raises:
        UserError: `trackers` is not installed; the source cannot be opened, or a part of it could not be read, after
            the rest was written.
    """
    with Video.open(source, every) as video, ExitStack() as closing:
        rate = video.frames_per_second / every
        least = detector.description.threshold(threshold)
        unsure = UNSURE * least if isinstance(least, int | float) else [UNSURE * of_class for of_class in least]
        tracker = Tracker(least, rate)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{file_stem(video.name) or 'stream'}.mp4"
        drawing = closing.enter_context(VideoDrawing(target, rate)) if drawn else None
        results = closing.enter_context(
            Results(folder, Shard(), {"video": source}, continues=False, name="tracks.json")
        )
        traces: dict[int, deque[Point]] = {}
        try:
            for at, (picture, image, detections) in detect_frames(detector, video, unsure, classes):
                found, ids = tracker.follow(detections)
                entries = [
                    entry | {"seconds": round(at, 3), "track_id": number}
                    for entry, number in zip(found.to_coco(), ids, strict=True)
                ]
                results.add(picture.position, entries, found.image_size)
                if drawing is not None:
                    traces = _prolonged(traces, found, ids, max(2, round(TRACE_SECONDS * rate)))
                    frame = draw_tracks(image, found.boxes_xyxy, found.scores, found.names, ids, traces)
                    drawing.write(frame, at)
        except KeyboardInterrupt:
            console.print("stopped; the results so far are written")
        done = results.finish()
        sizes: dict[RawId, tuple[int, int]] = dict(results.sizes.items())
        write_table(folder / "tracks.csv", StoredEntries(results.path), sizes, COLUMNS)
    console.print(
        f"{counted(tracker.count, 'object')} in {counted(done, 'frame')} of {video.name}: {results.path} and "
        "tracks.csv beside it"
    )
    if drawing is not None and done:
        video.say_drawn(target)
    report_left_out([] if video.problem is None else [video.problem])
    return results.path


def _prolonged(
    traces: dict[int, deque[Point]], found: Detections, ids: list[int], most: int
) -> dict[int, deque[Point]]:
    """The centres of the objects that are in the frame, the last `most` of each."""
    boxes = found.clipped().boxes_xyxy
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    now = {}
    for number, (x, y) in zip(ids, centres):
        now[number] = traces.get(number, deque(maxlen=most))
        now[number].append((x, y))
    return now


def _import_tracker() -> Any:
    try:
        from trackers import ByteTrackTracker

        from opendetr._supervision import supervision  # noqa: F401  (without its warnings)
    except ImportError as error:
        raise UserError(
            f"track needs the package trackers ({first_line(error)}); install it with pip install 'opendetr[track]'"
        ) from None
    return ByteTrackTracker
