"""What Prometheus reads at /metrics."""

import time
from collections.abc import Iterable
from typing import Any

import psutil

from opendetr.serving.packages import (
    ASGIApp,
    Collector,
    CollectorRegistry,
    Counter,
    GaugeMetricFamily,
    Histogram,
    Message,
    Metric,
    Receive,
    Scope,
    Send,
    generate_latest,
)
from opendetr.serving.process import Compute

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The metrics of one server."""

    def __init__(self, compute: Compute) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "opendetr_requests", "Requests that were answered.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "opendetr_request_seconds", "From a request's first byte to its answer.", ("route",), buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.batches = Histogram(
            "opendetr_batch_size", "Pictures that went through the model together.", buckets=BATCHES,
            registry=self.registry,
        )  # fmt: skip
        self.restarts = Counter(
            "opendetr_restarts", "How often the process that computes was started again.", registry=self.registry
        )
        self.registry.register(_Now(compute))
        compute.on_batch, compute.on_restart = self.batches.observe, self.restarts.inc

    def text(self) -> bytes:
        """All of them in Prometheus's format."""
        return generate_latest(self.registry)


class _Now(Collector):
    """What is true at the moment of asking."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute

    def collect(self) -> Iterable[Metric]:
        """The gauges."""
        compute = self.compute
        yield GaugeMetricFamily("opendetr_ready", "1 where the model is loaded and answers.", float(compute.is_ready))
        yield GaugeMetricFamily("opendetr_waiting", "Jobs that wait for the model or are in it.", compute.waiting)
        memory = GaugeMetricFamily("opendetr_memory_bytes", "Resident memory of the processes.", labels=("process",))
        for name, number in (("web", None), ("compute", compute.process_id)):
            if name == "web" or number is not None:
                try:
                    memory.add_metric((name,), psutil.Process(number).memory_info().rss)
                except psutil.Error:  # it has just ended
                    continue
        yield memory


class Timed:
    """An ASGI application around another one that counts and times its answers, by route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noting)
        finally:
            route: Any = scope.get("route")
            name = getattr(route, "path", None) or "other"  # a path that is no route would be a label per request
            self.metrics.requests.labels(name, str(status)).inc()
            self.metrics.seconds.labels(name).observe(time.perf_counter() - begun)
