"""The paper's released checkpoints: downloaded once, resumed after interruptions, checked by the hash in their name."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from opendetr.errors import UserError
from opendetr.files import cache_folder
from opendetr.progress import console, progress_bar

RELEASES = {  # short name -> file; the eight hexadecimal digits begin its SHA-256
    "detr-r50": "detr-r50-e632da11.pth",
    "detr-r50-dc5": "detr-r50-dc5-f0fb7ef5.pth",
    "detr-r101": "detr-r101-2c7b67e5.pth",
    "detr-r101-dc5": "detr-r101-dc5-a2e86def.pth",
}
ADDRESS = "https://dl.fbaipublicfiles.com/detr/"
SECONDS = 20  # without an answer
CHUNK = 2**18


def cached_release(name: str) -> Path | None:
    """The file of a released checkpoint in the cache; None where it is not there. Its hash is not checked."""
    path = cache_folder() / RELEASES[name]
    return path if path.is_file() else None


def fetch_release(name: str, address: str = ADDRESS) -> Path:
    """The file of a released checkpoint with a short name, from the cache or the network.

    A download is written beside the final name, and continues after an interruption. Of several processes one
    downloads, the others wait.

    Raises:
        UserError: no network and nothing in the cache, or a file whose hash is not the one in its name.
    """
    file_name = RELEASES[name]
    path, expected = cache_folder() / file_name, Path(file_name).stem.rpartition("-")[2]
    if path.is_file():  # perhaps put there by hand, or in a shared cache that is read-only
        if (found := _hash(path)) != expected:
            raise UserError(
                f"{path} is damaged, or another file: its SHA-256 begins with {found}, not {expected}; "
                f"remove it, and it is downloaded again"
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():  # else another process has just finished
            partial = path.with_suffix(".part")
            try:
                _download(address + file_name, partial)
            except urllib.error.HTTPError as error:
                raise UserError(
                    f"'{name}' is not in {path.parent} and {address + file_name} answers {error.code} {error.reason}; "
                    f"put the file {file_name} there by hand"
                ) from None
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                raise UserError(
                    f"'{name}' is not in {path.parent} and {address + file_name} cannot be reached "
                    f"({getattr(error, 'reason', error)}); connect to the network, or put the file {file_name} there "
                    f"by hand; what has arrived is kept"
                ) from None
            if (found := _hash(partial)) != expected:
                partial.unlink()
                raise UserError(
                    f"what came from {address + file_name} was damaged and is removed: its SHA-256 began with {found}, "
                    f"not {expected}; try again"
                )
            partial.replace(path)
    return path


def _hash(path: Path) -> str:
    """The first eight digits of the SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def _download(url: str, partial: Path) -> None:
    """Append what is missing of a file; download it anew if the server cannot continue."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with answer, progress_bar() as bar:
        continued = answer.status == 206
        have = have if continued else 0
        total = have + int(answer.headers.get("Content-Length") or 0)
        console.print(f"downloading {url} ({total / 1e6:.0f} MB)" + (f", {have / 1e6:.0f} MB are here" if have else ""))
        task = bar.add_task("downloading", total=total, completed=have, rate="")
        with partial.open("ab" if continued else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.advance(task, len(chunk))
    if total and partial.stat().st_size < total:
        raise ConnectionError(f"the connection broke after {partial.stat().st_size} of {total} bytes")
