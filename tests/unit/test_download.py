"""Released checkpoints over HTTP, from a server of our own: resumed, verified, cached."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from opendetr.checkpoints import download
from opendetr.checkpoints.download import fetch_release
from opendetr.errors import UserError

CONTENT = bytes(range(256)) * 4000
NAME = f"detr-r50-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Handler(BaseHTTPRequestHandler):
    """Serves the content, from where it is asked to; breaks off after `break_after` bytes of an answer."""

    def do_GET(self):
        server = self.server
        start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
        server.asked.append((self.path, start))
        if self.path.startswith("/elsewhere"):
            self.send_error(404)
            return
        if start >= len(server.content):
            self.send_error(416)
            return
        rest = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: server.break_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.break_after, server.asked = CONTENT, None, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OPENDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(download.RELEASES, "detr-r50", NAME)
    server.address = f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.shutdown()
    server.server_close()


def test_the_second_time_it_comes_from_the_cache(server):
    path = fetch_release("detr-r50", server.address)
    assert path.read_bytes() == CONTENT
    assert fetch_release("detr-r50", server.address) == path
    assert server.asked == [(f"/{NAME}", 0)]


def test_an_interrupted_download_goes_on(server):
    server.break_after = 300_000
    with pytest.raises(UserError, match="what has arrived is kept"):
        fetch_release("detr-r50", server.address)
    server.break_after = None
    assert fetch_release("detr-r50", server.address).read_bytes() == CONTENT
    assert server.asked == [(f"/{NAME}", 0), (f"/{NAME}", 300_000)]


def test_a_wrong_file_is_refused_and_removed(server, tmp_path):
    server.content = CONTENT[::-1]
    with pytest.raises(UserError, match=r"was damaged and is removed: its SHA-256 began with [0-9a-f]{8}, not"):
        fetch_release("detr-r50", server.address)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] in ([], [".lock"])


def test_a_whole_partial_file_is_only_verified(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / NAME).with_suffix(".part").write_bytes(CONTENT)
    assert fetch_release("detr-r50", server.address).read_bytes() == CONTENT


def test_a_wrong_file_put_there_by_hand_is_refused_and_kept(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"is damaged, or another file: its SHA-256 begins with .*; remove it"):
        fetch_release("detr-r50", server.address)
    assert (tmp_path / "cache" / NAME).read_bytes() == CONTENT[:-1]
    assert server.asked == []


def test_a_shared_cache_need_not_be_writable(server, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / NAME).write_bytes(CONTENT)

    def refused(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(download, "FileLock", refused)
    assert fetch_release("detr-r50", server.address).read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [NAME]


def test_a_file_that_the_server_has_not_is_said(server):
    with pytest.raises(UserError, match=r"/elsewhere/.* answers 404 Not Found; put the file .* there by hand"):
        fetch_release("detr-r50", f"{server.address}elsewhere/")


def test_without_network_and_cache_there_is_a_sentence(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"'detr-r50' is not in .* and http://127.0.0.1:\d+/.* cannot be reached"):
        fetch_release("detr-r50", server.address)
