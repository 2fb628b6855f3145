"""Over HTTP: what is asked is answered, and what is wrong gets a status of the 400s that names the field."""

import base64
import concurrent.futures
import contextlib
import http.client
import io
import json
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
from PIL import Image
from real_server import TASK, ask, running

from gato.client import Client, ServerError
from gato.corpora import caption_spec, questions_spec
from gato.corpora.dialogues import TALK_SPEC, talk_spec
from gato.episodes import Spec, TaskSpec, flatten
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.serving import checks
from gato.serving.limits import Limits, Rate, Refused, is_loopback
from gato.serving.run import check_address
from gato.worlds import find


def observation(seed=1):
    return find(TASK).make().reset(seed=seed)[0]


def as_lists(value):
    if isinstance(value, dict):
        return {k: as_lists(v) for k, v in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def png(width=80, height=80, colour=(200, 30, 30)):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()


def test_a_served_session_does_what_a_local_one_does(agent, port):
    """Both ways of writing an observation, from the same seed, give the actions of `agent.session`."""
    local = agent.session(TASK, seed=5)
    with Client(f"http://127.0.0.1:{port}") as client, client.session(TASK, seed=5) as packed:
        status, _, facts = ask(port, "POST", "/v1/sessions", {"task": TASK, "seed": 5})
        assert status == 201 and facts["observation"]["image"]["shape"] == [32, 32, 3]
        for step in range(6):
            seen = observation(step)
            expected, got = local.act(seen), packed.act(seen)
            assert got["button"] == expected["button"]
            assert np.allclose(got["stick"], expected["stick"])  # a batch of one rounds the last digit otherwise
            assert got["stick"].dtype == np.float32
            path = f"/v1/sessions/{facts['id']}/act"
            status, _, said = ask(port, "POST", path, {"observation": as_lists(seen)})
            assert status == 200 and said["step"] == step + 1
            assert said["action"]["button"] == expected["button"]
            assert np.allclose(said["action"]["stick"], expected["stick"])
        packed.reset(seed=5)
        local.reset(seed=5)
        assert packed.act(observation())["button"] == local.act(observation())["button"]
        assert ask(port, "DELETE", f"/v1/sessions/{facts['id']}")[0] == 200
        assert ask(port, "GET", f"/v1/sessions/{facts['id']}")[0] == 404


def test_numbers_in_the_other_byte_order_are_numbers(agent, port):
    seen = observation()
    other = {
        **seen,
        "nested": {k: np.asarray(v).astype(np.asarray(v).dtype.newbyteorder(">")) for k, v in seen["nested"].items()},
    }
    local = agent.session(TASK, seed=5)
    with Client(f"http://127.0.0.1:{port}") as client, client.session(TASK, seed=5) as packed:
        got, expected = packed.act(other), local.act(other)
    assert got["button"] == expected["button"] and np.allclose(got["stick"], expected["stick"])


def test_sessions_that_ask_together_act_as_if_alone(agent):
    """Twenty callers at once, in shared passes: each gets the actions of its own seed."""
    steps = [observation(s) for s in range(5)]

    def play(port, seed):
        with Client(f"http://127.0.0.1:{port}") as client, client.session(TASK, seed=seed) as session:
            return [session.act(o)["button"] for o in steps]

    alone = []
    for seed in range(20):
        session = agent.session(TASK, seed=seed)
        alone.append([session.act(o)["button"] for o in steps])
    with running(agent) as port, concurrent.futures.ThreadPoolExecutor(20) as threads:
        together = list(threads.map(lambda seed: play(port, seed), range(20)))
        passes = re.search(rb"gato_passes_total (\d+)", ask(port, "GET", "/metrics")[2])
    assert together == alone
    assert int(passes[1]) < 100  # a hundred decisions


BROKEN = [
    ("digits", [1, 2], "observation.digits"),
    ("digits", [1, 2, 10], "observation.digits"),
    ("digits", [1.5, 2.0, 3.0], "observation.digits"),
    ("digits", ["a", "b", "c"], "observation.digits"),
    ("digits", [[1], [2, 3]], "observation.digits"),
    ("digits", [10**40, 0, 0], "observation.digits"),
    ("digits", None, "observation.digits"),
    ("level", 16, "observation.level"),
    ("text", 7, "observation.text"),
    ("text", "\ud800", None),
    ("text", "long " * 600, None),
    ("image", [[0]], "observation.image"),
    ("image", {"dtype": "uint8", "shape": [32, 32, 3], "data": "AAAA"}, "observation.image"),
    ("image", {"dtype": "object", "shape": [1], "data": "AAAA"}, "observation.image"),
    ("image", {"dtype": "uint8", "shape": [-1, 2**40], "data": "AAAA"}, "observation.image"),
    ("image", {"dtype": "uint8", "shape": [3], "data": "?"}, "observation.image"),
    ("nested", {"ramp": [0, float("nan"), 0], "unbounded": [0, 0], "sign": 0}, "observation.nested/ramp"),
    ("nested", {"ramp": [0, 0, 0], "unbounded": [float("inf"), 0], "sign": 0}, "observation.nested/unbounded"),
    ("nested", {"ramp": [0, 0, 0], "unbounded": [0, 0]}, "observation.nested/sign"),
    ("nested", [], "observation.nested/ramp"),
    ("surprise", 1, "observation.surprise"),
]


@pytest.mark.parametrize(("field", "value", "param"), BROKEN, ids=lambda v: str(v)[:30])
def test_a_wrong_observation_names_its_field_and_leaves_the_session_whole(agent, port, field, value, param):
    local = agent.session(TASK, seed=9)
    with Client(f"http://127.0.0.1:{port}") as client, client.session(TASK, seed=9) as session:
        assert session.act(observation())["button"] == local.act(observation())["button"]
        body = {"observation": {**as_lists(observation()), field: value}}
        status, _, said = ask(port, "POST", f"/v1/sessions/{session.id}/act", body)
        assert status == 422, said
        assert param is None or said["error"]["param"] == param, said
        assert "Traceback" not in json.dumps(said) and "/gato/" not in json.dumps(said)
        assert session.act(observation(2))["button"] == local.act(observation(2))["button"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400), (b"\xff\xfe", "application/json", 400), (b"", "application/json", 400),
        (b"[" * 100_000, "application/json", 413), (b"[" * 40 + b"]" * 40, "application/json", 400),
        (b"9" * 5000, "application/json", 400),
        (b"\xc1", "application/msgpack", 400), (b"\x91" * 100_000, "application/msgpack", 400),
        (b"\xc7\x04\x05abcd", "application/msgpack", 400), (b"\xdf\xff\xff\xff\xff", "application/msgpack", 400),
        (b"\xd6\xff\x00\x00\x00\x00", "application/msgpack", 422), (b"\x80\x80", "application/msgpack", 400),
        (b"{}", "text/plain", 415), (b"{}", "", 415), (b"{}", "application/json", 422), (b"3", "application/json", 422),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read(port, body, kind, status):
    session = ask(port, "POST", "/v1/sessions", {"task": TASK})[2]["id"]
    got, _, said = ask(port, "POST", f"/v1/sessions/{session}/act", body, content_type=kind)
    assert got == status, said
    assert said["error"]["code"] and said["error"]["param"]
    ask(port, "DELETE", f"/v1/sessions/{session}")


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/sessions", b'{"task": "dummy/count", "seed": NaN}', 422, "seed"),
        ("/v1/sessions", b'{"task": "dummy/count", "temperature": 1e400}', 422, "temperature"),
        ("/v1/sessions", {"task": TASK, "temperature": 0}, 422, "temperature"),
        ("/v1/sessions", {"task": TASK, "discrete": "best"}, 422, "discrete"),
        ("/v1/sessions", {"task": "dummy/cuont"}, 404, "task"),
        ("/v1/sessions", {"tsak": TASK}, 422, "task"),
        ("/v1/sessions", b"[]", 422, "body"),
        ("/v1/sessions/nobody/act", {"observation": 1}, 404, "session_id"),
        ("/v1/sessions/nobody/reset", {}, 404, "session_id"),
        ("/v1/caption", {"image": "????"}, 422, "image"),
        ("/v1/caption", {"image": base64.b64encode(b"GIF89a").decode()}, 422, "image"),
        ("/v1/caption", {"image": base64.b64encode(png()[:60]).decode()}, 422, "image"),
        ("/v1/answer", {"image": base64.b64encode(png()).decode()}, 422, "question"),
        ("/v1/chat/completions", {"messages": []}, 422, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}]}, 422, "messages.content"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "model": "x"}, 404, "model"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 10**9},
            422,
            "max_tokens",
        ),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}
                ]
            },
            422,
            "messages.image_url",
        ),
    ],
)
def test_what_is_wrong_is_named(port, path, body, status, param):
    got, headers, said = ask(port, "POST", path, body)
    assert (got, said["error"]["param"]) == (status, param), said
    assert headers["content-type"] == "application/json"


