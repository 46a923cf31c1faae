"""What goes wrong in a tab of the browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

WIDE = {"width": 1200, "height": 800}  # of the window


@contextmanager
def watched(tab: Any, wrong: list[str]) -> Iterator[None]:
    """Notes errors and dialogs of the page, and requests to other hosts."""

    def note_error(message: Any) -> None:
        # A failed request is told there too, and the page says it by itself.
        if message.type == "error" and "Failed to load resource" not in message.text:
            wrong.append(message.text)

    def note_dialog(dialog: Any) -> None:
        wrong.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def note_other_host(request: Any) -> None:
        if urlsplit(request.url).hostname not in (None, "127.0.0.1"):  # None: the page made it itself, such as blobs
            wrong.append(f"asked {request.url}")

    listeners = {
        "pageerror": lambda error: wrong.append(str(error)), "console": note_error, "dialog": note_dialog,
        "request": note_other_host,
    }  # fmt: skip
    for event, listener in listeners.items():
        tab.on(event, listener)
    yield
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
