"""Several data sets as one, and classes that are kept, renamed and merged."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opendetr.config import DataConfig, RunConfig, parse_config
from opendetr.data.check import left_out_in_words
from opendetr.data.door import has_split, load_index, split_names
from opendetr.data.index import OF_OBJECTS, Unused
from opendetr.data.source import DataSource, config_of
from opendetr.errors import UserError
from opendetr.evaluation.coco import truth_of
from opendetr.labels import LabelMap

SIZE = 64, 48


def write_set(root: Path, classes: dict, objects: dict, split: str = "train") -> Path:
    """A COCO set; `objects` maps picture ids to the classes of their objects, each 10 x 8 pixels."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for number in objects:
        Image.new("RGB", SIZE).save(root / "images" / f"{split}{number}.png")
    pairs = [(picture, category) for picture, categories in objects.items() for category in categories]
    content = {
        "images": [
            {"id": one, "file_name": f"{split}{one}.png", "width": SIZE[0], "height": SIZE[1]} for one in objects
        ],
        "annotations": [
            {"id": number, "image_id": picture, "category_id": category, "bbox": [number, 2, 10, 8]}
            for number, (picture, category) in enumerate(pairs, start=1)
        ],
        "categories": [{"id": one, "name": name} for one, name in classes.items()],
    }
    (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def farm(tmp_path) -> Path:
    write_set(tmp_path / "farm", {1: "cat", 3: "dog"}, {7: [1]}, "val")
    return write_set(tmp_path / "farm", {1: "cat", 3: "dog"}, {1: [1], 2: [3, 1]})


@pytest.fixture
def woods(tmp_path) -> Path:
    return write_set(tmp_path / "woods", {1: "dog", 2: "bird", 3: "lynx"}, {2: [1], 9: [3, 2]})


def names_of(index) -> list[list[str]]:
    """The names of the objects of every picture."""
    return [[index.label_map.names[label] for label in record.labels] for record in index.records]


def test_sets_are_joined_by_name_and_keep_the_ids_they_can(farm, woods):
    index = load_index(DataSource.of([farm, woods]), "train")
    # Of woods, bird keeps its id; dog has farm's, and lynx, whose 3 is taken, the next free one.
    assert index.label_map == LabelMap((1, 2, 3, 4), ("cat", "bird", "dog", "lynx"))
    assert names_of(index) == [["cat"], ["dog", "cat"], ["dog"], ["lynx", "bird"]]
    assert index.image_ids.tolist() == [1, 2, 10, 9]  # 2 is farm's already
    assert index.objects.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert sum("numbered anew" in sentence for sentence in left_out_in_words(index)) == 2
    assert [record.path.parent.parent for record in index.records] == [farm, farm, woods, woods]


def test_one_set_alone_is_as_it_was(farm):
    plain, alone = load_index(farm, "train"), load_index(DataSource.of(str(farm)), "train")
    assert (plain.label_map, plain.source) == (alone.label_map, alone.source)
    assert not alone.classes_by_name


def test_a_set_that_is_given_twice_counts_once(farm):
    index = load_index(DataSource.of([farm, farm]), "train")
    assert len(index) == 2
    reasons = [(one.kind, one.reason) for one in index.left_out]
    assert reasons == [("picture", Unused.LISTED_TWICE)] * 2 + [("object", Unused.LISTED_TWICE)] * 3


def test_classes_are_renamed_and_merged(farm, woods):
    index = load_index(DataSource.of([farm, woods], rename={"lynx": "cat", "bird": "wing=d"}), "train")
    assert index.label_map == LabelMap((1, 2, 3), ("cat", "wing=d", "dog"))
    assert names_of(index)[3] == ["cat", "wing=d"]
    exchanged = load_index(DataSource.of(farm, rename=["cat=dog", "dog=cat"]), "train")
    assert names_of(exchanged) == [["dog"], ["cat", "dog"]]
    merged = load_index(DataSource.of(farm, rename="cat=dog"), "train")
    assert merged.label_map == LabelMap((3,), ("dog",))  # the class that had the name before


def test_only_the_classes_that_are_asked_for_are_used(farm, woods):
    index = load_index(DataSource.of([farm, woods], classes="dog,bird"), "train")
    assert index.label_map == LabelMap((2, 3), ("bird", "dog"))
    assert names_of(index) == [[], ["dog"], ["dog"], ["bird"]]  # a picture without objects stays
    not_asked = index.objects.reasons == OF_OBJECTS.index(Unused.NOT_ASKED)
    assert not_asked.tolist() == [True, False, True, False, True, False]
    assert any(
        sentence.startswith("3 objects of a class that --classes leaves out") for sentence in left_out_in_words(index)
    )
    assert len(truth_of(index).labels) == 3  # evaluation does not count them either
    other = LabelMap((2, 3, 5), ("bird", "dog", "cow"))
    assert index.under(other).labels.tolist() == index.labels.tolist()


def test_a_name_with_a_comma_is_one_class(tmp_path):
    root = write_set(tmp_path / "set", {1: "bolt, long", 2: "nut", 3: "bolt"}, {1: [1, 2, 3]})
    assert load_index(DataSource.of(root, "bolt, long"), "train").label_map.names == ("bolt, long",)
    assert load_index(DataSource.of(root, ["bolt, long", "nut"]), "train").label_map.names == ("bolt, long", "nut")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"classes": "dogs"}, r"--classes dogs: .* has no such class; did you mean 'dog'\?"),
        ({"rename": "lyn=cat"}, r"--rename lyn: .*did you mean 'lynx'\?"),
        ({"rename": "lynx"}, "--rename lynx: expected OLD=NEW"),
        ({"classes": "lynx", "rename": "lynx=wolf"}, "--classes lynx: .* has no such class; known are: .*wolf"),
    ],
)
def test_a_class_that_is_not_there_is_one_sentence(farm, woods, asked, expected):
    with pytest.raises(UserError, match=expected):
        load_index(DataSource.of([farm, woods], **asked), "train")


