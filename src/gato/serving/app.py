"""The server: every route, over HTTP and WebSocket.

    app = create_app(agent)                            # an ASGI application
    app = create_app(agent, Limits(sessions=8), token) # with a token every request must carry

Whatever goes wrong is answered with {"error": {"code", "message", "param", "fix"}} and a status of the 400s, or 503
where the server is full; no traceback leaves it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocketDisconnect

import gato
from gato.errors import GatoError, ResourceError, UnknownNameError
from gato.policy import Agent
from gato.policy.agent import nest
from gato.sequences.returns import world_spec
from gato.serving import checks, language, schema
from gato.serving.limits import Gate, Limits, Message, Receive, Refused, Scope, Send
from gato.serving.live import Live
from gato.serving.metrics import Metrics
from gato.serving.sessions import Session, Sessions
from gato.worlds import find

T = TypeVar("T")
log = logging.getLogger("gato.serving")
SUBPROTOCOL = "gato.v1"
LARGE = 1 << 16  # bytes of an observation that is read in a thread, so that smaller ones are answered meanwhile
PAGE = {"": ("index.html", "text/html"), "docs": ("docs.html", "text/html")}
FILES = {"page.js": "text/javascript", "docs.js": "text/javascript", "page.css": "text/css"}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorBody, "description": what}
    for status, what in {
        400: "not readable", 401: "no token", 403: "not from here", 404: "unknown", 405: "another method", 409: "busy",
        413: "too large", 415: "another type", 422: "a field is wrong", 429: "too often", 503: "full",
    }.items()
}  # fmt: skip
SessionId = Annotated[str, Path(min_length=1, max_length=64)]


def create_app(agent: Agent, limits: Limits | None = None, token: str | None = None) -> Gate:
    """The whole server as an ASGI application. Without a token it answers to this machine only."""
    limits = limits or Limits()
    return Gate(_routes(Server(agent, limits)), limits, token)


class Server:
    """What the routes share."""

    def __init__(self, agent: Agent, limits: Limits):
        self.agent, self.limits = agent, limits
        self.sessions, self.language, self.metrics = (
            Sessions(agent, limits),
            language.Language(agent, limits),
            Metrics(),
        )
        self.live: set[Live] = set()
        self.leaving: set[Live] = set()  # watched no more, and their processes not yet ended

    @contextlib.asynccontextmanager
    async def life(self, app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            for live in list(self.live):
                await live.close()
            await self.sessions.shut()
            await self.language.shut()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self.limits.idle_seconds / 4))
            self.sessions.expire()

    def session_facts(self, session: Session) -> dict[str, Any]:
        spec = world_spec(self.agent.bundle.tasks[session.task].spec).to_json()
        return {
            "id": session.id, "task": session.task, "step": session.step, "seed": session.seed,
            "acting": {**self.agent.bundle.acting, **session.acting},
            "observation": spec["observation"], "action": spec["action"],
        }  # fmt: skip

    def task_facts(self, task_id: str) -> dict[str, Any]:
        spec = world_spec(self.agent.bundle.tasks[task_id].spec)
        facts = {"observation": _words(spec.observation), "action": _words(spec.action)}
        try:
            task = find(task_id)
        except UnknownNameError:  # a task of somebody else's package, which is not here
            return {"id": task_id, "score": "return", "installed": False, "random": None, "expert": None, **facts}
        means = {k: r.mean for k, r in task.references.items()}
        return {
            "id": task_id, "score": task.score, "installed": task.installed,
            "random": means.get("random"), "expert": means.get("expert"), **facts,
        }  # fmt: skip

    async def read(self, session: Session, body: bytes | str, kind: str) -> Any:
        """What a session is told. Raises Refused."""
        most = checks.most_listed(self.agent.bundle.tasks[session.task].spec, self.limits.text)
        return await _aside(len(body), checks.decode, body, kind, most)

    async def act(self, session: Session, value: Any, size: int) -> dict[str, Any]:
        """{"observation": …}, of a body of `size` bytes → {"action": …, "step": n}."""
        if not isinstance(value, dict) or set(value) != {"observation"}:
            raise Refused(422, "body", "expected one field, observation", "observation", '{"observation": …}')
        spec = world_spec(self.agent.bundle.tasks[session.task].spec)
        leaves = await _aside(size, checks.observation, spec, value["observation"], self.limits.text)
        action = await self.sessions.act(session, leaves)
        return {"action": nest(action), "step": session.step}


async def _aside(size: int, function: Callable[..., T], *arguments: Any) -> T:
    """In a thread, where there is much to read."""
    return await asyncio.to_thread(function, *arguments) if size > LARGE else function(*arguments)


def _words(specs: Any) -> dict[str, str]:
    return {path: str(spec) for path, spec in specs.items()}


def refusal(error: Exception) -> Refused:
    """Any error as an answer. What nobody foresaw is logged here and told to nobody."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, RequestValidationError | ValidationError):
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        return Refused(
            422, "field", str(first["msg"]), ".".join(place) or str(first["loc"][0] if first["loc"] else "body")
        )
    if isinstance(error, HTTPException):
        return Refused(error.status_code, f"http-{error.status_code}", str(error.detail))
    if isinstance(error, UnknownNameError):
        return Refused(404, error.code, error.what, error.where or None, error.fix)
    if isinstance(error, ResourceError):
        return Refused(503, error.code, error.what, None, error.fix, retry_after=1)
    if isinstance(error, GatoError):
        return Refused(422, error.code, error.what, error.where or None, error.fix)
    log.error("an unforeseen error", exc_info=error)
    return Refused(500, "unexpected", "something went wrong here; it is in the server's log")


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = value.model_dump_json().encode() if isinstance(value, BaseModel) else checks.encode(value, checks.JSON)
    return Response(content, status, headers, media_type=checks.JSON)


