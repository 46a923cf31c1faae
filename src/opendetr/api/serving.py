"""The command that serves a model: `serve`."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from opendetr.data.source import DataRoots, DataSource, Renames
from opendetr.errors import UserError
from opendetr.files import require_folder
from opendetr.options import EngineName, PrecisionName, require_batch_size, require_choice, require_score
from opendetr.serving.settings import LabelStudio, Limits, ModelSettings, ServeSettings

LEAST_KEY = 16  # letters of an API key
PUBLIC_NAME = re.compile(r"[A-Za-z0-9.-]{1,253}")


def serve(
    model: str | Path,
    *,
    data: DataRoots | None = None,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    voc_origin: int = 0,
    review: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    public_name: str | None = None,
    threshold: float | None = None,
    batch_size: int = 8,
    image_size: int | None = None,
    engine: EngineName = "auto",
    precision: PrecisionName = "fp32",
    device: str = "auto",
    threads: int | str | None = None,
    api_key_file: str | Path | None = None,
    max_megabytes: float = 64,
    max_megapixels: float = 50,
    max_pictures: int = 16,
    max_waiting: int = 64,
    deadline: float = 30.0,
    label_studio: str | None = None,
    label_studio_token_file: str | Path | None = None,
) -> None:
    """Serve a model over HTTP, with a page that shows what it sees, until Ctrl-C (extra `serve`).

    Args:
        model: any model that can be loaded, or an exported file.
        data: a data set's folder, or a list of several, to look at in the page; by default that of the run, where it
            still is, and only this machine or whoever has the key reaches the server.
        classes: of the data set only these classes, by name. None keeps all.
        rename: other names for its classes, as a mapping from old to new.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates, 0 or 1.
        review: a folder for the decisions of a label review and the corrected labels; by default beside the labels.
        host: the address to listen at; by default only this machine reaches it.
        port: 0 chooses a free one.
        public_name: the name by which browsers reach a server with TLS that stands before this one.
        threshold: the lowest score that is reported where a request says none; None: the model's own of each class.
        batch_size: most pictures of equal shape that go through the model at once.
        image_size: another shorter side of pictures, in pixels, than the model's own; the longer one in proportion.
        engine: what runs the model, as in `Detector.load`.
        precision: `fp32`, `bf16` or `int8`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.
        api_key_file: a file with the key that requests must then carry.
        max_megabytes: of a request.
        max_megapixels: of a picture.
        max_pictures: of a request.
        max_waiting: pictures that wait for the model; what comes beyond is answered with 429.
        deadline: seconds after which a request is answered with 504.
        label_studio: the address of the Label Studio whose pictures may be fetched.
        label_studio_token_file: a file with the token that it wants.

    Raises:
        UserError: the packages of the extra are not installed; no such model or data; an option out of its range; or
            the address cannot be used.
    """
    from opendetr.serving.guard import is_loopback  # its packages are an extra
    from opendetr.serving.server import run_server

    require_score("--threshold", threshold)
    require_batch_size(batch_size)
    require_choice("engine", engine, EngineName)
    require_choice("precision", precision, PrecisionName)
    for option, value in (
        ("--max-megabytes", max_megabytes), ("--max-megapixels", max_megapixels), ("--max-pictures", max_pictures),
        ("--max-waiting", max_waiting), ("--deadline", deadline),
    ):  # fmt: skip
        if not 0 < value < math.inf:
            raise UserError(f"{option} {value:g}: expected more than 0, and a finite number")
    if max_waiting < max_pictures:
        raise UserError(
            f"--max-waiting {max_waiting} is less than --max-pictures {max_pictures}: a request with so many pictures "
            f"would never be taken; give a larger --max-waiting or fewer --max-pictures"
        )
    if max_megabytes * 2**20 > Limits.bytes_at_once:
        raise UserError(
            f"--max-megabytes {max_megabytes:g}: expected {Limits.bytes_at_once // 2**20} at most, which is what all "
            f"requests together may hold"
        )
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: expected 0 to 65535")
    if (label_studio is None) != (label_studio_token_file is None):
        raise UserError("--label-studio URL and --label-studio-token-file FILE belong together: give both")
    if public_name is not None and not PUBLIC_NAME.fullmatch(public_name):
        raise UserError(f"--public-name {public_name}: expected the name of a machine, e.g. detr.example.org")
    source = None if data is None else DataSource.of(data, classes, rename, voc_origin)
    loaded = ModelSettings(
        str(model), source, api_key_file is not None or is_loopback(host), device, engine, precision, threads,
        image_size, threshold, batch_size, max_megapixels * 1e6,
    )  # fmt: skip
    limits = Limits(round(max_megabytes * 2**20), pictures=max_pictures, waiting=max_waiting, deadline=deadline)
    labelling = None
    if label_studio is not None and label_studio_token_file is not None:
        labelling = LabelStudio(_origin(label_studio), _secret("--label-studio-token-file", label_studio_token_file, 1))
    key = None if api_key_file is None else _secret("--api-key-file", api_key_file, LEAST_KEY)
    folder = None if review is None else Path(review).resolve()
    if folder is not None:
        require_folder(folder, "--review")
    name = None if public_name is None else public_name.lower()
    run_server(ServeSettings(loaded, host, port, limits, key, labelling, name, folder))


def _origin(address: str) -> str:
    """Scheme, host and port of a server's address.

    Raises:
        UserError: it is no such address, or names more than a server.
    """
    try:
        parts = urlsplit(address)
        is_server = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        is_server = is_server and parts.path in ("", "/") and not parts.query and parts.port != 0
    except ValueError:
        is_server = False
    if not is_server:
        raise UserError(f"--label-studio {address}: expected the address of a server, e.g. http://localhost:8080")
    return f"{parts.scheme}://{parts.netloc}"


def _secret(option: str, path: str | Path, least: int) -> str:
    """The one line of a file that holds a secret.

    Raises:
        UserError: the file cannot be read, or holds no secret of `least` letters.
    """
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option} {path} cannot be read ({getattr(error, 'strerror', None) or 'no text'})") from None
    if len(text) < least or not text.isprintable() or " " in text:
        raise UserError(f"{option} {path}: expected one line of {least} letters or more, without spaces")
    return text
