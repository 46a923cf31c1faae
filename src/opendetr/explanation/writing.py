"""The page of `opendetr explain`: of pictures, of the matching in a picture, or of what queries do over a split."""

from collections.abc import Sequence
from pathlib import Path

from opendetr.data.door import load_index
from opendetr.data.index import DatasetIndex, Record
from opendetr.data.source import DataSource
from opendetr.errors import UserError
from opendetr.explanation.explaining import Asked, explain_picture, require_inside
from opendetr.explanation.false_alarms import letter_of
from opendetr.explanation.folder import Folder
from opendetr.explanation.mistakes import explain_image_matching
from opendetr.explanation.queries_over_split import explain_slots
from opendetr.images import read_image
from opendetr.inference.detector import Detector
from opendetr.inference.sources import distinct_stems, expand_sources, report_left_out
from opendetr.progress import console, show_progress
from opendetr.wording import counted


def explain_sources(detector: Detector, model: str, sources: Sequence[str], output: Path, asked: Asked) -> Path:
    """Write the page of attention in pictures, and return its path.

    `detector` runs in PyTorch, `model` is its name for the title, `sources` are files, folders and globs.

    Raises:
        UserError: there are no pictures, or a point lies outside one (nothing is written then); or pictures could not
            be read, after the others were explained.
    """
    paths, broken = expand_sources(list(sources), output), list[str]()
    if not paths:
        raise UserError(f"nothing to explain: every source lies in --output {output}; choose another folder")
    for path in paths if asked.points else ():  # check the points before anything is written
        try:
            picture = read_image(path, white_level=detector.description.preprocessing.white_level)
        except UserError:  # reported at the end
            continue
        require_inside(asked.points, str(path), picture)
    written = Folder(output, f"What {_short(model)} attends to")
    for path, name in show_progress(zip(paths, distinct_stems(paths)), "explaining", len(paths)):
        try:
            picture = read_image(path, white_level=detector.description.preprocessing.white_level)
        except UserError as error:
            broken.append(str(error))
        else:
            explain_picture(written, detector, name, picture, asked)
    page = _finished(written)
    report_left_out(broken)
    return page


def explain_data(
    detector: Detector,
    model: str,
    data: DataSource,
    split: str,
    image: int | str | None,
    output: Path,
    asked: float | None,
) -> Path:
    """Write the page of what queries do over a split, or of the matching in one picture, and return its path.

    Arguments as in `explain_sources`; `image` is the picture's raw id or file name, None explains the whole split.
    `asked` is the threshold; None is the model's own of each class.

    Raises:
        UserError: no such data, split or picture.
    """
    threshold = detector.description.threshold(asked)
    index = load_index(data, split).under(detector.checkpoint.label_map)
    record = None if image is None else _record_of(index, image)
    written = Folder(output, f"What the queries of {_short(model)} do")
    if record is None:
        explain_slots(written, detector, index, threshold)
    else:
        matches, detections = explain_image_matching(written, detector, index, record, threshold)
        for number, found in enumerate(matches, start=1):
            if found.reason is not None:
                console.print(f"object {number} ({found.name}) was missed: {found.sentence}")
        for number, alarm in enumerate(found for found in detections if found.alarm is not None):
            console.print(f"false alarm {letter_of(number)} ({alarm.name} {alarm.score:.2f}): {alarm.sentence}")
    return _finished(written)


def _short(model: str) -> str:
    """The name of a model without the folders above it, which may tell a user's name."""
    path = Path(model)
    return f"{path.parent.name}/{path.name}" if path.name in ("last", "best") else path.name or model


def _record_of(index: DatasetIndex, image: int | str) -> Record:
    for record in index.records:
        if str(image) in (str(record.image_id), record.path.name):
            return record
    known = ", ".join(f"{record.path.name} ({record.image_id})" for record in index.records[:3])
    raise UserError(
        f"--image {image} is not in {index.source}; its {counted(len(index), 'picture')} (with id) begin with {known}"
    )


def _finished(written: Folder) -> Path:
    page = written.finish()
    console.print(f"The explanation is {page}")
    return page
