import csv
import io
import json
from pathlib import Path

import pytest
from foreign_data import assert_same, copy_pictures, csv_lines

from opendetr.data.check import left_out_in_words
from opendetr.data.door import find_split, load_index, split_names
from opendetr.data.index import Unused
from opendetr.errors import UserError

OURS = "image,xmin,ymin,xmax,ymax,label"


def quoted(*cells: object, separator: str = ",", always: bool = False) -> str:
    buffer = io.StringIO()
    quoting = csv.QUOTE_ALL if always else csv.QUOTE_MINIMAL
    csv.writer(buffer, delimiter=separator, lineterminator="", quoting=quoting).writerow(cells)
    return buffer.getvalue()


def corners(box):
    x, y, w, h = box
    return x, y, x + w, y + h


def shares(image, box):
    return [f"{value / image[side]:.9f}" for value, side in zip(corners(box), ("width", "height") * 2)]


def via_shape(image, box):
    return json.dumps({"name": "rect", "x": box[0], "y": box[1], "width": box[2], "height": box[3]})


# A name: header, line of an object, line of a picture without any, all of a picture, a name and a box.
TABLES = {
    "ours": (
        OURS,
        lambda i, name, box: quoted(i["file_name"], *corners(box), name),
        lambda i: quoted(i["file_name"], "", "", "", "", ""),
    ),
    "TensorFlow, Roboflow": (
        "filename,width,height,class,xmin,ymin,xmax,ymax",
        lambda i, name, box: quoted(i["file_name"], i["width"], i["height"], name, *corners(box)),
        lambda i: quoted(i["file_name"], i["width"], i["height"], "", "", "", "", ""),
    ),
    "VoTT": (
        '"image","xmin","ymin","xmax","ymax","label"',
        lambda i, name, box: quoted(i["file_name"], *(f"{one}.000" for one in corners(box)), name, always=True),
        lambda i: quoted(i["file_name"], "", "", "", "", "", always=True),
    ),
    "keras-retinanet": (
        None,
        lambda i, name, box: quoted(f"images/{i['file_name']}", *corners(box), name),
        lambda i: quoted(f"images/{i['file_name']}", "", "", "", "", ""),
    ),
    "AutoML": (
        None,
        lambda i, name, box: "TRAIN,gs://bucket/images/{},{},{},{},,,{},{},,".format(
            i["file_name"], name, *shares(i, box)
        ),
        lambda i: f"TRAIN,gs://bucket/images/{i['file_name']},,,,,,,,,",
    ),
    "OpenImages": (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside",
        lambda i, name, box: "{},xclick,/m/{},1,{},{},{},{},0,-1,0,0,0".format(
            Path(i["file_name"]).stem, name, *(shares(i, box)[at] for at in (0, 2, 1, 3))
        ),
        lambda i: f"{Path(i['file_name']).stem},,,,,,,,,,,,",
    ),
    "Makesense": (
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height",
        lambda i, name, box: quoted(name, *box, i["file_name"], i["width"], i["height"]),
        lambda i: quoted("", "", "", "", "", i["file_name"], i["width"], i["height"]),
    ),
    "VIA": (
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes",
        lambda i, name, box: quoted(
            i["file_name"], 9, "{}", 1, 0, via_shape(i, box), json.dumps({"class": name, "note": "x"})
        ),
        lambda i: quoted(i["file_name"], 9, "{}", 0, 0, "{}", "{}"),
    ),
    "x, y, width, height": (
        "image_path,x,y,width,height,class",
        lambda i, name, box: quoted(f".\\images\\{i['file_name']}", *box, name),
        lambda i: quoted(f".\\images\\{i['file_name']}", "", "", "", "", ""),
    ),
    "centres": (
        "file;x_center;y_center;w;h;label",
        lambda i, name, b: quoted(
            i["file_name"], *(str(v).replace(".", ",") for v in (b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3])), name,
            separator=";",
        ),
        lambda i: quoted(i["file_name"], "", "", "", "", "", separator=";"),
    ),
    "lists in a cell": (
        "image_id,width,height,bbox,label",
        lambda i, name, box: quoted(Path(i["file_name"]).stem, i["width"], i["height"], [float(v) for v in box], name),
        lambda i: quoted(Path(i["file_name"]).stem, i["width"], i["height"], "", ""),
    ),
}  # fmt: skip


