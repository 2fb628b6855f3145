"""Over WebSocket: streams of observations, worlds played live, and ten thousand messages that are neither."""

import asyncio
import json
import random
import time
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from real_server import TASK, ask, running

from gato.episodes import Spec, TaskSpec
from gato.policy import Agent
from gato.rollouts.pool import WorkerPool
from gato.serving.app import Server
from gato.serving.limits import Limits
from gato.worlds import find

websockets = pytest.importorskip("websockets")


def steps(count):
    env = find(TASK).make()
    first, _ = env.reset(seed=1)
    return [first] + [env.step({"button": 0, "stick": np.zeros(2, np.float32)})[0] for _ in range(count - 1)]


def packed(value):
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "data": value.tobytes()}
    return value.item()


def connect(port, path, **options):
    return websockets.connect(f"ws://127.0.0.1:{port}{path}", max_size=None, **options)


def test_a_stream_acts_as_a_session_does(agent, port):
    session = ask(port, "POST", "/v1/sessions", {"task": TASK, "seed": 7})[2]["id"]
    seen = steps(6)

    async def talk():
        async with connect(port, f"/v1/sessions/{session}/stream") as socket:
            said = []
            for observation in seen:
                await socket.send(msgpack.packb({"observation": observation}, default=packed))
                said.append(msgpack.unpackb(await socket.recv()))
            await socket.send(json.dumps({"reset": 7}))
            assert json.loads(await socket.recv()) == {"reset": 7, "step": 0}
            await socket.send(json.dumps({"observation": {"digits": [1]}}))
            wrong = json.loads(await socket.recv())
            await socket.send(msgpack.packb({"observation": seen[0]}, default=packed))
            return said, wrong, msgpack.unpackb(await socket.recv())

    said, wrong, again = asyncio.run(talk())
    local = agent.session(TASK, seed=7)
    for n, (observation, answer) in enumerate(zip(seen, said, strict=True)):
        action = local.act(observation)
        assert answer["step"] == n + 1 and answer["action"]["button"] == action["button"]
        stick = np.frombuffer(answer["action"]["stick"]["data"], np.float32)
        assert np.allclose(stick, action["stick"])  # a batch of one rounds the last digit otherwise
    assert wrong["error"]["param"].startswith("observation.")
    assert again == said[0]


def test_ten_thousand_malformed_messages(agent):
    """Random bytes, cut messages, wrong types, to streams and to worlds: errors or closed sockets, and the server acts on."""
    rng = random.Random(0)
    good = json.dumps({"observation": {"digits": [1, 2, 3], "text": "step 1"}})
    whole = msgpack.packb({"observation": steps(1)[0]}, default=packed)

    def message():
        kind = rng.randrange(7)
        if kind == 0:
            return rng.randbytes(rng.randrange(200))
        if kind == 1:
            return "".join(chr(rng.randrange(1, 0xD7FF)) for _ in range(rng.randrange(50)))
        if kind == 2:
            return good[: rng.randrange(len(good))]
        if kind == 3:
            return whole[: rng.randrange(len(whole))]
        if kind == 4:
            at = rng.randrange(120)  # among the names and the types
            return whole[:at] + rng.randbytes(1) + whole[at + 1 :]
        if kind == 5:
            return rng.choice(
                ["null", "[]", "{}", '{"reset": -1}', '{"reset": "x"}', '{"do": "fly"}', "[" * 5000, "NaN"]
            )
        return json.dumps(
            {"observation": rng.choice([None, 1, "x", [], {}, {"image": {"dtype": "O", "shape": [], "data": ""}}])}
        )

    async def attack(port, path, count):
        sent = errors = 0
        while sent < count:
            try:
                async with connect(port, path) as socket:
                    while sent < count:
                        sent += 1
                        await socket.send(message())
                        errors += b"error" in (lambda m: m if isinstance(m, bytes) else m.encode())(await socket.recv())
            except websockets.ConnectionClosed:
                continue
        return sent, errors

    with running(agent, Limits(bad_messages=1000, requests_per_second=1e6)) as port:
        session = ask(port, "POST", "/v1/sessions", {"task": TASK})[2]["id"]

        async def all_of_it():
            return await asyncio.gather(
                *(attack(port, f"/v1/sessions/{session}/stream", 4700) for _ in range(2)), attack(port, "/v1/live", 600)
            )

        results = asyncio.run(all_of_it())
        assert sum(sent for sent, _ in results) == 10_000
        # A stream goes on after an error; a world is closed by it, and the message after that meets a closed socket.
        assert all(errors >= sent * share for (sent, errors), share in zip(results, (0.95, 0.95, 0.5), strict=True)), (
            results
        )
        assert ask(port, "GET", "/readyz")[0] == 200
        metrics = ask(port, "GET", "/metrics")[2].decode()
        assert "gato_live 0\n" in metrics

        async def still_there():
            async with connect(port, f"/v1/sessions/{session}/stream") as socket:
                await socket.send(whole)
                return msgpack.unpackb(await socket.recv())

        assert "action" in asyncio.run(still_there())


