"""The life of a server: the model is loaded, requests are answered, and at the end all that were taken are."""

import asyncio
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opendetr.errors import UserError
from opendetr.progress import console, warn
from opendetr.serving.app import create_app
from opendetr.serving.guard import is_loopback
from opendetr.serving.packages import uvicorn
from opendetr.serving.process import Compute
from opendetr.serving.run_files import has_model, is_run, run_of
from opendetr.serving.settings import Limits, ServeSettings

BACKLOG = 2048  # connections that the system holds until they are taken
FIRST_MODEL = 2.0  # seconds between looks for the first model of a run
ANSWERING = 5  # seconds in which an answer is on its way, at most
LINGER = 3.0  # seconds in which connections get their last answer before idle ones are closed


def run_server(settings: ServeSettings) -> None:
    """Serve until SIGTERM or Ctrl-C; a second Ctrl-C ends at once.

    Raises:
        UserError: the model cannot be loaded, or the address cannot be used.
        KeyboardInterrupt: it was Ctrl-C.
    """
    if asyncio.run(_serve(settings)) == signal.SIGINT:
        raise KeyboardInterrupt


async def _serve(settings: ServeSettings) -> int:
    """Serve, and return the signal that ended it."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it says what is wrong in every broken body
    compute = Compute(settings.model, settings.limits.waiting)
    app = starting = None
    try:
        app = create_app(settings, compute)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off",
            server_header=False, timeout_graceful_shutdown=grace_of(settings.limits), backlog=BACKLOG,
            timeout_keep_alive=30,
        )  # fmt: skip
        bound = _bound(settings)
        if is_run(run := run_of(settings.model.model)) and not has_model(run):
            starting = asyncio.create_task(_start_later(compute, run))
        else:
            await compute.start()
        server = _Server(config, lambda: _say(settings, compute, bound.getsockname()[1]))
        await server.serve([bound])
        return server.ended_by
    finally:
        if starting is not None:
            starting.cancel()
        if app is not None:
            await app.state.data.close()
        await compute.stop()


async def _start_later(compute: Compute, run: Path) -> None:
    """Load the model of a run that has only begun, as soon as there is one."""
    said = ""
    while not compute.is_ready:
        await asyncio.sleep(FIRST_MODEL)
        if has_model(run):
            try:
                await compute.start()
            except Exception as error:  # such as a model that is being written; what stays wrong is said once
                what = str(error) if isinstance(error, UserError) else f"the model cannot be loaded now: {error!r}"
                if what != said:
                    warn(said := what)


def _bound(settings: ServeSettings) -> socket.socket:
    """The socket, before the model is loaded, so that a port in use is said at once.

    Raises:
        UserError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, asyncio sends an answer's head and body at once; else the body may wait 40 ms for the
    # acknowledgement of the head (Nagle's algorithm, and acknowledgements that are delayed). Not so on Windows.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would let two programs have one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((settings.host, settings.port))
        return bound
    except OSError as error:
        bound.close()
        raise UserError(
            f"--host {settings.host} --port {settings.port} cannot be used ({error.strerror or error}); give another "
            f"--port, or stop the program that uses it"
        ) from None


def grace_of(limits: Limits) -> int:
    """Seconds in which a request that was taken is answered at the latest, from the first byte of its body on."""
    return math.ceil(limits.reading + limits.deadline) + ANSWERING


def _say(settings: ServeSettings, compute: Compute, port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    facts = compute.facts
    if facts:
        console.print(f"{facts['name']} ({facts['engine']} {facts['precision']}) is served; Ctrl-C stops it:")
        _say_data(settings, facts["data"])
    else:
        console.print("The run has no model yet: the page shows its curves, and the model as soon as there is one.")
    console.print(f"  http://{host}:{port}/", soft_wrap=True)
    if is_loopback(settings.host):
        console.print("  only this machine can reach it; --host 0.0.0.0 would let others ask")
    else:
        own = settings.model.own_data or settings.model.data is not None
        warn(reachable(settings, has_data=bool(facts["data"]) if facts else own))


def reachable(settings: ServeSettings, *, has_data: bool) -> str:
    """Who can do what, for a server that other machines reach."""
    who = (
        "machines that have the key" if settings.api_key else "all machines that reach it (there is no --api-key-file)"
    )
    data = ", look at the pictures of the open data set and write decisions of its label review" if has_data else ""
    return (
        f"--host {settings.host}: {who} can use the model{data}; what is sent is not encrypted, so put a server with "
        f"TLS before it where others can listen (--public-name)"
    )


def _say_data(settings: ServeSettings, data: Any) -> None:
    """Which data set is open if nobody named one, or why none is."""
    if data is not None and data["own"] and settings.model.data is None:
        console.print(f"  data set: {data['name']}, which the run was trained on", soft_wrap=True)
    elif data is None and not settings.model.own_data and settings.model.data is None:
        console.print("  no data set is open: other machines could look at it; give --data DIR or --api-key-file FILE")


class _Server(uvicorn.Server):
    """Uvicorn, which at the end gives every connection its last answer before it closes those that are idle."""

    def __init__(self, config: uvicorn.Config, say: Callable[[], None]) -> None:
        """Take what says that requests are taken."""
        super().__init__(config)
        self.say, self.ended_by = say, 0

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """As uvicorn's; where it is comes after it listens, so that programs can wait for the sentence."""
        await super().startup(sockets)
        self.say()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signals do not end this process: the caller does."""
        kept = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in kept.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop; a second Ctrl-C ends at once."""
        self.ended_by = self.ended_by or sig
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Take no new connections, answer what was asked, and close."""
        app: Any = self.config.app
        app.state.is_stopping = True
        for server in self.servers:
            server.close()
        for one in sockets or []:
            one.close()
        until = time.monotonic() + LINGER
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
