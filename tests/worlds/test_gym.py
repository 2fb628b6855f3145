"""Any Gymnasium id is a task; any function of the user's is an expert."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from gato.errors import ExpertError, SimulatorMissingError, SpecError, UnknownNameError
from gato.rollouts.loop import ExpertPolicy, LocalSlot, RandomPolicy, Unit, rollout
from gato.testing import check_task
from gato.worlds import find
from gato.worlds.gym import gym_task, load_expert

PACKAGE = """
import gymnasium, numpy as np
from gymnasium import spaces

class Everything(gymnasium.Env):
    observation_space = spaces.Dict({
        "camera": spaces.Box(0, 255, (3, 32, 48), np.uint8),
        "state": spaces.Tuple((spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(5, start=-2))),
        "flags": spaces.MultiBinary(3), "words": spaces.Text(20), "dials": spaces.MultiDiscrete([2, 3]),
    })
    action_space = spaces.Tuple((spaces.Discrete(3, start=1), spaces.Box(-2, 5, (2,))))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert not options, options
        return self.observe(), {"quiet": True}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.observe(), 1.0, False, False, {"loud": True}

    def observe(self):
        r = self.np_random
        return {
            "camera": r.integers(256, size=(3, 32, 48), dtype=np.uint8),
            "state": (r.normal(size=2).astype(np.float32), r.integers(-2, 3)),
            "flags": r.integers(2, size=3, dtype=np.int8), "words": "a" * int(r.integers(1, 9)),
            "dials": np.array([1, 2]),
        }

class Unbounded(Everything):
    action_space = spaces.Box(-np.inf, np.inf, (2,))

class Named(Everything):
    action_space = spaces.Dict({"action": spaces.Discrete(2)})

class Needy(Everything):
    def __init__(self):
        import a_simulator_that_nobody_has

gymnasium.register("Everything-v0", entry_point=Everything)
gymnasium.register("Unbounded-v0", entry_point=Unbounded, max_episode_steps=7)
gymnasium.register("Named-v0", entry_point=Named)
gymnasium.register("Needy-v0", entry_point=Needy)

def lean(env, seed):
    return lambda observation, info: int(observation[2] > 0)

broken = 3
"""


@pytest.fixture
def my_package(tmp_path, monkeypatch):
    """A module in the current directory, as a user has it."""
    (tmp_path / "my_package.py").write_text(PACKAGE)
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "imports.py").write_text("import a_module_that_nobody_has")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    yield "my_package"
    sys.modules.pop("my_package", None)
    for name in ("Everything-v0", "Unbounded-v0", "Named-v0", "Needy-v0"):
        gymnasium.registry.pop(name, None)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Acrobot-v1"])
def test_known_environments_keep_the_contract(env_id):
    # Taking one path through one frozen lake, seeds need not differ within twenty steps.
    skip = ("seeds-differ",) if env_id == "FrozenLake-v1" else ()
    assert "same-seed" in check_task(f"gym/{env_id}", steps=50, skip=skip).held


def test_limits_and_score_are_read_from_the_environment():
    task = gym_task("CartPole-v1")
    assert (task.id, task.max_steps, task.score, task.domain) == ("gym/CartPole-v1", 500, "return", "gym")
    assert task.references == {} and task.make_expert is None
    assert str(task.spec.observation["observation"]) == "continuous 4"


def test_every_kind_of_space_goes_through(my_package):
    task = find(f"gym/{my_package}:Everything-v0")
    kinds = {path: s.kind for path, s in task.spec.observation.items()}
    assert kinds == {
        "camera": "image", "dials": "discrete", "flags": "discrete",
        "state/0": "continuous", "state/1": "discrete", "words": "text",
    }  # fmt: skip
    assert task.spec.observation["camera"].shape == (32, 48, 3)
    [episode] = rollout([Unit(task.id, 3, wide=True, max_steps=6)], [LocalSlot()], RandomPolicy())
    assert episode.observations["camera"].shape == (6, 32, 48, 3) and len(episode.observations["words"]) == 6
    assert set(episode.actions["0"]) <= {1, 2, 3} and episode.actions["1"].shape == (6, 2)
    assert check_task(task, steps=20).skipped.keys() == {"success", "expert"}


def test_an_environment_without_a_limit_is_cut(my_package):
    task = gym_task(f"{my_package}:Everything-v0")
    env = task.make()
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[3] for _ in range(task.max_steps)]
    assert ends.index(True) == task.max_steps - 1 == 999


def test_unknown_ids_name_the_nearest():
    with pytest.raises(UnknownNameError, match="gym/CartPole-v1") as caught:
        find("gym/CartPol-v1")
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownNameError, match="CartPole"):
        find("gym/CartPole")
    with pytest.raises(UnknownNameError):
        find("gym/nothing like it")


def test_an_unbounded_action_space_says_what_to_pass(my_package):
    with pytest.raises(SpecError, match="RescaleAction"):
        _ = find(f"gym/{my_package}:Unbounded-v0").spec


def test_a_dict_of_one_action_by_that_name_says_to_rename_it(my_package):
    with pytest.raises(SpecError, match="one key is 'action'") as caught:
        _ = find(f"gym/{my_package}:Named-v0").spec
    assert "rename" in caught.value.fix


def test_missing_dependencies_are_named(my_package):
    with pytest.raises(SimulatorMissingError, match="a_simulator_that_nobody_has"):
        find(f"gym/{my_package}:Needy-v0").make()
    with pytest.raises(SimulatorMissingError, match="no_such_package"):
        find("gym/no_such_package:Everything-v0")


def test_an_expert_of_the_users_own(my_package):
    make = load_expert(f"{my_package}:lean")
    units = [Unit("gym/CartPole-v1", seed) for seed in range(3)]
    lean = np.mean([len(e) for e in rollout(units, [LocalSlot()], ExpertPolicy(make))])
    luck = np.mean([len(e) for e in rollout(units, [LocalSlot()], RandomPolicy())])
    assert lean > luck


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("no_colon", UnknownNameError, "module:function"),
        ("my_pakage:lean", UnknownNameError, "no module 'my_pakage'"),
        ("my_package:leen", UnknownNameError, "lean"),
        ("my_package:broken", UnknownNameError, "no function 'broken'"),
        ("raises:f", ExpertError, "ZeroDivisionError"),
        ("imports:f", ExpertError, "a_module_that_nobody_has"),
    ],
)
def test_experts_that_are_not_there(my_package, name, error, said):
    with pytest.raises(error, match=said):
        load_expert(name)


def test_drawing_without_a_screen_says_nothing(tmp_path):
    """SDL, left to itself, looks for a screen and calls it an error that there is none."""
    pytest.importorskip("pygame")
    code = (
        "import os\n"
        "from gato.worlds import find\n"
        "env = find('classic-control/cartpole-v1').make(render=True); env.reset(seed=0)\n"
        "print(env.render().shape, os.environ.get('SDL_VIDEODRIVER'))\n"
    )
    bare = {
        k: v
        for k, v in os.environ.items()
        if k not in ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=bare, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("(400, 600, 3) None\n", "")
