"""Many sessions in one batch: bit for bit what each would do with other neighbours, or with none.

The slow runs take 10^4 steps (`pytest -m slow -s tests/policy/test_many_at_once.py` prints their figures); the same tests
over a few dozen steps are in the ordinary suite.
"""

import gc
import os

import numpy as np
import pytest
import torch

from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent, AgentPolicy
from gato.rollouts import Unit, WorkerPool, rollout
from gato.worlds import Task, find, register
from gato.worlds.dummy import counting_expert, make_faulty

TASK = "dummy/count"
ENDLESS = register(Task("dummy/endless", make_faulty("endless"), counting_expert, max_steps=20_000))
SLOTS, MINE = 6, 3  # slots of the batch, and the one looked at
LONG = pytest.param(10_000, marks=pytest.mark.slow)


def make_bundle(tokenizer, window_timesteps=None, acting=("sample", "mean"), **config):
    torch.manual_seed(0)
    base = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=2,
        vocabulary_size=tokenizer.size, token_sequence_length=256, **config,
    )  # fmt: skip
    cards = {task.id: TaskCard(task.spec, window_timesteps, None) for task in (find(TASK), ENDLESS)}
    ways = {"discrete": acting[0], "continuous": acting[1], "temperature": 1.0}
    return Bundle(base, Gato(base).eval(), tokenizer, cards, ways, {})


class Recorded(AgentPolicy):
    """Keeps one slot's last logits, and the ids and values chosen from them; can be told what to choose."""

    def __init__(self, bundle, slots, mine, told=None):
        super().__init__(bundle, ENDLESS.id, slots)
        self._mine, self._told = mine, told
        self.logits, self.ids, self.values = [], [], []

    def act(self, observations, infos=None):
        self.logits, self.ids, self.values = [], [], []
        self._row = list(observations).index(self._mine)
        return super().act(observations, infos)

    def _logits(self, h):
        logits = super()._logits(h)
        self.logits.append(logits[self._row].clone())
        return logits

    def _choose(self, slots, logits, a):
        ids, values = super()._choose(slots, logits, a)
        if self._told is not None:
            ids[self._row], values[self._row] = self._told.ids[a], self._told.values[a]
        self.ids.append(ids[self._row])
        self.values.append(values[self._row])
        return ids, values


class Sessions:
    """A batch that plays the endless counting world: one slot from the first step to the last; each other one, if
    `neighbours`, for a while, then not, then another episode."""

    def __init__(self, policy, mine, neighbours=()):
        self.policy, self._mine = policy, mine
        self._rng = np.random.default_rng(len(neighbours))
        self._worlds = {i: ENDLESS.make() for i in (mine, *neighbours)}
        self._playing = {}
        self._start(mine, 7)

    def step(self):
        for i in self._worlds:
            if i == self._mine:
                continue
            if i in self._playing and self._rng.random() < 0.1:
                del self._playing[i]
            elif i not in self._playing and self._rng.random() < 0.3:
                self._start(i, int(self._rng.integers(1000)))
        order = self._rng.permutation(list(self._playing)).tolist()  # nor does it matter in which order they ask
        actions = self.policy.act({i: self._playing[i] for i in order})
        for i, action in actions.items():
            self._playing[i] = self._worlds[i].step(action)[0]
        return actions[self._mine]

    def _start(self, i, seed):
        self._playing[i] = self._worlds[i].reset(seed=seed)[0]
        self.policy.reset(i, seed)


