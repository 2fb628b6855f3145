"""Who may ask, how much and how often. All of it is decided before a body is read or memory is taken."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/docs", "/healthz", "/readyz", "/openapi.json")  # and /page/…: no secrets, no work
KNOWN_CLIENTS = 4096  # whose rates are remembered


@dataclass(frozen=True)
class Limits:
    """What one server takes on. Beyond it callers get 413, 429 or 503, and those it serves do not notice."""

    body_bytes: int = 4 << 20
    pixels: int = 16_000_000  # of one image, from its header
    sessions: int = 64
    live: int = 2  # worlds played for the page, each a process
    idle_seconds: float = 600.0
    queue: int = 64  # captions, answers and texts waiting
    requests_per_second: float = 2000.0  # of one client
    text: int = 8192  # characters of a prompt or a question
    bad_messages: int = 32  # in a row, after which a socket is closed


class Refused(Exception):
    """An answer other than yes: an HTTP status, a stable code, what was wrong, and the field it was in."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, fix: str = "", retry_after: int = 0
    ):
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.fix = status, code, message, param, fix
        self.headers = {"retry-after": str(retry_after)} if retry_after else {}

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "param": self.param, "fix": self.fix}}


class Rate:
    """A bucket of tokens per client: `per_second` on average, two seconds' worth at once."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic):
        self._rate, self._most, self._clock = per_second, max(1.0, 2 * per_second), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client → (tokens, when)

    def admit(self, client: str) -> bool:
        now = self._clock()
        tokens, when = self._buckets.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - when) * self._rate)
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > KNOWN_CLIENTS:
            self._buckets.popitem(last=False)
        return tokens >= 1


class Gate:
    """The outermost layer (ASGI): host, token, rate and size of every request, HTTP and WebSocket alike."""

    def __init__(self, app: App, limits: Limits, token: str | None = None):
        self._app, self._limits, self._token = app, limits, token
        self._rate = Rate(limits.requests_per_second)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        try:
            self._check(scope, headers)
        except Refused as refused:
            return await _refuse(scope, receive, send, refused)
        if scope["type"] == "websocket":
            return await self._app(scope, receive, send)
        answering = False
        body = _Body(receive, self._limits.body_bytes)

        async def sending(message: Message) -> None:
            nonlocal answering
            if body.too_large and not answering:
                return  # whatever the application made of a body that broke off
            answering = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *SECURITY]
            await send(message)

        with contextlib.suppress(Refused):
            await self._app(scope, body, sending)
        if body.too_large and not answering:
            await _refuse(scope, receive, send, too_large(self._limits.body_bytes))

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        if not self._token and not is_loopback(headers.get("host", "")):
            # Without a token only this machine may ask; a page elsewhere that rebinds its name is still a page elsewhere.
            raise Refused(403, "host", "this server answers to its own address only", "host")
        origin = headers.get("origin")
        if origin and origin.split("://", 1)[-1] != headers.get("host"):
            raise Refused(403, "origin", "pages from elsewhere may not use this server", "origin")
        client = (scope.get("client") or ("",))[0]
        if not self._rate.admit(client):
            raise Refused(429, "rate", "too many requests", retry_after=1)
        path = scope["path"]
        if self._token and path not in OPEN_PATHS and not path.startswith("/page/"):
            said = _bearer(scope, headers)
            if not hmac.compare_digest(said.encode(), self._token.encode()):
                raise Refused(401, "token", "a token is needed", "authorization", "Authorization: Bearer TOKEN")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18:
            raise Refused(400, "length", "not a length", "content-length")
        if int(length) > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)


def too_large(limit: int) -> Refused:
    return Refused(413, "too-large", f"more than {limit:,} bytes", "body", "send less at once")


def is_loopback(host: str) -> bool:
    """Whether a host (with or without a port) is this machine. `[::1]:8000`, `127.0.0.1`, `localhost:80`."""
    name = host[1 : host.index("]")] if host.startswith("[") and "]" in host else host
    if name == host and host.count(":") <= 1:
        name = host.split(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


# The page brings everything along: nothing is loaded from, or sent, anywhere else.
SECURITY = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


def _bearer(scope: Scope, headers: dict[str, str]) -> str:
    """The token of a request. A browser's socket cannot set headers, and says it as a subprotocol, `token.…`."""
    if scope["type"] == "websocket":
        for protocol in scope.get("subprotocols", []):
            if protocol.startswith("token."):
                return protocol.removeprefix("token.")
    kind, _, said = headers.get("authorization", "").partition(" ")
    return said.strip() if kind.lower() == "bearer" else ""


class _Body:
    """A body without a declared length (or with a wrong one) is counted as it comes."""

    def __init__(self, receive: Receive, limit: int):
        self._receive, self._left = receive, limit

    @property
    def too_large(self) -> bool:
        return self._left < 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self.too_large:
            raise Refused(413, "too-large", "the body is too large", "body")
        return message


async def _refuse(scope: Scope, receive: Receive, send: Send, refused: Refused) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": 1008, "reason": refused.code})
        return
    body = json.dumps(refused.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    if refused.status == 413:
        headers["connection"] = "close"  # what was not read cannot be followed by another request
    if refused.status == 401:
        headers["www-authenticate"] = "Bearer"
    raw = [(k.encode(), v.encode()) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
