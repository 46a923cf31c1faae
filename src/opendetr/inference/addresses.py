"""Pictures at https addresses: downloaded into memory, with a limit of size and time."""

import http.client
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from opendetr.errors import UserError, first_line
from opendetr.version import __version__

MOST_MEGABYTES = 64
ANSWER_SECONDS, ALL_SECONDS = 10.0, 60.0  # longest wait for the next bytes, and for all of them
CHUNK = 2**16


def is_address(source: object) -> bool:
    """Whether a source is an address and no path."""
    return isinstance(source, str) and "://" in source


def fetch_picture(address: str) -> bytes:
    """The content of the file at an https address.

    Raises:
        UserError: another kind of address, also where a redirection leads; no answer in time; a file that is too large.
    """
    name = address_name(address)
    _require_https(address)
    request = urllib.request.Request(address, headers={"User-Agent": f"opendetr/{__version__}"})
    try:
        with _opener().open(request, timeout=ANSWER_SECONDS) as answer:
            return _read(answer, name)
    except urllib.error.HTTPError as error:
        raise UserError(f"{name} answers {error.code} {error.reason}; check the address") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or first_line(error)
        raise UserError(f"{name} cannot be downloaded ({reason}); check the address and the network") from None


def address_name(address: str) -> str:
    """An address as results and messages name it: without password, query and fragment, which may be secret.

    Raises:
        UserError: it is not written as an address.
    """
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise UserError(f"what was given is no address ({error}); expected e.g. https://example.org/cat.jpg") from None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to https addresses."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_HttpsOnly())


def _require_https(address: str) -> None:
    if not address.lower().startswith("https://"):
        raise UserError(f"{address_name(address)}: only https addresses are downloaded; give such a one, or a file")
    if "@" in urlsplit(address).netloc:
        raise UserError(f"{address_name(address)} needs a password: download it yourself and give the file")


def _read(answer: Any, name: str) -> bytes:
    limit, until = MOST_MEGABYTES * 2**20, time.monotonic() + ALL_SECONDS
    content = bytearray()
    while chunk := answer.read(CHUNK):
        content += chunk
        if len(content) > limit:
            raise UserError(f"{name} has more than {MOST_MEGABYTES} MB; download it yourself and give the file")
        if time.monotonic() > until:
            raise UserError(f"{name} is not here after {ALL_SECONDS:g} s; download it yourself and give the file")
    return bytes(content)
