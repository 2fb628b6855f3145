"""Modular RL: every body is a part of the whole one, stands on the floor, and its expert runs."""

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("gymnasium")

from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.worlds import find
from gato.worlds.modular_rl import FAMILIES, MAX_STEPS, body_spec, morphologies, tasks


def test_how_many():
    """More than the paper's 38, of its families, none twice."""
    bodies = list(morphologies())
    assert len({name for name, *_ in bodies}) == len({(f, kept) for _, f, kept in bodies}) == 39
    assert {family for _, family, _ in bodies} == set(FAMILIES)
    assert len(tasks()) == 39


@pytest.mark.parametrize("name, family, kept", list(morphologies()), ids=lambda v: v if isinstance(v, str) else "")
def test_a_body_is_a_part_of_the_whole(name, family, kept):
    whole = body_spec(family, tuple(len(limb) for limb in FAMILIES[family].limbs))
    part = body_spec(family, kept)
    bodies, all_bodies = {b.name for b in part.bodies}, {b.name for b in whole.bodies}
    lost = {b for limb, n in zip(FAMILIES[family].limbs, kept, strict=True) for b in limb[n:]}
    assert bodies <= all_bodies and not bodies & lost and "torso" in bodies
    model = part.compile()
    joints = {model.joint(i).name for i in range(model.njnt)}
    assert {a.target for a in part.actuators} <= joints and model.nu == len(part.actuators) > 0


def test_it_starts_on_the_floor_and_runs_for_a_thousand_steps():
    for name in ("walker-2-1", "cheetah-0-2", "hopper-1", "humanoid-legs-1-1-arms-0-0"):
        env = find(f"modular-rl/{name}").make()
        for seed in range(3):
            env.reset(seed=seed, options={"wide": seed == 2})
            assert -0.01 < env.unwrapped._lowest() < 0.35
    env = find("modular-rl/cheetah-0-1").make()
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(MAX_STEPS)]
    assert ends[-1] == (False, True) and not any(any(end) for end in ends[:-1])


def test_the_bonus_is_for_standing():
    env = find("modular-rl/hopper-3").make()
    env.reset(seed=0)
    upright = env.step(np.zeros(3, np.float32))[1]
    for _ in range(300):
        fallen = env.step(np.zeros(3, np.float32))[1]
    assert upright == pytest.approx(1.0, abs=0.3) and fallen == pytest.approx(0.0, abs=0.3)


def test_motors_of_a_humanoid_are_as_strong_as_gymnasiums():
    env = find("modular-rl/humanoid-legs-2-2-arms-2-2").make()
    model = body_spec("humanoid", (2, 2, 2, 2)).compile()
    np.testing.assert_allclose(
        env.unwrapped.physics.model.ptr.actuator_gear[:, 0], model.actuator_gear[:, 0] * model.actuator_ctrlrange[:, 1]
    )
    assert (env.action_space.high == 1).all()


def test_the_expert_moves_a_body_forwards():
    (episode,) = rollout([Unit("modular-rl/cheetah-1-1", 0, max_steps=25)], [LocalSlot()], ExpertPolicy())
    assert episode.total_return > 5
