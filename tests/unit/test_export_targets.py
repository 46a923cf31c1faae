"""What an export may replace: only what an earlier export has written."""

import json

import pytest

from opendetr.errors import UserError
from opendetr.exporting.export import free_note_path
from opendetr.serving.web_folder import require_web_folder


def test_a_note_never_replaces_another_yaml_file(tmp_path):
    output = tmp_path / "data.onnx"
    assert free_note_path(output).name == "data.yaml"
    (tmp_path / "data.yaml").write_text("type: opendetr\nname: data\n")  # an earlier note
    assert free_note_path(output).name == "data.yaml"
    for content in ("train: images\nnames: [cat]\n", "- a", "{", "type: yolo"):
        (tmp_path / "data.yaml").write_text(content)
        assert free_note_path(output).name == "data.onnx.yaml"
    (tmp_path / "data.onnx.yaml").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"data\.yaml and .*data\.onnx\.yaml are other files"):
        free_note_path(output)


def test_a_page_replaces_only_an_earlier_page(tmp_path):
    folder = tmp_path / "page"
    require_web_folder(folder)
    (folder / "views").mkdir(parents=True)
    require_web_folder(folder)  # nothing but empty folders
    listed = {"version": "1", "files": ["./", "model.onnx", "views/a.js", "node_modules/x/y.js"]}
    (folder / "exported-files.js").write_text(f"self.exported = {json.dumps(listed, indent=1)};\n")
    for name in ("model.onnx", "views/a.js", "node_modules/other/z.js", "package-lock.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    require_web_folder(folder)
    for name in ("views/mine.js", "notes.txt"):
        (folder / name).touch()
        with pytest.raises(UserError, match=f"holds {name}, which is of no export, and would be removed"):
            require_web_folder(folder)
        (folder / name).unlink()
    (folder / "exported-files.js").write_text("no list")
    with pytest.raises(UserError, match="which is of no export"):
        require_web_folder(folder)