def resident() -> float:
    """MB of this process in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("window, position", [(None, "rope"), (None, "xl"), (1, "rope"), (2, "learned")], ids=str)
@pytest.mark.parametrize("steps", [40])
def test_neighbours_do_not_change_a_bit(tokenizer, window, position, steps):
    _compare_with_neighbours(make_bundle(tokenizer, window, position=position), steps)


@pytest.mark.slow
def test_neighbours_do_not_change_a_bit_in_ten_thousand_steps(tokenizer):
    _compare_with_neighbours(make_bundle(tokenizer), 10_000)


def _compare_with_neighbours(bundle, steps):
    """A batch in which all others are idle, beside one in which they come and go: logits and actions, closed loop."""
    alone = Sessions(Recorded(bundle, SLOTS, MINE), MINE)
    others = [i for i in range(SLOTS) if i != MINE]
    crowded = Sessions(Recorded(bundle, SLOTS, MINE), MINE, others)
    different, sizes = 0, set()
    for _ in range(steps):
        a, b = alone.step(), crowded.step()
        sizes.add(len(crowded._playing))
        same = all(torch.equal(x, y) for x, y in zip(alone.policy.logits, crowded.policy.logits, strict=True))
        different += not (same and all(np.array_equal(a[k], b[k]) for k in a))
    print(f"\n{steps:,} steps, {different} differ from those without neighbours")
    assert len(sizes) > 3 and different == 0


@pytest.mark.parametrize("steps", [40, LONG])
def test_against_a_batch_of_one(tokenizer, steps):
    """Logits within 1e-5 of the largest; the same action wherever the two best differ by more than 1e-4.

    The batch of one is told what the slot chose, so that both have the same history to the end."""
    bundle = make_bundle(tokenizer, acting=("greedy", "greedy"))
    others = [i for i in range(SLOTS) if i != MINE]
    batch = Sessions(Recorded(bundle, SLOTS, MINE), MINE, others)
    one = Sessions(Recorded(bundle, 1, 0, told=batch.policy), 0)
    legal = bundle.codec(ENDLESS.id).legal()
    worst, ties, unequal, unexplained = 0.0, 0, 0, 0
    for _ in range(steps):
        batch.step()
        one.step()
        for x, y, block in zip(batch.policy.logits, one.policy.logits, legal, strict=True):
            worst = max(worst, float((x - y).abs().max() / x.abs().max()))
            x, y = x[block.low : block.high], y[block.low : block.high]
            best = x.topk(2).values
            tie, other = float(best[0] - best[1]) <= 1e-4, int(x.argmax()) != int(y.argmax())
            ties, unequal, unexplained = ties + tie, unequal + other, unexplained + (other and not tie)
    print(f"\n{steps:,} steps, {steps * len(legal):,} choices: logits within {worst:.1e} of the largest, "
          f"{ties} with a gap of at most 1e-4, {unequal} chosen differently, {unexplained} of them with a larger gap")  # fmt: skip
    assert worst <= 1e-5 and unexplained == 0
    assert worst > 0, "both were computed in the same way: this compares nothing"


@pytest.mark.parametrize("total", [200, LONG])
def test_the_worker_count_does_not_change_a_bit(tokenizer, total):
    """`total` steps of episodes in 8 slots, whose worlds are in this process, in one worker, or in eight."""
    units = [Unit(TASK, seed) for seed in range(total // 20)]
    bundle = make_bundle(tokenizer, 2)

    def play(workers):
        with WorkerPool(workers) as pool:
            episodes = list(rollout(units, pool.slots(8), Agent(bundle).policy(TASK, 8)))
        assert sum(map(len, episodes)) >= total
        return {e.info["seed"]: (e.rewards.tolist(), {k: v.tobytes() for k, v in e.actions.items()}) for e in episodes}

    here = play(0)
    assert len(here) == len(units) and here == play(1) == play(8)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.parametrize("steps", [120, LONG])
def test_memory_is_flat(tokenizer, steps):
    """One session of `steps` steps among others that come and go: the context is full after five of them."""
    sessions = Sessions(Recorded(make_bundle(tokenizer), SLOTS, MINE), MINE, [i for i in range(SLOTS) if i != MINE])
    for _ in range(steps // 10):
        sessions.step()
    before = resident()
    for _ in range(steps - steps // 10):
        sessions.step()
    grown = resident() - before
    print(f"\n{steps:,} steps: {grown:+.2f} MB in the last nine tenths, {resident():.0f} MB in all")
    assert grown < 4