@pytest.fixture
def coco(coco_folder):
    return coco_folder((1, 2, 0, 3))


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("tool", TABLES)
def test_tables_of_the_common_tools(coco, tmp_path, tool, ends):
    header, line, empty = TABLES[tool]
    root = tmp_path / "csv"
    copy_pictures(coco, root / "images")
    lines = ([header] if header else []) + csv_lines(coco, line, empty)
    mark = "\ufeff" if ends == "\r\n" else ""
    (root / "annotations-export.csv").write_text(mark + ends.join(lines) + ends, newline="")
    if tool == "OpenImages":
        (root / "class-descriptions-boxable.csv").write_text("/m/circle,circle\n/m/square,square\n/m/star,star\n")
    assert find_split(root, "train").layout == "CSV"
    assert split_names(root) == ["train"]
    index = load_index(root, "train")
    assert_same(index, load_index(coco, "train"), 1e-5 if tool in ("AutoML", "OpenImages") else 0)
    assert index.image_ids.tolist() == [1, 2, 3, 4]
    assert index.label_map.category_ids == tuple(range(1, len(index.label_map.names) + 1))


def ours(coco: Path, separator: str = ",") -> list[str]:
    _, line, empty = TABLES["ours"]
    return [text.replace(",", separator) for text in [OURS, *csv_lines(coco, line, empty)]]


@pytest.mark.parametrize("separator", [";", "\t", ", "])
def test_separators(coco, tmp_path, separator):
    copy_pictures(coco, tmp_path / "csv")
    (tmp_path / "csv/a.csv").write_text("\n\n" + "\n\n".join(ours(coco, separator)))
    assert_same(load_index(tmp_path / "csv", "train"), load_index(coco, "train"))


@pytest.mark.parametrize(
    ("table", "pictures"),
    [
        ("{split}.csv", "images"), ("{split}.csv", "images/{split}"), ("{split}_labels.csv", "{split}"),
        ("annotations/{split}.csv", "images"), ("annotations-{split}.csv", "."),
        ("{split}/_annotations.csv", "{split}"),
    ],
)  # fmt: skip
def test_a_table_per_split(coco_folder, tmp_path, table, pictures):
    coco = coco_folder((1, 2, 0, 3), ("train", "val"))
    root = tmp_path / "csv"
    _, line, empty = TABLES["ours"]
    for split in ("train", "val"):
        copy_pictures(coco, root / pictures.format(split=split), split)
        path = root / table.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        own = csv_lines(coco, line, empty, split)
        path.write_text("\n".join([OURS, *own]))
    assert split_names(root) == ["train", "val"]
    for split in ("train", "val"):
        assert_same(load_index(root, split), load_index(coco, split))
    assert load_index(root, "train").label_map == load_index(root, "val").label_map


@pytest.mark.parametrize("column", ["split", "Subset", "set"])
def test_a_column_for_the_split(coco_folder, tmp_path, column):
    coco = coco_folder((1, 2, 0, 3), ("train", "val"))
    lines = [f"{column},{OURS}"]
    for split, said in (("train", "TRAIN"), ("val", "Validation")):
        copy_pictures(coco, tmp_path / "csv", split)
        _, line, empty = TABLES["ours"]
        lines += [f"{said},{text}" for text in csv_lines(coco, line, empty, split)]
    (tmp_path / "csv/all.csv").write_text("\n".join(lines))
    assert split_names(tmp_path / "csv") == ["train", "val"]
    for split in ("train", "val"):
        assert_same(load_index(tmp_path / "csv", split), load_index(coco, split))


@pytest.fixture
def table(coco_folder, tmp_path):
    """A data set of one picture, train_0.png (64x48), whose table holds some lines after a header."""

    def make(*lines: str, header: str = OURS) -> Path:
        root = tmp_path / "one"
        copy_pictures(coco_folder((1,)), root)
        (root / "train.csv").write_text("\n".join([header, *lines]))
        return root

    return make


