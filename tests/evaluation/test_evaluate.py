"""Evaluation: scores that no number of workers changes, and how fast they were made."""

import json

import pytest
import torch

from gato.evaluation.evaluate import evaluate
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.worlds import find


@pytest.mark.parametrize(
    "real", ["babyai/go-to-local", pytest.param("dm-control-suite/cartpole-swingup", marks=pytest.mark.slow)]
)
def test_the_same_scores_from_one_worker_and_from_eight(tokenizer, tmp_path, capfd, real):
    """Bit for bit, with actions sampled: the counting world and a simulator, eight episodes side by side."""
    tasks = [find("dummy/count"), find(real)]
    if not tasks[1].installed:
        pytest.skip(tasks[1].pip_line)
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    cards = {task.id: TaskCard(task.spec, 1) for task in tasks}
    ways = {"discrete": "sample", "continuous": "sample", "temperature": 1.0}
    agent = Agent(Bundle(config, Gato(config).eval(), tokenizer, cards, ways, {}))
    found = {}
    for workers in (1, 8):
        out = tmp_path / str(workers)
        evaluate(agent, tasks, 8, out, workers=workers, film=False)
        found[workers] = json.loads((out / "results.json").read_text())
    for one, eight in zip(found[1]["tasks"], found[8]["tasks"], strict=True):
        for facts in (one["facts"], eight["facts"]):
            assert facts.pop("seconds") >= 0 and facts.pop("steps_per_second") > 0
        assert one == eight
        assert len(one["episode_scores"]) == 8
    assert any(len(set(task["episode_scores"])) > 1 for task in found[1]["tasks"])
    assert found[1]["aggregates"] == found[8]["aggregates"]
    protocol = found[8]["protocol"]
    assert protocol["environment_steps"] == sum(t["facts"]["environment_steps"] for t in found[8]["tasks"])
    assert protocol["environment_steps_per_second"] > 0
    assert "dummy/count: " in (said := capfd.readouterr().err) and "steps/s" in said
