"""What people do that nobody planned for: tuples, contexts that end, prompts that do not fit, pictures that are none."""

import json

import numpy as np
import pytest
import torch

from gato.cli import main
from gato.corpora import TEXT_SPEC, caption_spec, question_spec
from gato.episodes import Episode, Spec, TaskSpec
from gato.errors import CheckpointMismatchError, DataError, ObservationError, UnknownNameError, UsageError
from gato.evaluation.watching import watch
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.policy.acting import check_acting
from gato.policy.agent import Written, nest
from gato.policy.hub import split_address
from gato.policy.jobs import finished, run_jobs
from gato.sequences.returns import told_spec
from gato.serving import checks
from gato.worlds import find

PICTURE = np.zeros((16, 16, 3), np.uint8)
CHOICE = TaskSpec({}, {"action": Spec("discrete", (), "int64", (0.0,), (4.0,))}).action


def seen(size):
    return {"state": Spec("continuous", (size,), "float32", (-np.inf,) * size, (np.inf,) * size)}


def make_agent(tokenizer, cards, **config):
    torch.manual_seed(0)
    tiny = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=64, num_transformer_blocks=2,
        vocabulary_size=tokenizer.size, **config,
    )  # fmt: skip
    return Agent(Bundle(tiny, Gato(tiny).eval(), tokenizer, cards, {"discrete": "greedy", "continuous": "mean"}, {}))


def test_learned_positions_end_where_the_context_does(tokenizer):
    """A text that is written to the end of it, and slots whose observations differ in length, near the end."""
    text = {"note": Spec("text", (), "str")} | seen(4)
    cards = {
        "text/x": TaskCard(TEXT_SPEC), "lab/short": TaskCard(TaskSpec(seen(4), CHOICE)),
        "lab/long": TaskCard(TaskSpec(seen(90), CHOICE)), "lab/told": TaskCard(TaskSpec(text, CHOICE)),
    }  # fmt: skip
    agent = make_agent(tokenizer, cards, position="learned", token_sequence_length=128)
    assert agent.complete("return the list", max_tokens=500, temperature=0.0)
    policy = agent.policy(["lab/short", "lab/long"], 2)
    policy.reset(0, 0, "lab/short")
    policy.reset(1, 0, "lab/long")
    for _ in range(60):
        policy.act({0: {"state": np.zeros(4, np.float32)}, 1: {"state": np.zeros(90, np.float32)}})
    policy = agent.policy("lab/told", 2)
    for _ in range(60):
        policy.act({i: {"note": "go " * (1 + 12 * i), "state": np.zeros(4, np.float32)} for i in (0, 1)})


def test_a_text_of_n_tokens_takes_n_passes(tokenizer, monkeypatch):
    agent, passes = make_agent(tokenizer, {"text/x": TaskCard(TEXT_SPEC)}), []
    whole = agent._generate(
        agent.bundle.codec("text/x"), agent.bundle.codec("text/x").encode_observations({"text": ["key"]}, 1), 9, 0.0
    )
    import gato.policy.agent as module

    feed = module.feed
    monkeypatch.setattr(module, "feed", lambda *args, **kw: passes.append(1) or feed(*args, **kw))
    assert [agent.complete("key", max_tokens=9, temperature=0.0)] == whole and len(passes) == 9


def test_a_prompt_that_does_not_fit_is_no_prompt(tokenizer):
    prompt = Episode(
        "lab/a", {"state": np.zeros((3, 40), np.float32)}, {"action": np.array([1, 2, 3])}, np.zeros(3, np.float32)
    )
    card = TaskCard(TaskSpec(seen(40), CHOICE), prompt=prompt)
    with_prompt = make_agent(tokenizer, {"lab/a": card}, token_sequence_length=64).policy("lab/a", 1)
    without = make_agent(tokenizer, {"lab/a": TaskCard(card.spec)}, token_sequence_length=64).policy("lab/a", 1)
    for policy in (with_prompt, without):
        policy.reset(0, 0)
        policy.act({0: {"state": np.ones(40, np.float32)}})
    np.testing.assert_array_equal(with_prompt.probabilities(0)[0], without.probabilities(0)[0])


def test_what_a_network_is_told_of_returns_need_not_come_from_the_world(tokenizer):
    task = find("classic-control/cartpole-v1")
    agent = make_agent(tokenizer, {task.id: TaskCard(told_spec(task.spec, 4, True))})
    moments = []
    assert len(watch(agent, task, agent.policy(task.id, 1), [1], moments.append, 3)[0]) == 3
    assert len(moments[-1].tokens) == 4 + 2 + 2  # four values, rank and reward, separator and action


