"""How fast is `opendetr serve`, and does it stay up? Everything on 127.0.0.1, and it ends by itself.

`throughput` compares it with `Detector.predict` on the same encoded pictures, in turns in one run: 4 clients that send
one picture a request (largest batch 1), and 8 clients (largest batch 8). `soak` lets 200 clients ask for a minute, then
stops the server while they go on. `mutations` sends pictures and bodies with random damage. `kill` ends the process
that computes while clients wait. The exit code is 1 where a bar does not hold, and the last lines say which.

    python benchmarks/serving.py throughput runs/mine PICTURES
    python benchmarks/serving.py soak runs/mine PICTURES
    python benchmarks/serving.py mutations runs/mine PICTURES
    python benchmarks/serving.py kill runs/mine PICTURES
"""

import argparse
import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import psutil

from opendetr.decoding import picture_suffixes
from opendetr.devices import describe_machine
from opendetr.inference.detector import Detector
from opendetr.threads import settle_threads
from opendetr.version import __version__

BOUNDARY = b"part-7f3a"
LEAST_RATIO, MOST_GROWTH, MOST_GONE = 0.85, 0.02, 2.0  # the bars: of predict's speed; of memory; seconds to a 503
MOST_LATE = 1.0  # seconds past its deadline in which the slowest hundredth may be answered
DEADLINE = 30.0  # of `opendetr serve` where no --deadline is given
WARM_UP = 1 / 3  # of the soak, before memory is compared
PIECE = 50  # pictures of a turn at least
PIECES = 10  # measurements of memory between damaged uploads


@dataclass
class Running:
    """A server of its own process."""

    process: subprocess.Popen[str]
    port: int

    def memory(self) -> dict[str, int]:
        """Resident bytes of the web process and of the one that computes."""
        web = psutil.Process(self.process.pid)
        found = {"web": web.memory_info().rss}
        for child in web.children():
            found["compute"] = child.memory_info().rss
        return found


@contextmanager
def served(model: str, *options: str) -> Iterator[Running]:
    """`opendetr serve` on a free port."""
    command = [sys.executable, "-m", "opendetr", "serve", model, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = 0
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
            port = int(found[1])
            break
    if not port:
        raise SystemExit("the server did not start")
    try:
        yield Running(process, port)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def request_of(content: bytes, path: str = "/v1/detect", body: bytes | None = None) -> bytes:
    """A whole request with one picture, or with a given body."""
    if body is None:
        head = b'--%s\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n' % BOUNDARY
        body = head + b"Content-Type: image/jpeg\r\n\r\n" + content + b"\r\n--%s--\r\n" % BOUNDARY
    lines = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
        f"boundary={BOUNDARY.decode()}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return lines.encode() + body


class Client:
    """One connection, which is kept: a hundred lines less work for the processor than a library's."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer.

        Raises:
            ConnectionRefusedError: the server takes no connection.
            ConnectionError, asyncio.IncompleteReadError: it closed one without an answer.
        """
        if self.writer is None or self.writer.is_closing():
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.reader is not None
        try:
            self.writer.write(request)
            await self.writer.drain()
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *others = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in others if one)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException:
            self.close()
            raise
        if headers.get("connection") == "close":
            self.close()
        return int(first.split()[1]), headers, body

    def close(self) -> None:
        """End the connection."""
        if self.writer is not None:
            self.writer.close()
        self.writer = None


class Bars:
    """What has to hold; each is said where it does not."""

    def __init__(self) -> None:
        self.broken = list[str]()

    def require(self, holds: bool, what: str) -> None:
        """Note a bar that does not hold."""
        if not holds:
            self.broken.append(what)