def test_a_socket_that_talks_nonsense_is_closed(agent):
    async def talk(port):
        async with connect(port, "/v1/sessions/nobody/stream") as socket:
            await socket.send("{}")
            assert json.loads(await socket.recv())["error"]["code"] == "unknown-session"
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
        session = (await asyncio.to_thread(ask, port, "POST", "/v1/sessions", {"task": TASK}))[2]["id"]
        async with connect(port, f"/v1/sessions/{session}/stream") as socket:
            with pytest.raises(websockets.ConnectionClosed):
                for _ in range(5):
                    await socket.send("?")
                    await socket.recv()
        async with connect(port, f"/v1/sessions/{session}/stream") as socket:
            with pytest.raises(websockets.ConnectionClosed):
                await socket.send(b"x" * (2 << 20))  # over the server's ws_max_size
                await socket.recv()

    with running(agent, Limits(bad_messages=4)) as port:
        asyncio.run(talk(port))


def test_an_answer_that_cannot_be_said_is_an_error_and_the_socket_stays(agent, monkeypatch):
    act, said = Server.act, [float("nan")]

    async def odd(server, session, *given):
        reply = await act(server, session, *given)
        return {**reply, "action": said.pop()} if said else reply

    async def talk(port):
        session = (await asyncio.to_thread(ask, port, "POST", "/v1/sessions", {"task": TASK}))[2]["id"]
        async with connect(port, f"/v1/sessions/{session}/stream") as socket:
            heard = []
            for _ in range(2):
                await socket.send(json.dumps({"observation": observation}))
                heard.append(json.loads(await socket.recv()))
            return heard

    observation = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in steps(1)[0].items() if k != "nested"}
    observation["nested"] = {k: v.tolist() for k, v in steps(1)[0]["nested"].items()}
    monkeypatch.setattr(Server, "act", odd)
    with running(agent) as port:
        wrong, right = asyncio.run(talk(port))
    assert wrong["error"]["code"] == "unexpected" and right["step"] == 2


def test_whoever_leaves_while_a_world_begins_leaves_the_place(agent, monkeypatch):
    """The page, where another task is chosen quickly: the world that is being opened is closed when it is there."""
    opened, closed = [], []

    class Pool(WorkerPool):
        def __init__(self, *given, **more):
            time.sleep(1.0)
            super().__init__(*given, **more)
            opened.append(self)

        def close(self):
            super().close()
            closed.append(self)

    monkeypatch.setattr("gato.serving.live.WorkerPool", Pool)

    async def begins(port):
        async with connect(port, "/v1/live") as socket:
            await socket.send(json.dumps({"task": TASK}))
            await asyncio.sleep(0.3)  # it is being opened

    async def watch(port):
        for _ in range(2):
            await begins(port)
        assert not opened  # and yet the place is free
        async with connect(port, "/v1/live") as socket:
            await socket.send(json.dumps({"task": TASK}))
            return [json.loads(await asyncio.wait_for(socket.recv(), 60))["type"] for _ in range(2)]

    with running(agent, Limits(live=1)) as port:
        assert asyncio.run(watch(port)) == ["task", "begin"]
        until = time.monotonic() + 30
        while len(closed) < 3 and time.monotonic() < until:
            time.sleep(0.05)
    assert len(opened) == len(closed) == 3 and set(opened) == set(closed)


