"""Pictures at https addresses, with stubs instead of a network."""

import io
import urllib.error
import urllib.request
from contextlib import closing

import pytest
from PIL import Image

from opendetr.errors import UserError
from opendetr.inference import addresses
from opendetr.inference.addresses import address_name, fetch_picture, is_address
from opendetr.inference.sources import expand_source, expand_sources, picture_reader

ADDRESS = "https://pictures.example/cat.png?token=secret#top"


class Opener:
    """Answers every request with the same content or error."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer, self.asked = answer, []

    def open(self, request, timeout):
        self.asked.append((request.full_url, timeout, request.get_header("User-agent")))
        if isinstance(self.answer, Exception):
            raise self.answer
        return closing(io.BytesIO(self.answer))


@pytest.fixture
def answer(monkeypatch):
    def use(content: bytes | Exception) -> Opener:
        opener = Opener(content)
        monkeypatch.setattr(addresses, "_opener", lambda: opener)
        return opener

    return use


def test_what_is_an_address():
    assert is_address("https://a/b.png")
    assert is_address("s3://bucket/a.png")
    assert not is_address("folder/a.png")
    assert not is_address(b"https://")


def test_a_picture_at_an_address_is_downloaded_once_into_the_output(answer, tmp_path):
    opener = answer(b"content")
    found = expand_sources([ADDRESS, "https://pictures.example/other/cat.png"], tmp_path)
    assert [path.name for path in found] == ["cat.png", "cat.png"]
    assert [path.read_bytes() for path in found] == [b"content", b"content"]
    assert expand_sources([ADDRESS], tmp_path) == found[:1]
    assert len(opener.asked) == 2
    with pytest.raises(UserError, match=r"^s3://bucket/a.png: only https addresses are downloaded"):
        expand_sources(["s3://bucket/a.png"], tmp_path)


def test_what_is_written_like_no_address_or_file_is_one_sentence():
    with pytest.raises(UserError, match="is no address"):
        fetch_picture("https://[x/y.jpg")
    with pytest.raises(UserError, match=r"^a{80}\.\.\. names no file"):
        expand_source("a" * 5000)


def test_names_hold_no_secrets():
    assert address_name(ADDRESS) == "https://pictures.example/cat.png"
    with pytest.raises(UserError, match=r"^https://a.example/b.png needs a password: download it yourself"):
        fetch_picture("https://me:secret@a.example/b.png")


def test_a_picture_is_fetched_once_and_read_again_from_memory(answer):
    buffer = io.BytesIO()
    Image.new("RGB", (7, 5), "red").save(buffer, "PNG")
    opener = answer(buffer.getvalue())
    read, name = picture_reader(ADDRESS)
    assert (read().size, read().getpixel((0, 0)), name) == ((7, 5), (255, 0, 0), "https://pictures.example/cat.png")
    ((asked, timeout, agent),) = opener.asked
    assert (asked, timeout, agent.split("/")[0]) == (ADDRESS, 10.0, "opendetr")


@pytest.mark.parametrize(
    "address", ["http://a.example/b.png", "ftp://a.example/b.png", "file:///etc/b.png", "s3://a/b"]
)
def test_only_https_is_fetched_also_after_a_redirection(address, answer):
    opener = answer(b"")
    with pytest.raises(UserError, match=rf"^{address}: only https addresses are downloaded"):
        fetch_picture(address)
    assert opener.asked == []
    request = urllib.request.Request("https://a.example/b.png")
    with pytest.raises(UserError, match="only https"):
        addresses._HttpsOnly().redirect_request(request, None, 302, "Found", {}, address)
    assert addresses._HttpsOnly().redirect_request(request, None, 302, "Found", {}, "https://c.example/d") is not None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (urllib.error.HTTPError("https://a", 404, "Not Found", None, None), "answers 404 Not Found; check the address"),
        (urllib.error.URLError("Name or service not known"), r"cannot be downloaded \(Name or service not known\)"),
        (TimeoutError("timed out"), r"cannot be downloaded \(timed out\); check the address and the network"),
    ],
)
def test_a_failure_is_one_sentence_without_secrets(answer, error, said):
    answer(error)
    with pytest.raises(UserError, match=f"^https://pictures.example/cat.png {said}") as caught:
        fetch_picture(ADDRESS)
    assert "secret" not in str(caught.value)


def test_size_and_time_are_limited(answer, monkeypatch):
    answer(b"x" * (2**20 + 1))
    monkeypatch.setattr(addresses, "MOST_MEGABYTES", 1)
    with pytest.raises(UserError, match="has more than 1 MB; download it yourself"):
        fetch_picture(ADDRESS)
    answer(b"x" * 2**20)
    assert len(fetch_picture(ADDRESS)) == 2**20
    monkeypatch.setattr(addresses, "ALL_SECONDS", -1.0)
    with pytest.raises(UserError, match="is not here after -1 s; download it yourself"):
        fetch_picture(ADDRESS)


def test_what_is_no_picture_is_named(answer):
    answer(b"<html>")
    read, _ = picture_reader(ADDRESS)
    with pytest.raises(UserError, match=r"^https://pictures.example/cat.png cannot be read as a picture"):
        read()
