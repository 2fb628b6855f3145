"""Captions, answers and texts: one at a time, in a thread of their own, so that sessions go on acting meanwhile."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

from gato.corpora.dialogues import Role, Turn
from gato.policy import Agent
from gato.policy.agent import Written
from gato.policy.conversation import forget
from gato.serving import checks, schema
from gato.serving.limits import Limits, Refused

T = TypeVar("T")
MODEL = "gato"


class Said(NamedTuple):
    """What was said, and how it came about."""

    text: str
    written: Written


class Language:
    """A queue with an end: who comes when it is full is told so at once."""

    def __init__(self, agent: Agent, limits: Limits):
        self._agent, self._limits = agent, limits
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="language")
        self.waiting = 0
        self.started = int(time.time())

    def _check_room(self) -> None:
        """Raises Refused (503) where the queue is full: asked before a picture is unpacked for nothing."""
        if self.waiting >= self._limits.queue:
            raise Refused(503, "full", f"{self.waiting} requests are waiting", "queue", retry_after=1)

    async def _run(self, function: Callable[[], T]) -> T:
        self._check_room()
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        finally:
            self.waiting -= 1

    async def _say(self, function: Callable[[], str]) -> Said:
        """What the agent says. Only its own thread writes, so that it knows how the text came about."""
        return await self._run(lambda: Said(function(), self._agent.written))

    async def caption(self, asked: schema.CaptionRequest) -> Said:
        self._check_room()
        picture = checks.image(asked.image, self._limits.pixels)
        return await self._say(lambda: self._agent.caption(checks.pixels(picture), asked.max_tokens, asked.temperature))

    async def answer(self, asked: schema.AnswerRequest) -> Said:
        self._check_room()
        picture = checks.image(asked.image, self._limits.pixels)
        question = self._text(asked.question, "question")
        return await self._say(
            lambda: self._agent.answer(checks.pixels(picture), question, asked.max_tokens, asked.temperature)
        )

    def models(self) -> schema.ModelList:
        model = schema.Model(id=MODEL, object="model", created=self.started, owned_by="gato")
        return schema.ModelList(object="list", data=[model])

    async def chat(self, asked: schema.ChatRequest) -> schema.Completion:
        """The continuation of the messages' text, or, where the last message shows a picture, what is said of it."""
        turns, prompt, url, most, temperature = self._read(asked)
        if url is None:
            *history, last = turns
            said = await self._say(
                lambda: self._agent.chat(last.text, most, temperature, asked.seed or 0, history=history)
            )
        else:
            said = await self._of_a_picture(asked, turns, prompt, url, most)
        before, after = len(self._agent.bundle.tokenizer.encode(prompt)), said.written.tokens
        message = schema.ChatMessage(role="assistant", content=said.text)
        choice = schema.Choice(index=0, message=message, finish_reason=_reason(said.written))
        usage = schema.Usage(prompt_tokens=before, completion_tokens=after, total_tokens=before + after)
        return schema.Completion(
            id=_name(), object="chat.completion", created=int(time.time()), model=MODEL, choices=[choice], usage=usage
        )

    async def chat_events(self, asked: schema.ChatRequest) -> AsyncIterator[str]:
        """The same as server-sent events, a chunk for each piece as the network finds it (of a picture: one chunk).

        What can be refused is refused before this returns, while there is still a status to say it with.
        """
        turns, prompt, url, most, temperature = self._read(asked)
        if url is None:
            pieces = self._pieces(turns, most, temperature, asked.seed or 0)
        else:
            pieces = _alone(await self._of_a_picture(asked, turns, prompt, url, most))
        first = await anext(pieces)
        return self._events(first, pieces)

    async def _events(self, piece: str | Written, pieces: AsyncGenerator[str | Written, None]) -> AsyncIterator[str]:
        head = {"id": _name(), "object": "chat.completion.chunk", "created": int(time.time()), "model": MODEL}

        def event(delta: dict[str, str], reason: str | None = None) -> str:
            return (
                f"data: {json.dumps({**head, 'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}]})}\n\n"
            )

        try:
            yield event({"role": "assistant", "content": piece if isinstance(piece, str) else ""})
            async for piece in pieces:
                if isinstance(piece, str):
                    yield event({"content": piece})
            if isinstance(piece, Written):
                yield event({}, _reason(piece))
            yield "data: [DONE]\n\n"
        finally:
            await pieces.aclose()  # whoever left wants no more

    async def _pieces(
        self, turns: list[Turn], most: int, temperature: float, seed: int
    ) -> AsyncGenerator[str | Written, None]:
        """What the language thread writes, here as it comes, and last how it came about. Closing this ends the writing."""
        loop, found, left = asyncio.get_running_loop(), asyncio.Queue[str | Written | None](), threading.Event()

        def write() -> None:
            try:
                for piece in self._agent.chat_pieces(turns[-1].text, most, temperature, seed, history=turns[:-1]):
                    if left.is_set():
                        break
                    loop.call_soon_threadsafe(found.put_nowait, piece)
                loop.call_soon_threadsafe(found.put_nowait, self._agent.written)
            finally:
                loop.call_soon_threadsafe(found.put_nowait, None)

        writing = asyncio.create_task(self._run(write))
        writing.add_done_callback(lambda _: found.put_nowait(None))  # also where it was refused before it began
        try:
            while (piece := await found.get()) is not None:
                yield piece
            await writing
        finally:
            left.set()
            await asyncio.gather(writing, return_exceptions=True)

    def _read(self, asked: schema.ChatRequest) -> tuple[list[Turn], str, str | None, int, float]:
        """(turns, text, address of a picture, most tokens, temperature), checked. Raises Refused."""
        if asked.model not in ("", MODEL):
            raise Refused(404, "unknown-model", f"no model {asked.model[:100]!r}", "model", f"model {MODEL!r}")
        self._check_room()
        turns, (own, url) = _turns(asked.messages), _last(asked.messages)
        while sum(len(turn.text) for turn in turns) > self._limits.text and forget(turns):
            pass
        prompt = own if url is not None else "\n\n".join(turn.text for turn in turns)
        self._text("".join(turn.text for turn in turns), "messages")
        if url is not None and not url.startswith("data:"):
            raise Refused(422, "image", "pictures are taken from data: addresses only", "messages.image_url")
        if url is None and not prompt:
            raise Refused(422, "messages", "nothing to continue", "messages.content")
        temperature = 0.7 if asked.temperature is None else asked.temperature
        return turns, prompt, url, asked.max_completion_tokens or asked.max_tokens or 64, temperature

    async def _of_a_picture(
        self, asked: schema.ChatRequest, turns: list[Turn], prompt: str, url: str, most: int
    ) -> Said:
        """The reply to what was said about it, where the agent knows dialogues about pictures; else the answer to the text as a
        question; without a text a caption."""
        image, temperature = url.partition(",")[2], asked.temperature or 0
        if prompt and self._agent.talks_about_pictures:
            picture = checks.image(image, self._limits.pixels)
            *history, last = turns
            return await self._say(
                lambda: self._agent.chat(
                    last.text, most, temperature, asked.seed or 0, history=history, image=checks.pixels(picture)
                )
            )
        if prompt:
            return await self.answer(
                schema.AnswerRequest(image=image, question=prompt, max_tokens=most, temperature=temperature)
            )
        return await self.caption(schema.CaptionRequest(image=image, max_tokens=most, temperature=temperature))

    def _text(self, text: str, field: str) -> str:
        if len(text) > self._limits.text:
            raise Refused(413, "too-large", f"{len(text):,} characters; at most {self._limits.text:,}", field)
        return text

    async def shut(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def _last(messages: list[schema.Message]) -> tuple[str, str | None]:
    """The text of the last message, and the address of its picture."""
    parts = messages[-1].content
    pictures = [] if isinstance(parts, str) else [p.image_url.url for p in parts if isinstance(p, schema.ImagePart)]
    return _text_of(messages[-1]), pictures[-1] if pictures else None


ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "gato"}


def _turns(messages: list[schema.Message]) -> list[Turn]:
    """Who said what; messages without a text are left out."""
    return [Turn(ROLES[message.role], said) for message in messages if (said := _text_of(message))]


def _text_of(message: schema.Message) -> str:
    parts = message.content
    if isinstance(parts, str):
        return parts
    return "\n\n".join(part.text for part in parts if isinstance(part, schema.Text) and part.text)


def _reason(written: Written) -> Literal["length", "stop"]:
    return "length" if written.cut else "stop"


def _name() -> str:
    return f"chatcmpl-{secrets.token_hex(8)}"


async def _alone(said: Said) -> AsyncGenerator[str | Written, None]:
    yield said.text
    yield said.written