def _routes(server: Server) -> FastAPI:
    app = FastAPI(
        title="Gato", version=gato.__version__, docs_url=None, redoc_url=None, lifespan=server.life, responses=REFUSALS,
        description="One network that acts, captions, answers and talks.",
    )  # fmt: skip
    app.add_middleware(Measured, metrics=server.metrics)

    async def refuse(request: Request, error: Exception) -> Response:
        refused = refusal(error)
        return _json(refused.body, refused.status, refused.headers)

    for kind in (Refused, RequestValidationError, ValidationError, HTTPException, GatoError, Exception):
        app.add_exception_handler(kind, refuse)
    _page_routes(app)
    _health_routes(app, server)
    _session_routes(app, server)
    _language_routes(app, server)
    _socket_routes(app, server)
    return app


def _page_routes(app: FastAPI) -> None:
    folder = resources.files("gato.serving") / "page"

    def route(path: str, name: str, kind: str) -> None:
        @app.get(path, include_in_schema=False)
        async def file() -> Response:
            return Response((folder / name).read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})

    for path, (name, kind) in PAGE.items():
        route(f"/{path}", name, kind)
    for name, kind in FILES.items():
        route(f"/page/{name}", name, kind)


def _health_routes(app: FastAPI, server: Server) -> None:
    @app.get("/healthz", response_model=schema.Health)
    async def health() -> Any:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=schema.Health)
    async def ready() -> Any:
        """It takes requests. One that stops accepts no connection."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        sessions = server.sessions
        text = server.metrics.text(
            {
                "sessions": ("Live sessions.", len(sessions)),
                "sessions_expired_total": ("Sessions that nobody used.", sessions.expired),
                "passes_total": ("Batches of decisions.", sessions.passes),
                "live": ("Worlds played for the page.", len(server.live)),
                "language_waiting": ("Captions, answers and texts waiting.", server.language.waiting),
            }
        )
        return Response(text, media_type="text/plain")


def _session_routes(app: FastAPI, server: Server) -> None:
    sessions = server.sessions

    @app.get("/v1/tasks", response_model=schema.TaskList)
    def tasks() -> Any:  # a third of a second for hundreds of tasks: in a thread, while sessions act
        """What the agent can do."""
        agent = server.agent
        return {
            "tasks": [server.task_facts(task) for task in agent.tasks], "text": agent.talks, "captions": agent.captions_pictures,
            "questions": agent.answers_questions, "parameters": agent.bundle.model.num_parameters,
        }  # fmt: skip

    @app.post("/v1/sessions", status_code=201, response_model=schema.SessionFacts)
    async def open_session(body: schema.OpenSession) -> Any:
        """Begin an episode of one task."""
        return server.session_facts(await sessions.open(body.task, body.seed, body.chosen()))

    @app.get("/v1/sessions/{session_id}", response_model=schema.SessionFacts)
    async def session_facts(session_id: SessionId) -> Any:
        return server.session_facts(sessions.get(session_id))

    @app.delete("/v1/sessions/{session_id}", response_model=schema.Closed)
    async def close_session(session_id: SessionId) -> Any:
        await sessions.close(session_id)
        return {"id": session_id, "closed": True}

    @app.post("/v1/sessions/{session_id}/reset", response_model=schema.SessionFacts)
    async def reset_session(session_id: SessionId, body: schema.ResetSession | None = None) -> Any:
        """Begin a new episode in the same session."""
        session = sessions.get(session_id)
        await sessions.reset(session, body.seed if body else None)
        return server.session_facts(session)

    fields = {
        "type": "object",
        "properties": {"observation": {}},
        "required": ["observation"],
        "additionalProperties": False,
    }
    body = {"required": True, "content": {checks.JSON: {"schema": fields}, checks.MSGPACK: {"schema": fields}}}
    packed: dict[str, Any] = {"content": {checks.MSGPACK: {}}}

    @app.post(
        "/v1/sessions/{session_id}/act", response_model=schema.Action, openapi_extra={"requestBody": body},
        responses={200: packed},
    )  # fmt: skip
    async def act(session_id: SessionId, request: Request) -> Any:
        """Observation → action. JSON, or msgpack with arrays as {"dtype", "shape", "data"}; the answer comes in kind."""
        kind = request.headers.get("content-type", "")
        said = await request.body()
        session = sessions.get(session_id)  # after the body, which may come slowly: until then it may have been closed
        action = await server.act(session, await server.read(session, said, kind), len(said))
        kind = checks.MSGPACK if kind.startswith(checks.MSGPACK) else checks.JSON
        return Response(checks.encode(action, kind), media_type=kind)


def _language_routes(app: FastAPI, server: Server) -> None:
    speaking = server.language

    @app.post("/v1/caption", response_model=schema.Caption)
    async def caption(body: schema.CaptionRequest) -> Any:
        """What is in a picture."""
        return {"caption": (await speaking.caption(body)).text}

    @app.post("/v1/answer", response_model=schema.Answer)
    async def answer(body: schema.AnswerRequest) -> Any:
        """The reply to a question about a picture."""
        return {"answer": (await speaking.answer(body)).text}

    @app.get("/v1/scene", response_model=schema.Scene)
    async def scene(index: Annotated[int, Query(ge=0, le=1_000_000)] = 0) -> Any:
        """A scene that training never saw, and what is true of it."""
        from gato.scenes.grid import scene_episode
        from gato.serving.filmed import as_file

        episode = await asyncio.to_thread(scene_episode, "heldout", index)
        file = as_file(episode.observations["image"][0])
        return {"image": base64.b64encode(file).decode(), "caption": episode.observations["text"][0]}

    @app.get("/v1/models", response_model=schema.ModelList)
    async def models() -> Any:
        return speaking.models()

    @app.post(
        "/v1/chat/completions",
        response_model=schema.Completion,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def chat(body: schema.ChatRequest) -> Any:
        """As OpenAI's. What comes back is the reply; of a bundle that knows no dialogues, how the text goes on."""
        if body.stream:
            return StreamingResponse(await speaking.chat_events(body), media_type="text/event-stream")
        return await speaking.chat(body)