def test_a_split_may_list_fewer_classes_than_another(tmp_path):
    root = write_set(tmp_path / "set", {1: "cat", 2: "dog", 3: "cow"}, {1: [1, 2, 3]})
    write_set(root, {1: "cat"}, {1: [1]}, "val")
    asked = DataSource.of(root, ["dog", "cat"], {"cow": "cat"})
    assert load_index(asked, "val").label_map.names == ("cat",)
    with pytest.raises(UserError, match=r"split 'val' of .* has none of dog"):
        load_index(DataSource.of(root, "dog"), "val")


def test_a_set_without_the_split_is_passed_over_and_said(farm, woods, capsys):
    source = DataSource.of([woods, farm])
    assert has_split(source, "val")
    assert split_names(source) == ["train", "val"]
    val = load_index(source, "val")
    assert "has no split 'val'" in capsys.readouterr().out
    # By its own ids cat is 1 and dog 3; in the training split woods came first.
    train = load_index(source, "train")
    assert val.with_ids_of(train.label_map).label_map.names == ("cat", "dog")
    found = val.under(train.label_map)
    assert names_of(found) == [["cat"]]
    with pytest.raises(UserError, match="has no split 'test'"):
        load_index(source, "test")


def test_a_class_that_a_model_lacks_is_named_with_what_helps(farm, woods):
    index = load_index(DataSource.of([farm, woods]), "train")
    with pytest.raises(
        UserError, match=r"class 'bird' is not among the classes .* by --rename, or leave it out by --classes"
    ):
        index.under(LabelMap((1, 2), ("cat", "dog")))
    model = LabelMap((10, 20, 30, 40), ("lynx", "cat", "dog", "bird"))  # joined sets have ids of our making
    assert names_of(index.under(model)) == names_of(index)


def test_a_config_holds_what_was_asked_for_and_nothing_else(farm, woods):
    plain = RunConfig().with_values(config_of(farm), "test")
    for name in ("more_roots", "classes", "renamed"):
        assert f"\n{name} = " not in plain.to_toml()
        assert name not in plain.to_dict()["data"]
    asked = DataSource.of([farm, woods], ["cat", "dog"], {"lynx": "cat"})
    config = RunConfig().with_values(config_of([farm, woods], ["cat", "dog"], {"lynx": "cat"}), "test")
    assert DataSource.of_config(parse_config(config.to_toml(), "test").data) == asked
    # A run that is resumed on a folder that was moved keeps its classes.
    moved = config.with_values(config_of("memory://farm"), "test")
    assert DataSource.of_config(moved.data) == DataSource(("memory://farm",), ("cat", "dog"), ("lynx=cat",))
    assert asked.as_options() == [
        "--data", str(farm), "--data", str(woods), "--classes", "cat", "--classes", "dog", "--rename", "lynx=cat",
    ]  # fmt: skip


def test_the_name_of_a_source(tmp_path):
    for root, name in (("/data/cells", "cells"), ("/data/cells.zip", "cells"), ("s3://bucket/cells", "cells")):
        assert DataSource.of_config(DataConfig(root=root)).name == name
    with pytest.raises(UserError, match="--data is empty"):
        DataSource.of([])


def test_objects_of_large_and_text_ids_are_joined(tmp_path):
    one = write_set(tmp_path / "one", {"a": "cat", 2**70: "dog"}, {1: ["a"], 2: [2**70]})
    other = write_set(tmp_path / "other", {"a": "cow"}, {"x": ["a"]})
    index = load_index(DataSource.of([one, other]), "train")
    assert index.label_map == LabelMap((2**70, 2**70 + 1, "a"), ("dog", "cow", "cat"))
    assert index.image_ids.tolist() == [1, 2, "x"]
    assert np.array_equal(index.labels, [2, 0, 1])
