import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendetr.errors import UserError
from opendetr.labels import LabelMap


def label_map(**names_by_id: int) -> LabelMap:
    return LabelMap.from_categories(
        [{"id": number, "name": name} for name, number in names_by_id.items()], "train.json"
    )


@pytest.mark.parametrize(
    ("categories", "ids", "names"),
    [
        ([(0, "cat"), (1, "dog")], (0, 1), ("cat", "dog")),
        ([(1, "cat"), (2, "dog")], (1, 2), ("cat", "dog")),
        ([(90, "dog"), (3, "cat"), (17, "cow")], (3, 17, 90), ("cat", "cow", "dog")),
        ([(5, "cell")], (5,), ("cell",)),
        ([("10", "ten"), ("9", "nine")], (9, 10), ("nine", "ten")),  # by number, not by letter
        ([(2.0, "b"), (1, "a")], (1, 2), ("a", "b")),
        ([(1, "crack"), (2, "crack")], (1, 2), ("crack", "crack")),
        ([(1, 7)], (1,), ("7",)),
        ([("b", "b"), ("a", "a"), ("12", "n")], (12, "a", "b"), ("n", "a", "b")),  # numbers before texts
    ],
)
def test_every_category_is_a_class_in_the_order_of_the_ids(categories, ids, names):
    labels = LabelMap.from_categories([{"id": number, "name": name} for number, name in categories], "train.json")
    assert (labels.category_ids, labels.names, labels.num_classes) == (ids, names, len(ids))


@given(st.dictionaries(st.integers(-5, 10**6), st.text(), min_size=1))
def test_laws(names):
    labels = LabelMap.from_categories([{"id": number, "name": name} for number, name in names.items()], "train.json")
    assert sorted(labels.index_of.values()) == list(range(labels.num_classes))
    for number, name in names.items():
        assert labels.category_ids[labels.index_of[number]] == number
        assert labels.names[labels.index_of[number]] == name
    assert LabelMap.from_json(json.loads(json.dumps(labels.to_json()))) == labels


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ([], "'categories' is empty"),
        ([{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], "category id 3 is listed twice"),
        ([{"id": 3, "name": "a"}, {"id": "3", "name": "b"}], "category id 3 is listed twice"),
        ([{"id": "", "name": "a"}], "a whole number or a text as 'id'"),
        ([{"id": True, "name": "a"}], "a whole number or a text as 'id'"),
        ([{"id": 1.5, "name": "a"}], "a whole number or a text as 'id'"),
        ([{"id": float("inf"), "name": "a"}], "a whole number or a text as 'id'"),
        ([{"id": None, "name": "a"}], "a whole number or a text as 'id'"),
        ([{"id": 1}], "a 'name'"),
        ([{"name": "a"}], "a whole number or a text as 'id'"),
    ],
)
def test_what_is_no_list_of_categories(categories, expected):
    with pytest.raises(UserError, match=expected) as caught:
        LabelMap.from_categories(categories, "train.json")
    assert str(caught.value).startswith("train.json: ")


OFFICIAL = LabelMap((None, 1, None, 3), ("N/A", "person", "N/A", "car"))


def test_an_index_may_have_no_category():
    assert OFFICIAL.num_classes == 4
    assert OFFICIAL.index_of == {1: 1, 3: 3}
    assert LabelMap.from_json(json.loads(json.dumps(OFFICIAL.to_json()))) == OFFICIAL
    assert OFFICIAL.describe() == "1 'person', 3 'car'"


@pytest.mark.parametrize(
    ("ids", "names"),
    [((), ()), ((None,), ("N/A",)), ((1, 1), ("a", "b")), ((1, 2), ("a",)), ((1,), ("a", "b"))],
)
def test_a_label_map_that_cannot_be(ids, names):
    with pytest.raises(ValueError, match="at least one category"):
        LabelMap(ids, names)


def test_the_other_file_may_have_fewer_categories_but_no_others():
    train = label_map(cat=1, dog=2, cow=5)
    train.require_same_categories(label_map(dog=2), "val.json")
    train.require_same_categories(train, "val.json")
    OFFICIAL.require_same_categories(OFFICIAL, "val.json")


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (
            {"dog": 2, "mouse": 7},
            r"val\.json: category 7 'mouse' is not among .*on \(1 'cat', 2 'dog'\)",
        ),
        ({"dog": 1}, r"val\.json: category 1 is called 'dog' here and 'cat' in the data that the model is trained on"),
    ],
)
def test_a_category_that_only_the_other_file_has_is_named(other, expected):
    with pytest.raises(UserError, match=expected):
        label_map(cat=1, dog=2).require_same_categories(label_map(**other), "val.json")


def test_an_index_without_a_category_does_not_make_an_id_known():
    with pytest.raises(UserError, match="category 2 'bicycle' is not among"):
        OFFICIAL.require_same_categories(label_map(bicycle=2), "val.json")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("person", {1}),
        (3, {3}),
        ("3", {3}),
        ("car, person", {1, 3}),
        (["car", 1], {1, 3}),
        ([], set()),
    ],
)
def test_classes_are_found_by_name_or_id(classes, expected):
    assert OFFICIAL.indices_of(classes) == expected


def test_a_name_of_several_categories_means_all_and_comes_before_ids_and_commas():
    assert label_map_of((1, "crack"), (2, "crack"), (3, "2"), (4, "a, b"), (5, "a")).indices_of("crack") == {0, 1}
    assert label_map_of((1, "crack"), (2, "crack"), (3, "2"), (4, "a, b"), (5, "a")).indices_of("2") == {2}
    assert label_map_of((1, "crack"), (2, "crack"), (3, "2"), (4, "a, b"), (5, "a")).indices_of("a, b") == {3}


def label_map_of(*categories):
    return LabelMap(tuple(number for number, _ in categories), tuple(name for _, name in categories))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("N/A", "the model has no class 'N/A'; its classes are 1 'person', 3 'car'"),  # of indices without a category
        ("cars", r"no class 'cars' \(did you mean car\?\)"),
        (2, "no class '2'; its"),
        ("car, dog", "no class 'dog'"),
        ("", "no class ''"),
    ],
)
def test_a_class_that_is_not_there_is_named(wanted, said):
    with pytest.raises(UserError, match=said):
        OFFICIAL.indices_of(wanted)


@pytest.mark.parametrize(
    "entry",
    [
        {"id": 1, "name": 7}, {"id": 1, "name": None}, {"id": 1.5, "name": "a"}, {"id": True, "name": "a"},
        {"id": [1], "name": "a"},
    ],
)  # fmt: skip
def test_what_is_no_stored_class(entry):
    with pytest.raises(ValueError, match="a class needs a text as 'name'"):
        LabelMap.from_json([{"id": 0, "name": "b"}, entry])


def test_many_categories_are_described_shortly():
    many = LabelMap(tuple(range(20)), tuple("abcdefghijklmnopqrst"))
    assert many.describe(limit=2) == "0 'a', 1 'b' and 18 more"
    assert many.describe().endswith("11 'l' and 8 more")


def test_a_label_map_may_be_as_long_as_it_likes():
    """Numbers up to 256 are one object each in Python, larger ones are not."""
    many = LabelMap(tuple(range(600)), tuple(map(str, range(600))))
    assert many.index_of[599] == 599
    with pytest.raises(ValueError, match="no category id twice"):
        LabelMap((*range(599), 0), many.names)
