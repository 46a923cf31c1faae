"""The life of a server: the model is loaded, requests are answered, and at the end all that were taken are."""

import asyncio
import ipaddress
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opendetr.errors import UserError
from opendetr.progress import console, warn
from opendetr.serving.app import create_app
from opendetr.serving.guard import LOOPBACK
from opendetr.serving.packages import uvicorn
from opendetr.serving.process import Compute
from opendetr.serving.settings import ServeSettings

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
    compute = Compute(settings.model, settings.limits.waiting)
    app = None
    try:
        app = create_app(settings, compute)
        config = uvicorn.Config(
            app, host=settings.host, port=settings.port, log_level="warning", access_log=False, lifespan="off",
            server_header=False, timeout_graceful_shutdown=int(settings.limits.deadline) + 5, backlog=2048,
            timeout_keep_alive=30,
        )  # fmt: skip
        sockets = [_bound(config)]
        await compute.start()
        server = _Server(config)
        _say(settings, compute)
        await server.serve(sockets)
        return server.ended_by
    finally:
        if app is not None:
            await app.state.data.close()
        await compute.stop()


def _bound(config: uvicorn.Config) -> Any:
    """The socket, before the model is loaded, so that a port in use is said at once."""
    try:
        return config.bind_socket()
    except SystemExit:  # uvicorn's way
        raise UserError(
            f"--host {config.host} --port {config.port}: the address cannot be used, most often since another program "
            f"does; give another --port"
        ) from None


def _say(settings: ServeSettings, compute: Compute) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    facts = compute.facts
    console.print(f"{facts['name']} ({facts['engine']} {facts['precision']}) is served; Ctrl-C stops it:")
    console.print(f"  http://{host}:{settings.port}/", soft_wrap=True)
    if not is_loopback(settings.host):
        key = "whoever has the key" if settings.api_key else "everyone, for there is no --api-key-file,"
        warn(
            f"--host {settings.host}: {key} who reaches this machine can use the model, and what is sent is not "
            f"encrypted; put a server with TLS before it where others can listen."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at that host."""
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(uvicorn.Server):
    """Uvicorn, which at the end gives every connection its last answer before it closes those that are idle."""

    ended_by: int = 0

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