def test_language_and_vision(agent, port):
    with Client(f"http://127.0.0.1:{port}") as client:
        picture = Image.open(io.BytesIO(png()))
        assert client.caption(png(), max_tokens=8) == agent.caption(picture, 8)
        assert client.answer(png(), "what is red?", max_tokens=4) == agent.answer(picture, "what is red?", 4)
        assert client.chat("Return the", max_tokens=6, seed=3) == agent.chat("Return the", 6, seed=3)
        assert client.tasks()[0]["id"] == TASK
        wide = png(1000, 10)  # any proportions, and larger than what is looked at
        assert isinstance(client.caption(wide, max_tokens=2), str)
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    parts = [{"type": "text", "text": "what is red?"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 4}
    status, _, said = ask(port, "POST", "/v1/chat/completions", body)
    assert status == 200 and said["choices"][0]["message"]["content"] == agent.answer(picture, "what is red?", 4)
    assert said["object"] == "chat.completion" and said["usage"]["total_tokens"] >= 1
    assert ask(port, "GET", "/v1/models")[2]["data"][0]["id"] == "gato"


def chunks_of(port, **options):
    """The JSON of every event of a streamed chat, which ends with [DONE]."""
    body = {"messages": [{"role": "user", "content": "Return the"}], "stream": True, **options}
    status, headers, said = ask(port, "POST", "/v1/chat/completions", body)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    *events, last, nothing = said.decode().split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_chat_is_streamed_token_by_token(agent, port):
    chunks = chunks_of(port, max_tokens=24, seed=5)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant" and deltas[-1] == {}
    assert "".join(d.get("content", "") for d in deltas) == agent.chat("Return the", 24, seed=5)
    assert len(deltas) > 12  # most tokens of 24 are whole characters
    assert {(c["object"], c["id"]) for c in chunks} == {("chat.completion.chunk", chunks[0]["id"])}
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    said = chunks_of(port, messages=[{"role": "user", "content": parts}], max_tokens=4)
    assert said[0]["choices"][0]["delta"]["content"] == agent.caption(Image.open(io.BytesIO(png())), 4)
    refused = {"messages": [{"role": "user", "content": "a"}], "model": "x", "stream": True}
    assert ask(port, "POST", "/v1/chat/completions", refused)[0] == 404  # a status, not an event


def test_the_first_piece_does_not_wait_for_the_last_and_leaving_ends_the_writing(port):
    began = time.monotonic()
    chunks_of(port, max_tokens=512, seed=1)
    whole = time.monotonic() - began
    body = {"messages": [{"role": "user", "content": "Return the"}], "stream": True, "max_tokens": 512, "seed": 1}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    assert connection.getresponse().readline().startswith(b"data: ")
    assert waiting(port) == 1  # it is still being written
    began = time.monotonic()
    connection.close()
    while waiting(port):
        time.sleep(0.01)
    assert time.monotonic() - began < 0.7 * whole


def waiting(port):
    lines = ask(port, "GET", "/metrics")[2].decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("gato_language_waiting ")))


