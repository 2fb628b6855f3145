"""One network on one recipe, learned from datasets of four origins at once: Minari, LeRobot, JAT and ours.

It acts where there is a world, and where there is none the errors of its actions on held-out recordings are told.
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "episodes"))
from make_recordings import make_jat, make_lerobot, make_minari

from gato import cli
from gato.evaluation.open_loop import action_errors
from gato.model.bundle import Bundle
from gato.policy import Agent, load

for module in ("minari", "h5py", "av", "datasets"):
    pytest.importorskip(module)


def gato(*words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code or 0


def test_four_origins_one_agent(tmp_path, capsys):
    data, rest = tmp_path / "data", tmp_path / "heldout"
    minari, lerobot = make_minari(tmp_path / "minari"), make_lerobot(tmp_path / "lerobot", episodes=9)
    jat = make_jat(tmp_path / "jat", episodes=6)["mujoco-steer"]
    assert gato("collect", "dummy/count", "--episodes", 4, "--workers", 0, "--out", data) == 0
    assert gato("data", "import", "minari", minari, "--task", "gym/CartPole-v1", "--world", "--out", data) == 0
    for out, split in ((data, "train"), (rest, "heldout")):
        assert gato("data", "import", "auto", lerobot, "--task", "lab/steer", "--split", split, "--out", out) == 0
        assert gato("data", "import", "auto", jat, "--split", split, "--out", out) == 0
    small = [
        "size=tiny",
        "model.num_transformer_blocks=1",
        "window_tokens=128",
        "slots=4",
        "slot_tokens=128",
        "prompt_share=0",
    ]
    words = [
        "train",
        "tiny",
        "--data",
        data,
        "--out",
        tmp_path / "train",
        "--steps",
        40,
        "--processes",
        1,
        "--device",
        "cpu",
    ]
    assert gato(*words, "--set", *small) == 0
    capsys.readouterr()

    # In the worlds that are here it acts; on the recordings of those that are not, its actions are compared.
    bundle, out = tmp_path / "train", tmp_path / "evaluation"
    words = ["evaluate", bundle, "--episodes", 2, "--workers", 0, "--no-film", "--json", "--device", "cpu"]
    assert gato(*words, "--teacher-forced", "--data", rest, "--out", out) == 0
    forced = json.loads(capsys.readouterr().out)["teacher_forced"]
    record = json.loads((out / "results.json").read_text())
    assert {t["id"] for t in record["tasks"]} == {"dummy/count", "gym/CartPole-v1"}
    assert set(record["open_loop"]) == set(forced) == {"jat/mujoco-steer", "lab/steer"}
    assert "lab/" in (out / "report.html").read_text()

    # Better than a network that learned nothing, on the same episodes.
    agent = load(bundle)
    torch_seeded = _untrained(agent.bundle)
    for task, errors in forced.items():
        from gato.episodes import Dataset

        held_out = list(Dataset(rest / task))[:2]
        before = action_errors(torch_seeded, task, held_out)
        assert errors["actions"]["action"]["nll"] < before["actions"]["action"]["nll"] - 0.5, task
        assert 0 < errors["of_half_range"] < 1

    # Without demonstrations there is nothing to be said of them, and that is said.
    assert gato(*words, "--tasks", "lab/*", "--out", tmp_path / "nothing") == 2
    assert "no world to play lab/steer in" in capsys.readouterr().err
    assert gato(*words, "--tasks", "lab/*", "--teacher-forced", "--data", rest, "--out", tmp_path / "alone") == 0
    assert json.loads((tmp_path / "alone" / "results.json").read_text())["tasks"] == []
    assert gato(*words, "--tasks", "gym/CartPole-v1,lab/steer", "--out", tmp_path / "played") == 0
    assert "not played" in capsys.readouterr().err


def _untrained(bundle: Bundle) -> Agent:
    import torch

    from gato.model import Gato

    torch.manual_seed(0)
    return Agent(Bundle(bundle.config, Gato(bundle.config).eval(), bundle.tokenizer, bundle.tasks, bundle.acting, {}))
