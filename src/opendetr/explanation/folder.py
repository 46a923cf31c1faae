"""The output of `opendetr explain`: a PNG per figure, the raw arrays as .npz, and a page with all of it."""

import html
import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from opendetr._matplotlib import Figure, png_of
from opendetr.checkpoints.public import without_paths
from opendetr.files import write_bytes, write_text
from opendetr.pages import page

_FILES, _FILE = re.compile(r"<ul id=files>(.*)</ul>"), re.compile(r"<li>(?:<a[^>]*>)?([^<]*\.(?:png|npz))<")


class Folder:
    """Collects figures: each becomes a PNG in the folder and a part of the page, which ends with a list of its files.

    The title and headings name models and data without the folders of this machine.

    Files that an earlier page in the folder lists and this page lacks are removed when this page is written.
    """

    def __init__(self, path: Path, title: str, page_folder: Path | None = None) -> None:
        """`page_folder` is the folder of the page that shows the figures, by default the folder itself."""
        self.path, self.title, self.body = path, without_paths(title), ""
        self.prefix = "" if page_folder is None else f"{path.relative_to(page_folder).as_posix()}/"
        self.files: list[str] = []
        path.mkdir(parents=True, exist_ok=True)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.body += f"<h2>{html.escape(without_paths(text))}</h2>"

    def subheading(self, text: str) -> None:
        """Begin a part of a section."""
        self.body += f"<h3>{html.escape(text)}</h3>"

    def words(self, text: str) -> None:
        """A paragraph."""
        self.body += page.paragraph(text)

    def table(self, header: list[str], rows: list[list[str]]) -> None:
        """A table of texts."""
        self.body += page.table(header, rows)

    def figure(self, name: str, figure: Figure, caption: str, how_to_read: str, here: str) -> None:
        """A figure, as `name`.png and on the page, with its explanation and a sentence about what it shows here."""
        png = png_of(figure)
        self._write(f"{name}.png", png)
        said = {"How to read this": how_to_read, "Here": here}
        notes = "".join(f"<p><b>{title}.</b> {html.escape(text)}</p>" for title, text in said.items())
        self.body += f"<h3>{html.escape(caption.rstrip('.'))}</h3>"
        self.body += page.figure(page.image(png, quote(f"{self.prefix}{name}.png")), page.Markup(notes), kind="wide")

    def arrays(self, name: str, values: dict[str, Any]) -> None:
        """Raw arrays, as `name`.npz."""
        buffer = io.BytesIO()
        kept = {key: np.asarray(value) for key, value in values.items() if value is not None}
        np.savez_compressed(buffer, **kept)  # type: ignore[arg-type]  # numpy 2 takes one of the names for its own argument
        self._write(f"{name}.npz", buffer.getvalue())

    def finish(self) -> Path:
        """Write the page."""
        written = self.path / "explain.html"
        before = _FILES.search(written.read_text(encoding="utf-8")) if written.is_file() else None
        files = "".join(f'<li><a href="{quote(name)}">{html.escape(name)}</a></li>' for name in self.files)
        write_text(written, page.page(self.title, f"{self.body}<h3>Files</h3><ul id=files>{files}</ul>"))
        for name in _FILE.findall(before[1]) if before else ():
            if html.unescape(name) not in self.files:
                (self.path / Path(html.unescape(name)).name).unlink(missing_ok=True)
        return written

    def _write(self, name: str, content: bytes) -> None:
        write_bytes(self.path / name, content)
        self.files.append(name)
