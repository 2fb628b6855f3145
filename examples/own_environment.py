"""Your own environment in ten lines: an expert shows how, a small network learns it, then the network acts alone.

    python examples/own_environment.py [OUT]

Put your id in place of `CartPole-v1` (`my_package:Pour-v0` imports `my_package` first) and your controller in place of
`balance`. The spaces are read from the environment; there is no tokeniser code to write.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium

import gato
from gato.rollouts import CLEAN, Noise
from gato.rollouts.collect import collect
from gato.training.start import start_run


def balance(env, seed):
    """The expert: called after every reset, gives the policy of one episode. It reads speed, angle and turning."""
    return lambda observation, info: int(observation[2] + 0.5 * observation[3] + 0.1 * observation[1] > 0)


def main(out: Path) -> float:
    changed = ["steps=100", "slots=2", "slot_tokens=512", 'window_timesteps={"*": 1}', "prompt_share=0"]
    # -- ten lines
    task = gato.find("gym/CartPole-v1")
    collect([task], 40, out / "data", policy=balance, noise=[CLEAN, Noise(scale=0.2)], max_steps=100)
    bundle = start_run("tiny", changed, [out / "data"], out / "train", tokenizer=None, device="cpu", processes=1)

    session = gato.load(bundle).session(task.id, discrete="greedy")
    env, total, done = gymnasium.make("CartPole-v1"), 0.0, False
    observation, _ = env.reset(seed=2**30)
    while not done:
        observation, reward, terminated, truncated, _ = env.step(session.act(observation))
        total, done = total + float(reward), terminated or truncated
    print(f"return {total:.0f} of 500")
    # -- as said
    return total


if __name__ == "__main__":  # workers are fresh interpreters that import this file
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own"))
