"""The model card: readable as YAML and Markdown, and every number in it is the bundle's or the results'."""

import re

import pytest
import torch
import yaml

from gato.episodes import Spec, TaskSpec
from gato.evaluation.scores import TaskScores, results
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy.card import by_domain, model_card

ACTS = TaskSpec(
    {"x": Spec("continuous", (2,), "float32", (-1.0,), (1.0,))}, {"a": Spec("discrete", (), "int64", (0.0,), (3.0,))}
)
READS = TaskSpec({"text": Spec("text", (), "str")}, {})
DATA = [
    {"task": "meta-world/reach", "episodes": 400, "timesteps": 21_280, "tokens": 936_320},
    {"task": "meta-world/push", "episodes": 100, "timesteps": 720, "tokens": 63_680},
    {"task": "text/python-docs", "episodes": 512, "timesteps": 512, "tokens": 774_828},
]


@pytest.fixture(scope="module")
def bundle(tokenizer) -> Bundle:
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=64, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    torch.manual_seed(0)
    tasks = {"meta-world/reach": ACTS, "meta-world/push": ACTS, "text/python-docs": READS}
    cards = {task: TaskCard(spec, 1) for task, spec in tasks.items()}
    card = {"recipe": {"name": "demo"}, "steps": 3000, "tokens": 1_000_000, "seconds": 5400.0, "data": DATA}
    return Bundle(config, Gato(config).eval(), tokenizer, cards, {"discrete": "greedy"}, card)


def scored(**kinds):
    tasks = [
        TaskScores("meta-world/reach", [1, 1], 0.0, 1.0, "success"),
        TaskScores("meta-world/push", [0, 1, 0, 0], 0.0, 1.0, "success"),
        TaskScores("sokoban/own", [1.0], None, None),
    ]
    return results({}, tasks) | kinds


def test_the_front_matter_is_what_a_hub_reads(bundle):
    """Also with a name and a licence that would break out of a line of YAML."""
    front = yaml.safe_load(
        model_card(bundle, 'a: "b"\n# c', scored(), licence="mit # no").split("\n---\n")[0].removeprefix("---")
    )
    assert front["license"] == "mit # no" and front["library_name"] == "gato-agent"
    assert {"meta-world", "text", "gato"} <= set(front["tags"])
    (model,) = front["model-index"]
    assert model["name"] == 'a: "b"\n# c'
    values = {r["dataset"]["name"]: r["metrics"][0]["value"] for r in model["results"]}
    assert values == {"all domains": 62.5, "meta-world": 62.5}
    from huggingface_hub import ModelCard

    read = ModelCard(model_card(bundle, "lab/agent", scored()))
    assert read.data.license == "apache-2.0"
    assert {r.dataset_name: r.metric_value for r in read.data.eval_results} == values


def test_data_hours_and_scores(bundle):
    assert by_domain(bundle)["meta-world"] == {"tasks": 2, "episodes": 500, "timesteps": 22_000, "tokens": 1_000_000}
    card = model_card(bundle, "lab/agent", scored(), limits=("It has never seen snow.",))
    assert "| `meta-world` | 2 | 500 | 22,000 | 1,000,000 |" in card
    assert "| **all** | **3** | **1,012** | **22,512** | **1,774,828** |" in card
    assert "| hours of training | 1.50 |" in card and f"{bundle.model.num_parameters:,}" in card
    assert "**62.5 % of expert**" in card and "1 of 2 tasks at half" in card
    assert re.search(r"\| `meta-world` \| 2 \| 62\.5 \| \S+ to \S+ \| 1 \|", card)
    assert "1 task played without a percentage" in card and "* It has never seen snow." in card
    assert "have been evaluated" not in card
    part = scored(progress={"known": 5, "evaluated": 3})
    assert "Only 3 of its 5 control tasks" in model_card(bundle, "lab/agent", part)


def test_how_it_is_used_is_three_lines_that_parse(bundle):
    card = model_card(bundle, "lab/agent", address="hf://lab/agent")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(code, "card", "exec")
    assert len(code.splitlines()) == 3 and 'gato.load("hf://lab/agent")' in code and '"meta-world/reach"' in code


def test_what_is_not_known_is_not_said(bundle):
    bare = Bundle(bundle.config, bundle.model, bundle.tokenizer, bundle.tasks, {}, {})
    card = model_card(bare, "lab/agent")
    assert "## Scores" not in card and "model-index" not in card and "hours" not in card
    assert "The bundle does not say." in card
