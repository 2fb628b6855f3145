"""An address becomes a running server, until it is told to stop (Ctrl-C, SIGTERM)."""

from __future__ import annotations

import importlib.util
import re
import socket
from collections.abc import Callable

from gato.errors import UsageError
from gato.installed import pip_line
from gato.policy import Agent
from gato.serving.limits import Limits, is_loopback

GRACE_SECONDS = 10  # for what is being answered when the server is told to stop
TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,200}")


def check_address(host: str, token: str | None) -> None:
    """Raises UsageError: anybody may ask a server on 127.0.0.1; elsewhere it takes a token."""
    absent = [m for m in ("fastapi", "uvicorn", "websockets", "msgpack") if importlib.util.find_spec(m) is None]
    if absent:
        raise UsageError(
            f"serving needs {', '.join(absent)}, not installed",
            fix=pip_line("serve"),
        )
    if token is not None and not TOKEN.fullmatch(token):
        raise UsageError(
            "a token of 8 to 200 letters, digits, or . _ ~ -", where="--token",
            fix='python -c "import secrets; print(secrets.token_urlsafe(24))"',
        )  # fmt: skip
    if token is None and not is_loopback(host):
        raise UsageError(
            f"on {host} others can reach the agent: a token is needed", where="--host",
            fix="GATO_TOKEN=… gato serve …, or --host 127.0.0.1",
        )  # fmt: skip


def serve(
    agent: Agent,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until a signal comes; `ready(url)` is called when it listens. Port 0 takes a free one. Raises UsageError."""
    check_address(host, token)
    import uvicorn

    from gato.serving.app import create_app

    limits = limits or Limits()
    listening = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        create_app(agent, limits, token), log_level="warning", access_log=False, server_header=False,
        ws_max_size=limits.body_bytes, ws_max_queue=8, ws_per_message_deflate=False, h11_max_incomplete_event_size=16384,
        backlog=512, timeout_keep_alive=round(limits.idle_seconds) + 5, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    ready(f"http://{name}:{listening.getsockname()[1]}/")
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP by name: asyncio sends without delay (TCP_NODELAY) only through sockets that say so. It is 40 ms per answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(512)
        return listening
    except (OSError, OverflowError) as error:
        listening.close()
        raise UsageError(f"{host} port {port}: {error}", where="--port", fix="--port 0 takes a free one") from error
