"""The preprocessing of released models whose files do not hold it: known by their architecture.

DETR: facebookresearch/detr, datasets/coco.py. Table Transformer (Smock et al. 2022, PubTables-1M):
microsoft/table-transformer, src/inference.py.
"""

from dataclasses import dataclass, replace

from opendetr.config import ModelConfig
from opendetr.data.transforms import Preprocessing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PREPROCESSING = Preprocessing(800, 1333, *IMAGENET, resizer="pillow")  # of the official code


@dataclass(frozen=True)
class TableModel:
    """A released Table Transformer: one finds tables in pages, the other finds the parts of a table."""

    task: str
    longer_side: int  # in pixels; the shorter in proportion
    class_names: tuple[str, ...]

    @property
    def preprocessing(self) -> Preprocessing:
        """The authors' own: both sides are rounded to the nearest pixel; resized bicubically, Pillow's default."""
        side = self.longer_side
        return Preprocessing(side, side, *IMAGENET, rounding="nearest", resampling="bicubic", resizer="pillow")

    @property
    def in_words(self) -> str:
        """The preprocessing as a sentence of what was read from where."""
        return f"longer side {self.longer_side}, resized as the authors of the Table Transformer do for {self.task}"


TABLE_MODELS = {  # number of queries -> the model
    15: TableModel("table detection", 800, ("table", "table rotated")),
    125: TableModel(
        "table structure recognition", 1000,
        ("table", "table column", "table row", "table column header", "table projected row header",
         "table spanning cell"),
    ),
}  # fmt: skip


def table_model(model: ModelConfig) -> TableModel | None:
    """The Table Transformer that an architecture seems to be (ResNet-18, pre-norm, as many queries), if any."""
    is_one = model.pre_norm and model.backbone.startswith("resnet18.")
    return TABLE_MODELS.get(model.num_queries) if is_one else None


def assumed_preprocessing(model: ModelConfig, *, of_transformers: bool) -> tuple[Preprocessing, str]:
    """The preprocessing of the released model of this architecture, for where no file says it, and that in words.

    `of_transformers`: whether the model was trained with that library, which rounds sides by its own rule.
    """
    table, mean = table_model(model), "ImageNet's mean and standard deviation"
    other = "if it was trained at another size, give that by --image-size"
    if table is not None:
        guess = f"{table.in_words}, and {mean}: assumed by its {model.num_queries} queries"
        return table.preprocessing, f"{guess}; {other}"
    found = replace(PREPROCESSING, rounding="transformers", resizer="torchvision") if of_transformers else PREPROCESSING
    size = f"shorter side {found.image_size}, longer at most {found.max_size}"
    return found, f"{size}, and {mean}: assumed; {other}"
