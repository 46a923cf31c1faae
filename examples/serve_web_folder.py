"""Hands out a folder of `opendetr export --format web`, with the two headers that its page needs for several threads.

Run `python examples/serve_web_folder.py FOLDER [PORT]`, and open http://localhost:8000. It needs no package.
"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Isolating(SimpleHTTPRequestHandler):
    """Browsers share memory between threads only in pages that are isolated from other sites."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    ThreadingHTTPServer(("127.0.0.1", port), partial(Isolating, directory=sys.argv[1])).serve_forever()