def throughput(
    model: str, pictures: Sequence[bytes], turns: int, seconds: float, options: Sequence[str], bars: Bars
) -> None:
    """Pictures per second of the server and of `Detector.predict`, in turns."""
    threads = str(settle_threads(None, measure=False).number)  # as many on both sides
    engine = dict(zip(options[::2], options[1::2])).get("--engine", "auto")
    detector = Detector.load(model, engine=engine)  # type: ignore[arg-type]
    for clients, batch in ((4, 1), (8, 8)):
        alone, over_http = list[float](), list[float]()
        with served(model, "--batch-size", str(batch), "--threads", threads, *options) as server:
            for turn in range(turns + 1):
                speeds = (
                    predicted(detector, pictures, batch, seconds),
                    asyncio.run(asked(server, pictures, clients, seconds)),
                )
                if turn:  # the first warms both up
                    alone.append(speeds[0])
                    over_http.append(speeds[1])
        ratio = median(one / other for one, other in zip(over_http, alone))
        each = ", ".join(f"{one / other:.2f}" for one, other in zip(over_http, alone))
        print(
            f"{clients} clients, largest batch {batch}: serve {median(over_http):.1f} pictures/s, predict "
            f"{median(alone):.1f}; ratio {ratio:.3f} ({each}), bar {LEAST_RATIO}"
        )
        bars.require(ratio >= LEAST_RATIO, f"{clients} clients get {ratio:.1%} of predict's speed")


def predicted(detector: Detector, pictures: Sequence[bytes], batch: int, seconds: float) -> float:
    """Pictures per second of `Detector.predict`."""
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        some = [pictures[(done + at) % len(pictures)] for at in range(PIECE)]
        detector.predict(some, batch_size=batch)
        done += len(some)
    return done / (time.perf_counter() - begun)


async def asked(server: Running, pictures: Sequence[bytes], clients: int, seconds: float) -> float:
    """Pictures per second that clients get answers for, one picture a request."""
    requests = [request_of(content) for content in pictures]
    until, done = time.perf_counter() + seconds, 0

    async def ask_on(number: int) -> None:
        nonlocal done
        client, at = Client(server.port), number
        while time.perf_counter() < until:
            status, _, body = await client.ask(requests[at % len(requests)])
            if status != 200:
                raise SystemExit(f"the server answers {status}: {body[:200]!r}")
            done, at = done + 1, at + clients
        client.close()

    begun = time.perf_counter()
    await asyncio.gather(*map(ask_on, range(clients)))
    return done / (time.perf_counter() - begun)


