"""The counting world counts, and its faulty twins go wrong where they say."""

import pickle

import numpy as np
import pytest

from gato.episodes import check_values, flatten
from gato.errors import ObservationError
from gato.rollouts.loop import ExpertPolicy, LocalSlot, Noise, RandomPolicy, Unit, rollout
from gato.worlds import Task, find, register
from gato.worlds.dummy import counting_expert, is_right, make_faulty, observe, right_action


def test_every_leaf_says_the_count():
    seen = [flatten(observe(c), "observation") for c in range(128)]
    # Those that wrap around are left out: alone they do not tell the count.
    for path in ("image", "text", "digits", "binary", "nested/ramp", "nested/unbounded"):
        assert len({str(np.asarray(o[path]).tolist()) for o in seen}) == 128, path
    assert seen[37]["text"] == "step 37"
    assert (seen[37]["image"] == 37).all()
    assert seen[37]["digits"].tolist() == [0, 3, 7]
    assert int("".join(map(str, seen[37]["binary"])), 2) == 37


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_shifted_action_is_wrong(shift):
    assert all(is_right(c, right_action(c)) for c in range(128))
    assert not any(is_right(c, right_action(c + shift)) for c in range(1, 127))


def test_all_kinds_of_specs_are_there():
    kinds = {s.kind for s in find("dummy/count").spec.observation.values()}
    assert kinds == {"text", "image", "discrete", "continuous"}
    assert list(find("dummy/count").spec.action) == ["button", "stick"]


def test_the_recorded_expert_is_right_at_every_step():
    units = [Unit("dummy/count", seed) for seed in range(6)]
    episodes = {e.info["seed"]: e for e in rollout(units, [LocalSlot(), LocalSlot()], ExpertPolicy())}
    assert len({len(e) for e in episodes.values()}) > 1, "episodes of several lengths"
    assert len({int(e.observations["image"][0, 0, 0, 0]) for e in episodes.values()}) > 1, "seeds start elsewhere"
    for e in episodes.values():
        counts = e.observations["image"][:, 0, 0, 0].astype(int)
        assert (np.diff(counts) == 1).all()
        assert e.observations["text"] == [f"step {c}" for c in counts]
        assert (e.actions["button"] == counts % 16).all()
        assert e.total_return == len(e) and e.success


def test_targets_stay_right_under_noise():
    [episode] = rollout([Unit("dummy/count", 1, Noise(0.3))], [LocalSlot()], ExpertPolicy())
    counts = episode.observations["image"][:, 0, 0, 0]
    assert all(is_right(int(c), {k: v[t] for k, v in episode.actions.items()}) for t, c in enumerate(counts))
    assert not episode.success and episode.total_return < len(episode)


def test_random_play_earns_next_to_nothing():
    episodes = list(rollout([Unit("dummy/count", s) for s in range(5)], [LocalSlot()], RandomPolicy()))
    assert sum(e.total_return for e in episodes) <= 1


@pytest.mark.parametrize(
    "kind", ["nan", "inf", "wrong-shape", "wrong-dtype", "out-of-range", "missing-key", "extra-key", "object"]
)
def test_faulty_observations_are_caught_with_task_step_and_field(kind):
    task = register(Task(f"dummy/{kind}", make_faulty(kind, at=3), counting_expert, max_steps=40))
    with pytest.raises(ObservationError) as caught:
        list(rollout([Unit(task.id, 5)], [LocalSlot()], RandomPolicy()))
    assert f"dummy/{kind} seed 5 step 3" in caught.value.where


def test_faults_can_be_limited_to_seeds_and_to_once(tmp_path):
    env = make_faulty("raise-reset", seeds=(4,))()
    env.reset(seed=3)
    with pytest.raises(RuntimeError):
        env.reset(seed=4)
    make = pickle.loads(pickle.dumps(make_faulty("nan", at=0, once=tmp_path / "flag")))
    spec = find("dummy/count").spec
    with pytest.raises(ObservationError):
        check_values(spec.observation, flatten(make().reset(seed=1)[0], "observation"), "first")
    check_values(spec.observation, flatten(make().reset(seed=1)[0], "observation"), "second")