def bomb(side=13_000):
    """A PNG of `side` × `side` pixels, half a gigabyte once decoded, in a few bytes: its rows compress to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(side // 8 + 1)) for _ in range(side)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_small_image_that_expands_is_refused_before_it_is_decoded(port):
    import resource

    picture = bomb()
    assert len(picture) < 25_000 and 3 * 13_000**2 > 500e6
    body = json.dumps({"image": base64.b64encode(picture).decode()}).encode()
    ask(port, "GET", "/healthz")
    before, took = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(5):
        began = time.perf_counter()
        status, _, said = ask(port, "POST", "/v1/caption", body)
        took.append(time.perf_counter() - began)
        assert status == 413 and said["error"]["param"] == "image"
    assert min(took) < 0.05, took
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


def test_large_bodies_are_refused_by_their_length_and_without_one(agent):
    with running(agent, Limits(body_bytes=10_000)) as port:
        assert ask(port, "POST", "/v1/caption", b"x" * 10_001)[0] == 413
        declared = b"POST /v1/caption HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n"
        assert raw(port, declared).startswith(b"HTTP/1.1 413")  # before a byte of it was sent
        chunks = b"POST /v1/caption HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        chunks += b"transfer-encoding: chunked\r\n\r\n" + 20 * (b"400\r\n" + b"x" * 1024 + b"\r\n") + b"0\r\n\r\n"
        assert raw(port, chunks).startswith(b"HTTP/1.1 413")
        assert ask(port, "GET", "/healthz")[0] == 200


def raw(port, data):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        return connection.recv(4096)


def test_sessions_end_where_the_limit_is_and_when_nobody_uses_them(agent):
    with running(agent, Limits(sessions=10, idle_seconds=0.6)) as port:
        opened = [ask(port, "POST", "/v1/sessions", {"task": TASK}) for _ in range(11)]
        assert [status for status, *_ in opened] == [201] * 10 + [503]
        assert opened[-1][1]["retry-after"]
        time.sleep(0.8)
        gone = opened[0][2]["id"]
        assert ask(port, "POST", f"/v1/sessions/{gone}/act", {"observation": 1})[0] == 404
        assert ask(port, "POST", "/v1/sessions", {"task": TASK})[0] == 201
        text = ask(port, "GET", "/metrics")[2].decode()
        assert "gato_sessions 1\n" in text and "gato_sessions_expired_total 10\n" in text


def test_a_body_that_comes_after_its_session_is_closed_acts_for_nobody(agent):
    """The slot has gone to the next session by then."""
    with running(agent) as port:
        first = ask(port, "POST", "/v1/sessions", {"task": TASK})[2]["id"]
        body = json.dumps({"observation": as_lists(observation())}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            head = f"POST /v1/sessions/{first}/act HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            slow.sendall(head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body[:10])
            time.sleep(0.3)
            assert ask(port, "DELETE", f"/v1/sessions/{first}")[0] == 200
            second = ask(port, "POST", "/v1/sessions", {"task": TASK})[2]["id"]
            slow.sendall(body[10:])
            assert slow.recv(4096).startswith(b"HTTP/1.1 404")
        status, _, said = ask(port, "POST", f"/v1/sessions/{second}/act", {"observation": as_lists(observation())})
        assert (status, said["step"]) == (200, 1)


def test_a_text_that_is_too_long_is_refused_before_it_is_read(agent):
    with running(agent, Limits(text=1000)) as port:
        session = ask(port, "POST", "/v1/sessions", {"task": TASK})[2]["id"]
        body = {"observation": {**as_lists(observation()), "text": "é " * 501}}
        status, _, said = ask(port, "POST", f"/v1/sessions/{session}/act", body)
        assert (status, said["error"]["param"]) == (413, "observation.text")


def test_one_late_answer_does_not_end_the_client(monkeypatch):
    """The next call opens a connection of its own."""

    def late(connection):
        for wait in (0, 0.8):
            if not connection.recv(65536):
                return
            time.sleep(wait)
            with contextlib.suppress(OSError):
                connection.sendall(
                    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{"tasks": []}'
                )

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=late, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.3)
        assert client.tasks() == []
        with pytest.raises(TimeoutError):
            client.tasks()
        assert client.tasks() == []


def test_what_the_agent_can_do_is_what_it_says(tokenizer):
    """Also where its questions share pictures, and where it talks without having read texts."""
    config = GatoConfig.tiny().replace(vocabulary_size=tokenizer.size, num_transformer_blocks=1)
    cards = {
        "questions/rooms": TaskCard(questions_spec(80, 80)), "dialogues/program": TaskCard(TALK_SPEC),
        "dialogues/scenes": TaskCard(talk_spec(80, 80)),
    }  # fmt: skip
    agent = Agent(Bundle(config, Gato(config).eval(), tokenizer, cards, {}, {}))
    with running(agent, Limits(text=1000)) as port:
        facts = ask(port, "GET", "/v1/tasks")[2]
        assert (facts["questions"], facts["text"], facts["captions"]) == (True, True, False)
        image = base64.b64encode(png()).decode()
        assert ask(port, "POST", "/v1/answer", {"image": image, "question": "what?", "max_tokens": 2})[0] == 200
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + image}}
        asked = {"role": "user", "content": [{"type": "text", "text": "what?"}, picture]}
        for size in (90, 900):  # what was said before is forgotten where it is too much
            before = [{"role": "user", "content": "x" * size}, {"role": "assistant", "content": "y" * size}]
            body = {"messages": [*before, asked], "max_tokens": 2}
            assert ask(port, "POST", "/v1/chat/completions", body)[0] == 200


def test_the_oldest_of_a_long_chat_is_forgotten_and_the_last_message_is_not(agent, port):
    """Whether it is streamed or not. What is forgotten is whole messages; a system prompt is not among them."""
    said = [{"role": ("user", "assistant")[n % 2], "content": f"{n} " + "word " * 95} for n in range(19)]
    assert sum(len(message["content"]) for message in said) > Limits().text
    status, _, long = ask(port, "POST", "/v1/chat/completions", {"messages": said, "max_tokens": 4, "seed": 2})
    kept = ask(port, "POST", "/v1/chat/completions", {"messages": said[2:], "max_tokens": 4, "seed": 2})[2]
    assert status == 200 and (long["choices"], long["usage"]) == (kept["choices"], kept["usage"])
    assert chunks_of(port, messages=said, max_tokens=4, seed=2)
    system = {"role": "system", "content": "s" * 8000}
    last = {"role": "user", "content": "x" * 193}
    status, _, refused = ask(port, "POST", "/v1/chat/completions", {"messages": [system, *said, last]})
    assert (status, refused["error"]["param"]) == (413, "messages")


def test_tokens_are_counted_as_the_network_chose_them(agent, port, ends_at):
    """And a reply that ends by itself is no cut one, however many tokens it had."""
    passes = ends_at(agent, 6)
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    for most, tokens, reason in ((12, 5, "stop"), (5, 5, "length"), (6, 5, "stop")):
        for messages in ([{"role": "user", "content": "Return the"}], picture):
            passes.clear()
            body = {"messages": messages, "max_tokens": most, "seed": 3, "temperature": 1.0}
            said = ask(port, "POST", "/v1/chat/completions", body)[2]
            assert (said["usage"]["completion_tokens"], said["choices"][0]["finish_reason"]) == (tokens, reason)
            passes.clear()
            assert chunks_of(port, **body)[-1]["choices"][0]["finish_reason"] == reason


def test_pictures_are_unpacked_in_the_thread_of_language_and_not_where_it_is_full(tokenizer, monkeypatch):
    """A large one takes a second, in which no session would be answered."""
    config = GatoConfig.tiny().replace(vocabulary_size=tokenizer.size, num_transformer_blocks=1)
    cards = {"dialogues/scenes": TaskCard(talk_spec(80, 80)), "captions/scenes": TaskCard(caption_spec(80, 80))}
    agent = Agent(Bundle(config, Gato(config).eval(), tokenizer, cards, {}, {}))
    opened, unpacked, image, pixels = [], [], checks.image, checks.pixels
    monkeypatch.setattr(checks, "image", lambda *given: opened.append(1) or image(*given))
    monkeypatch.setattr(
        checks, "pixels", lambda picture: unpacked.append(threading.current_thread().name) or pixels(picture)
    )
    encoded = base64.b64encode(png()).decode()
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "data:," + encoded}}]
    asked = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}], "max_tokens": 2}),
        ("/v1/caption", {"image": encoded, "max_tokens": 2}),
    ]
    for limits, status in ((Limits(), 200), (Limits(queue=0), 503)):
        with running(agent, limits) as port:
            assert [ask(port, "POST", path, body)[0] for path, body in asked] == [status] * 2
    assert len(opened) == 2 and [name.split("_")[0] for name in unpacked] == ["language"] * 2


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"observation": [' + b"1," * 2_000_000 + b"1]}", checks.JSON),
        (b'{"observation": [' + b"[]," * 1_300_000 + b"1]}", checks.JSON),
        (b'{"observation": [' + (b"[" * 9 + b"]" * 9 + b",") * 200_000 + b"1]}", checks.JSON),
        (b"\x81\xabobservation\xdd" + (4_000_000).to_bytes(4, "big") + b"\x80" * 4_000_000, checks.MSGPACK),
        (b"\x81\xabobservation\xdc\x10\x00" + (b"\xdc\x03\xe8" + b"\x01" * 1000) * 4096, checks.MSGPACK),
    ],
    ids=["numbers", "lists", "nested", "maps", "lists of lists"],
)
def test_a_body_of_millions_of_elements_is_refused_before_they_are_made(port, monkeypatch, body, kind):
    """Making them holds the interpreter for a second or more, and nobody is answered meanwhile."""
    session = ask(port, "POST", "/v1/sessions", {"task": TASK})[2]["id"]
    monkeypatch.setattr(checks, "_shallow", lambda *_: pytest.fail("they were made"))
    monkeypatch.setattr(checks, "json", SimpleNamespace(dumps=json.dumps))
    took = []
    for _ in range(3):
        began = time.perf_counter()
        status, _, said = ask(port, "POST", f"/v1/sessions/{session}/act", body, content_type=kind)
        took.append(time.perf_counter() - began)
        assert status in (400, 413) and said["error"]["param"] == "body", said
    assert min(took) < 0.5, took
    ask(port, "DELETE", f"/v1/sessions/{session}")


def test_a_whole_observation_may_be_written_as_lists():
    """Also a stack of pictures, with spaces or without, in JSON and in msgpack."""
    stack = TaskSpec({"image": Spec("image", (4, 96, 96, 3), "uint8")}, {})
    for spec in (stack, find(TASK).spec):
        leaves = {path: as_lists(example(leaf)) for path, leaf in spec.observation.items()}
        most = checks.most_listed(spec, 8192)
        for body, kind in (
            (json.dumps(leaves, indent=1).encode(), checks.JSON), (json.dumps(leaves), checks.JSON),
            (msgpack.packb(leaves), checks.MSGPACK),
        ):  # fmt: skip
            assert checks.decode(body, kind, most) == leaves
    with pytest.raises(Refused, match="elements"):
        checks.decode(json.dumps([0] * 5000), checks.JSON)


def example(leaf):
    return "a, b" * 2000 if leaf.kind == "text" else np.full(leaf.shape, 255 if leaf.kind == "image" else 0)


def test_a_large_observation_is_read_aside(port, monkeypatch):
    threads, read = [], checks.observation
    monkeypatch.setattr(
        checks, "observation", lambda *given: threads.append(threading.current_thread().name) or read(*given)
    )
    session = ask(port, "POST", "/v1/sessions", {"task": TASK})[2]["id"]
    seen = as_lists(observation())
    for body in ({"observation": seen}, {"observation": {**seen, "text": " " * (1 << 16)}}):
        ask(port, "POST", f"/v1/sessions/{session}/act", body)
    small, large = threads
    assert small != large and large.startswith("asyncio")
    ask(port, "DELETE", f"/v1/sessions/{session}")


def test_the_smallest_temperature_acts(port):
    for temperature in (1e-30, 1e-40, 5e-324):
        acting = {"temperature": temperature, "continuous": "mean"}
        with Client(f"http://127.0.0.1:{port}") as client, client.session(TASK, **acting) as session:
            action = session.act(observation())
            assert action["button"] >= 0 and np.isfinite(action["stick"]).all()
            assert isinstance(client.chat("Return the", max_tokens=3, temperature=temperature), str)


def test_a_tuple_of_actions_and_numbers_of_numpy(tokenizer):
    """The client gives what `agent.session` gives, and takes what numpy counts with."""
    arm = Spec("continuous", (2,), "float32", (-1.0, -1.0), (1.0, 1.0))
    hand = Spec("discrete", (), "int64", (0.0,), (3.0,))
    spec = TaskSpec({"state": Spec("continuous", (3,), "float32", (-1.0,) * 3, (1.0,) * 3)}, {})
    spec = TaskSpec(spec.observation, {"0": arm, "1/0": hand, "1/1/left": arm})
    config = GatoConfig.tiny().replace(vocabulary_size=tokenizer.size, num_transformer_blocks=1)
    acting = {"discrete": "sample", "continuous": "mean", "temperature": 1.0}
    agent = Agent(Bundle(config, Gato(config).eval(), tokenizer, {"lab/pair": TaskCard(spec, 1)}, acting, {}))
    seen = {"state": np.array([0.1, -0.5, 0.9], np.float32)}
    with running(agent) as port, Client(f"http://127.0.0.1:{port}") as client:
        chosen = {"seed": np.int64(3), "temperature": np.float32(0.5), "top_k": np.int32(2)}
        with client.session("lab/pair", **chosen) as session:
            assert (session.facts["seed"], session.facts["acting"]["temperature"]) == (3, 0.5)
            got = session.act(seen)
        expected = agent.session("lab/pair", seed=3, temperature=0.5, top_k=2).act(seen)
        assert isinstance(got, tuple) and isinstance(got[1], tuple) and got[1][0] == expected[1][0]
        for mine, theirs in ((got[0], expected[0]), (got[1][1]["left"], expected[1][1]["left"])):
            assert mine.dtype == np.float32 and np.allclose(mine, theirs)
        with pytest.raises(TypeError, match="a set cannot be sent"):
            client.session("lab/pair", seed={3})


def test_an_address_without_a_picture_is_nothing_unforeseen(port, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)  # to where it is heard
    parts = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    status, _, said = ask(port, "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert (status, said["error"]["param"]) == (422, "image")
    assert ask(port, "GET", "/healthz")[0] == 200 and not caplog.records  # it would be logged behind the answer


def test_too_many_requests(agent):
    with running(agent, Limits(requests_per_second=5)) as port:
        statuses = [ask(port, "GET", "/healthz")[0] for _ in range(30)]
        assert statuses[:10] == [200] * 10 and 429 in statuses and set(statuses) == {200, 429}
    now = [0.0]
    rate = Rate(2, clock=lambda: now[0])
    assert [rate.admit("a") for _ in range(5)] == [True] * 4 + [False]
    assert rate.admit("b")
    now[0] = 0.5
    assert [rate.admit("a") for _ in range(2)] == [True, False]


def test_who_may_ask(agent):
    with running(agent) as port:
        assert ask(port, "GET", "/v1/tasks", host="evil.example")[0] == 403  # a name that was pointed here
        assert ask(port, "GET", "/v1/tasks", origin="http://evil.example")[0] == 403
        assert ask(port, "GET", "/v1/tasks", origin=f"http://127.0.0.1:{port}")[0] == 200
    with running(agent, token="a-token-of-ours") as port:
        assert ask(port, "GET", "/v1/tasks")[0] == 401
        assert ask(port, "GET", "/v1/tasks", authorization="Bearer a-token-of-other")[0] == 401
        assert ask(port, "GET", "/metrics")[0] == 401
        assert ask(port, "GET", "/v1/tasks", authorization="Bearer a-token-of-ours")[0] == 200
        assert [ask(port, "GET", path)[0] for path in ("/", "/healthz", "/readyz", "/page/page.js")] == [200] * 4
        with pytest.raises(ServerError) as refused:
            Client(f"http://127.0.0.1:{port}").tasks()
        assert refused.value.status == 401 and refused.value.code == "token"
        assert Client(f"http://127.0.0.1:{port}", token="a-token-of-ours").tasks()
    assert [is_loopback(h) for h in ("127.0.0.1:8", "localhost", "[::1]:80", "::1", "127.8.8.8")] == [True] * 5
    assert not any(map(is_loopback, ("0.0.0.0", "::", "localhost.evil.example", "10.0.0.1:80", "", "[", "127.0.0.1.b")))


def test_an_address_that_others_can_reach_takes_a_token():
    from gato.errors import UsageError

    check_address("127.0.0.1", None)
    check_address("0.0.0.0", "long-enough-token")
    for host, token in (
        ("0.0.0.0", None),
        ("::", None),
        ("192.168.1.2", None),
        ("127.0.0.1", "short"),
        ("127.0.0.1", "a b" * 9),
    ):
        with pytest.raises(UsageError):
            check_address(host, token)


def test_the_pages_bring_everything_along(port):
    for path in ("/", "/docs"):
        status, headers, page = ask(port, "GET", path)
        assert status == 200 and headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in headers["content-security-policy"]
        for address in re.findall(rb'(?:src|href)="([^"]+)"', page):
            assert not re.match(rb"(https?:)?//", address), address
            assert address.startswith(b"data:") or ask(port, "GET", f"/{address.decode()}".replace("/.", "/"))[0] == 200
    for name in ("page.js", "docs.js", "page.css"):
        text = ask(port, "GET", f"/page/{name}")[2]
        assert not re.search(rb"https?://|@import|url\((?!\$)", text)


def test_the_client_needs_numpy_and_msgpack_only():
    code = (
        "import sys; import gato.client; "
        "print([m for m in ('torch', 'gymnasium', 'fastapi', 'PIL', 'tyro', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done


def test_the_command_serves_and_ends_when_told(agent, tmp_path):
    """`gato serve`, a session in the middle of its work, SIGTERM: it ends by itself, in order and soon."""
    agent.bundle.save(tmp_path / "bundle")
    line = [sys.executable, "-m", "gato", "serve", str(tmp_path / "bundle"), "--device", "cpu"]
    wrong = subprocess.run(
        [*line, "--host", "0.0.0.0"], capture_output=True, text=True, env={**os.environ, "GATO_TOKEN": ""}
    )
    assert wrong.returncode == 2 and "token" in wrong.stderr
    process = subprocess.Popen([*line, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
        session = Client(f"http://127.0.0.1:{port}").session(TASK)
        assert set(flatten(session.act(observation()), "action")) == {"button", "stick"}
        taken = subprocess.run([*line, "--port", str(port)], capture_output=True, text=True)
        assert taken.returncode == 2 and "--port 0" in taken.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
