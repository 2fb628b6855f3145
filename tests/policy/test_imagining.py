"""Planning in imagination: what is foretold comes true, leaves the context alone, and finds a way that no demonstration took."""

import gymnasium
import numpy as np
import pytest
import torch

from gato.errors import SpecError, UsageError
from gato.evaluation.evaluate import evaluate_task
from gato.policy import load
from gato.policy.planning import Planning
from gato.rollouts import LocalSlot, Unit, rollout
from gato.rollouts.collect import collect
from gato.rollouts.pool import WorkerPool
from gato.training.start import start_run
from gato.worlds import find

TASK = "gym/Track-v0"
SMALL = ["steps=250", "slots=2", "slot_tokens=512", "window_tokens=128", "precision=float32", "optimizer=muon", "learning_rate=0.003",
         "prompt_share=0", "reward_shown=true", "observation_loss=1.0", 'window_timesteps={"*": 4}', "model.layer_width=64",
         "model.num_attention_heads=4", "model.key_value_size=16", "model.feedforward_hidden_size=128",
         "model.num_transformer_blocks=2"]  # fmt: skip
PLANNING = Planning(24, steps=4, follow=1, drawn=4, imagined=True)


class Track(gymnasium.Env):
    """Nine places in a row, one of them the goal; every step costs the distance to it."""

    observation_space, action_space = gymnasium.spaces.MultiDiscrete([9, 9]), gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        (self.place, self.goal), self.left = self.np_random.integers(9, size=2), 10
        return np.array([self.place, self.goal]), {}

    def step(self, action):
        self.place, self.left = np.clip(self.place + int(action) - 1, 0, 8), self.left - 1
        return np.array([self.place, self.goal]), -abs(float(self.place - self.goal)), self.left == 0, False, {}


gymnasium.register("Track-v0", entry_point=Track)


@pytest.fixture(scope="module")
def agent(tmp_path_factory, tokenizer):
    """Learned from random play alone."""
    folder = tmp_path_factory.mktemp("track")
    tokenizer.save(folder / "tokenizer.model")
    collect([find(TASK)], 300, folder / "data", workers=0, policy="random", progress=False)
    return load(
        start_run("tiny", SMALL, [folder / "data"], folder / "run", folder / "tokenizer.model", "cpu", processes=1)
    )


def test_what_is_foretold_comes_true(agent):
    right = []
    env, policy = Track(), agent.policy(TASK, 2)
    for seed in range(12):
        seen, _ = env.reset(seed=seed)
        policy.reset(0, seed)
        reward = 0.0
        for step in range(8):
            action = policy.act({0: seen}, {0: {"last_reward": reward}})[0]["action"]
            foretold = policy.imagine([0])[0]
            seen, reward, *_ = env.step(action)
            if step >= 1:
                right.append((foretold["observation"] == seen).all() and abs(foretold["last_reward"] - reward) < 0.3)
    assert np.mean(right) > 0.9


def test_imagining_leaves_the_context_alone(agent):
    """The same probabilities afterwards, whether something was imagined in between or not."""
    rng, found = np.random.default_rng(0), []
    observations = rng.integers(9, size=(6, 2))
    for imagined in (False, True):
        policy = agent.policy(TASK, 3)
        for slot in range(3):
            policy.reset(slot, seed=slot)
        for observation in observations:
            policy.act({slot: observation for slot in range(3)})
            if imagined:
                policy.imagine([0, 2])
        found.append([policy.probabilities(slot)[0] for slot in range(3)])
    for plain, other in zip(*found, strict=True):
        assert np.allclose(plain, other, atol=1e-6)


def test_it_plans_what_nobody_demonstrated(agent):
    def score(planning):
        with WorkerPool(0) as pool, torch.inference_mode():
            return np.mean(evaluate_task(agent, find(TASK), 20, pool, planning=planning)[0].episodes)

    plain, imagined = score(None), score(PLANNING)
    seen = [Track() for _ in range(20)]
    best = np.mean([-sum(max(0, d - k) for k in range(1, 11)) for d in _distances(seen)])
    assert imagined > plain + 0.6 * (best - plain), (plain, imagined, best)


def test_a_plan_is_followed_without_thinking_again(agent):
    """At the steps between two plans nothing is foretold, not even for nobody."""
    planning = Planning(2, steps=3, follow=3, drawn=3, imagined=True)
    policy = agent.planner(TASK, 2, planning)
    episodes = list(rollout([Unit(TASK, seed, max_steps=6) for seed in (1, 2)], [LocalSlot(), LocalSlot()], policy))
    assert [len(e) for e in episodes] == [6, 6]
    assert policy.imagined_steps == 2 * 2 * (2 * 3)  # slots, plans, and the steps of two continuations


def _distances(envs):
    from gato.rollouts import episode_seed

    for i, env in enumerate(envs):
        place, goal = env.reset(seed=episode_seed(TASK, i, "evaluation"))[0]
        yield abs(int(place) - int(goal))


def test_what_cannot_be_imagined_is_named(agent, tmp_path, tokenizer):
    policy = agent.policy(TASK, 1)
    policy.reset(0, 0)
    with pytest.raises(UsageError, match="last action"):
        policy.imagine([0])
    tokenizer.save(tmp_path / "tokenizer.model")
    collect([find("sokoban/7x7-1-box")], 2, tmp_path / "data", workers=0, progress=False)
    words = ["steps=1", "slots=1", "prompt_share=0", "reward_shown=true"]
    pictures = load(
        start_run(
            "tiny", words, [tmp_path / "data"], tmp_path / "run", tmp_path / "tokenizer.model", "cpu", processes=1
        )
    )
    with pytest.raises(SpecError, match=r"only numbers.*\n  next: .*without --imagined"):
        pictures.planner("sokoban/7x7-1-box", 1, PLANNING)
