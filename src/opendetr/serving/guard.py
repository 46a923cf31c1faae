"""What every request passes: is it meant for this server, may it ask, and what its answer tells the browser."""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from opendetr.serving.packages import ASGIApp, Headers, Message, MutableHeaders, Receive, Scope, Send
from opendetr.serving.refusal import Refusal
from opendetr.serving.settings import ServeSettings

OPEN = frozenset({"/healthz", "/readyz", "/openapi.json"})  # answered without the key, as are the files of the page
READING = frozenset({"GET", "HEAD", "OPTIONS"})
CONTENT_POLICY = (
    "default-src 'self'; worker-src 'self' blob:; img-src 'self' blob: data:; script-src 'self' 'wasm-unsafe-eval'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, needs_key: tuple[str, ...]) -> None:
        """Take the application, and the beginnings of the paths that need the key, where there is one."""
        self.app, self.settings, self.needs_key = app, settings, needs_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(message, scope)
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send_with_headers)
        else:
            await refusal.answer()(scope, receive, send_with_headers)

    def _add_headers(self, message: Message, scope: MutableMapping[str, Any]) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if scope["path"].startswith("/v1/"):
            headers.setdefault("cache-control", "no-store")
        if scope["app"].state.is_stopping:
            headers["connection"] = "close"  # the client's next request goes elsewhere

    def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        public, asked = self.settings.public_name, _host_of(headers.get("host", ""))
        if is_loopback(self.settings.host) and not is_loopback(asked) and asked != public:
            # A page of another host can let its own name point to 127.0.0.1, and would then read what is served here.
            return Refusal(403, "this server answers requests to localhost only; see --public-name and --host")
        if scope["method"] not in READING and _is_from_elsewhere(headers, public):
            return Refusal(403, "this request was made by a page of another host, which may not use this server")
        key = self.settings.api_key
        path = scope["path"]
        if key is not None and path not in OPEN and path.startswith(self.needs_key) and not _has_key(headers, key):
            return Refusal(
                401, "the API key is missing or wrong; expected the header Authorization: Bearer KEY",
                www_authenticate="Bearer",
            )  # fmt: skip
        return None


def _host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at that host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_from_elsewhere(headers: Headers, public: str | None) -> bool:
    """Whether a browser says that another page sent the request; programs other than browsers say nothing."""
    origin = headers.get("origin")
    if origin is not None:
        place = origin.partition("://")[2].lower()
        return place != headers.get("host", "").lower() and (public is None or _host_of(place) != public)
    return headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def _has_key(headers: Headers, key: str) -> bool:
    """Whether the request holds the key, compared in constant time: as a bearer token, or as Basic's password."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":  # what labelling tools offer
        try:
            given = base64.b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
        except (binascii.Error, ValueError):
            given = ""
    elif kind.lower() != "bearer":
        given = ""
    return hmac.compare_digest(given.strip().encode("utf-8", "replace"), key.encode())
