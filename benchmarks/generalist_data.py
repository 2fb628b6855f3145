"""The data of the generalist: every domain with an expert that plays fast, the traces that are there, and the generated corpora.

    python benchmarks/generalist_data.py --out DATA [--workers 2] [--seconds 3000]     # about an hour of two cores; resumes

A line of PLANS is some tasks, how many episodes of each, and how their experts are disturbed: noise on what is executed and
starts beyond the task's own show the way back from mistakes. Where the start decides what is seen, many short episodes
teach more than few whole ones. Cheap tasks come first, so that a part of the time gives a part of every domain. What is
complete costs nothing, and `--seconds` begins nothing after that time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gato import demo
from gato.demo import BOXING, tokenizer_in
from gato.recipes.generalist import recipe
from gato.rollouts.collect import collect
from gato.rollouts.loop import CLEAN, Noise
from gato.scenes import generate
from gato.worlds import Task, select, senses
from gato.worlds.traces import find_files

ROOT = Path(__file__).parents[1]
TRACES = ROOT / "traces"

GRID = (CLEAN, Noise(scale=0.1), Noise(scale=0.25))
ARM = (CLEAN, Noise(scale=0.2), Noise(scale=0.1, burst=0.02, burst_steps=10))
STATE = (CLEAN, Noise(scale=0.1, burst=0.02, burst_steps=15), Noise(scale=0.1, burst=0.02, burst_steps=15))
GAME = (CLEAN, Noise(0.1), Noise(0.05, burst=0.01, burst_steps=10))

# Those of DM Control whose experts are formulas: thousandths of a second a step.
FORMULAS = tuple(
    f"{name}-{variant}"
    for name, variants in {
        "cartpole": ("balance", "balance-sparse", "swingup", "swingup-sparse"),
        "pendulum": ("swingup",), "point-mass": ("easy", "hard"), "reacher": ("easy", "hard"),
    }.items()
    for variant in variants
)  # fmt: skip
# Those whose experts plan, and whose plans are among the traces.
PLANNED = tuple(
    f"dm-control-suite/{name}"
    for name in (
        "acrobot-swingup", "ball-in-cup-catch", "cheetah-run", "finger-spin", "finger-turn-easy", "finger-turn-hard", "fish-swim",
        "fish-upright", "hopper-stand", "walker-run", "walker-stand", "walker-walk",
    )
)  # fmt: skip
SLOW_ROOMS = ("miniworld/collect-health", "miniworld/maze", "miniworld/put-next")
SLOW_DOOM = ("vizdoom/deadly-corridor", "vizdoom/health-gathering-supreme")


@dataclass(frozen=True)
class Plan(demo.Plan):
    """The demo's, but `task` is globs, comma-separated, of tasks that have an expert, but for those of `but`."""

    but: Sequence[str] = ()

    def select(self) -> list[Task]:
        return [task for task in select(self.task) if task.expert_name and task.id not in self.but]


PLANS = (
    Plan("babyai/*", 400, GRID),
    Plan("meta-world/*", 100, ARM, 0.5),
    Plan("sokoban/*", 1_000, wide_share=0.5),
    Plan(",".join(f"dm-control-suite/{name}" for name in FORMULAS), 300, STATE, 0.5, 200),
    Plan(",".join(f"dm-control-suite-random-small/{name}" for name in FORMULAS if name != "point-mass-hard"), 300, STATE, 0.5, 200),
    Plan(",".join(f"dm-control-suite-text/{name}" for name in FORMULAS), 100, STATE, 0.5, 150),
    Plan("classic-control/*", 200, STATE, 0.5, but=["classic-control/acrobot-v1"]),
    Plan("box2d/lunar-lander*", 400, STATE, 0.5),
    Plan("gym-mujoco/inverted*", 200, STATE, 0.5, 300),
    Plan("gymnasium-robotics/point-maze*", 200, GAME),
    Plan("gymnasium-robotics/fetch-reach-v4,gymnasium-robotics/fetch-push-v4,gymnasium-robotics/fetch-pick*", 300, ARM),
    Plan("procgen/*[!y]", 100, from_traces=True),
    Plan("dm-manipulation-playground/*,rgb-stacking/triplet-*", 20, from_traces=True),
    Plan(",".join(PLANNED), 30, from_traces=True),
    Plan(",".join(task.replace("suite", "suite-text") for task in PLANNED), 3, from_traces=True),
    Plan(",".join(f"dm-control-suite-pixels/{name}" for name in FORMULAS if name != "point-mass-hard"), 80, STATE, 0.5, 150),
    Plan(",".join(task.replace("suite", "suite-pixels") for task in PLANNED), 10, from_traces=True),
    Plan("miniworld/*", 80, GAME, but=SLOW_ROOMS),
    Plan("vizdoom/*", 60, GAME, but=[*SLOW_DOOM, "vizdoom/deathmatch"]),
    Plan("ale-atari/boxing", 80, GAME, 0.3, 400, policy=BOXING),
    Plan("ale-atari/freeway,ale-atari/breakout,ale-atari/pong", 8, from_traces=True),
    Plan("dm-control-maze/random-goal*,dm-control-maze/many-goals-small,dm-control-maze/many-goals-medium", 30, GAME),
    Plan("dm-manipulation-playground/reach*-features", 60, ARM, 0.5),
    # from here on a task costs minutes
    Plan(",".join(SLOW_ROOMS), 30, GAME),
    Plan(",".join(SLOW_DOOM), 12, GAME),
    Plan("classic-control/acrobot-v1", 20, STATE),
    Plan("gymnasium-robotics/fetch-slide-v4", 6),
    Plan("gym-mujoco/reacher-v5", 30, ARM, 0.5),
    Plan("rgb-stacking/skill-mastery", 10),
)  # fmt: skip
CORPORA = {
    "captions/scenes": 30_000, "captions/rooms": 20_000, "questions/rooms": 40_000, "dialogues/scenes": 8_000,
    "dialogues/program": 4_000, "pages/walkthroughs": 400, "clips/experts": 800, "text/python-docs": 1,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=None)
    args = parser.parse_args()
    began = time.perf_counter()
    print("tokenizer", tokenizer_in(args.out.parent / "tokenizer", recipe.config().vocabulary_size))
    for corpus, count in CORPORA.items():
        generate(args.out, [corpus], scenes=count)
    for plan in PLANS:
        left = None if args.seconds is None else args.seconds - (time.perf_counter() - began)
        if left is not None and left <= 0:
            print("out of time before", plan.task)
            break
        collect_plan(plan, args.out, args.workers, left)


def collect_plan(plan: Plan, out: Path, workers: int, seconds: float | None) -> None:
    began = time.perf_counter()
    tasks = plan.select()
    traces: bool | list[Path] = False
    if plan.from_traces:  # the repository's; a few are in the package
        held = find_files([TRACES])
        traces = [file for task in tasks for sense in senses(task.id) for file in held.get(sense, ())] or True
        tasks = [t for t in tasks if traces is True or any(sense in held for sense in senses(t.id))]
    done = collect(
        tasks, plan.episodes, out, workers, noise=plan.noise, wide_share=plan.wide_share, max_steps=plan.max_steps,
        policy=plan.policy, from_traces=traces, seconds=seconds,
    )  # fmt: skip
    episodes, failed = sum(one.episodes for one in done), sum(one.failed for one in done)
    print(
        f"{time.perf_counter() - began:6.0f} s  {plan.task[:70]}: {len(done)} tasks, {episodes} episodes, {failed} failed"
    )


if __name__ == "__main__":
    main()
