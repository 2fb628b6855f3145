"""Errors of single actions on demonstrations: by hand, against the cached agent, and through the command's own path."""

import json

import numpy as np
import pytest
import torch

from gato.cli import main
from gato.episodes import Dataset, Episode, Spec, TaskSpec
from gato.episodes.store import dataset_folder
from gato.errors import EpisodeError
from gato.evaluation.evaluate import evaluate
from gato.evaluation.open_loop import _value, action_errors, as_text, windows
from gato.evaluation.report import write_report
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent, AgentPolicy
from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.rollouts.collect import collect
from gato.sequences import TokenStore
from gato.sequences.returns import tell, told_spec
from gato.worlds import find

TASK = "dummy/count"
SPEC = TaskSpec(
    {"x": Spec("continuous", (2,), "float32", (-1.0,), (1.0,))},
    {
        "button": Spec("discrete", (), "int64", (0.0,), (3.0,)),
        "stick": Spec("continuous", (2,), "float32", (0.0, -2.0), (4.0, 2.0)),
    },
)


def make_agent(tokenizer, task, spec, window=None, continuous="mean", prompt=None, **config):
    torch.manual_seed(0)
    base = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=2,
        vocabulary_size=tokenizer.size, **{"token_sequence_length": 256, **config},
    )  # fmt: skip
    ways = {"discrete": "greedy", "continuous": continuous, "temperature": 1.0}
    return Agent(Bundle(base, Gato(base).eval(), tokenizer, {task: TaskCard(spec, window, prompt)}, ways, {}))


def say_always(agent, logits):
    """Whatever the network sees, its logits are these: {id: logit}, 0 elsewhere."""
    model = agent.bundle.model
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.zero_()
        model.norm.bias[0] = 1.0
        model.embed.table.zero_()
        for index, logit in logits.items():
            model.embed.table[index, 0] = logit


@pytest.mark.parametrize("window", [1, 2, None])
@pytest.mark.parametrize("continuous", ["mean", "greedy"])
def test_by_hand(tokenizer, window, continuous):
    """Button 2 with probability 1/2 (logit log 3 against three zeros); sticks in bin 256, whose centre is -0.499, for
    sure, or, in the mean over an even choice of bins 256 and 767, 0."""
    agent = make_agent(tokenizer, "own/task", SPEC, window, continuous, smooth_bin_rows=False)
    first = agent.bundle.config.vocabulary.continuous
    both = {first + 256: 50.0, first + 767: 50.0 if continuous == "mean" else 40.0}
    say_always(agent, {2: float(np.log(3.0)), **both})
    buttons, sticks = np.array([2, 2, 0, 1, 2]), np.array([[2, 0], [2, 0], [2, 2], [4, 0], [0, -2]], np.float32)
    observed = {"x": np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2)}
    episode = Episode("own/task", observed, {"button": buttons, "stick": sticks}, np.zeros(5, np.float32))
    found = action_errors(agent, "own/task", [episode, episode])
    assert (found["episodes"], found["timesteps"]) == (2, 10)
    button, stick = found["actions"]["button"], found["actions"]["stick"]
    assert button["accuracy"] == found["accuracy"] == pytest.approx(3 / 5)
    assert button["nll"] == pytest.approx((3 * np.log(2) + 2 * np.log(6)) / 5, rel=1e-5)
    if continuous == "mean":  # says (2, 0), the middle: off by 0 0, 0 0, 0 2, 2 0, 2 2
        assert stick["mean_absolute_error"] == pytest.approx(8 / 10, abs=1e-6)
        assert stick["of_half_range"] == found["of_half_range"] == pytest.approx(4 / 10, abs=1e-6)
    else:  # says (2, 0) less 0.499 of half a range of 2, so (1.002, -0.998)
        off = 2 * (256.5 / 512 - 1)
        by_hand = np.abs(np.array([2, 0]) + off - sticks).mean()
        assert stick["mean_absolute_error"] == pytest.approx(by_hand, abs=1e-6)
        assert stick["of_half_range"] == pytest.approx(by_hand / 2, abs=1e-6)
    assert as_text(found).startswith("button right 60.0 % (")
    with pytest.raises(EpisodeError):
        action_errors(agent, "own/task", [])