def test_tuples_come_back_as_tuples():
    assert nest({"0": np.array(1), "1": np.ones(2)})[0] == 1
    nested = nest({"arm/0": np.array(1), "arm/1/left": np.array(2), "leg": np.array(3)})
    assert nested == {"arm": (1, {"left": 2}), "leg": 3}
    spec = TaskSpec({"0": seen(2)["state"], "1/a/0": seen(1)["state"]}, CHOICE)
    leaves = checks.observation(spec, [[0.5, 1.0], {"a": [[2.0]]}], 10)
    assert leaves["0"].tolist() == [0.5, 1.0] and leaves["1/a/0"].tolist() == [2.0]


def test_what_cannot_be_told_of(tokenizer):
    cards = {
        "captions/x": TaskCard(caption_spec(16, 16)), "questions/x": TaskCard(question_spec(16, 16)),
        "lab/a": TaskCard(TaskSpec(seen(4), CHOICE)),
    }  # fmt: skip
    agent = make_agent(tokenizer, cards)
    with pytest.raises(UnknownNameError, match="captions/x"):
        agent.caption(PICTURE, task="captions/y", max_tokens=2)
    with pytest.raises(UsageError, match="lab/a"):
        agent.caption(PICTURE, task="lab/a", max_tokens=2)
    with pytest.raises(UsageError, match="questions/x has no captions"):
        agent.caption(PICTURE, task="questions/x", max_tokens=2)
    assert agent.answers([], []) == []
    with pytest.raises(UsageError, match="1 pictures and 2 questions"):
        agent.answers([PICTURE], ["a?", "b?"], 2)
    for wrong in (PICTURE.transpose(2, 0, 1), PICTURE / 255, None, PICTURE[:0]):
        with pytest.raises(DataError, match="no picture"):
            agent.caption(wrong, max_tokens=2)
    assert agent.caption(PICTURE[..., :1], max_tokens=2) == agent.caption(PICTURE[..., 0], max_tokens=2)
    for top in (np.inf, np.nan):
        with pytest.raises(UsageError, match="top_k"):
            agent.policy("lab/a", 1, top_k=top)
    for address in ("hf://a/b.git", "hf://a/b..c"):
        with pytest.raises(UsageError, match="no place on the Hub"):
            split_address(address)


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 5e-324])
def test_the_smallest_temperature_is_greedy(tokenizer, temperature):
    """Divided by it as they are, log probabilities are infinite, and what is made of them NaN."""
    task = find("classic-control/cartpole-v1")
    arm = {"action": Spec("continuous", (2,), "float32", (-1.0, -1.0), (1.0, 1.0))}
    cards = {task.id: TaskCard(task.spec), "lab/arm": TaskCard(TaskSpec(seen(4), arm)), "text/x": TaskCard(TEXT_SPEC)}
    agent = make_agent(tokenizer, cards)
    state, sampled = np.array([0.1, -0.2, 0.3, 0.4], np.float32), {"discrete": "sample", "temperature": temperature}
    for name, observation in ((task.id, state), ("lab/arm", {"state": state})):
        greedy = agent.session(name, discrete="greedy", continuous="greedy").act(observation)
        for manner in ("sample", "mean"):
            policy = agent.policy(name, 1, **sampled, continuous=manner, top_k=2)
            policy.reset(0, 0)
            chosen = policy.act({0: observation})[0]["action"]
            np.testing.assert_allclose(chosen, greedy, atol=1e-6)
            assert all(p.max() == 1 and p.sum() == 1 for p in policy.probabilities(0))
    assert agent.complete("key", 9, temperature) == agent.complete("key", 9, 0.0)


def test_what_is_drawn_does_not_depend_on_who_is_beside(tokenizer):
    """A caption is the same alone and among others; of two that are asked for the same picture each is drawn anew."""
    agent = make_agent(tokenizer, {"captions/x": TaskCard(caption_spec(16, 16))})
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(3)]
    together = agent.captions(pictures, 8, temperature=1.5)
    assert together == [agent.caption(picture, 8, temperature=1.5) for picture in pictures]
    assert together[::-1] == agent.captions(pictures[::-1], 8, temperature=1.5)
    assert len({*agent.captions(pictures[:1] * 4, 8, temperature=1.5)}) == 4


def test_how_far_back_is_decided_when_it_begins(tokenizer):
    task = find("classic-control/cartpole-v1")
    policy = make_agent(tokenizer, {task.id: TaskCard(task.spec)}).policy(task.id, 1)
    with pytest.raises(UsageError, match="memory='xl'"):
        policy.change(memory="xl")
    policy.change(memory="window", temperature=0.5)
    assert policy.acting["memory"] == "window"


