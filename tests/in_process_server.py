"""What `opendetr serve` starts, with the model in threads of this process: another process would load PyTorch again."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from PIL import Image

from opendetr.errors import UserError
from opendetr.serving.app import create_app
from opendetr.serving.process import Compute, WrongInputError
from opendetr.serving.settings import ModelSettings, ServeSettings
from opendetr.serving.work import WORK, ServingWorker


class InProcess(Compute):
    """Computes in threads of this process, one piece of work at a time."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.worker = ServingWorker(settings)
        self.facts, self._is_ready = self.worker.facts(), True
        self._one_at_a_time = threading.Lock()

    async def call_all(self, name: str, arguments: Any, *, deadline: Any = None, priority: Any = "asked") -> list[Any]:
        return [await asyncio.to_thread(self._run, name, given) for given in arguments]

    def _run(self, name: str, given: dict[str, Any]) -> Any:
        work = WORK[name]
        with self._one_at_a_time:
            return self._result(work, given)

    def _result(self, work: Any, given: dict[str, Any]) -> Any:
        try:
            if work.prepare is None:
                return work.run(self.worker, **given)
            return work.run(self.worker, [work.prepare(self.worker, **given)])[0]
        except UserError as error:
            raise WrongInputError(type(error).__name__, str(error)) from None


@contextmanager
def running(settings: ServeSettings, port: int = 0) -> Iterator[tuple[str, InProcess]]:
    """The address of a server, and what computes for it; the server ends with the block. Port 0 is any free one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which the model's side sets
        compute = InProcess(settings.model)
        app = create_app(settings, compute)
        config = uvicorn.Config(app, port=port, log_level="error", lifespan="off")
        server, socket = uvicorn.Server(config), config.bind_socket()

        async def serve() -> None:
            await server.serve([socket])
            await app.state.data.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{socket.getsockname()[1]}/", compute
        finally:
            server.should_exit = True
            thread.join()
