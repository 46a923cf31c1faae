"""The commands that write models in other forms, and say what a model is: `convert`, `export`, `prepare`, `info`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opendetr.checkpoints.conversion import write_model
from opendetr.checkpoints.facts import architecture_named, facts_of, is_architecture
from opendetr.checkpoints.loading import is_exported, load_checkpoint
from opendetr.data.door import load_index
from opendetr.data.source import DataRoots, DataSource, Renames
from opendetr.data.transforms import WITHOUT_PADDING
from opendetr.devices import resolve_device
from opendetr.errors import UserError
from opendetr.exporting.certificate import Certificate, print_certificate
from opendetr.exporting.export import (
    ExportOptions,
    export_model,
    export_with_data,
    format_of,
    free_note_path,
    write_labelling_note,
)
from opendetr.exporting.exported_file import describe_exported
from opendetr.exporting.fastest_engine import prepare_engines
from opendetr.files import require_writable
from opendetr.options import ExportedFileFormat, ExportFormat, ModelForm, PrecisionName, require_choice
from opendetr.progress import console
from opendetr.serving.web_folder import export_web, require_web_folder
from opendetr.threads import settle_threads


def convert(
    model: str | Path,
    output: str | Path,
    to: ModelForm,
    *,
    push: str | None = None,
    private: bool = False,
    licence: str | None = None,
    dc5: bool | None = None,
    image_size: int | None = None,
    heads: int | None = None,
) -> Path:
    """Write a model in another format.

    Args:
        model: any model that can be loaded.
        output: the folder to write; new or empty.
        to: `huggingface`, a folder that `transformers` reads, with code of its own where the DETR of that library
            computes something else; `official`, a folder with `checkpoint.pth` for the official code; `opendetr`, a
            model folder of ours.
        push: also upload the folder (not an `official` one) to the hub, as ORGANISATION/NAME, with a model card; what
            is uploaded names no folder of this machine.
        private: make that repository a private one, where it does not exist.
        licence: of the model, as the hub calls it (`apache-2.0`), for its card.
        dc5: whether a file of weights has a dilated backbone, which they do not show; None takes its stored arguments,
            else its name.
        image_size: the shorter side of pictures that is written, in pixels, and the longer one in proportion; None
            keeps the model's own.
        heads: the number of attention heads of a file of weights, which they do not show either; None takes its stored
            arguments, else 8.

    Returns:
        The folder.

    Raises:
        UserError: no such model or form, a folder that is not empty, or a model that the format cannot represent.
    """
    folder = Path(output).resolve()
    require_choice("to", to, ModelForm)
    if push is not None and to == "official":
        raise UserError(f"--push {push} needs --to huggingface or --to opendetr: nothing reads a .pth from the hub")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; give the name of a new folder")
    checkpoint = load_checkpoint(model, dc5=dc5, heads=heads, image_size=image_size)
    return write_model(checkpoint, folder, to, push, licence, private=private)


def export(
    model: str | Path,
    output: str | Path,
    format: ExportFormat | None = None,
    *,
    precision: PrecisionName = "fp32",
    with_preprocessing: bool = False,
    with_attention: bool = False,
    image_size: int | None = None,
    data: DataRoots | None = None,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    voc_origin: int = 0,
    split: str = "val",
    max_ap_loss: float | None = None,
    threads: int | str | None = None,
) -> Certificate:
    """Write a model as a file that other programs run, after comparing it with PyTorch.

    Args:
        model: any model that can be loaded.
        output: the file: `.onnx` (with a `.yaml` for labelling tools beside it), `.xml` (OpenVINO, with a `.bin`
            beside it) or `.pt2` (`torch.export`); with the format `web` a folder, new, empty or of an earlier such
            export.
        format: `onnx`, `openvino` or `pt2`; by default the one of the file's suffix. `web` is a page that runs the
            model in the browser (docs/tasks/web-page.md), with the model as ONNX.
        precision: `fp32`; `bf16` and `int8` where the format has them.
        with_preprocessing: the input is resized uint8 pictures, which the graph normalises.
        with_attention: the last layer's cross-attention is an output too.
        image_size: another shorter side of pictures, in pixels, than the model's own; the longer one in proportion.
        data: a data set's folder, or a list of several, on which AP is compared too; `int8` needs it, to calibrate on
            its split `train`.
        classes: only these classes, by name; the objects of others are left out. None keeps all.
        rename: other names for classes, as a mapping from old to new; classes of one name become one.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates, 0 or 1.
        split: the split of `data` for AP.
        max_ap_loss: largest allowed loss of AP there, 0..1; by default 0.005, and 0.0005 for `fp32`.
        threads: number of threads, or `auto`, the default: the fastest, measured.

    Returns:
        The certificate, which is in the file's metadata too; of a folder that of its `model.onnx`.

    Raises:
        UserError: no such model or data, an impossible combination, or an export that differs too much; nothing is
            written then.
    """
    path = Path(output)
    if format is not None:
        require_choice("format", format, ExportFormat)
    if format == "web":
        require_web_folder(path)
    else:
        require_writable(path)
    kind: ExportedFileFormat = "onnx" if format == "web" else format_of(path, format)
    options = ExportOptions(kind, precision, with_preprocessing, with_attention, max_ap_loss)
    if format == "web" and (with_preprocessing or with_attention):
        raise UserError("--format web goes without --with-preprocessing and --with-attention: the page has both itself")
    source = None if data is None else DataSource.of(data, classes, rename, voc_origin)
    index = None if source is None else load_index(source, split)
    options.require_possible(index)
    if kind == "onnx" and format != "web":
        free_note_path(path)
    if path.is_file():
        console.print(f"{path} is there already: it is replaced at the end, if the new one agrees with the model")
    settle_threads(threads, measure=True)
    checkpoint = load_checkpoint(model, image_size=image_size)
    if checkpoint.preprocessing.pad_size is not None:
        raise UserError(f"export cannot write {model}, for other programs pad no pictures: {WITHOUT_PADDING}")
    if format == "web":
        return export_web(checkpoint, path, options, source, index)
    if source is None or index is None:
        certificate = export_model(checkpoint, path, options)
    else:
        certificate = export_with_data(checkpoint, path, options, source, index)
    print_certificate(certificate, path)
    if options.format == "onnx":
        console.print(f"{write_labelling_note(checkpoint, path, options)} says the same to labelling tools")
    return certificate


def prepare(
    model: str | Path, *, precision: PrecisionName = "fp32", device: str = "auto", threads: int | str | None = None
) -> str:
    """Export a model for every engine that is installed, compare and time them, and keep all of it beside the model.

    From then on `auto` is the fastest of them. It takes a minute or more; the same call returns at once afterwards.

    Returns:
        the name of the fastest.

    Raises:
        UserError: no such model; it runs on a GPU, where PyTorch is used; or no engine can run it in this precision.
    """
    require_choice("precision", precision, PrecisionName)
    if is_exported(model):
        raise UserError(f"{model} is an exported file, which its engine runs as it is; give the model it was made from")
    if resolve_device(device).type != "cpu":
        raise UserError("PyTorch runs models on a GPU, and needs no engine; give --device cpu for engines of the CPU")
    settle_threads(threads, measure=True, device="cpu")
    return prepare_engines(load_checkpoint(model), precision).name


def info(model: str | Path, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Facts of a model: classes, parameters, cost, preprocessing and origin.

    Args:
        model: any model (`docs/reference/checkpoints.md`), an exported file, or the name of a preset, of a recipe or
            of a released checkpoint: then its architecture, without a download.
        size: height and width for the cost, rounded as the model rounds them; by default those of a 480x640 picture.

    Returns:
        The facts by name. Of an exported file those in its metadata, which do not hold parameters and cost.

    Raises:
        UserError: no such model, or a size is given with an exported file.
    """
    if is_architecture(str(model)):
        checkpoint = architecture_named(str(model))
        for remark in checkpoint.origin.read:
            console.print(remark)
        return facts_of(checkpoint, size)
    if not is_exported(model):
        return facts_of(load_checkpoint(model), size)
    if size is not None:
        raise UserError(f"--size is for the cost of a model, and {model} is an exported file, which does not tell it")
    return describe_exported(Path(model))
