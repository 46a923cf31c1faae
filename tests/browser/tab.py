"""Opening the page in the one tab that the tests of a file have."""

from typing import Any
from urllib.parse import urlsplit

WIDE = {"width": 1200, "height": 800}  # of the window


def open_anew(tab: Any, address: str) -> None:
    """Load the page of an address, also where it is open already."""
    there = tab.url.partition("#")[0]
    tab.goto(address)
    if there == address.partition("#")[0]:
        tab.reload()


def host(address: str) -> str:
    """Name and port; nothing of what the page made itself, as blobs."""
    return urlsplit(address).netloc


def is_wrong(message: Any) -> bool:
    """Errors of the console; a failed request is told there too, and the page says it by itself."""
    return message.type == "error" and "Failed to load resource" not in message.text
