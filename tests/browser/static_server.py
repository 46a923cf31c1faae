"""A web server for exported folders, as plain as `python -m http.server`, and with the headers that threads need."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ISOLATING = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


class _Quiet(SimpleHTTPRequestHandler):
    headers_sent: dict[str, str]

    def end_headers(self) -> None:
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def handed_out(folder: Path, *, isolated: bool = False, port: int = 0) -> Iterator[str]:
    """The folder's address while the server runs."""
    handler = type("Handler", (_Quiet,), {"headers_sent": ISOLATING if isolated else {}})
    with ThreadingHTTPServer(("127.0.0.1", port), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
