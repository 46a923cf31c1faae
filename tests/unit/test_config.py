import dataclasses
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendetr.config import FEW_NEED, LIMITS, DataConfig, ModelConfig, RunConfig, parse_config
from opendetr.errors import UserError
from opendetr.recipes.presets import PRESETS
from opendetr.recipes.recipe import load_recipe, recipe_names, resolve_config

PAPER = {  # sections 3 and A.4 of the paper, and the official repository's 300-epoch schedule
    "model": {
        "backbone": "resnet50.tv_in1k", "backbone_weights": "auto", "output_stride": 32, "embed_dim": 256,
        "num_heads": 8, "num_encoder_layers": 6, "num_decoder_layers": 6, "feedforward_dim": 2048, "dropout": 0.1,
        "pre_norm": False, "num_queries": 100, "query_placement": "attention", "position_encoding": "sine",
        "position_placement": "attention", "encoder_position": True,
    },
    "loss": {
        "class_weight": 1.0, "l1_weight": 5.0, "giou_weight": 2.0, "no_object_weight": 0.1, "auxiliary": True,
        "class_cost": 1.0, "l1_cost": 5.0, "giou_cost": 2.0,
    },
    "data": {
        "image_size": 800, "max_size": 1333, "train_sizes": tuple(range(480, 801, 32)), "crop_probability": 0.5,
        "crop_resize": (400, 500, 600), "crop_min": 384, "crop_max": 600, "horizontal_flip": 0.5,
    },
    "train": {
        "epochs": 300, "lr": 1e-4, "backbone_lr": 1e-5, "weight_decay": 1e-4, "lr_drop": 200 / 300, "clip_norm": 0.1,
        "precision": "fp32",
    },
}  # fmt: skip

CONFIGS = {name: replace(RunConfig(), model=model) for name, model in PRESETS.items()} | {
    f"recipe {name}": load_recipe(name) for name in recipe_names()
}
KEYS = [
    f"{section.name}.{key.name}"
    for section in fields(RunConfig)
    for key in fields(getattr(RunConfig(), section.name))
]  # fmt: skip


@pytest.mark.parametrize("section", PAPER)
def test_the_defaults_are_the_paper(section):
    values = RunConfig().to_dict()[section]
    assert {name: values[name] for name in PAPER[section]} == PAPER[section]


def test_the_recipe_paper_says_nothing_but_the_defaults():
    assert load_recipe("paper") == RunConfig()


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_a_config(name):
    assert isinstance(load_recipe(name), RunConfig)


def test_presets():
    assert {"detr-r50", "detr-r101", "detr-r50-dc5", "detr-r101-dc5", "detr-small", "detr-tiny"} <= PRESETS.keys()
    assert PRESETS["detr-r101-dc5"] == replace(PRESETS["detr-r50"], backbone="resnet101.tv_in1k", output_stride=16)
    assert PRESETS["detr-small"].backbone == "tf_efficientnet_lite0"


