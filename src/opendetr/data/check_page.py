"""`data-check.html`: the findings about a data set, with the pictures and boxes concerned."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from opendetr.data.data_check import CheckedData
from opendetr.data.findings import Finding, PicturePlace, Severity
from opendetr.data.index import DatasetIndex
from opendetr.errors import UserError
from opendetr.images import read_image
from opendetr.pages.boxed_pictures import Thumbnail
from opendetr.pages.page import Markup, figure, page, paragraph, table
from opendetr.wording import counted

SHOWN = 12  # pictures of a finding
COLOURS = {Severity.ERROR: "#b00020", Severity.WARNING: "#a15c00", Severity.NOTE: "#555"}


def findings_page(title: str, checked: CheckedData) -> str:
    """A table of all findings, then each with the first pictures that it concerns."""
    rows = [
        [Markup(_badge(finding.severity)), Markup(f"<a href='#f{number}'>{escape(finding.kind)}</a>"),
         f"{finding.count:,}", finding.sentence]
        for number, finding in enumerate(checked.findings)
    ]  # fmt: skip
    splits = ", ".join(f"{name} ({counted(len(index), 'picture')})" for name, index in checked.splits.items())
    body = paragraph(f"Looked at: {splits}.")
    body += table(["", "kind", "entries", "what was found"], rows) if rows else paragraph("Nothing was found.")
    shown = _Pictures(checked.splits)
    body += "".join(_section(number, finding, shown) for number, finding in enumerate(checked.findings))
    return page(title, body)


def _badge(severity: Severity) -> str:
    return f'<span class=name style="background:{COLOURS[severity]};color:#fff">{severity}</span>'


def _section(number: int, finding: Finding, shown: "_Pictures") -> str:
    pictures = "".join(shown.drawn(finding.places))
    if not pictures:
        return ""
    more = len(finding.places) - SHOWN
    said = finding.sentence + (
        f" (the first {SHOWN} of {len(finding.places):,} pictures are shown)" if more > 0 else ""
    )
    heading = f"<h2 id=f{number}>{_badge(finding.severity)} {escape(finding.kind)}</h2>"
    return f"{heading}{paragraph(said)}<div class='grid small'>{pictures}</div>"


class _Pictures:
    """Pictures of the page; each is read once, and carried once."""

    def __init__(self, splits: dict[str, DatasetIndex]) -> None:
        self.splits = splits
        self.thumbnails: dict[str, Thumbnail | None] = {}

    def drawn(self, places: Sequence[PicturePlace]) -> Iterator[str]:
        """The first pictures with the boxes concerned."""
        for place in places[:SHOWN]:
            index = self.splits[place.split]
            path, is_repeated = index.paths[place.picture], index.paths[place.picture] in self.thumbnails
            thumbnail = self._thumbnail(path, index, place.picture)
            if thumbnail is None:
                continue
            numbers = list(place.objects)
            starts, sides = np.split(index.objects.boxes_xywh[numbers].reshape(-1, 4), 2, axis=1)
            boxes = np.concatenate([starts, starts + sides], axis=1)
            drawn = thumbnail.boxed(boxes, index.objects.labels[numbers], index.label_map, is_repeated=is_repeated)
            yield figure(drawn, f"{path.rpartition('/')[2]} ({place.split})")

    def _thumbnail(self, path: str, index: DatasetIndex, picture: int) -> Thumbnail | None:
        if path not in self.thumbnails:
            try:
                image = read_image(index.records[picture].path)
            except UserError:
                self.thumbnails[path] = None
            else:
                self.thumbnails[path] = Thumbnail.of(image, f"picture-{len(self.thumbnails)}")
        return self.thumbnails[path]