GOOD = "train_0.png,1,2,4,6,a"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("train_0.png,1,2,4,6,", Unused.NO_CATEGORY),
        ("train_0.png,1,2,4,,a", Unused.NO_BOX),
        ("train_0.png,,,,,a", Unused.NO_BOX),
        ("train_0.png,1,2,4,nan,a", Unused.NO_BOX),
        (f"train_0.png,1,2,4,{'9' * 400},a", Unused.NO_BOX),
        ("train_0.png,1,2", Unused.NO_CATEGORY),
        ('"train_0.png,1,2,4,6,a', Unused.UNREADABLE),  # an open quote
        (",1,2,4,6,a", Unused.NO_PICTURE),
        ("train_0.png,1,2,4,6,a,b", Unused.UNREADABLE),
        ("train_0.png,1,2,4,6," + "a" * 140_000, Unused.UNREADABLE),  # beyond the limit of Python's csv
    ],
)
def test_a_line_that_is_no_object_is_left_out_and_named(table, line, reason):
    root = table(GOOD, line, GOOD)
    index = load_index(root, "train")
    left_out = [one for one in index.left_out if one.kind == "object"]
    assert [one.reason for one in left_out] == [reason]
    assert left_out[0].sentence.startswith(f"{root / 'train.csv'}:3: '")
    assert len(index.objects) == 2
    with pytest.raises(UserError, match=r"(not one object can be used|the first fault): .*train\.csv:2: "):
        load_index(table(line), "train")


def test_crowds_exchanged_corners_and_tables_without_classes(table):
    index = load_index(
        table("train_0.png,4,6,1,2,1", "train_0.png,4,6,1,2,no", header="image,x1,y1,x2,y2,iscrowd"), "train"
    )
    assert index.objects.boxes_xywh.tolist() == [[1, 2, 3, 4]] * 2
    assert index.objects.is_crowd.tolist() == [True, False]
    assert index.label_map.names == ("object",)
    assert len(left_out_in_words(index)) == 3


def test_small_boxes_in_pixels_are_no_shares(table):
    index = load_index(table("train_0.png,0,0,1,1,a", "train_0.png,5,5,20,20,a"), "train")
    assert index.boxes_xyxy.tolist() == [[0, 0, 1, 1], [5, 5, 20, 20]]
    index = load_index(table("train_0.png,0,0,1,0.5,a", "train_0.png,0.25,0.5,0.5,1,a"), "train")
    assert index.boxes_xyxy.tolist() == [[0, 0, 64, 24], [16, 24, 32, 48]]
    assert any("shares of the pictures' sides" in sentence for sentence in left_out_in_words(index))


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ({"name": "polygon", "all_points_x": [5, 20, 7], "all_points_y": [6, 10, 30]}, [5, 6, 20, 30]),
        ({"name": "circle", "cx": 20, "cy": 20, "r": 5}, [15, 15, 25, 25]),
        ({"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 2.5}, [15, 17.5, 25, 22.5]),
        ({"name": "point", "cx": 20, "cy": 20}, None),
        ([], None),
    ],
)
@pytest.mark.parametrize("attributes", [{"kind of thing": "a"}, {"Label": "a", "n": "1"}, {"type": {"a": True}}])
def test_regions_of_via(table, shape, box, attributes):
    header = "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    good = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}
    lines = [
        quoted("train_0.png", 1, "{}", 2, n, json.dumps(one), json.dumps(attributes))
        for n, one in enumerate((good, shape))
    ]
    index = load_index(table(*lines, header=header), "train")
    assert index.boxes_xyxy.tolist() == [[1, 2, 4, 6], *([] if box is None else [box])]
    assert [one.reason for one in index.left_out] == ([Unused.NO_BOX] if box is None else [])
    assert index.label_map.names == ("a",)


def test_pictures_that_are_missing(table):
    index = load_index(table(GOOD, "gone.png,1,2,4,6,b"), "train")
    assert [(one.kind, one.reason) for one in index.left_out] == [
        ("picture", Unused.MISSING_FILE), ("object", Unused.NO_PICTURE),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "header",
    [
        "file_name,image_id,category_id,name,score,x1,y1,x2,y2",
        "filename,circle,square,star",
        "image,label",
        "a,b,c,d,e,f",
        "",
    ],
)
def test_other_tables_are_no_data_sets(table, header):
    with pytest.raises(UserError, match="has no data set"):
        load_index(table("train_0.png,1,1,a,0.5,1,2,3,4", header=header), "train")


def test_a_table_without_lines(table):
    with pytest.raises(UserError, match="lists no picture"):
        load_index(table(), "train")
