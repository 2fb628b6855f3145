"""Planning: forked contexts, worlds left as they were, own way unless another was seen to be better, and the gain."""

import numpy as np
import pytest
import torch
from test_policy import TASK, make_bundle

from gato.errors import UsageError
from gato.policy import Agent
from gato.policy.planning import Planning
from gato.rollouts import LocalSlot, Unit, rollout
from gato.worlds import Task, register, registry
from gato.worlds.dummy import CountingWorld, make_faulty, observe, right_action
from gato.worlds.saving import StateError


def seen(n, start=30):
    return [observe(start + i) for i in range(n)]


@pytest.mark.parametrize(
    "switches", [{}, {"position": "xl"}, {"position": "learned"}, {"parallel_actions": True}], ids=str
)
def test_a_forked_slot_remembers_what_its_source_does(tokenizer, switches):
    """Slot 2 takes over slot 0's context and then says what slot 0 says, bit for bit; slot 1 never noticed."""
    bundle = make_bundle(tokenizer, None, **switches)
    policy, other = Agent(bundle).policy(TASK, 3), Agent(bundle).policy(TASK, 3)
    for i in range(3):
        policy.reset(i, i)
        other.reset(i, i)
    for observation in seen(3):
        policy.act({0: observation, 1: observe(7)})
        other.act({0: observation, 1: observe(7)})
    policy.act({2: observe(90)})  # a past that is to be forgotten
    policy.fork(0, [2], (5,))
    said = policy.act({0: observe(60), 1: observe(8), 2: observe(60)})
    log_p = {i: policy.probabilities(i) for i in range(3)}
    assert all(np.array_equal(a, b) for a, b in zip(log_p[0], log_p[2], strict=True))
    assert all(np.array_equal(said[0][k], said[2][k]) for k in said[0])
    unforked = other.act({0: observe(60), 1: observe(8)})
    assert all(np.allclose(unforked[1][k], said[1][k], atol=1e-5) for k in said[1])
    apart = policy.act({0: observe(61), 2: observe(20)})  # each its own copy
    alone = other.act({0: observe(61)})
    assert all(np.allclose(alone[0][k], apart[0][k], atol=1e-5) for k in apart[0])


def test_given_actions_are_what_the_context_holds(tokenizer):
    """A policy that is told what another chose goes on like that one."""
    bundle = make_bundle(tokenizer, None, ("sample", "sample"))
    free, told = Agent(bundle).policy(TASK, 1), Agent(bundle).policy(TASK, 1)
    free.reset(0, 1)
    told.reset(0, 2)  # would choose otherwise
    for observation in seen(4):
        chosen = free.act({0: observation})
        got = told.act({0: observation}, given=chosen)
        assert all(np.array_equal(chosen[0][k], got[0][k]) for k in chosen[0])
        for a, b in zip(free.probabilities(0), told.probabilities(0), strict=True):
            assert np.array_equal(a, b)
    assert torch.equal(free._cache.keys[:, 0], told._cache.keys[:, 0])


class Buttons(CountingWorld):
    """The counting world where the button alone earns the reward."""

    def step(self, action):
        observation, _, ended, truncated, info = super().step(action)
        right = int(action["button"]) == int(right_action(self.count - 1)["button"])
        return observation, float(right), ended, truncated, info


@pytest.fixture
def buttons():
    yield register(Task("dummy/buttons", lambda *, render=False: Buttons(), max_steps=40))
    del registry()["dummy/buttons"]