def test_what_no_sampling_begins_from(tokenizer):
    agent = make_agent(tokenizer, {"lab/a": TaskCard(TaskSpec(seen(4), CHOICE)), "text/x": TaskCard(TEXT_SPEC)})
    for seed in (-1, 1.5, "x"):
        with pytest.raises(UsageError, match="seed"):
            agent.session("lab/a", seed=seed)
        with pytest.raises(UsageError, match="seed"):
            agent.chat("hi", 2, seed=seed)
    with pytest.raises(UsageError, match="temperature"):
        agent.chat("hi", 2, float("nan"))
    assert agent.chat("hi", 2, seed=np.int64(3)) == agent.chat("hi", 2, seed=3)


def test_lists_of_different_lengths_are_no_observation(tokenizer):
    session = make_agent(tokenizer, {"lab/a": TaskCard(TaskSpec(seen(4), CHOICE))}).session("lab/a")
    with pytest.raises(ObservationError, match="lab/a slot 0"):
        session.act({"state": [0, [1, 2], 0, 0]})
    assert session.act({"state": [0, 0, 0, 0]}) in range(5)


def test_it_is_known_how_a_text_came_about(tokenizer, ends_at):
    """Its tokens are those the network chose: decoded and encoded again there may be others, and the end mark is none."""
    agent = make_agent(tokenizer, {"text/x": TaskCard(TEXT_SPEC), "captions/x": TaskCard(caption_spec(16, 16))})
    text = agent.complete("key", 12, seed=3)
    assert agent.written == Written(12, cut=True) and len(tokenizer.encode(text)) != 12
    ends_at(agent, 6)
    "".join(agent.chat_pieces("key", 12, seed=3))
    assert agent.written == Written(5, cut=False)
    agent.captions([PICTURE, PICTURE], 4)
    assert agent.written == Written(8, cut=True)


def test_a_bundle_of_another_format_is_named(tokenizer, tmp_path, monkeypatch):
    bundle = make_agent(tokenizer, {"text/x": TaskCard(TEXT_SPEC)}).bundle
    with monkeypatch.context() as changed:
        changed.setattr("gato.model.bundle.FORMAT", 99)
        bundle.save(tmp_path / "b")
    with pytest.raises(CheckpointMismatchError, match="format 99"):
        Bundle.load(tmp_path / "b")


def test_jobs_that_have_a_caption_already_go_on(tmp_path):
    jobs = [{"image": name, "caption": "by a person"} for name in "ab"]
    said = lambda part: [{"caption": f"of {job['image']}"} for job in part]  # noqa: E731
    assert run_jobs(jobs[:1], said, tmp_path / "out.jsonl").done == 1
    assert run_jobs(jobs, said, tmp_path / "out.jsonl").done == 1
    assert [record["caption"] for record in finished(tmp_path / "out.jsonl")] == ["of a", "of b"]


def test_a_return_rank_that_the_network_was_never_told(tokenizer, tmp_path, capsys):
    """Refused where a session begins, changes or is evaluated; nothing is clamped or passed over."""
    task = find("dummy/count")
    told = make_agent(tokenizer, {task.id: TaskCard(told_spec(task.spec, 4, False))})
    plain = make_agent(tokenizer, {task.id: TaskCard(task.spec)})
    session = told.policy(task.id, 1, return_rank=3)
    for begin in (lambda: told.session(task.id, return_rank=4), lambda: session.change(return_rank=9)):
        with pytest.raises(UsageError, match="told of 4 ranks"):
            begin()
    assert session.acting["return_rank"] == 3
    with pytest.raises(ObservationError, match="missing") as caught:
        session.act({0: {"digits": np.zeros(3, np.int64)}})
    assert caught.value.fix == f"expected keys: {list(task.spec.observation)}"  # not what the agent adds itself
    with pytest.raises(UsageError, match="told of no ranks"):
        plain.session(task.id, return_rank=0)
    plain.bundle.save(tmp_path / "bundle")
    words = ["evaluate", tmp_path / "bundle", "--acting", "return_rank=1", "--out", tmp_path / "out", "--device", "cpu"]
    with pytest.raises(SystemExit, match="2"):
        main([str(w) for w in words])
    assert "told of no ranks" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_ways_of_acting_in_numpys_numbers():
    """They end up in files of JSON, so they are Python's from then on."""
    ways = check_acting({"temperature": np.float32(0.5), "top_k": np.int64(3), "return_rank": np.uint8(2)})
    assert json.loads(json.dumps(ways)) == ways and ways["temperature"] == 0.5 and ways["top_k"] == 3
    for bad in (np.float32("nan"), np.float64(0), np.bool_(True)):
        with pytest.raises(UsageError, match="temperature"):
            check_acting({"temperature": bad})