@pytest.mark.parametrize("comments", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_toml_round_trip(name, comments):
    assert parse_config(CONFIGS[name].to_toml(comments=comments), "test") == CONFIGS[name]
    assert RunConfig.from_dict(CONFIGS[name].to_dict(), "test") == CONFIGS[name]


@given(
    # Cs is no text, and no path holds control characters
    root=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    lr=st.floats(0, allow_infinity=False),
    sizes=st.lists(st.integers(1, 10_000), min_size=1).map(tuple),
)
def test_toml_round_trip_of_any_text_number_and_list(root, lr, sizes):
    config = RunConfig().with_values({"data.root": root, "train.lr": lr, "data.train_sizes": sizes}, "test")
    assert parse_config(config.to_toml(), "test") == config


NEEDED = {"voc_origin": 1, "val_share": 0.5, "split_seed": 1}  # other values than their defaults


def test_every_key_is_explained_in_toml():
    config = RunConfig().with_values({f"data.{name}": NEEDED.get(name, ("a=b",)) for name in FEW_NEED}, "test")
    lines = [line for line in config.to_toml().splitlines() if " = " in line]
    assert len(lines) == len(KEYS)
    assert all(len(line.split("  # ")[1]) > 5 for line in lines)


@pytest.mark.parametrize("key", KEYS)
def test_a_misspelt_key_names_the_nearest_whichever_way_it_comes(key):
    section, name = key.split(".")
    for build in (
        lambda: RunConfig().with_overrides([f"{key}x=1"]),
        lambda: RunConfig().with_values({f"{key}x": 1}, "test"),
        lambda: RunConfig.from_dict({section: {f"{name}x": 1}}, "test"),
        lambda: parse_config(f"[{section}]\n{name}x = 1", "test"),
    ):
        with pytest.raises(UserError, match=rf"unknown key '{key}x'; did you mean '{name}'\?"):
            build()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: RunConfig().with_overrides(["modell.num_queries=5"]), r"--set: .*'modell'.* did you mean 'model'\?"),
        (lambda: RunConfig().with_overrides(["num_queries=5"]), r"known are: data, loss, model, train"),
        (lambda: RunConfig.from_dict({"trian": {}}, "a.toml"), r"a\.toml: .*'trian'.* did you mean 'train'\?"),
        (lambda: parse_config("epochs = 3", "a.toml"), r"a\.toml: unknown section 'epochs'"),
        (lambda: parse_config("train = 3", "a.toml"), r"a\.toml: 'train' must be a table \[train\]"),
        (lambda: parse_config("[train", "a.toml"), r"a\.toml is not valid TOML"),
        (lambda: RunConfig().with_overrides(["train.epochs"]), r"--set train\.epochs: expected section\.key=value"),
        (lambda: resolve_config(preset="detr-r5"), r"--preset detr-r5: .* did you mean 'detr-r50'\?"),
        (lambda: resolve_config(recipe="papper"), r"--recipe papper: .* did you mean 'paper'\?"),
        (lambda: resolve_config(recipe="missing.toml"), r"--recipe missing\.toml: no such file.*paper"),
        (lambda: resolve_config(image_size=0), r"--image-size must be at least 1, got 0"),
        (lambda: resolve_config(image_size=20_001), r"--image-size must be at most 20000, got 20001"),
        (lambda: resolve_config(image_size=10**9), r"--image-size must be at most 20000, got 1000000000"),
    ],
)
def test_what_is_unknown_is_named(build, expected):
    with pytest.raises(UserError, match=expected):
        build()


@pytest.mark.parametrize("key", [key for key in KEYS if key.partition(".")[2] in LIMITS])
def test_every_limit_is_far_beyond_use_and_holds(key):
    section, _, name = key.partition(".")
    most = LIMITS[name]
    said = rf"a\.toml: {section}\.{name} must be at most {most}, got {most + 1}"
    for value in (most + 1, 10**30, 10**5000):
        with pytest.raises(UserError, match=said if value == most + 1 else "must be at most|must be a finite number"):
            RunConfig().with_values({key: value}, "a.toml")
    for config in CONFIGS.values():
        assert getattr(getattr(config, section), name) * 10 < most


@pytest.mark.parametrize(
    "value", [True, "8", None, 8.0, [8], float("nan"), -(10**5000)],
    ids=["flag", "text", "nothing", "fraction", "list", "NaN", "negative"],
)  # fmt: skip
def test_a_config_of_another_kind_is_not_made_whatever_makes_it(value):
    """Readers of other formats pass on what their files say."""
    config = replace(ModelConfig())
    object.__setattr__(config, "num_heads", value)  # past the tests' own checks of types
    with pytest.raises(UserError, match=r"^model\.num_heads must be (a whole number|at least 1), got "):
        config.__post_init__()


