"""`opendetr export --format web`: a folder for any web server, whose page runs the model in the browser."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from opendetr.checkpoints.native import Checkpoint
from opendetr.data.digits import SOURCES, write_digits
from opendetr.data.index import DatasetIndex
from opendetr.data.source import DataSource
from opendetr.errors import UserError
from opendetr.exporting.certificate import Certificate, comparison_pictures, print_certificate
from opendetr.exporting.comparison import BOUNDS, LEAST_ANSWERS
from opendetr.exporting.export import ExportOptions, export_model, export_with_data, on_data
from opendetr.files import link_or_copy, replacing_folder, require_folder, write_json
from opendetr.images import encode_image, read_image
from opendetr.inference.detector import Detector
from opendetr.progress import console, print_command
from opendetr.serving.look_graph import LookTracing, write_look_graph
from opendetr.serving.model_facts import model_facts, short_name

WEB = Path(__file__).parent / "web"
RUNTIME, RUNTIME_VERSION = "onnxruntime-web", "1.30.0"  # tests/browser/package.json has the same
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PACKAGES = "node_modules"
KEPT = (PACKAGES, "package-lock.json")  # of npm
LIST = "exported-files.js"
LEAST_SCORE = 0.5  # of the expected answers of the sample, and at least the best few
LARGEST_SAMPLE = 1333  # pixels, of a side: the sample is compared each time that the page starts


def require_web_folder(folder: Path) -> None:
    """Check before long work that the folder can be written, and holds nothing but an earlier export.

    Raises:
        UserError: it is a file, or has other files.
    """
    require_folder(folder)
    known = _listed_before(folder)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_dir() and name.parts[0] not in KEPT and name.as_posix() not in known:
            raise UserError(
                f"--output {folder} holds {name.as_posix()}, which is of no export, and would be removed; expected a "
                f"new folder, an empty one, or an earlier --format web alone"
            )


def _listed_before(folder: Path) -> set[str]:
    """The files that an earlier export has written there."""
    try:
        text = (folder / LIST).read_text(encoding="utf-8")
        files = json.loads(text.partition("=")[2].rstrip(";\n"))["files"]
        return {LIST, *map(str, files)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def export_web(
    checkpoint: Checkpoint,
    folder: Path,
    options: ExportOptions,
    source: DataSource | None = None,
    index: DatasetIndex | None = None,
) -> Certificate:
    """Write the folder; an earlier one is replaced at the end, and keeps the packages that were installed in it.

    Args:
        checkpoint: the model.
        folder: new, empty, or an earlier export.
        options: of `model.onnx`.
        source: the data set of `index`.
        index: a split for the certificate; its first picture is the sample. Without it the sample is a digit scene.

    Returns:
        The certificate of `model.onnx`; `certificate.json` has that of `look.onnx` too.

    Raises:
        UserError: a model that cannot be exported, or whose export differs too much; nothing is written then.
    """
    with replacing_folder(folder) as new:
        shutil.copytree(WEB, new, dirs_exist_ok=True)
        if source is None or index is None:
            tracing = LookTracing(checkpoint)
            certificate = export_model(checkpoint, new / "model.onnx", options, tracing=tracing)
        else:
            checkpoint, index = on_data(checkpoint, index)
            tracing = LookTracing(checkpoint)
            certificate = export_with_data(checkpoint, new / "model.onnx", options, source, index, tracing)
        pictures = comparison_pictures(index, checkpoint.preprocessing.white_level)[0]
        of_look = write_look_graph(tracing, new / "look.onnx", pictures)
        write_json(new / "certificate.json", {"model.onnx": certificate.to_json(), "look.onnx": of_look.to_json()})
        write_json(new / "sample.json", _sample(new / "sample.png", checkpoint, options.precision, index))
        facts = model_facts(
            short_name(checkpoint.source), checkpoint.description, checkpoint.description.threshold(None),
            checkpoint=checkpoint, engine=f"{RUNTIME} {RUNTIME_VERSION}", precision=options.precision,
            certificate=certificate.rows() | {"inside": of_look.row()}, can_look=True,
        )  # fmt: skip
        write_json(new / "model.json", facts)
        package = {"name": "opendetr-page", "private": True, "type": "module"}
        write_json(new / "package.json", package | {"dependencies": {RUNTIME: RUNTIME_VERSION}})
        _list_files(new)
        if (folder / PACKAGES).is_dir():
            shutil.copytree(folder / PACKAGES, new / PACKAGES, symlinks=True, copy_function=link_or_copy)
    print_certificate(certificate, folder / "model.onnx")
    console.print(f"The page is in {folder}. It needs its runtime once, and a web server; then open localhost:8000:")
    print_command("npm", "install", "--prefix", folder)
    print_command("python", "-m", "http.server", "--directory", folder)
    return certificate


def _sample(path: Path, checkpoint: Checkpoint, precision: str, index: DatasetIndex | None) -> dict[str, Any]:
    """Write a picture; what PyTorch answers to it, and how far the page's answers may differ.

    It is a PNG, so that every browser decodes it to the same pixels.
    """
    picture, credits = _sample_picture(checkpoint, index)
    picture.thumbnail((LARGEST_SAMPLE, LARGEST_SAMPLE))
    path.write_bytes(encode_image(picture, "PNG"))
    found = Detector.of_checkpoint(checkpoint, "cpu")
    ((_, detections),) = found.stream([(0, picture)], 0.0)
    best_first = detections[detections.scores.argsort(descending=True, stable=True)]
    count = max(LEAST_ANSWERS, int((best_first.scores >= LEAST_SCORE).sum()))
    bounds = BOUNDS[precision]
    return {
        "picture": path.name,
        "width": picture.width,
        "height": picture.height,
        "credits": credits,
        "answers": [
            {"label": one.label, "score": one.score, "box_xyxy": list(one.box_xyxy)} for one in best_first[:count]
        ],
        "bounds": {"score": bounds.score, "iou": bounds.iou, "agreement": bounds.agreement},
    }


def _sample_picture(checkpoint: Checkpoint, index: DatasetIndex | None) -> tuple[Image.Image, list[str]]:
    """The split's first picture, or a digit scene, which anyone may publish; and whom to name."""
    if index is not None:
        return read_image(index.records[0].path, white_level=checkpoint.preprocessing.white_level), []
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder), scenes=1)
        return read_image(Path(folder) / "images" / "val_00000.png"), SOURCES


def _list_files(folder: Path) -> None:
    """Write the list of files that work without a network, under a name that changes when one of them does."""
    digest, names = hashlib.sha256(RUNTIME_VERSION.encode()), []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        names.append(path.relative_to(folder).as_posix())
        digest.update(names[-1].encode() + path.read_bytes())
    names += [f"{PACKAGES}/{RUNTIME}/dist/{name}" for name in RUNTIME_FILES]
    listed = {"version": digest.hexdigest()[:16], "files": ["./", *names]}
    (folder / LIST).write_text(f"self.exported = {json.dumps(listed, indent=1)};\n", encoding="utf-8")
