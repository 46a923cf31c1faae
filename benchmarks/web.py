"""Detection in the browser, against native ONNX Runtime with as many threads, on the same picture in the same run.

Run `python benchmarks/web.py FOLDER`, a folder of `opendetr export MODEL --format web --output FOLDER` in which `npm
install` was run. It needs Chromium and the package playwright. A detection is the whole way from a JPEG file to boxes:
in the browser through the page's own client, natively through `Detector.predict`. The two take turns, so that a machine
that changes its pace does it to both. Without threads the folder is handed out without the headers that they need.

The model must see the shorter side at 320 (export with `--image-size 320`). The exit code is 1 where two threads take
more than 6 times as long (p50).
"""

import argparse
import base64
import http.server
import io
import shutil
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from sklearn.datasets import load_sample_images

from opendetr.benchmarking.benchmark import provenance
from opendetr.inference.detector import Detector

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from serve_web_folder import Isolating

WIDTH, HEIGHT, QUALITY = 640, 480, 90
WARM_UP, TURNS = 5, 4
MOST_TIMES = 6  # the bar, with two threads
SHORTER_SIDE = 320  # of its pictures at the model's input


class Plain(http.server.SimpleHTTPRequestHandler):
    """Without those headers."""


START = """async () => {
  const { localClient } = await import("./clients/local.js");
  globalThis.client = localClient(await (await fetch("model.json")).json());
  return (await client.model()).engine;
}"""
DETECT = """async ([encoded, count]) => {
  const picture = await (await fetch("data:image/jpeg;base64," + encoded)).blob();
  const times = [];
  for (let run = 0; run < count; run++) {
    const begun = performance.now();
    await client.detect(picture);
    times.push(performance.now() - begun);
  }
  return times;
}"""


def of_browser(page: Page, jpeg: bytes, count: int) -> list[float]:
    return page.evaluate(DETECT, [base64.b64encode(jpeg).decode(), count])


def of_native(detector: Detector, jpeg: bytes, count: int) -> list[float]:
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        detector.predict(jpeg, threshold=0.05)
        times.append(1000 * (time.perf_counter() - begun))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of export --format web")
    parser.add_argument("--threads", type=int, default=2, help="1, or as many as the machine has (default %(default)s)")
    parser.add_argument("--pictures", type=int, default=80, help="(default %(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    picture = Image.fromarray(load_sample_images().images[0]).resize((WIDTH, HEIGHT))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=QUALITY)
    jpeg = content.getvalue()
    detector = Detector.load(given.folder / "model.onnx")
    height, width = detector.prepare(picture).shape[1:]
    if min(height, width) != SHORTER_SIDE:
        sys.exit(
            f"{given.folder} sees pictures at {height}x{width}; expected the shorter side {SHORTER_SIDE}: "
            f"export with --image-size {SHORTER_SIDE}"
        )
    handler = partial(Isolating if given.threads > 1 else Plain, directory=str(given.folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Isolating.log_message = Plain.log_message = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as steering:
        browser = steering.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://localhost:{server.server_port}/types.js")
        engine = page.evaluate(START)
        web, native = list[float](), list[float]()
        for turn in range(TURNS + 1):
            count = given.pictures // TURNS if turn else WARM_UP
            for times, found in ((native, of_native(detector, jpeg, count)), (web, of_browser(page, jpeg, count))):
                times.extend(found if turn else [])
        version = browser.version
        browser.close()
    server.shutdown()
    rows = {f"Chromium {version}, {engine}": web, f"ONNX Runtime, {given.threads} threads": native}
    print(f"\nA JPEG of {WIDTH}x{HEIGHT}, seen by the model at {height}x{width}; {len(web)} detections each\n")
    print("| | p50 ms | p95 ms |\n|---|---|---|")
    for name, times in rows.items():
        print(f"| {name} | {np.percentile(times, 50):.1f} | {np.percentile(times, 95):.1f} |")
    ratios = [float(np.percentile(web, q) / np.percentile(native, q)) for q in (50, 95)]
    print(
        f"\nThe browser takes {ratios[0]:.1f} times as long (p50), {ratios[1]:.1f} times (p95); at most {MOST_TIMES}."
    )
    print(f"\n{provenance('onnxruntime', 'opendetr')}")
    if given.threads == 2 and ratios[0] > MOST_TIMES:
        sys.exit(f"The browser takes more than {MOST_TIMES} times as long (p50, two threads).")


if __name__ == "__main__":
    main()
