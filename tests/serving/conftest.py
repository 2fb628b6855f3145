"""A small agent with every ability, and a server that runs for all tests."""

import pytest
import torch

from gato.corpora import TEXT_SPEC, caption_spec, question_spec
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.serving.filmed import PREFIX
from gato.worlds import find, registry

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from real_server import TASK, running


@pytest.fixture(scope="session")
def agent(tokenizer):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=64, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    tasks = {
        TASK: TaskCard(find(TASK).spec, 2),
        "captions/scenes": TaskCard(caption_spec(80, 80)),
        "questions/scenes": TaskCard(question_spec(80, 80)),
        "text/python-docs": TaskCard(TEXT_SPEC),
    }
    acting = {"discrete": "sample", "continuous": "mean", "temperature": 1.0}
    return Agent(Bundle(config, Gato(config).eval(), tokenizer, tasks, acting, {}))


@pytest.fixture(scope="session")
def port(agent):
    with running(agent) as port:
        yield port


@pytest.fixture(autouse=True, scope="module")
def _no_filmed_worlds_are_left():
    """What the page has played is registered in its process; other tests count the package's own tasks."""
    yield
    for name in [n for n in registry() if n.startswith(PREFIX)]:
        del registry()[name]
