"""A client of `gato serve`, of numpy and msgpack alone: what runs on the robot.

    from gato.client import Client

    agent = Client("http://127.0.0.1:8000")
    with agent.session("meta-world/reach") as session:
        action = session.act(observation)      # arrays, nested dicts of them, numbers, text

Observations and actions travel as msgpack; an array is {"dtype", "shape", "data"}, raw bytes in C order.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import select
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgpack
import numpy as np

__all__ = ["Client", "ServerError", "Session"]


class ServerError(Exception):
    """The server said no: `status` (HTTP), `code`, `param` (the field that was wrong), `fix`."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None, fix: str = ""):
        place = f" [{param}]" if param else ""
        super().__init__(f"{status} {code}: {message}{place}" + (f"\n  next: {fix}" if fix else ""))
        self.status, self.code, self.message, self.param, self.fix = status, code, message, param, fix


class Client:
    """One connection, kept open; use one client per thread. Raises ServerError, and OSError (TimeoutError, ConnectionError)
    where nobody answers; the next call connects again."""

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, timeout: float = 30.0):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address; http://127.0.0.1:8000 is one")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._prefix = parts.path.rstrip("/")
        token = token or os.environ.get("GATO_TOKEN")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def tasks(self) -> list[dict[str, Any]]:
        """The control tasks: id, score, references, what goes in and out."""
        return self._ask("GET", "/v1/tasks")["tasks"]

    def session(self, task: str, seed: int = 0, **acting: Any) -> Session:
        """Begin an episode; `temperature=`, `discrete=`, `continuous=` override how the bundle acts."""
        return Session(self, self._ask("POST", "/v1/sessions", {"task": task, "seed": seed, **acting}))

    def caption(self, image: Any, **options: Any) -> str:
        """What is in a picture file (a path, or its bytes)."""
        return self._ask("POST", "/v1/caption", {"image": _picture(image), **options})["caption"]

    def answer(self, image: Any, question: str, **options: Any) -> str:
        """The reply to a question about a picture file."""
        return self._ask("POST", "/v1/answer", {"image": _picture(image), "question": question, **options})["answer"]

    def chat(self, text: str, **options: Any) -> str:
        """The reply to a message."""
        messages = [{"role": "user", "content": text}]
        said = self._ask("POST", "/v1/chat/completions", {"messages": messages, **options})
        return said["choices"][0]["message"]["content"]

    def _ask(self, method: str, path: str, value: Any = None, packed: bool = False) -> Any:
        kind = "application/msgpack" if packed else "application/json"
        body = None
        if value is not None:
            body = (
                msgpack.packb(value, default=_pack)
                if packed
                else json.dumps(value, default=_pack, allow_nan=False).encode()
            )
        headers = {**self._headers, **({"content-type": kind} if body is not None else {})}
        self._drop_if_closed()
        try:
            self._connection.request(method, self._prefix + path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (
            BaseException
        ) as error:  # the next request opens a connection of its own: an answer may come late on this one
            self._connection.close()
            if isinstance(error, http.client.HTTPException):
                raise ConnectionError(f"no proper answer: {error!r}") from error
            raise
        if answer.status >= 400:
            raise _error(answer.status, content)
        if answer.headers.get_content_type() == "application/msgpack":
            return _unpack(msgpack.unpackb(content))
        return json.loads(content)

    def _drop_if_closed(self) -> None:
        """A connection that the server has closed meanwhile says so by being readable; a request opens the next."""
        sock = self._connection.sock
        if sock is not None and select.select([sock], [], [], 0)[0]:
            self._connection.close()


class Session:
    """One episode of one task on the server."""

    def __init__(self, client: Client, facts: dict[str, Any]):
        self._client, self.facts, self.id, self.task = client, facts, facts["id"], facts["task"]

    def act(self, observation: Any) -> Any:
        """The next action: a number, an array, or a dict or a tuple of them, as the task's action space has it."""
        return self._client._ask("POST", f"/v1/sessions/{self.id}/act", {"observation": observation}, True)["action"]

    def reset(self, seed: int | None = None) -> None:
        """Begin a new episode."""
        self._client._ask("POST", f"/v1/sessions/{self.id}/reset", {"seed": seed})

    def close(self) -> None:
        self._client._ask("DELETE", f"/v1/sessions/{self.id}")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _picture(image: Any) -> str:
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    return base64.b64encode(data).decode()


def _pack(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("<"), copy=False)  # the one order that the server reads
        return {"dtype": str(value.dtype), "shape": list(value.shape), "data": np.ascontiguousarray(value).tobytes()}
    raise TypeError(f"a {type(value).__name__} cannot be sent; arrays, numbers, text and dicts of them can")


def _unpack(value: Any) -> Any:
    if isinstance(value, list):  # a tuple, on its way here
        return tuple(map(_unpack, value))
    if not isinstance(value, dict):
        return value
    if set(value) == {"dtype", "shape", "data"}:
        return np.frombuffer(value["data"], value["dtype"]).reshape(value["shape"]).copy()
    return {key: _unpack(inside) for key, inside in value.items()}


def _error(status: int, content: bytes) -> ServerError:
    try:
        said = json.loads(content)["error"]
        return ServerError(status, said["code"], said["message"], said.get("param"), said.get("fix", ""))
    except (ValueError, KeyError, TypeError):
        return ServerError(status, "http", content[:200].decode("utf-8", "replace"))