class Told(AgentPolicy):
    """Executes the demonstrator's actions, and keeps the probabilities of the ids that are theirs."""

    def __init__(self, agent, episode):
        super().__init__(agent.bundle, TASK, 1)
        self._episode, self.log_p, self.likeliest = episode, [], []

    def follow(self, t):
        leaves = {path: leaf[t] for path, leaf in self._episode.actions.items()}
        self.act({0: {p: leaf[t] for p, leaf in _nested(self._episode.observations).items()}}, given={0: leaves})
        for a, (token, block) in enumerate(zip(self._action_ids(0, leaves), self._part[0].legal, strict=True)):
            log_p, row = self._decided[0][a]
            self.log_p.append(float(log_p[row, token - block.low]))
            self.likeliest.append(int(log_p[row].argmax()) == token - block.low)


@pytest.mark.parametrize(
    "window, switches",
    [
        (1, {}), (2, {}), (None, {}), (None, {"parallel_actions": True}), (3, {"parallel_actions": True}),
        (3, {"position": "learned"}), (3, {"position": "xl"}),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_agent_itself_would_have_said(tokenizer, window, switches):
    """The same numbers come out of the acting code, step by step, when it is told what to do: also where a window holds several
    timesteps, of which the first must not know what was before it."""
    agent = make_agent(tokenizer, TASK, find(TASK).spec, window, token_sequence_length=1024, **switches)
    steps = 8
    [episode] = rollout([Unit(TASK, 3, max_steps=steps)], [LocalSlot()], ExpertPolicy())
    told = Told(agent, episode)
    told.reset(0, 0)
    for t in range(len(episode)):
        told.follow(t)
    found = action_errors(agent, TASK, [episode])
    log_p, likeliest = (np.array(kept).reshape(steps, 3) for kept in (told.log_p, told.likeliest))
    assert found["actions"]["button"]["nll"] == pytest.approx(-log_p[:, 0].mean(), rel=1e-4)
    assert found["actions"]["stick"]["nll"] == pytest.approx(-log_p[:, 1:].mean(), rel=1e-4)
    assert found["actions"]["button"]["accuracy"] == likeliest[:, 0].mean()


def _nested(flat):
    """Dots of the counting world's nested leaves, time first, as it gives them."""
    inner = {path.split("/")[1]: leaf for path, leaf in flat.items() if "/" in path}
    outer = {path: leaf for path, leaf in flat.items() if "/" not in path}
    steps = len(next(iter(inner.values())))
    return outer | {"nested": [{name: leaf[t] for name, leaf in inner.items()} for t in range(steps)]}


def test_every_timestep_is_scored_once_and_with_context(tokenizer):
    agent = make_agent(tokenizer, TASK, find(TASK).spec)
    episodes = list(rollout([Unit(TASK, s) for s in range(3)], [LocalSlot()], ExpertPolicy()))
    store = TokenStore.build(TASK, agent.bundle.codec(TASK), episodes)
    for room in (60, 256, 10_000):
        for e in range(3):
            parts = list(windows(store, e, room, None))
            scored = [t for _, stop, score in parts for t in range(score, stop)]
            assert scored == list(range(int(store.episodes[e]), int(store.episodes[e + 1])))
            for first, stop, score in parts:
                assert store.starts[stop] - store.starts[first] <= max(
                    room, store.starts[score + 1] - store.starts[score]
                )
                if room == 256 and score > store.episodes[e]:
                    context = store.starts[score] - store.starts[first]
                    assert 128 - 60 < context <= 128  # half a window, but for a timestep
    first = int(store.episodes[1])
    assert list(windows(store, 1, 60, 2))[:3] == [
        (first + a, first + b, first + c) for a, b, c in ((0, 1, 0), (0, 2, 1), (1, 3, 2))
    ]


def test_a_prompt_is_in_sight(tokenizer):
    prompt, *episodes = rollout([Unit(TASK, s) for s in range(3)], [LocalSlot()], ExpertPolicy())
    plain, prompted = (make_agent(tokenizer, TASK, find(TASK).spec, 1, prompt=p) for p in (None, prompt))
    a, b = (action_errors(agent, TASK, episodes) for agent in (plain, prompted))
    assert a["timesteps"] == b["timesteps"] == sum(map(len, episodes))
    assert a["context"] == "1 timestep" and b["context"] == "the window, behind a prompt"
    assert a["actions"]["button"]["nll"] != b["actions"]["button"]["nll"]


def test_demonstrations_are_told_what_the_network_was_told(tokenizer, tmp_path):
    """A bundle that reads ranks and rewards takes the datasets that it was trained on, and reads their own in them."""
    spec = told_spec(find(TASK).spec, 4, True)
    agent = make_agent(tokenizer, TASK, spec, 1)
    agent.bundle.save(tmp_path / "bundle")
    collect([find(TASK)], 3, tmp_path / "data", workers=0, policy="random", progress=False)
    dataset = Dataset.open(dataset_folder(tmp_path / "data", TASK))
    words = ["evaluate", tmp_path / "bundle", "--teacher-forced", "--data", tmp_path / "data", "--out", tmp_path / "out",
             "--episodes", 2, "--workers", 0, "--no-film", "--device", "cpu"]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main([str(w) for w in words])
    assert stopped.value.code == 0
    [entry] = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]
    told = [tell(dataset[i], spec, dataset.returns) for i in range(2)]
    assert {"last_reward", "return_rank"} <= set(told[0].observations)
    assert entry["teacher_forced"]["episodes"] == 2
    expected = action_errors(agent, TASK, told)["actions"]
    for path, leaf in entry["teacher_forced"]["actions"].items():
        assert leaf["nll"] == pytest.approx(expected[path]["nll"], rel=1e-6)


def test_beside_the_scores_and_on_the_page(tokenizer, tmp_path):
    agent = make_agent(tokenizer, TASK, find(TASK).spec, 1)
    episodes = list(rollout([Unit(TASK, s) for s in range(2)], [LocalSlot()], ExpertPolicy()))
    record = evaluate(
        agent, [find(TASK)], 2, tmp_path, workers=0, film=False, progress=False, demonstrations={TASK: episodes}
    )
    [entry] = json.loads((tmp_path / "results.json").read_text())["tasks"]
    assert entry["teacher_forced"] == record["tasks"][0]["teacher_forced"] == action_errors(agent, TASK, episodes)
    page = write_report(tmp_path).read_text()
    assert (
        "Single actions on held-out demonstrations" in page
        and f"{entry['teacher_forced']['actions']['button']['nll']:.2f}" in page
    )


def test_an_action_that_can_only_have_one_value(tokenizer):
    """Nothing of it can be missed: half the error of the other value, and a number that JSON has."""
    errors = []
    for low, high in (((-1.0, 3.0), (1.0, 3.0)), ((-1.0,), (1.0,))):
        spec = TaskSpec(SPEC.observation, {"stick": Spec("continuous", (len(low),), "float32", low, high)})
        agent = make_agent(tokenizer, "own/task", spec, 1)
        said = np.tile(np.array([0.5, 3.0], np.float32)[: len(low)], (4, 1))
        episode = Episode("own/task", {"x": np.zeros((4, 2), np.float32)}, {"stick": said}, np.zeros(4, np.float32))
        say_always(agent, {agent.bundle.config.vocabulary.continuous + 511: 50.0})
        errors.append(action_errors(agent, "own/task", [episode])["of_half_range"])
    assert errors[0] == pytest.approx(errors[1] / 2) and errors[1] > 0.1


def test_a_temperature_that_is_nearly_none():
    """Divided by as it is, every log p would be -inf and the mean no number."""
    log_p = np.log(np.full((2, 1024), 1 / 2048)).astype(np.float32)
    log_p[0, 256] = log_p[1, 767] = np.log(1025 / 2048)
    assert _value(log_p, {"continuous": "mean", "temperature": 1e-320}) == pytest.approx([-0.499, 0.499], abs=1e-3)