def _socket_routes(app: FastAPI, server: Server) -> None:
    @app.websocket("/v1/sessions/{session_id}/stream")
    async def stream(socket: WebSocket, session_id: str) -> None:
        """Observation after observation: text is JSON, binary is msgpack. {"reset": seed} begins a new episode."""
        await _accept(socket)
        bad = 0
        with contextlib.suppress(
            WebSocketDisconnect, RuntimeError
        ):  # RuntimeError: said something into a closed socket
            while bad < server.limits.bad_messages:
                reply: dict[str, Any]
                kind, data = await _hear(socket)
                try:
                    session = server.sessions.get(session_id)
                    value = await server.read(session, data, kind)
                    if isinstance(value, dict) and set(value) == {"reset"}:
                        seed = schema.ResetSession(seed=value["reset"]).seed
                        await server.sessions.reset(session, seed)
                        reply = {"reset": session.seed, "step": 0}
                    else:
                        reply = await server.act(session, value, len(data))
                    content = checks.encode(reply, kind)
                    bad = 0
                except Exception as error:
                    bad += 1
                    reply = refusal(error).body
                    content = checks.encode(reply, kind)
                await _send(socket, content, kind)
                if reply.get("error", {}).get("code") == "unknown-session":
                    break
            await socket.close(1008)

    @app.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        """A world, played for whoever watches. See docs/serving.md for the messages."""
        await _accept(socket)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            try:
                await _watch(socket, server)
            except WebSocketDisconnect:
                raise
            except Exception as error:
                await _say(socket, {"type": "error", **refusal(error).body}, checks.JSON)
            await socket.close(1000)


