"""Config: frozen dataclasses whose defaults are the paper, read from and written as TOML, with dotted overrides.

The file is long because every setting stands here with its description and its bounds.
"""

import dataclasses
import itertools
import json
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, Literal

from opendetr.errors import UserError, nearest, said_of
from opendetr.options import Cache, TrackerName, TrainingPrecision

# What no one needs: a larger value is a mistake, or meant to use up the memory of whoever reads it. Sizes are pixels.
MOST_PIXELS = 20_000
LIMITS = {
    "embed_dim": 8_192, "num_heads": 1_024, "num_encoder_layers": 200, "num_decoder_layers": 200,
    "feedforward_dim": 65_536, "num_queries": 100_000,
    "image_size": MOST_PIXELS, "max_size": 1_000_000, "crop_min": MOST_PIXELS, "crop_max": MOST_PIXELS,
    "multiple_of": 4_096, "zoom_in": 100, "zoom_out": 100, "colour": 100,
    "class_weight": 10**6, "l1_weight": 10**6, "giou_weight": 10**6, "no_object_weight": 10**6, "class_cost": 10**6,
    "l1_cost": 10**6, "giou_cost": 10**6, "iou_power": 100, "proposal_repeats": 1_000, "denoising_queries": 100_000,
    "epochs": 10**8, "patience": 10**8, "batch_size": 10**6, "accumulate": 10**6, "minutes": 10**8, "workers": 10_000,
    "keep": 10_000,
}  # fmt: skip
MOST_WEIGHTS = 4 * 10**9  # of a transformer: 16 GB


def _require(config: Any, name: str, holds: bool, expected: str) -> None:
    if not holds:
        value = getattr(config, name)
        got = value if isinstance(value, str) else _shown(value)
        raise UserError(f"{_section(config)}.{name} must be {expected}, got {got}")


def require_image_size(pixels: int) -> None:
    """Check what `--image-size` gives; UserError if no picture has this size."""
    if not 1 <= pixels <= MOST_PIXELS:
        limit = "least 1" if pixels < 1 else f"most {MOST_PIXELS}"
        raise UserError(f"--image-size must be at {limit}, got {_shown(pixels)}")


def _section(config: Any) -> str:
    return type(config).__name__.removesuffix("Config").lower()


def _require_possible(config: Any) -> None:
    """Check the kind and the limit of every value, whatever it is read from."""
    for name, kind in _kinds(config.__class__).items():
        value = getattr(config, name)
        try:
            _convert(value, kind)
        except _WrongKindError as wrong:
            raise UserError(f"{_section(config)}.{name} must be {wrong}, got {_shown(value)}") from None
        if name in LIMITS and value > LIMITS[name]:
            raise UserError(f"{_section(config)}.{name} must be at most {LIMITS[name]}, got {_shown(value)}")


@cache
def _kinds(section: Any) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _shown(value: Any) -> str:
    """A value for an error, which may be far too long for one."""
    try:
        return f"{value!r:.100}"
    except ValueError:  # Python writes no integers of more than 4300 digits
        return "a number of thousands of digits"


