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
    """Keeps one slot's last logits (of the legal ids) and action; can be told by another what to choose."""

    def __init__(self, bundle, slots, mine, told=None):
        super().__init__(bundle, ENDLESS.id, slots)
        self._mine, self._told = mine, told
        self.logits, self.action = [], None

    def act(self, observations, infos=None, given=None):
        self.logits = []
        self._row = list(observations).index(self._mine)
        actions = super().act(observations, infos, {self._mine: self._told.action} if self._told else None)
        self.action = actions[self._mine]
        return actions

    def _logits(self, a, hidden):
        logits = super()._logits(a, hidden)
        self.logits.append(logits[self._row].clone())
        return logits


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


class Comparison:
    """The same session three times, all acting in the closed loop: in a batch whose other slots come and go (`crowded`),
    in one whose other slots idle (`alone`), and as a batch of one, which is told what to choose, so that its history
    stays the others'."""

    def __init__(self, bundle):
        others = [i for i in range(SLOTS) if i != MINE]
        self.crowded = Sessions(Recorded(bundle, SLOTS, MINE), MINE, others)
        self.alone = Sessions(Recorded(bundle, SLOTS, MINE), MINE)
        self.one = Sessions(Recorded(bundle, 1, 0, told=self.crowded.policy), 0)
        self.sizes: set[int] = set()  # of the crowd
        self.steps = self.different = self.choices = self.ties = self.unequal = self.unexplained = 0
        self.worst = 0.0  # difference of a logit from the batch of one's, as a share of the largest

    def step(self):
        a, b = self.crowded.step(), self.alone.step()
        self.one.step()
        self.steps += 1
        self.sizes.add(len(self.crowded._playing))
        many, idle, single = (s.policy.logits for s in (self.crowded, self.alone, self.one))
        same = all(torch.equal(x, y) for x, y in zip(many, idle, strict=True))
        self.different += not (same and all(np.array_equal(a[k], b[k]) for k in a))
        for x, y in zip(many, single, strict=True):
            self.worst = max(self.worst, float((x - y).abs().max() / x.abs().max()))
            best = x.topk(2).values
            tie, other = float(best[0] - best[1]) <= 1e-4, int(x.argmax()) != int(y.argmax())
            self.choices += 1
            self.ties += tie
            self.unequal += other
            self.unexplained += other and not tie

    def check(self):
        print(f"\n{self.steps:,} steps: {self.different} differ from those without neighbours\n{self.choices:,} choices: "
              f"logits within {self.worst:.1e} of the largest of a batch of one; {self.ties} with a gap of at most 1e-4; "
              f"{self.unequal} likeliest ids differ, {self.unexplained} of them with a larger gap")  # fmt: skip
        assert len(self.sizes) > 3 and self.different == 0
        assert self.worst <= 1e-5 and self.unexplained == 0
        assert self.worst > 0, "both were computed in the same way: this compares nothing"


@pytest.mark.parametrize("window, position", [(None, "rope"), (None, "xl"), (1, "rope"), (2, "learned")], ids=str)
def test_neighbours_do_not_change_a_bit(tokenizer, window, position):
    compared = Comparison(make_bundle(tokenizer, window, position=position))
    for _ in range(30):
        compared.step()
    compared.check()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_ten_thousand_steps(tokenizer):
    """As above, and memory is flat: the context is full after ten steps, the 9,000 after the first 1,000 add nothing."""
    compared = Comparison(make_bundle(tokenizer))
    for _ in range(1_000):
        compared.step()
    before = resident()
    for _ in range(9_000):
        compared.step()
    grown = resident() - before
    print(f"\n{grown:+.2f} MB in 9,000 steps of three batches, {resident():.0f} MB in all")
    compared.check()
    assert grown < 4


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
