"""The commands about data sets: `data convert`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from opendetr.data.converting import write_data
from opendetr.data.source import DataRoots, DataSource, Renames
from opendetr.options import DataFormat, require_choice


def convert_data(
    data: DataRoots,
    output: str | Path,
    to: DataFormat,
    *,
    splits: str | Sequence[str] = (),
    copies: bool = False,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
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

    Returns:
        The folder.

    Raises:
        UserError: the folder is not empty; or no such data set, split or class.
    """
    require_choice("to", to, DataFormat)
    chosen = [splits] if isinstance(splits, str) else list(splits)
    write_data(DataSource.of(data, classes, rename), Path(output), to, chosen, copies=copies)
    return Path(output)