def _require_at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        _require(config, name, getattr(config, name) >= least, f"at least {least}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The architecture (sections 3.2 and A.3). The defaults are DETR-R50."""

    backbone: Annotated[str, "any timm network; resnet50.tv_in1k has torchvision's weights, as in the paper"] = (
        "resnet50.tv_in1k"
    )
    backbone_weights: Annotated[str, "auto (ImageNet weights, never silently random), none, or a file"] = "auto"
    output_stride: Annotated[
        Literal[8, 16, 32], "pixels per feature cell; 16 dilates the last stage (DC5), 8 the last two"
    ] = 32
    batch_norm: Annotated[
        Literal["timm", "huggingface"], "the backbone's: timm's own, or as transformers replaces it (checkpoints only)"
    ] = "timm"
    embed_dim: Annotated[int, "D, the width of the transformer"] = 256
    num_heads: Annotated[int, "number of attention heads"] = 8
    num_encoder_layers: Annotated[
        int, "number of encoder layers; with 0 the decoder reads the backbone's features (table 2)"
    ] = 6
    num_decoder_layers: Annotated[int, "number of decoder layers; each has a loss (figure 4)"] = 6
    feedforward_dim: Annotated[int, "inner width of the feed-forward layers; 0 leaves them out (section 4.2)"] = 2048
    dropout: Annotated[float, "dropout rate in attention and feed-forward layers"] = 0.1
    pre_norm: Annotated[bool, "normalise before each sub-layer instead of after it"] = False
    num_queries: Annotated[int, "Q, object queries: the most objects a picture can have; 0 chooses by the data"] = 100
    query_placement: Annotated[
        Literal["attention", "input"], "object queries go into every attention, or once in at the decoder's input"
    ] = "attention"
    position_encoding: Annotated[
        Literal["sine", "learned", "cell", "none"], "2-D spatial encoding (table 3); cell suits maps of several strides"
    ] = "sine"
    position_placement: Annotated[
        Literal["attention", "input"], "added in every attention, or once to the tokens that enter the transformer"
    ] = "attention"
    encoder_position: Annotated[bool, "off: only the decoder sees positions (table 3)"] = True
    encoder_strides: Annotated[tuple[int, ...], "finer feature maps the transformer reads beside the last"] = ()
    proposal_strides: Annotated[
        tuple[int, ...], "still finer ones, from which queries are selected only; [0] chooses by the objects' sizes"
    ] = ()
    freeze_depthwise: Annotated[
        bool, "do not train the backbone's depthwise kernels above 3x3, whose gradients are the slowest"
    ] = False
    query_source: Annotated[
        Literal["learned", "selected"], "learned vectors, or the cells with the best scores, whose boxes layers refine"
    ] = "learned"
    precedence: Annotated[bool, "selected queries: each gets the overlap of its box with higher-ranked ones"] = False
    focus: Annotated[bool, "selected queries: cross-attention is focused on and around their boxes"] = False
    scoring: Annotated[
        Literal["softmax", "focal"], "softmax with no-object, or a sigmoid per class whose target is the IoU of the box"
    ] = "softmax"

    def __post_init__(self) -> None:
        _require_possible(self)
        _require_at_least(self, 1, "embed_dim", "num_heads", "num_decoder_layers")
        _require_at_least(self, 0, "num_encoder_layers", "feedforward_dim", "num_queries")
        _require(self, "embed_dim", self.embed_dim % self.num_heads == 0, f"divisible by num_heads = {self.num_heads}")
        _require(self, "embed_dim", self.embed_dim % 4 == 0, "divisible by 4 (sine and cosine of x and y)")
        _require(self, "dropout", 0 <= self.dropout < 1, "at least 0 and below 1")
        layer = 4 * self.embed_dim**2 + 2 * self.embed_dim * self.feedforward_dim
        weights = (self.num_encoder_layers + 2 * self.num_decoder_layers) * layer + self.num_queries * self.embed_dim
        fewer = f"less: with its layers {MOST_WEIGHTS:.0e} weights or fewer"
        _require(self, "embed_dim", weights <= MOST_WEIGHTS, fewer)
        strides = (*self.proposal_strides, *self.encoder_strides, self.output_stride)
        if self.proposal_strides == (0,):
            strides = strides[1:]
        halves = all(finer * 2 == coarser for finer, coarser in itertools.pairwise(strides))
        _require(self, "encoder_strides", halves, f"together with the others halves of {self.output_stride}: 8, 16, 32")
        fits = self.query_source == "learned" or self.scoring == "focal"
        _require(self, "query_source", fits, "'learned' with softmax scoring: cells are selected by focal scores")
        selected = self.query_source == "selected"
        _require(self, "precedence", selected or not self.precedence, "false with learned queries, which have no rank")
        _require(self, "focus", selected or not self.focus, "false with learned queries, which start without boxes")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Pictures and their transforms (section A.4). Sizes are pixels of the shorter side."""

    root: Annotated[str, "the data set's folder"] = ""
    more_roots: Annotated[tuple[str, ...], "folders of further sets, joined by class name"] = ()
    classes: Annotated[tuple[str, ...], "the classes that are kept; [] keeps all"] = ()
    renamed: Annotated[tuple[str, ...], "classes with other names, each as old=new"] = ()
    voc_origin: Annotated[int, "the number of the first pixel in Pascal VOC's coordinates: 0 or 1"] = 0
    val_share: Annotated[float, "the share of the training pictures that are val, where the data have no val"] = 0.0
    split_seed: Annotated[int, "chooses the pictures of val_share"] = 0
    train_split: Annotated[str, "the split to train on"] = "train"
    val_split: Annotated[str, "the split that chooses the best weights"] = "val"
    strict: Annotated[bool, "stop at a picture that cannot be used, instead of leaving it out"] = False
    image_size: Annotated[int, "the shorter side at evaluation and prediction; 0 chooses by data and time"] = 800
    max_size: Annotated[int, "largest longer side, up to rounding; 0 chooses by the data"] = 1333
    train_sizes: Annotated[tuple[int, ...], "the shorter side in training, one drawn per picture; [] is image_size"] = (
        480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800,
    )  # fmt: skip
    crop_probability: Annotated[float, "probability of a random crop before the resize"] = 0.5
    crop_resize: Annotated[tuple[int, ...], "the shorter side before the crop, one drawn per picture"] = (400, 500, 600)
    crop_min: Annotated[int, "the smallest side of a crop"] = 384
    crop_max: Annotated[int, "the largest side of a crop"] = 600
    horizontal_flip: Annotated[float, "probability of mirroring; -1 decides by the half-trained model"] = 0.5
    vertical_flip: Annotated[
        float, "probability of exchanging top and bottom; -1 decides by the half-trained model"
    ] = 0.0
    zoom_probability: Annotated[float, "probability of enlarging or shrinking the picture; -1 chooses by the data"] = (
        0.0
    )
    zoom_in: Annotated[
        float, "zoom: the smallest part of the picture shown, as a share of its sides; 0 chooses by the data"
    ] = 0.5
    zoom_out: Annotated[
        float, "zoom: the largest such share; above 1 the picture gets a frame; 0 chooses by the data"
    ] = 1.0
    colour: Annotated[float, "strength of changes of brightness, contrast and saturation, half of the time"] = 0.0
    cache: Annotated[
        Cache, "keep decoded pictures in memory or in the cache folder, no larger than training needs them"
    ] = "none"
    balanced: Annotated[bool, "show pictures of rare classes more often (Gupta et al. 2019, section 4)"] = False
    multiple_of: Annotated[int, "both sides are multiples of this, so that shapes repeat and nothing is padded"] = 1

    def __post_init__(self) -> None:
        _require_possible(self)
        _require(self, "voc_origin", self.voc_origin in (0, 1), "0 or 1")
        _require(self, "val_share", 0 <= self.val_share < 1, "at least 0 and below 1")
        of_train = not self.val_share or (self.train_split, self.val_split) == ("train", "val")
        _require(self, "val_share", of_train, "0 where the splits to train on and to choose by are not train and val")
        _require_at_least(self, 1, "crop_min", "crop_max", "multiple_of")
        _require_at_least(self, 0, "image_size", "max_size", "zoom_in", "zoom_out", "colour")
        _require(self, "train_sizes", min(self.train_sizes, default=1) >= 1, "a list of positive sizes")
        _require(self, "crop_resize", min(self.crop_resize, default=0) >= 1, "a list of at least one positive size")
        for name in ("train_sizes", "crop_resize"):
            largest = max(getattr(self, name), default=0)
            _require(self, name, largest <= MOST_PIXELS, f"a list of sizes of at most {MOST_PIXELS}")
        room = self.max_size == 0 or self.max_size >= self.image_size
        _require(self, "max_size", room, f"0 or at least image_size = {self.image_size}")
        _require(self, "crop_max", self.crop_max >= self.crop_min, f"at least crop_min = {self.crop_min}")
        _require(self, "crop_probability", 0 <= self.crop_probability <= 1, "between 0 and 1")
        for name in ("horizontal_flip", "vertical_flip", "zoom_probability"):
            share = getattr(self, name)
            _require(self, name, 0 <= share <= 1 or share == -1, "between 0 and 1, or -1 for it to be chosen")

    def resized(self, image_size: int) -> "DataConfig":
        """The same pipeline with every size scaled so that evaluation uses `image_size`."""
        require_image_size(image_size)
        if self.image_size == 0:  # sizes are chosen later
            return replace(self, image_size=image_size)
        factor = image_size / self.image_size

        def scale(size: int) -> int:
            return max(1, round(size * factor))

        return replace(
            self,
            image_size=image_size,
            crop_min=scale(self.crop_min),
            crop_max=scale(self.crop_max),
            max_size=self.max_size and scale(self.max_size),  # 0 stays: it is chosen later
            train_sizes=tuple(map(scale, self.train_sizes)),
            crop_resize=tuple(map(scale, self.crop_resize)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Matching and loss (sections 3.1 and A.2). A weight or cost of 0 switches its term off (table 4)."""

    class_weight: Annotated[float, "weight of the class term in the loss"] = 1.0
    l1_weight: Annotated[float, "weight of the box L1 term in the loss"] = 5.0
    giou_weight: Annotated[float, "weight of the box GIoU term in the loss"] = 2.0
    no_object_weight: Annotated[float, "weight of the no-object class"] = 0.1
    auxiliary: Annotated[bool, "supervise every decoder layer instead of the last one only"] = True
    class_cost: Annotated[float, "weight of the class term in the matching"] = 1.0
    l1_cost: Annotated[float, "weight of the box L1 term in the matching"] = 5.0
    giou_cost: Annotated[float, "weight of the box GIoU term in the matching"] = 2.0
    iou_power: Annotated[float, "focal scoring: a matched query's target is its IoU to this power; 0 is 1"] = 1.0
    proposal_repeats: Annotated[int, "selected queries: each object is matched to that many cells; 0: no such loss"] = 0
    denoising_queries: Annotated[int, "selected queries: noised true boxes to recover, per picture; 0 for none"] = 0

    def __post_init__(self) -> None:
        _require_possible(self)
        _require_at_least(self, 0, *(item.name for item in fields(self) if item.name != "auxiliary"))
        weights = self.class_weight + self.l1_weight + self.giou_weight
        _require(self, "class_weight", weights > 0, "above 0 where l1_weight and giou_weight are 0: there is no loss")
        costs = self.class_cost + self.l1_cost + self.giou_cost
        _require(self, "class_cost", costs > 0, "above 0 where l1_cost and giou_cost are 0: matching needs one cost")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Optimisation (sections 4 and A.4)."""

    epochs: Annotated[int, "number of passes over the training split; not used where minutes is set"] = 300
    minutes: Annotated[float, "wall-clock budget, from process start to exit; 0 counts epochs instead"] = 0.0
    patience: Annotated[
        int, "evaluations without a better AP that end the run, of its last half where learning rates fall; 0 never"
    ] = 0
    batch_size: Annotated[int, "pictures per process and step; 0 chooses by their size"] = 2
    accumulate: Annotated[int, "steps whose gradients are summed before the weights change"] = 1
    lr: Annotated[float, "AdamW's learning rate for the transformer and the heads"] = 1e-4
    backbone_lr: Annotated[float, "the backbone's own learning rate; 0 fixes it"] = 1e-5
    weight_decay: Annotated[float, "AdamW's weight decay"] = 1e-4
    schedule: Annotated[Literal["step", "cosine"], "learning rates drop once, or fall along a cosine to a 50th"] = (
        "step"
    )
    lr_drop: Annotated[float, "step: the fraction of the run after which learning rates fall to a tenth"] = 2 / 3
    warmup: Annotated[float, "the fraction of the run in which learning rates rise from 0"] = 0.0
    ema: Annotated[float, "the weights kept are an average over this fraction of the run; 0 keeps the last"] = 0.0
    small_first: Annotated[float, "the fraction of the run whose pictures are shrunk to two thirds: more steps"] = 0.0
    clip_norm: Annotated[float, "the gradient's norm is clipped to this; 0 never clips"] = 0.1
    init: Annotated[str, "a model to start from instead of new weights: a folder, a file or a name"] = ""
    new_head: Annotated[bool, "with init: new class heads for the classes of the data"] = False
    freeze: Annotated[tuple[str, ...], "parts that are not trained: backbone, input_proj, encoder, decoder, heads"] = ()
    seed: Annotated[int, "random seed of weights, order and augmentation"] = 0
    workers: Annotated[int, "loader processes; -1 chooses for the device"] = -1
    precision: Annotated[TrainingPrecision, "precision of matrix products and convolutions; losses are always fp32"] = (
        "fp32"
    )
    device: Annotated[str, "auto, cpu, cuda or mps"] = "auto"
    deterministic: Annotated[bool, "only operations that give the same bits each time"] = False
    save_every: Annotated[float, "minutes after which `last` is written within an epoch too"] = 5.0
    keep: Annotated[int, "models of so many finished epochs stay in `checkpoints`, evenly spread; 0 keeps none"] = 0
    log_to: Annotated[TrackerName, "an experiment tracker that gets the lines of the log too"] = "none"

    def __post_init__(self) -> None:
        _require_possible(self)
        _require_at_least(self, 1, "epochs", "accumulate")
        _require_at_least(
            self,
            0,
            "batch_size",
            "minutes",
            "patience",
            "lr",
            "backbone_lr",
            "weight_decay",
            "clip_norm",
            "save_every",
            "keep",
        )
        _require(self, "lr_drop", 0 < self.lr_drop <= 1, "above 0 and at most 1 (a fraction of the run)")
        for name in ("warmup", "ema", "small_first"):
            _require(self, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1 (a fraction of the run)")
        _require(self, "freeze", set(self.freeze) <= set(PARTS), f"a list of {', '.join(PARTS)}")
        _require(self, "new_head", not self.new_head or self.init != "", "false without train.init: all heads are new")
        _require_at_least(self, -1, "workers")
        counted = self.minutes == 0 or not self.deterministic
        _require(self, "minutes", counted, "0 with train.deterministic, which needs --epochs: minutes hold any number")
        _require(self, "seed", 0 <= self.seed < 2**32, "a whole number from 0 to 2**32 - 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A recipe: everything that decides what a run does."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name in ("proposal_repeats", "denoising_queries"):
            if getattr(self.loss, name) and self.model.query_source != "selected":
                raise UserError(
                    f"loss.{name} = {getattr(self.loss, name)} needs model.query_source = selected; "
                    f"give that, or --set loss.{name}=0"
                )
        if self.model.query_source == "selected" and not self.loss.proposal_repeats:
            raise UserError(
                "loss.proposal_repeats = 0 would never train which cells are selected as queries; with "
                "model.query_source = selected give --set loss.proposal_repeats=1 or more"
            )

    @classmethod
    def from_dict(cls, sections: Mapping[str, Any], source: str) -> "RunConfig":
        """Build from nested mappings; what is not named keeps its default.

        Raises:
            UserError: an unknown section or key (with the nearest known one), or a value of the wrong kind.
        """
        if not isinstance(sections, Mapping):
            raise UserError(f"{source}: expected sections {', '.join(_SECTIONS)}, got {_shown(sections)}")
        values: dict[str, Any] = {}
        for section, keys in sections.items():
            if section not in _SECTIONS:
                raise UserError(f"{source}: unknown section '{section}'; {nearest(section, _SECTIONS)}")
            if not isinstance(keys, Mapping):
                raise UserError(f"{source}: '{section}' must be a table [{section}] of keys, got {_shown(keys)}")
            values |= {f"{section}.{key}": value for key, value in keys.items()}
        if "data.keep" in values:  # the name in earlier versions, whose models and states still load
            values["data.cache"] = "ram" if values.pop("data.keep") is True else "none"
        return cls().with_values(values, source)

    def with_values(self, values: Mapping[str, Any], source: str) -> "RunConfig":
        """A copy in which the dotted names (`model.num_queries`) have other values."""
        changes: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            section, _, key = name.partition(".")
            if section not in _SECTIONS:
                raise UserError(f"{source}: unknown section '{section}' in '{name}'; {nearest(section, _SECTIONS)}")
            kinds = _kinds(getattr(self, section).__class__)
            if key not in kinds:
                raise UserError(f"{source}: unknown key '{name}'; {nearest(key, kinds)}")
            try:
                changes.setdefault(section, {})[key] = _convert(value, kinds[key])
            except _WrongKindError as wrong:
                raise UserError(f"{source}: {name} must be {wrong}, got {_shown(value)}") from None
        with said_of(source):  # all keys of a section at once: their limits may depend on each other
            return replace(self, **{name: replace(getattr(self, name), **keys) for name, keys in changes.items()})

    def with_overrides(self, overrides: Iterable[str]) -> "RunConfig":
        """Apply `section.key=value` strings; values are TOML, and anything that is not is a string."""
        values = {}
        for override in overrides:
            name, separator, text = override.partition("=")
            if not separator:
                raise UserError(f"--set {override}: expected section.key=value, e.g. --set model.num_queries=50")
            try:
                values[name.strip()] = tomllib.loads(f"value = {text}")["value"]
            except (ValueError, RecursionError):  # no TOML, or beyond Python's limits
                values[name.strip()] = text.strip()
        return self.with_values(values, "--set")

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, the inverse of `from_dict`; without what few runs need and this one does not."""
        sections = dataclasses.asdict(self)
        for name in FEW_NEED:
            if not sections["data"][name]:
                del sections["data"][name]
        return sections

    def to_toml(self, *, comments: bool = True) -> str:
        """The whole config as TOML, each key with its meaning."""
        lines = []
        for section, values in self.to_dict().items():
            hints = typing.get_type_hints(type(getattr(self, section)), include_extras=True)
            lines.append(f"[{section}]")
            for name, value in values.items():
                line = f"{name} = {_to_toml(value)}"
                lines.append(f"{line}  # {hints[name].__metadata__[0]}" if comments else line)
            lines.append("")
        return "\n".join(lines)


FEW_NEED = ("more_roots", "classes", "renamed", "voc_origin", "val_share", "split_seed")  # keys of `data`
PARTS = ("backbone", "input_proj", "encoder", "decoder", "heads")  # of a model, that can be frozen

_SECTIONS = tuple(item.name for item in fields(RunConfig))

LONGEST_ASPECT = 5 / 3  # of max_size to image_size where a size is chosen, as in the paper's 1333 to 800


def parse_config(text: str, source: str) -> RunConfig:
    """A config from TOML text; `source` is named in errors."""
    return RunConfig.from_dict(parse_sections(text, source), source)


def parse_sections(text: str, source: str) -> dict[str, Any]:
    """The sections of TOML text, which nothing has checked; `source` is named in errors."""
    try:
        sections = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beyond Python's limits: numbers of thousands of digits, deep lists
        raise UserError(f"{source} is not valid TOML ({error}); expected sections {', '.join(_SECTIONS)}") from None
    return sections


class _WrongKindError(Exception):
    """The message is the expected kind of value."""


def _convert(value: Any, kind: Any) -> Any:
    """`value` as the annotated `kind`, accepting only what TOML writes for it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if not any(value == known and type(value) is type(known) for known in arguments):  # 16.0 and True are no 16
            raise _WrongKindError("one of " + ", ".join(map(str, arguments)))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple) or any(type(v) is not arguments[0] for v in value):
            raise _WrongKindError({int: "a list of whole numbers", str: "a list of texts"}[arguments[0]])
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _WrongKindError("a finite number") from None
    infinite = isinstance(value, float) and not math.isfinite(value)  # JSON, and so `_to_toml`, cannot write it
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or infinite:
        names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
        raise _WrongKindError(names[kind])
    return value


def _to_toml(value: Any) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's too.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