def test_sockets_too_need_the_token_and_this_host(agent):
    async def refused(port, **options):
        with pytest.raises(websockets.InvalidStatus):
            async with connect(port, "/v1/live", **options):
                pass

    with running(agent, token="a-token-of-ours") as port:
        asyncio.run(refused(port))
        asyncio.run(refused(port, subprotocols=["gato.v1", "token.another-token"]))

        async def admitted():
            async with connect(port, "/v1/live", subprotocols=["gato.v1", "token.a-token-of-ours"]) as socket:
                return socket.subprotocol

        assert asyncio.run(admitted()) == "gato.v1"
    with running(agent) as port:
        asyncio.run(refused(port, origin="http://evil.example"))


def test_a_world_played_live(agent):
    """What is sent of a step: picture, tokens in order, probabilities that belong to the action, gaze, return."""

    async def watch(port):
        async with connect(port, "/v1/live") as socket:

            async def hear():
                return json.loads(await asyncio.wait_for(socket.recv(), 60))

            await socket.send(json.dumps({"task": TASK, "episode": 2, "temperature": 0.5}))
            facts, begin = await hear(), await hear()
            assert facts["type"] == "task" and facts["acting"]["temperature"] == 0.5 and begin["type"] == "begin"
            assert begin["frame"].startswith("data:image/png;base64,")
            async with connect(port, "/v1/live") as other:  # only one world may be watched here
                await other.send(json.dumps({"task": TASK}))
                assert json.loads(await other.recv())["error"]["code"] == "full"
            await socket.send(json.dumps({"do": "step"}))
            step = await hear()
            await socket.send(json.dumps({"do": "change", "temperature": 5, "discrete": "greedy"}))
            await socket.send(json.dumps({"do": "step"}))
            warm = await hear()
            await socket.send(json.dumps({"do": "restart", "episode": 2}))
            assert (await hear())["seed"] == begin["seed"]
            await socket.send(json.dumps({"do": "play", "rate": 60}))
            played = []
            while not (played and played[-1]["done"]):
                played.append(await hear())
            return step, warm, played

    with running(agent, Limits(live=1)) as port:
        step, warm, played = asyncio.run(watch(port))
        for _ in range(100):
            if "gato_live 0\n" in ask(port, "GET", "/metrics")[2].decode():
                break
        else:
            raise AssertionError("the world is still played")
    kinds = [kind for kind, *_ in step["tokens"]]
    separator = kinds.index(4)
    assert len(kinds) == separator + 4 and kinds[-3:] == [2, 3, 3]  # a button and a stick of two
    assert all(len(head) == separator + 1 and abs(sum(head) - 1) < 0.02 for head in step["gaze"])
    button, x, _ = step["choices"]
    assert [c["name"] for c in step["choices"]] == ["button", "stick[0]", "stick[1]"]
    assert str(button["chosen"]) == step["tokens"][-3][1]
    assert abs(sum(p for _, p in button["bars"]) - 1) < 0.02 and len(x["bars"]) == 32
    best = max(warm["choices"][0]["bars"], key=lambda bar: bar[1])
    assert warm["choices"][0]["chosen"] == best[0]  # greedy from now on
    seen = step["seen"][0]
    assert (seen["rows"], seen["columns"]) == (2, 2) and len(seen["patches"][0]) == 4
    assert [m["step"] for m in played] == list(range(1, len(played) + 1)) and 20 <= len(played) <= 40
    assert played[-1]["return"] == sum(m["reward"] for m in played)


def test_a_world_that_has_become_another_is_refused(agent):
    """As `gato play` refuses it, before a step is played."""
    known = agent.bundle.tasks[TASK]
    other = TaskSpec(
        {**known.spec.observation, "more": Spec("discrete", (), "int64", (0.0,), (3.0,))}, known.spec.action
    )

    async def watch(port):
        async with connect(port, "/v1/live") as socket:
            await socket.send(json.dumps({"task": TASK}))
            return json.loads(await asyncio.wait_for(socket.recv(), 60))

    changed = Agent(replace(agent.bundle, tasks={**agent.bundle.tasks, TASK: replace(known, spec=other)}, prefixes={}))
    with running(changed) as port:
        error = asyncio.run(watch(port))["error"]
    assert error["code"] == "spec" and "observation more" in error["message"]