@dataclass
class Seen:
    """What the clients of a soak saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # seconds, of accepted requests
    late_statuses: Counter[int] = field(default_factory=Counter)  # of what was answered after the stop began
    unanswered: int = 0  # connections that ended between request and answer
    refused: int = 0  # connections that were not taken
    memory: list[tuple[float, int, dict[str, int]]] = field(default_factory=list)  # seconds, pictures so far, bytes


def soak(
    model: str, pictures: Sequence[bytes], clients: int, seconds: float, options: Sequence[str], bars: Bars
) -> None:
    """Many clients for a while, then a graceful stop while they go on."""
    deadline = float(dict(zip(options[::2], options[1::2])).get("--deadline", DEADLINE))
    seen = Seen()
    with served(model, *options) as server:
        asyncio.run(soaked(server, pictures, clients, seconds, seen))
        code = server.process.wait(60)
    seen.latencies.sort()
    statuses = seen.statuses + seen.late_statuses
    p50, p99 = (seen.latencies[int(share * (len(seen.latencies) - 1))] for share in (0.5, 0.99))
    print(
        f"answers: {dict(sorted(seen.statuses.items()))}, after the stop began {dict(seen.late_statuses)}; accepted "
        f"{statuses[200] + statuses[504]}, without an answer {seen.unanswered}"
    )
    print(f"latency of accepted requests: p50 {p50:.2f} s, p99 {p99:.2f} s, longest {seen.latencies[-1]:.2f} s")
    print(f"at the stop: exit code {code}, connections not taken any more: {seen.refused}")
    bars.require(seen.statuses.keys() <= {200, 429, 504}, f"answers other than 200, 429 and 504: {seen.statuses}")
    bars.require(
        seen.late_statuses.keys() <= {200, 429, 503, 504}, f"other answers after the stop began: {seen.late_statuses}"
    )
    bars.require(not seen.unanswered, f"{seen.unanswered} requests have no answer")
    bars.require(p99 <= deadline + MOST_LATE, f"p99 is {p99:.2f} s, the deadline {deadline:g} s")
    bars.require(code == 0, f"the server ends with exit code {code}")
    for name in ("web", "compute"):
        after = [(done, found[name]) for at, done, found in seen.memory if at >= WARM_UP * seconds and name in found]
        require_flat(name, [size for _, size in after], f"after {after[0][0]} pictures", bars)


def require_flat(name: str, sizes: Sequence[int], since: str, bars: Bars) -> None:
    """Compare the first and the last tenth of some measurements of memory."""
    tenth = max(1, len(sizes) // 10)
    early, late = mean(sizes[:tenth]), mean(sizes[-tenth:])
    growth = late / early - 1
    print(f"memory of {name}: {early / 2**20:.0f} MB {since}, {late / 2**20:.0f} MB at the end ({growth:+.1%})")
    bars.require(growth < MOST_GROWTH, f"the memory of {name} grows by {growth:.1%}")


async def soaked(server: Running, pictures: Sequence[bytes], clients: int, seconds: float, seen: Seen) -> None:
    """Run the clients of a soak."""
    requests = [request_of(content) for content in pictures]
    begun = time.perf_counter()
    is_stopped = False

    async def ask_on(number: int) -> None:
        client, at = Client(server.port), number
        while True:
            at += clients
            sent = time.perf_counter()
            try:
                status, headers, _ = await client.ask(requests[at % len(requests)])
            except ConnectionRefusedError:
                seen.refused += 1
                return
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                seen.unanswered += 1
                print(f"  no answer after {time.perf_counter() - sent:.2f} s: {type(error).__name__} {error}")
                if is_stopped:
                    return
                continue
            (seen.late_statuses if is_stopped else seen.statuses)[status] += 1
            if status in (200, 504):
                seen.latencies.append(time.perf_counter() - sent)
            elif "retry-after" in headers:
                await asyncio.sleep(float(headers["retry-after"]) * random.uniform(0.5, 1.5))

    async def look_after() -> None:
        while not is_stopped:
            seen.memory.append((time.perf_counter() - begun, seen.statuses[200], server.memory()))
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(ask_on(number)) for number in range(clients)]
    keeper = asyncio.create_task(look_after())
    await asyncio.sleep(seconds)
    is_stopped = True
    await keeper
    server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*tasks)


def mutations(model: str, pictures: Sequence[bytes], number: int, options: Sequence[str], bars: Bars) -> None:
    """Pictures and bodies with random damage: no fault of the server, an answer to each, and no memory kept."""
    with served(model, *options) as server:
        warm_up = int(WARM_UP * number)
        statuses, sizes = asyncio.run(mutated(server, pictures, range(warm_up))), [server.memory()]
        for begin in range(warm_up, number, max(1, (number - warm_up) // PIECES)):
            end = min(number, begin + max(1, (number - warm_up) // PIECES))
            statuses += asyncio.run(mutated(server, pictures, range(begin, end)))
            sizes.append(server.memory())
    print(f"{number} damaged uploads: {dict(sorted(statuses.items()))}")
    bars.require(not any(status >= 500 for status in statuses), f"answers from 500 on: {statuses}")
    for name in ("web", "compute"):
        require_flat(name, [found[name] for found in sizes if name in found], f"after {warm_up} uploads", bars)


async def mutated(server: Running, pictures: Sequence[bytes], numbers: range, clients: int = 4) -> Counter[int]:
    """The statuses of the answers to the uploads of these numbers."""
    statuses: Counter[int] = Counter()
    todo = iter(numbers)

    async def ask_on() -> None:
        client = Client(server.port)
        for at in todo:
            draw = random.Random(at)
            content = damaged(draw.choice(pictures), draw)
            request = request_of(content)
            if draw.random() < 0.3:  # the body around the picture is damaged
                request = request_of(b"", body=damaged(request.partition(b"\r\n\r\n")[2], draw))
            try:
                status, _, body = await asyncio.wait_for(client.ask(request), 60)
            except (ConnectionError, asyncio.IncompleteReadError, TimeoutError) as error:
                raise SystemExit(f"upload {at} has no answer ({type(error).__name__})") from None
            statuses[status] += 1
            if status >= 500:
                print(f"  upload {at}: {status} {body[:300]!r}")

        client.close()

    await asyncio.gather(*(ask_on() for _ in range(clients)))
    return statuses


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with some bytes changed, cut out, repeated, or cut off."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        if not changed:
            break
        at, length = draw.randrange(len(changed)), draw.choice((1, 2, 4, 16, 256))
        kind = draw.randrange(6)
        if kind == 0:
            changed[at] = draw.randrange(256)
        elif kind == 1:
            changed[at : at + length] = draw.randbytes(length)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            del changed[at:]
        else:  # headers are at the beginning
            early = draw.randrange(min(64, len(changed)))
            changed[early : early + length] = draw.choice((b"\xff", b"\x00")) * length
    return bytes(changed)


def kill(model: str, pictures: Sequence[bytes], options: Sequence[str], bars: Bars) -> None:
    """End the process that computes while clients wait: their answers, and when it is back."""
    with served(model, *options) as server:
        asyncio.run(killed(server, pictures, bars))


async def killed(server: Running, pictures: Sequence[bytes], bars: Bars) -> None:
    """What every request that waited got, and whether the process came back."""
    waiting = [asyncio.create_task(Client(server.port).ask(request_of(pictures[0]))) for _ in range(20)]
    await asyncio.sleep(0.05)
    child = psutil.Process(server.process.pid).children()[0]
    os.kill(child.pid, signal.SIGKILL)
    begun = time.perf_counter()
    answers = Counter([(await one)[0] for one in waiting])
    taken = time.perf_counter() - begun
    while (await Client(server.port).ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] != 200:
        await asyncio.sleep(0.1)
    back = time.perf_counter() - begun
    status = (await Client(server.port).ask(request_of(pictures[0])))[0]
    print(f"after kill -9: {dict(answers)} within {taken:.2f} s; ready again after {back:.1f} s, then {status}")
    bars.require(answers.keys() <= {200, 503}, f"answers other than 200 and 503 after kill -9: {answers}")
    bars.require(answers[503] > 0, "no request waited when the process was ended: give larger pictures")
    bars.require(taken < MOST_GONE, f"the last answer came {taken:.2f} s after kill -9")
    bars.require(status == 200, f"the process that was started again answers {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "soak", "mutations", "kill"))
    parser.add_argument("model")
    parser.add_argument("pictures", help="a folder of pictures")
    parser.add_argument("--seconds", type=float, help="of a turn of throughput (10), or of the soak (60)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--clients", type=int, default=200, help="of the soak")
    parser.add_argument("--number", type=int, default=10_000, help="of damaged uploads")
    parser.add_argument("--most", type=int, default=200, help="pictures that are read")
    given, options = parser.parse_known_args()
    files = sorted(path for path in Path(given.pictures).rglob("*") if path.suffix.lower() in picture_suffixes())
    pictures = [path.read_bytes() for path in files[: given.most]]
    print(f"opendetr {__version__}, {describe_machine()}, {time.strftime('%Y-%m-%d')}; {len(pictures)} pictures")
    bars = Bars()
    if given.what == "throughput":
        throughput(given.model, pictures, given.turns, given.seconds or 10, options, bars)
    elif given.what == "soak":
        soak(given.model, pictures, given.clients, given.seconds or 60, options, bars)
    elif given.what == "mutations":
        mutations(given.model, pictures, given.number, options, bars)
    else:
        kill(given.model, pictures, options, bars)
    for what in bars.broken:
        print(f"a bar does not hold: {what}")
    if not bars.broken:
        print("all bars hold")
    sys.exit(bool(bars.broken))


if __name__ == "__main__":
    main()