def test_looking_ahead_gains_and_leaves_the_world_as_it_was(tokenizer, buttons):
    """An untrained network hits one button of sixteen; trying eight things at every step, it hits about eight times as
    many, and what it imagined is what then happens."""
    bundle = make_bundle(tokenizer, 1, ("sample", "sample"))
    bundle.tasks[buttons.id] = bundle.tasks[TASK]
    units = [Unit(buttons.id, seed, max_steps=12) for seed in range(4)]

    def scores(policy, slots):
        found = {e.info["seed"]: e for e in rollout(units, [LocalSlot() for _ in range(slots)], policy)}
        return [found[u.seed].total_return for u in units], [found[u.seed].actions for u in units]

    agent, planning = Agent(bundle), Planning(8, steps=1, follow=1, drawn=1)
    plain, _ = scores(agent.policy(buttons.id, 4), 4)
    planned, actions = scores(agent.planner(buttons.id, 4, planning), 4)
    assert np.mean(planned) > np.mean(plain) + 1.5, (plain, planned)
    again, same = scores(agent.planner(buttons.id, 2, planning), 2)  # other slots, other neighbours
    assert again == planned and all(np.array_equal(a[k], b[k]) for a, b in zip(actions, same, strict=True) for k in a)


def test_without_a_better_way_its_own_is_kept(tokenizer):
    """Nothing an untrained network draws earns anything in the counting world: a greedy agent does what it would do."""
    bundle = make_bundle(tokenizer, None, ("greedy", "greedy"))
    unit = [Unit(TASK, 3, max_steps=8)]
    plain = next(rollout(unit, [LocalSlot()], Agent(bundle).policy(TASK, 1)))
    policy = Agent(bundle).planner(TASK, 1, Planning(4, steps=3, follow=2))
    planned = next(rollout(unit, [LocalSlot()], policy))
    assert plain.total_return == planned.total_return == 0 and policy.imagined_steps == 4 * 4 * 3
    assert all(np.allclose(plain.actions[k], planned.actions[k], atol=1e-6) for k in plain.actions)
    assert all(np.array_equal(plain.observations[k], planned.observations[k]) for k in ("digits", "image"))


def test_a_world_may_reuse_its_arrays(tokenizer):
    """And change the actions that it is given: the plans are those of the same world with arrays of their own."""
    bundle, found = make_bundle(tokenizer, None, ("sample", "sample")), {}
    for kind in (None, "shared", "changes-action"):
        world = CountingWorld if kind is None else make_faulty(kind)
        task = register(Task(f"dummy/plain-{kind}", lambda *, render=False, make=world: make(), max_steps=40))
        bundle.tasks[task.id] = bundle.tasks[TASK]
        policy = Agent(bundle).planner(task.id, 1, Planning(4, steps=3, follow=3, drawn=3))
        found[kind] = next(rollout([Unit(task.id, 3, max_steps=8)], [LocalSlot()], policy))
        del registry()[task.id]
    for kind in ("shared", "changes-action"):
        assert np.array_equal(found[kind].observations["image"], found[None].observations["image"])
        assert all(np.array_equal(found[kind].actions[k], found[None].actions[k]) for k in found[None].actions)


def test_a_world_that_is_not_where_the_plan_said_is_planned_anew(tokenizer):
    policy = Agent(make_bundle(tokenizer, 1)).planner(TASK, 1, Planning(2, steps=6, follow=6))
    slot = LocalSlot()
    slot.reset(unit := Unit(TASK, 3))
    start = slot.receive().observation
    policy.begin(0, unit, slot)
    policy.act({0: start})
    assert policy.imagined_steps == 12
    policy.act({0: observe(slot.env.unwrapped.count + 1)})  # as the plan said: it is followed
    assert policy.imagined_steps == 12
    policy.act({0: observe(99)})
    assert policy.imagined_steps == 24


def test_what_cannot_be_planned_is_named(tokenizer):
    class Closed(CountingWorld):
        def save_state(self):
            raise OSError("no")

    register(Task("dummy/closed", lambda *, render=False: Closed(), max_steps=40))
    bundle = make_bundle(tokenizer, 1)
    bundle.tasks["dummy/closed"] = bundle.tasks[TASK]
    try:
        with pytest.raises(StateError, match="dummy/closed"):
            next(rollout([Unit("dummy/closed", 1)], [LocalSlot()], Agent(bundle).planner("dummy/closed", 1)))
    finally:
        del registry()["dummy/closed"]
    with pytest.raises(UsageError, match="continuations=0"):
        Planning(0)
    with pytest.raises(UsageError, match="discount"):
        Planning(discount=0.0)
