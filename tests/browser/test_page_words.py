"""The page's texts: English and Chinese say the same things."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import opendetr
from opendetr.explanation.verdicts import SENTENCES

PAGE = Path(opendetr.__file__).parent / "serving" / "web"

READ = "import(process.argv[1]).then(({ words }) => console.log(JSON.stringify(words)))"


def words_of(language: str) -> dict[str, str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node found; `apt-get install nodejs npm` installs what the page's scripts are tested with")
    return json.loads(subprocess.check_output([node, "-e", READ, str(PAGE / "words" / f"{language}.js")], text=True))


def test_both_languages_have_the_same_texts_with_the_same_values():
    english, chinese = words_of("en"), words_of("zh")
    assert list(english) == list(chinese)
    values = {key: sorted(re.findall(r"{\w+}", text)) for key, text in english.items()}
    assert values == {key: sorted(re.findall(r"{\w+}", text)) for key, text in chinese.items()}


def test_what_became_of_an_object_is_said_as_python_says_it():
    said = {key.removeprefix("verdict."): text for key, text in words_of("en").items() if key.startswith("verdict.")}
    assert said == {case: text for case, text in SENTENCES.items() if case != "finds"}  # which the page never shows


def test_every_text_that_the_page_names_exists():
    named = {key for path in PAGE.rglob("*.js") for key in re.findall(r'\bword\(\s*"([^"]+)"', path.read_text())}
    assert named
    assert named <= set(words_of("en"))
