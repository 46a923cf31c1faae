"""The commands about data sets: `data check`, `data stats`, `data convert`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from opendetr.data.check_page import findings_page
from opendetr.data.converting import write_data, write_indices
from opendetr.data.data_check import check_splits, mended, read_all_splits
from opendetr.data.findings import Finding, Severity
from opendetr.data.source import DataRoots, DataSource, Renames
from opendetr.errors import UserError
from opendetr.evaluation.report import print_findings
from opendetr.evaluation.statistics_page import statistics_page
from opendetr.files import write_json, write_text
from opendetr.options import DataFix, DataFormat, require_choice
from opendetr.progress import console
from opendetr.training.choices import usual_preprocessing, usual_size
from opendetr.wording import counted


def convert_data(
    data: DataRoots,
    output: str | Path,
    to: DataFormat,
    *,
    splits: str | Sequence[str] = (),
    copies: bool = False,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    voc_origin: int = 0,
) -> Path:
    """Write a data set in another format: its boxes, with all digits that they have; other shapes are not written.

    What the format cannot hold, such as ids, is in `opendetr.json` beside the labels, so that opendetr reads the
    same from there.

    Args:
        data: the data set's folder, zip archive or address, or a list of several.
        output: the folder to write, new or empty.
        to: `coco` (`annotations/SPLIT.json`, `images/`), `yolo` (`data.yaml`, `images/SPLIT/`, `labels/SPLIT/`),
            `voc` (`JPEGImages/`, `Annotations/`, `ImageSets/Main/`) or `csv` (`SPLIT.csv`, `images/`).
        splits: those to write; all by default.
        copies: whether pictures are copied; by default they are links, which need the data set to stay where it is.
        classes: only these classes, by name. None keeps all.
        rename: other names for classes, as a mapping from old to new; classes of one name become one.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates, 0 or 1.

    Returns:
        The folder.

    Raises:
        UserError: the folder is not empty; or no such data set, split or class.
    """
    require_choice("to", to, DataFormat)
    chosen = [splits] if isinstance(splits, str) else list(splits)
    write_data(DataSource.of(data, classes, rename, voc_origin), Path(output), to, chosen, copies=copies)
    return Path(output)


def check_data(
    data: DataRoots,
    output: str | Path | None = None,
    *,
    fix: DataFix | None = None,
    image_size: int | None = None,
    num_queries: int = 0,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    voc_origin: int = 0,
) -> list[Finding]:
    """Look at the entries, boxes, classes and picture files of all splits of a data set, without training.

    Args:
        data: the data set's folder, zip archive or address, or a list of several.
        output: a folder for `data-check.html`, with the pictures and boxes concerned, and `findings.json`, with every
            entry that is left out; and for a clean copy in `clean/` where one is asked for.
        fix: `drop` writes a copy without what cannot be learned from; `clip` also keeps boxes that reach out of their
            pictures, clipped. The data set itself is never changed.
        image_size: the shorter side of pictures in training, in pixels; by default as `train` chooses it.
        num_queries: of the model, to compare with the fullest picture; 0 compares nothing.
        classes: only these classes, by name. None keeps all.
        rename: other names for classes, as a mapping from old to new.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates, 0 or 1.

    Returns:
        The findings, errors first.

    Raises:
        UserError: there is no data set; a clean copy is asked for without `output`, or where one is already.
    """
    source = DataSource.of(data, classes, rename, voc_origin)
    folder = None if output is None else Path(output)
    if fix is not None:
        require_choice("fix", fix, DataFix)
        if folder is None:
            raise UserError(f"--fix {fix} writes a clean copy: give its folder by --output")
        if (folder / "clean").exists():
            raise UserError(f"{folder / 'clean'} exists; remove it, or give another --output")
    checked = check_splits(read_all_splits(source), lambda index: image_size or usual_size(index), num_queries)
    print_findings(checked.findings)
    kinds = Counter(finding.severity for finding in checked.findings)
    console.print(", ".join(counted(kinds[one], str(one)) for one in Severity) + f" in {source}.", style="bold")
    if folder is not None:
        write_text(folder / "data-check.html", findings_page(f"Check of {source.name}", checked))
        write_json(folder / "findings.json", checked.to_json())
        console.print(f"Pictures and boxes concerned: {folder / 'data-check.html'}")
    if fix is not None and folder is not None:
        write_indices(mended(checked, fix), folder / "clean")
        console.print(f"A clean copy, which links to the pictures: {folder / 'clean'}")
    return checked.findings


def data_stats(
    data: DataRoots,
    output: str | Path,
    *,
    image_size: int | None = None,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    voc_origin: int = 0,
) -> Path:
    """Draw what a data set holds: classes, sizes of boxes, objects per picture and positions, as one page.

    Args:
        data: the data set's folder, zip archive or address, or a list of several.
        output: a folder for `data-stats.html`.
        image_size: the shorter side of pictures in training, in pixels; by default as `train` chooses it.
        classes: only these classes, by name. None keeps all.
        rename: other names for classes, as a mapping from old to new.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates, 0 or 1.

    Returns:
        The page.

    Raises:
        UserError: there is no data set, or none of its splits can be read.
    """
    source = DataSource.of(data, classes, rename, voc_origin)
    checked = read_all_splits(source)
    if not checked.splits:
        raise UserError(checked.findings[0].sentence)
    preprocessing = usual_preprocessing(next(iter(checked.splits.values())), image_size)
    path = Path(output) / "data-stats.html"
    write_text(path, statistics_page(f"Statistics of {source.name}", checked.splits, preprocessing))
    console.print(f"Classes, sizes and positions: {path}")
    return path
