"""Shared by all tests: one thread per process (they run side by side), and a small real tokenizer."""

import itertools
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def tokenizer():
    """1,024 pieces from sixty modules' documentation."""
    from gato.corpora.text import python_docs
    from gato.tokens.text import TextTokenizer

    return TextTokenizer.train((e.observations["text"][0] for e in itertools.islice(python_docs("train"), 60)), 1024)


@pytest.fixture(scope="session")
def match():
    """`gym/Match-v0`. Twenty times one of four numbers is shown, and a point is for naming it: random play has five. In
    `gym/Match-KLMN-v0` the right names of 0, 1, 2 and 3 are K, L, M and N."""
    import gymnasium

    class Match(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Discrete(4), gymnasium.spaces.Discrete(4)

        def __init__(self, names=(0, 1, 2, 3)):
            self.names = names

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.left, self.shown = 20, int(self.np_random.integers(4))
            return self.shown, {}

        def step(self, action):
            point, self.left, self.shown = (
                float(action == self.names[self.shown]),
                self.left - 1,
                int(self.np_random.integers(4)),
            )
            return self.shown, point, self.left == 0, False, {}

    gymnasium.register("Match-v0", entry_point=Match)
    for names in itertools.permutations(range(4)):
        gymnasium.register(f"Match-{''.join(map(str, names))}-v0", entry_point=Match, kwargs={"names": names})
    return "gym/Match-v0"


@pytest.fixture
def ends_at(monkeypatch):
    """ends_at(agent, 6): at its sixth pass a text ends by itself. Returns the passes so far, a list that may be cleared."""

    def make(agent, number):
        logits, passes, eos = agent.bundle.model.logits, [], agent.bundle.tokenizer.eos_id

        def ending(hidden):
            passes.append(1)
            out = logits(hidden)
            out[..., eos] += 1e6 * (len(passes) == number)
            return out

        monkeypatch.setattr(agent.bundle.model, "logits", ending)
        return passes

    return make