async def _accept(socket: WebSocket) -> None:
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", []) else None)


async def _hear(socket: WebSocket) -> tuple[str, bytes | str]:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    data = message.get("bytes")
    return (checks.MSGPACK, data) if data is not None else (checks.JSON, message.get("text") or "")


async def _say(socket: WebSocket, value: Any, kind: str) -> None:
    await _send(socket, checks.encode(value, kind), kind)


async def _send(socket: WebSocket, content: bytes, kind: str) -> None:
    if kind == checks.MSGPACK:
        await socket.send_bytes(content)
    else:
        await socket.send_text(content.decode())


class Watch(schema.Acting):
    """The first message of `/v1/live`."""

    task: schema.Name
    episode: schema.Seed = 0


class Order(schema.Acting):
    """Every later one. `rate`: decisions per second while it plays."""

    do: str
    episode: schema.Seed | None = None
    rate: Annotated[float, schema.Field(ge=0.1, le=60, allow_inf_nan=False)] | None = None


ORDERS = ("play", "pause", "step", "restart", "change")
_orders, _watches = TypeAdapter(Order), TypeAdapter(Watch)


async def _watch(socket: WebSocket, server: Server) -> None:
    """Play one task until the socket closes or nobody says anything for long."""
    asked = _watches.validate_python(checks.decode((await _hear(socket))[1], checks.JSON))
    if len(server.live) >= server.limits.live or len(server.leaving) > 2 * server.limits.live:
        raise Refused(503, "full", f"all {server.limits.live} worlds are being watched", "live", retry_after=5)
    world = Live(server.sessions, asked.task, asked.chosen())
    server.live.add(world)
    orders: asyncio.Queue[Any] = asyncio.Queue(64)
    listening = asyncio.create_task(_listen(socket, orders))
    beginning = asyncio.create_task(_begin(socket, world, asked.episode))
    try:
        await asyncio.wait({beginning, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not beginning.done():  # nobody waits for it any more, and the next may be waiting for its place
            raise listening.result()
        await beginning
        episode = asked.episode
        playing, pause = False, 1 / 10
        due = time.monotonic()
        while True:
            patience = max(0.0, due - time.monotonic()) if playing else server.limits.idle_seconds
            try:
                order = await asyncio.wait_for(orders.get(), patience) if patience else orders.get_nowait()
            except asyncio.QueueEmpty:
                order = None
            except TimeoutError:
                if not playing:
                    raise Refused(408, "idle", "nobody has watched for long", "live") from None
                order = None
            if isinstance(order, Exception):
                raise order
            step = playing and order is None
            if order is not None:
                pause = 1 / order.rate if order.rate else pause
                if order.do in ("play", "pause"):
                    playing = order.do == "play"
                    due = time.monotonic()
                if chosen := order.chosen():
                    await world.change(**chosen)
                if order.do == "restart":
                    episode = episode + 1 if order.episode is None else order.episode
                    await _say(socket, await world.begin(episode), checks.JSON)
                step = order.do == "step"
            if not step:
                continue
            if world.done:
                episode += 1
                await _say(socket, await world.begin(episode), checks.JSON)
            else:
                await _say(socket, await world.advance(), checks.JSON)
            due = max(due + pause, time.monotonic() - pause) + (1.0 if world.done else 0.0)
    finally:
        listening.cancel()
        beginning.cancel()
        server.live.discard(world)
        server.leaving.add(world)
        try:
            await world.close()
        finally:
            server.leaving.discard(world)


async def _begin(socket: WebSocket, world: Live, episode: int) -> None:
    await world.open()
    await _say(socket, world.facts(), checks.JSON)
    await _say(socket, await world.begin(episode), checks.JSON)


async def _listen(socket: WebSocket, orders: asyncio.Queue[Any]) -> Exception:
    """Orders as they come; what ends the watching is put there too, and returned."""
    try:
        while True:
            kind, data = await _hear(socket)
            order = _orders.validate_python(checks.decode(data, checks.JSON if isinstance(data, str) else kind))
            if order.do not in ORDERS:
                raise Refused(422, "order", "no such order", "do", ", ".join(ORDERS))
            await orders.put(order)
    except Exception as error:
        await orders.put(error)
        return error


class Measured:
    """Counts and times every answer by its route."""

    def __init__(self, app: Any, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.request(path, status, time.perf_counter() - began)
