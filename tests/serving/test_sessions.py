"""Sessions of different tasks in one batch: whoever asks at the same time shares a pass, whatever they play."""

import asyncio
import dataclasses

import numpy as np
import pytest
import torch

from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent, AgentPolicy
from gato.serving.limits import Limits
from gato.serving.sessions import Sessions
from gato.worlds import find

TASKS = {"sokoban/7x7-1-box": 2, "dummy/count": 1, "sokoban/8x8-2-boxes": 1, "sokoban/10x10-4-boxes": None}


@pytest.fixture(scope="module")
def versatile(tokenizer):
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=64, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    cards = {task: TaskCard(find(task).spec, window) for task, window in TASKS.items()}
    return Agent(
        Bundle(config, Gato(config).eval(), tokenizer, cards, {"discrete": "greedy", "continuous": "greedy"}, {})
    )


def observations(task, count):
    env = find(task).make()
    seen = [env.reset(seed=0)[0]]
    for _ in range(count - 1):
        seen.append(env.step(env.action_space.sample())[0])
    env.close()
    return seen


def test_tasks_share_a_pass(versatile):
    seen = {task: observations(task, 4) for task in TASKS}

    async def together():
        sessions = Sessions(versatile, dataclasses.replace(Limits(), sessions=16))
        held = [await sessions.open(task, seed=n) for n, task in enumerate(TASKS)]
        short = {id(s.bench) for s in held if TASKS[s.task] is not None}
        acted = [
            [await a for a in [asyncio.ensure_future(sessions.act(s, seen[s.task][t])) for s in held]] for t in range(4)
        ]
        passes = sessions.passes
        await sessions.shut()
        return short, acted, passes, len({id(s.bench) for s in held})

    short, acted, passes, benches = asyncio.run(together())
    assert benches == 2 and len(short) == 1  # what sees a whole context does not make the passes of the others longer
    assert passes <= 4 * benches
    for n, task in enumerate(TASKS):
        policy = AgentPolicy(versatile.bundle, task, 1)
        policy.reset(0, n)
        for t in range(4):
            expected = policy.act({0: seen[task][t]})[0]
            assert all(np.array_equal(acted[t][n][k], v) for k, v in expected.items()), (task, t)


def test_a_free_place_is_taken_by_another_task(versatile):
    async def one_after_another():
        sessions = Sessions(versatile, dataclasses.replace(Limits(), sessions=16))
        keep = await sessions.open("dummy/count")
        for task in ["sokoban/7x7-1-box", "sokoban/8x8-2-boxes"] * 9:  # more than a bench has places
            session = await sessions.open(task)
            assert session.bench is keep.bench
            await sessions.close(session.id)
        await sessions.close(keep.id)
        empty = not sessions._benches
        await sessions.shut()
        return empty

    assert asyncio.run(one_after_another())
