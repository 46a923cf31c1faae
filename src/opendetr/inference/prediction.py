"""Detections of many pictures, whole or in tiles and of videos: read ahead, detected together, written as they come."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from opendetr.detections import Threshold, threshold_in_words
from opendetr.engines.detecting import Prepared
from opendetr.errors import UserError
from opendetr.images import pixels_unlimited
from opendetr.inference.detector import Detector
from opendetr.inference.label_files import LabelFiles, Listed, Saving, data_set_name
from opendetr.inference.reading import AHEAD, read_ahead
from opendetr.inference.results import (
    Results,
    Shard,
    StoredEntries,
    is_begun,
    is_finished,
    merge_shards,
    sizes_of_shards,
)
from opendetr.inference.sources import (
    SourcePicture,
    distinct_names,
    distinct_stems,
    file_stem,
    name_pictures,
    report_left_out,
)
from opendetr.inference.tiling import Tile, merge_tiles, tile_boxes
from opendetr.inference.video import Video, VideoDrawing
from opendetr.progress import console, show_progress
from opendetr.structures import Detections
from opendetr.wording import counted


@dataclass(frozen=True)
class Tiling:
    """How large pictures are cut."""

    side: int  # of a tile, in pixels
    overlap: float  # smallest overlap of neighbouring tiles, as a share of `side`

    def __post_init__(self) -> None:
        tile_boxes(self.side, self.side, self.side, self.overlap)  # checks them


class Found(NamedTuple):
    """A picture with its detections."""

    picture: SourcePicture
    image: Image.Image
    detections: Detections


class _Open(NamedTuple):
    """A picture with unfinished tiles."""

    picture: SourcePicture
    image: Image.Image
    tiles: list[Tile]
    found: dict[int, Detections]  # by tile


def detect_pictures(
    detector: Detector,
    pictures: Iterable[SourcePicture],
    threshold: Threshold | None,
    batch_size: int,
    tiling: Tiling | None = None,
    broken: Callable[[str], None] | None = None,
    *,
    classes: Collection[int] | None = None,
    live: bool = False,
) -> Iterator[Found]:
    """Every picture with its detections, as soon as it is finished.

    While the engine computes, threads read, cut and resize the next ones; only a few pictures are in memory.

    Args:
        detector: the model.
        pictures: read by threads; no two have one position.
        threshold: the lowest score that is reported: of all classes, of each, or None for the model's own.
        batch_size: most pictures or tiles of one shape in a batch.
        tiling: cuts every picture; None leaves them whole.
        broken: called with the sentence on a picture that cannot be read; None raises it.
        classes: the class indices that are reported; None for all.
        live: a camera: each picture is detected before the next is read.
    """
    waiting: dict[int, _Open] = {}
    wanted = None if classes is None else torch.tensor(sorted(classes))

    def prepare(picture: SourcePicture) -> tuple[SourcePicture, Image.Image | str, Prepared | None]:
        try:
            with nullcontext() if tiling is None else pixels_unlimited():
                image = picture.read(detector.description.preprocessing.white_level)
        except UserError as error:
            return picture, str(error), None
        return picture, image, detector.prepared(0, image) if tiling is None else None

    owners: dict[int, tuple[int, int]] = {}  # key of a part -> position of its picture, number of its tile

    def parts() -> Iterator[Prepared]:
        key = 0
        # Large pictures take hundreds of megabytes: one at a time is read, and its tiles are cut when they are needed.
        for picture, image, whole in read_ahead(prepare, pictures, 0 if live or tiling is not None else AHEAD):
            if isinstance(image, str):
                if broken is None:
                    raise UserError(image)
                broken(image)
                continue
            tiles = [Tile(0, 0, image.height, image.width)]
            if tiling is not None:
                tiles = tile_boxes(image.height, image.width, tiling.side, tiling.overlap)
            waiting[picture.position] = _Open(picture, image, tiles, {})
            prepared = iter([whole]) if whole is not None else read_ahead(partial(_cut, detector, image), tiles)
            for tile, part in enumerate(prepared):
                owners[key] = picture.position, tile
                yield part._replace(key=key)
                key += 1

    for key, detections in detector.detect(parts(), threshold, batch_size):
        position, tile = owners.pop(key)
        opened = waiting[position]
        opened.found[tile] = detections
        if len(opened.found) == len(opened.tiles):
            del waiting[position]
            picture, size = opened.picture, (opened.image.height, opened.image.width)
            found = [opened.found[number] for number in range(len(opened.tiles))]
            whole = found[0] if len(found) == 1 else merge_tiles(found, opened.tiles, size)
            whole = whole if wanted is None else whole[torch.isin(whole.labels, wanted)]
            named = replace(whole, image_size=size, image_id=picture.image_id, file_name=picture.file_name)
            yield Found(picture, opened.image, named)


def _cut(detector: Detector, image: Image.Image, tile: Tile) -> Prepared:
    return detector.prepared(0, image.crop((tile.left, tile.top, tile.left + tile.width, tile.top + tile.height)))


def predict_pictures(
    detector: Detector,
    paths: list[Path],
    folder: Path,
    shard: Shard,
    threshold: float | None,
    batch_size: int,
    tiling: Tiling | None,
    *,
    drawn: bool,
    classes: Collection[int] | None,
    saving: Saving,
) -> Path:
    """Detect in the pictures of a shard and write the results to a folder.

    Returns:
        The results file: of all pictures if the shard was the last, else of the shard.

    Raises:
        UserError: pictures could not be read, after the others were written.
    """
    least = detector.description.threshold(threshold)
    pictures, names, stems = name_pictures(paths), distinct_names(paths), distinct_stems(paths)
    settings = {
        "model": detector.identity, "engine": detector.engine.name, "precision": detector.engine.precision,
        "pictures": [picture.path for picture in pictures], "threshold": as_setting(least),
        "tiling": None if tiling is None else [tiling.side, tiling.overlap], "drawn": drawn,
        "classes": None if classes is None else sorted(classes), "saved": saving.names,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    files = LabelFiles(folder, saving, detector.description.label_map)
    broken: list[str] = []

    def merge() -> Path | None:
        merged = merge_shards(folder, shard.count, settings, pictures)
        if merged is not None:
            list_all(merged, sizes_of_shards(folder, shard.count))
        return merged

    def list_all(results: Path, sizes: dict[int, tuple[int, int]]) -> None:
        listed = [Listed(pictures[at].image_id, data_set_name(stems[at], paths[at]), sizes[at]) for at in sorted(sizes)]
        _say_written(files.finish(StoredEntries(results), listed))

    if shard.count > 1 and is_finished(folder, shard, settings):
        console.print(f"part {shard.number} of {shard.count} is finished: {folder / shard.name}")
        return merge() or folder / shard.name
    if not is_begun(folder, shard.count, settings):
        files.require_new()
    with Results(folder, shard, settings) as results:
        todo = [picture for picture in shard.of(pictures) if picture.position not in results.offsets]

        def finish(found: Found) -> tuple[int, Detections]:
            position = found.picture.position
            if drawn:
                found.detections.plot(found.image).save(folder / names[position], quality=95)
            files.write(stems[position], found.image, found.detections, paths[position])
            return position, found.detections

        found = detect_pictures(detector, todo, least, batch_size, tiling, broken.append, classes=classes)
        count = 0
        for position, detections in show_progress(
            read_ahead(finish, found, 0 if tiling else AHEAD), "detecting", len(todo)
        ):
            results.add(position, detections.to_coco(), detections.image_size)
            count += len(detections)
        done = results.finish(len(broken))
    console.print(found_in_words(count, len(todo) - len(broken), done, least, results.path))
    if shard.count == 1:
        list_all(results.path, results.sizes)
    merged = merge() if shard.count > 1 else None
    if merged is not None:
        console.print(f"All {shard.count} parts are there: {merged}")
    report_left_out(broken)
    return merged or results.path


def _say_written(paths: list[Path]) -> None:
    if paths:
        console.print(f"Also written: {', '.join(map(str, paths))}")


def detect_frames(
    detector: Detector,
    video: Video,
    threshold: Threshold | None,
    classes: Collection[int] | None,
    batch_size: int = 1,
    tiling: Tiling | None = None,
) -> Iterator[tuple[float, Found]]:
    """The frames of a video in their order, each with its time in seconds and its detections, while a bar counts them.

    `batch_size` is for tiles; frames are detected one by one, and those of a camera do not wait.
    """
    seconds: dict[int, float] = {}

    def frames() -> Iterator[SourcePicture]:
        for number, at, image in video:
            seconds[number] = at
            yield SourcePicture(number, number, video.name, video.name, image)

    found = detect_pictures(
        detector, frames(), threshold, 1 if tiling is None else batch_size, tiling, classes=classes, live=video.live
    )
    total = -(-(video.num_frames or 0) // video.every)
    for one in show_progress(found, "detecting", total, "frames"):
        yield seconds.pop(one.picture.position), one


def as_setting(threshold: Threshold) -> float | list[float]:
    """As the settings of results have it, which are JSON."""
    return threshold if isinstance(threshold, int | float) else list(threshold)


def found_in_words(count: int, pictures: int, in_all: int, threshold: Threshold, path: Path | str) -> str:
    """What was found in the pictures of this call, and where it is with those of earlier ones."""
    said = f"{counted(count, 'detection')} in {counted(pictures, 'picture')}"
    if not count and pictures:
        said += f" (no score reaches {threshold_in_words(threshold)}; --threshold lowers that)"
    return f"{said}: {path}" if pictures == in_all else f"{said}; with those before, {in_all} pictures: {path}"


def predict_video(
    detector: Detector,
    source: str,
    folder: Path,
    every: int,
    threshold: float | None,
    batch_size: int,
    tiling: Tiling | None,
    *,
    drawn: bool,
    classes: Collection[int] | None,
    saving: Saving,
) -> Path:
    """Detect in the frames of a video, webcam or stream; Ctrl-C ends it and keeps the results.

    Returns:
        The results file.

    Raises:
        UserError: the source cannot be opened, or a part of it could not be read, after the rest was written.
    """
    with Video.open(source, every) as video, ExitStack() as closing:
        folder.mkdir(parents=True, exist_ok=True)
        stem = file_stem(video.name) or "stream"
        target = folder / f"{stem}.mp4"
        files = LabelFiles(folder, saving, detector.description.label_map)
        files.require_new()
        drawing = closing.enter_context(VideoDrawing(target, video.frames_per_second / every)) if drawn else None
        results = closing.enter_context(Results(folder, Shard(), {"video": source}, continues=False))
        try:
            found = detect_frames(detector, video, threshold, classes, batch_size, tiling)
            for at, (picture, image, detections) in found:
                entries = [entry | {"seconds": round(at, 3)} for entry in detections.to_coco()]
                files.write(f"{stem}-{picture.position:06}", image, detections)
                results.add(picture.position, entries, detections.image_size)
                if drawing is not None:
                    drawing.write(detections.plot(image), at)
        except KeyboardInterrupt:
            console.print("stopped; the results so far are written")
        done = results.finish()
        listed = [
            Listed(number, data_set_name(f"{stem}-{number:06}", None), size) for number, size in results.sizes.items()
        ]
        _say_written(files.finish(StoredEntries(results.path), listed, video=True))
    console.print(f"{counted(done, 'frame')} of {video.name}: {results.path}")
    if drawing is not None and done:
        video.say_drawn(target)
    report_left_out([] if video.problem is None else [video.problem])
    return results.path