def test_a_transformer_has_a_largest_number_of_weights():
    most = {"embed_dim": 8192, "feedforward_dim": 65536, "num_encoder_layers": 200}
    with pytest.raises(UserError, match=r"embed_dim must be less: with its layers 4e\+09 weights or fewer, got 8192"):
        ModelConfig(**most)
    ModelConfig(**most | {"num_encoder_layers": 0, "num_decoder_layers": 1, "num_heads": 8})


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "[train]\nepochs = " + "9" * 5_000, "[[model]]\nx = [1]"])
def test_toml_beyond_all_limits_is_one_sentence(text):
    with pytest.raises(UserError, match=r"^a\.toml"):
        parse_config(text, "a.toml")
    with pytest.raises(UserError, match=r"^--set: train\.epochs must be a whole number"):
        RunConfig().with_overrides([f"train.epochs={text.partition(' = ')[2]}"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.num_queries=true", "a whole number"),
        ("model.num_queries=10.0", "a whole number"),
        ("model.num_queries=many", "a whole number"),
        ("model.dropout=true", "a finite number"),
        ("model.dropout=none", "a finite number"),
        ("train.clip_norm=inf", "a finite number"),
        ("train.lr=nan", "a finite number"),
        ("model.pre_norm=1", "true or false"),
        ("model.pre_norm=yes", "true or false"),
        ("data.root=7", "a text"),
        ("data.train_sizes=64", "a list of whole numbers"),
        ('data.train_sizes=["64"]', "a list of whole numbers"),
        ("data.train_sizes=[64.0]", "a list of whole numbers"),
        ("data.train_sizes=[true]", "a list of whole numbers"),
        ("data.crop_resize=[]", "a list of at least one positive size"),
        ("data.crop_resize=[0]", "a list of at least one positive size"),
        ("model.output_stride=4", "one of 8, 16, 32"),
        ("model.output_stride=16.0", "one of 8, 16, 32"),
        ('model.output_stride="16"', "one of 8, 16, 32"),
        ("model.position_encoding=cosine", "one of sine, learned, cell, none"),
        ("model.num_queries=-1", "at least 0"),
        ("model.num_encoder_layers=-1", "at least 0"),
        ("model.dropout=1.0", "below 1"),
        ("model.num_heads=7", "divisible by num_heads = 7"),
        ("data.horizontal_flip=1.5", "between 0 and 1"),
        ("data.max_size=100", "at least image_size = 800"),
        ("data.crop_min=700", "at least crop_min = 700"),
        ("loss.l1_weight=-1", "at least 0"),
        ("train.lr_drop=0", "above 0 and at most 1"),
        ("train.workers=-2", "at least -1"),
    ],
)
def test_a_value_that_cannot_be_meant(override, expected):
    with pytest.raises(UserError, match=expected) as caught:
        RunConfig().with_overrides([override])
    assert str(caught.value).startswith("--set: ")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.root=pictures", "pictures"),
        ("data.root=../my data/cells", "../my data/cells"),
        ('data.root="7"', "7"),
        ("data.root=a=b", "a=b"),
        ("data.root=", ""),
        (" train.precision = bf16", "bf16"),
        ("model.pre_norm=true", True),
        ("train.lr=1e-3", 1e-3),
        ("train.minutes=3", 3.0),
        ("data.train_sizes=[64, 96]", (64, 96)),
    ],
)
def test_set_takes_toml_and_everything_else_as_text(override, value):
    section, key = override.split("=")[0].strip().split(".")
    got = getattr(getattr(RunConfig().with_overrides([override]), section), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_keys_whose_limits_depend_on_each_other_can_be_set_together(order):
    together = ["model.embed_dim=36", "model.num_heads=9", "data.image_size=2000", "data.max_size=3000"]
    config = RunConfig().with_overrides(together[order])
    assert (config.model.embed_dim, config.model.num_heads) == (36, 9)
    assert (config.data.image_size, config.data.max_size) == (2000, 3000)
    with pytest.raises(UserError, match="embed_dim must be divisible"):
        RunConfig().with_overrides(["model.num_heads=9"])


@pytest.mark.parametrize(("kind", "sentence"), [("cost", "matching needs one cost"), ("weight", "there is no loss")])
def test_a_term_can_be_switched_off_but_not_all_three(kind, sentence):
    config = RunConfig().with_overrides([f"loss.class_{kind}=0", f"loss.l1_{kind}=0"])
    with pytest.raises(UserError, match=sentence):
        config.with_overrides([f"loss.giou_{kind}=0"])


@pytest.fixture
def recipe(tmp_path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(
        "[model]\nnum_queries = 7\ndropout = 0.3\n[data]\nimage_size = 100\n[train]\nepochs = 5\nlr = 0.5\n"
    )
    return str(path)


def test_recipe_then_preset_then_options_then_set(recipe):
    config = resolve_config(recipe)
    assert (config.model.num_queries, config.model.dropout, config.train.epochs) == (7, 0.3, 5)

    config = resolve_config(recipe, "detr-tiny")
    assert config.model == PRESETS["detr-tiny"]  # the whole section, nothing of the recipe's is left
    assert (config.data.image_size, config.train.epochs, config.train.lr) == (100, 5, 0.5)

    options = {"model.num_queries": 20, "train.epochs": 6, "train.seed": 1}
    config = resolve_config(recipe, "detr-tiny", options)
    assert (config.model.num_queries, config.train.epochs, config.train.seed, config.train.lr) == (20, 6, 1, 0.5)

    overrides = ["model.num_queries=30", "train.seed=2", "data.max_size=999"]
    config = resolve_config(recipe, "detr-tiny", options, image_size=50, overrides=overrides)
    assert (config.model.num_queries, config.train.seed, config.train.epochs) == (30, 2, 6)
    assert (config.data.image_size, config.data.max_size) == (50, 999)


def test_a_preset_alone_means_the_recipe_paper():
    assert resolve_config(preset="detr-r101") == replace(load_recipe("paper"), model=PRESETS["detr-r101"])


def test_neither_recipe_nor_preset_is_the_recipe_fast():
    assert resolve_config() == load_recipe("fast")


def test_a_recipe_alone_keeps_its_own_model():
    assert resolve_config("paper-small") == load_recipe("paper-small")


def test_a_recipe_may_be_the_saved_config_of_a_run(tmp_path):
    config = resolve_config(preset="detr-tiny", overrides=["data.root=somewhere"])
    (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    assert resolve_config(str(tmp_path / "config.toml")) == config
    assert Path(tmp_path / "config.toml").read_text(encoding="utf-8").startswith("[model]")


@given(st.integers(1, 4000))
def test_image_size_scales_every_size_alike(image_size):
    before, after = RunConfig().data, RunConfig().data.resized(image_size)

    def sizes(data):
        return [data.image_size, data.max_size, data.crop_min, data.crop_max, *data.train_sizes, *data.crop_resize]

    factor = image_size / before.image_size
    assert after.image_size == image_size
    for old, new in zip(sizes(before), sizes(after), strict=True):
        assert new == pytest.approx(old * factor, abs=0.5) or new == 1  # whole pixels, at least one
    same = {"root", "train_split", "val_split", "crop_probability", "horizontal_flip"}
    assert all(getattr(before, name) == getattr(after, name) for name in same)
    assert before.resized(before.image_size) == before


def test_a_config_never_changes():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().model.num_queries = 3


@pytest.mark.parametrize(("keep", "cache"), [("true", "ram"), ("false", "none")])
def test_a_config_of_an_earlier_version_still_loads(keep, cache):
    """`data.keep` became `data.cache`: model folders and states written before hold the old name."""
    assert parse_config(f"[data]\nkeep = {keep}", "config.toml").data.cache == cache
    with pytest.raises(UserError, match="unknown key"):
        RunConfig().with_overrides([f"data.keep={keep}"])


def test_resizing_leaves_open_what_was_to_be_chosen():
    data = DataConfig(image_size=640, max_size=0, train_sizes=()).resized(320)
    assert (data.image_size, data.max_size, data.train_sizes) == (320, 0, ())
