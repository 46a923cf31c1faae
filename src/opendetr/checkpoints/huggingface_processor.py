"""The image processor of Hugging Face's DETR: `preprocessor_config.json`, read and written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opendetr.checkpoints.families import IMAGENET, assumed_preprocessing, table_model
from opendetr.config import ModelConfig
from opendetr.data.sizes import Rounding
from opendetr.data.transforms import Preprocessing, Resampling
from opendetr.errors import UserError
from opendetr.files import read_json

FILE = "preprocessor_config.json"
RESAMPLING: dict[int, Resampling] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
KINDS = (  # image processors that resize, scale and normalise as that of DETR does
    "DetrImageProcessor", "DetrFeatureExtractor", "DetrImageProcessorFast", "DetrImageProcessorPil",
    "ConditionalDetrImageProcessor", "ConditionalDetrImageProcessorFast", "ConditionalDetrFeatureExtractor",
    "DeformableDetrImageProcessor", "DeformableDetrImageProcessorFast", "DeformableDetrFeatureExtractor",
    "TableTransformerImageProcessor", "OpendetrImageProcessor",
)  # fmt: skip
SIZES = "expected shortest_edge and longest_edge, or equal max_height and max_width, which keep a picture's aspect"


def read_preprocessing(
    folder: Path, told: Mapping[str, Any], model: ModelConfig | None = None
) -> tuple[Preprocessing, list[str]]:
    """The preprocessing of an image processor, and in words what was assumed or is unusual.

    Args:
        folder: of the model.
        told: the values of our own that the folder has: `multiple_of`, `rounding`, `resampling` and `white_level`;
            empty for a folder that `transformers` wrote.
        model: the architecture, by which released models without a processor are known.

    Raises:
        UserError: an option that is not computed here, or a damaged file.
    """
    path = folder / FILE
    if model is not None and not path.is_file():
        preprocessing, said = assumed_preprocessing(model, of_transformers=True)
        return preprocessing, [f"no {FILE}: {said}"]
    found = read_json(path, "the config of an image processor")
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged; expected the config of an image processor")
    for key in ("image_processor_type", "feature_extractor_type"):
        if (kind := found.get(key)) is not None and kind not in KINDS:
            raise UserError(
                f"{path}: {key} = {kind!r:.60} prepares pictures otherwise; expected {' or '.join(KINDS[:2])}"
            )
    computed: dict[str, tuple[Any, ...]] = {  # options that change the result, and the values that are computed here
        "do_resize": (True,), "do_rescale": (True,), "do_normalize": (True,), "do_center_crop": (False,),
        "rescale_factor": (1 / 255,), "resample": tuple(RESAMPLING),
    }  # fmt: skip
    for name, values in computed.items():
        value = found.get(name)
        if value is not None and value not in values:
            raise UserError(
                f"{path}: {name} = {value} cannot be computed here; expected {' or '.join(map(str, values))}"
            )
    frame, remarks = None, list[str]()
    if found.get("pad_size") is not None and found.get("do_pad", True):
        try:
            frame = (found["pad_size"]["height"], found["pad_size"]["width"])
        except (KeyError, TypeError):
            raise UserError(f"{path}: pad_size = {found['pad_size']!r:.60}; expected a height and a width") from None
        remarks.append(
            f"pictures are padded to {frame[0]}x{frame[1]}, and boxes are fractions of that: so transformers' image "
            f"processor trains them (its post_process_object_detection takes them for fractions of the picture alone)"
        )
    shorter, longer, rounding = _sizes(found, path, told, model)
    mean, std = (found.get(key) or default for key, default in zip(("image_mean", "image_std"), IMAGENET))
    try:
        return Preprocessing.from_json(
            {"resampling": RESAMPLING[found.get("resample") or 2], "multiple_of": 1, **told, "image_size": shorter,
             "max_size": longer, "mean": mean, "std": std, "rounding": rounding, "pad_size": frame}
        ), remarks  # fmt: skip
    except ValueError as error:
        raise UserError(f"{path}: {error}; correct the value, or get the file anew") from None


def _sizes(
    found: Mapping[str, Any], path: Path, told: Mapping[str, Any], model: ModelConfig | None
) -> tuple[Any, Any, Rounding]:
    """The shorter and the longer side, and how they are rounded."""
    size = found.get("size", {"shortest_edge": 800, "longest_edge": 1333})
    if isinstance(size, int):  # releases before 4.26 wrote a number, and max_size beside it
        size = {"shortest_edge": size, "longest_edge": found.get("max_size", 1333)}
    edges = {name: value for name, value in size.items() if value is not None} if isinstance(size, dict) else {}
    if edges.keys() == {"shortest_edge", "longest_edge"}:
        return edges["shortest_edge"], edges["longest_edge"], told.get("rounding", "transformers")
    if edges.keys() == {"max_height", "max_width"} and edges["max_height"] == edges["max_width"]:
        return edges["max_height"], edges["max_width"], "down"
    if edges.keys() == {"longest_edge"} and model is not None and table_model(model):
        return edges["longest_edge"], edges["longest_edge"], "nearest"  # transformers itself cannot read these folders
    raise UserError(f"{path}: size = {size} cannot be computed here; {SIZES}")


def processor_fields(preprocessing: Preprocessing) -> dict[str, Any]:
    """The image processor of `transformers` nearest to a preprocessing; `says_rounding` tells whether it is equal."""
    sides = (preprocessing.image_size, preprocessing.max_size)
    by_longer = preprocessing.rounding == "down" and sides[0] == sides[1]
    names = ("max_height", "max_width") if by_longer else ("shortest_edge", "longest_edge")
    numbers = {name: number for number, name in RESAMPLING.items()}
    frame = preprocessing.pad_size
    padding = {} if frame is None else {"pad_size": {"height": frame[0], "width": frame[1]}}
    return {
        "image_processor_type": "DetrImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
        "do_pad": True, "rescale_factor": 1 / 255, "format": "coco_detection",
        "resample": numbers[preprocessing.resampling], "size": dict(zip(names, sides)),
        "image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std), **padding,
    }  # fmt: skip


def says_rounding(preprocessing: Preprocessing) -> bool:
    """Whether the image processor of `transformers` rounds sides as a preprocessing does."""
    is_square = preprocessing.image_size == preprocessing.max_size
    return preprocessing.rounding == "transformers" or (preprocessing.rounding == "down" and is_square)
