"""Acting: cached decisions equal a full pass, slots do not see each other, everything chosen is legal."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gato.episodes import Episode, Spec, TaskSpec
from gato.errors import ObservationError, SpecError, UnknownNameError, UsageError
from gato.evaluation.open_loop import action_errors
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.rollouts import ExpertPolicy, LocalSlot, RandomPolicy, Unit, rollout
from gato.sequences import Mixture, Segment, TokenStore, collate
from gato.training.loss import token_losses
from gato.worlds import find

TASK = "dummy/count"


def make_bundle(tokenizer, window_timesteps, acting=("greedy", "greedy"), prompt=None, **config):
    torch.manual_seed(0)
    base = GatoConfig.tiny().replace(
        layer_width=64,
        num_attention_heads=2,
        feedforward_hidden_size=128,
        num_transformer_blocks=2,
        vocabulary_size=tokenizer.size,
        **config,
    )
    card = TaskCard(find(TASK).spec, window_timesteps, prompt)
    return Bundle(
        base,
        Gato(base).eval(),
        tokenizer,
        {TASK: card},
        {"discrete": acting[0], "continuous": acting[1], "temperature": 1.0},
        {},
    )


@pytest.mark.parametrize("window", [1, None])
@pytest.mark.parametrize(
    "switches",
    [
        {"position": "rope"}, {"position": "xl"}, {"position": "learned"}, {"parallel_actions": True},
        {"task_token": True}, {"encodings": "fixed"}, {"patch_embedder": "linear"}, {"observation_bins": "linear"},
        {"separate_discrete": True}, {"action_position": False},
    ],
    ids=str,
)  # fmt: skip
def test_decisions_equal_a_full_pass(tokenizer, window, switches):
    """Greedy actions over an episode, from the cache and from one pass over everything the agent may see, whatever the
    network's switches are."""
    bundle = make_bundle(tokenizer, window, **switches)
    episode = next(rollout([Unit(TASK, 3, max_steps=6)], [LocalSlot()], Agent(bundle).policy(TASK, 1)))
    codec = bundle.codec(TASK)
    store = TokenStore.build(TASK, codec, [episode])
    legal = codec.legal()
    for t in range(len(episode)):
        first = t if window == 1 else 0
        segment = Segment(0, ((int(store.starts[first]), int(store.starts[t + 1])),))
        batch = collate([segment], [store], parallel_actions=bundle.config.parallel_actions)
        with torch.no_grad():
            logits = bundle.model.logits(bundle.model.hidden_states(batch))
        rows = range(len(logits) - 1 - len(legal), len(logits) - 1)
        chosen = [
            block.low + int(logits[r, block.low : block.high].argmax()) for r, block in zip(rows, legal, strict=True)
        ]
        assert chosen == store.tokens.ids[int(store.starts[t + 1]) - len(legal) : int(store.starts[t + 1])].tolist()


def test_a_longer_text_than_any_before_makes_room(tokenizer):
    """Observations of 8, then of about 200 tokens of text, from one cache: what one pass over both says."""
    spec = TaskSpec({"words": Spec("text", (), "object")}, {"action": Spec("discrete", (), "int64", (0.0,), (3.0,))})
    bundle = make_bundle(tokenizer, None)
    bundle.tasks["dummy/words"] = TaskCard(spec, None)
    policy = Agent(bundle).policy("dummy/words", 1)
    policy.reset(0, 0)
    texts = ["open", "return the value of the key " * 12, "close"]
    chosen = [int(policy.act({0: {"words": text}})[0]["action"]) for text in texts]
    episode = Episode("dummy/words", {"words": texts}, {"action": np.array(chosen)}, np.zeros(3, np.float32))
    store = TokenStore.build("dummy/words", bundle.codec("dummy/words"), [episode])
    assert max(np.diff(store.starts)) > 64 + 8
    batch = collate([Segment(0, ((0, len(store.tokens)),))], [store])
    with torch.no_grad():
        logits = bundle.model.logits(bundle.model.hidden_states(batch))
    assert chosen == [int(logits[end - 2, :4].argmax()) for end in store.starts[1:]]
    with pytest.raises(SpecError, match="512"):
        policy.act({0: {"words": "key " * 2000}})


def test_slots_do_not_see_each_other(tokenizer):
    bundle = make_bundle(tokenizer, 2, ("sample", "sample"))
    units = [Unit(TASK, seed, max_steps=8) for seed in range(5)]

    def play(slots):
        episodes = rollout(units, [LocalSlot() for _ in range(slots)], Agent(bundle).policy(TASK, slots))
        return {e.info["seed"]: [v.tolist() for v in e.actions.values()] for e in episodes}

    assert play(1) == play(3) == play(5)


def test_everything_chosen_is_legal(tokenizer):
    bundle = make_bundle(tokenizer, 1, ("sample", "mean"))
    policy = Agent(bundle).policy(TASK, 4, watch_mass=True)
    for episode in rollout([Unit(TASK, s, max_steps=10) for s in range(8)], [LocalSlot() for _ in range(4)], policy):
        episode.check(find(TASK).spec)
    assert 0 < policy.legal_mass < 1


def test_learned_positions_begin_again_where_the_context_ends(tokenizer):
    """A context of few timesteps, an episode of many: it goes on, from position 0."""
    bundle = make_bundle(tokenizer, None, position="learned", token_sequence_length=128)
    policy = Agent(bundle).policy(TASK, 1)
    episode = next(rollout([Unit(TASK, 3, max_steps=12)], [LocalSlot()], policy))
    assert len(episode) == 12 and int(policy._cache.count[0]) <= 128
    assert sum(bundle.codec(TASK).encode(episode).starts()[-1:]) > 128


def test_prompts_are_read_first(tokenizer):
    demonstration = next(rollout([Unit(TASK, 11)], [LocalSlot()], ExpertPolicy()))
    observation, _ = find(TASK).make().reset(seed=5)
    plain, prompted = (make_bundle(tokenizer, None, prompt=p) for p in (None, demonstration))
    policy = Agent(prompted).policy(TASK, 1)
    policy.reset(0, 0)
    assert int(policy._cache.count[0]) > 100  # the first half window of the demonstration, in whole timesteps
    a, b = (Agent(bundle).session(TASK).act(observation) for bundle in (plain, prompted))
    assert set(a) == set(b)


def test_a_prompt_stays_in_sight_of_short_windows(tokenizer):
    """Trained on single timesteps behind a prompt: at the third step of an episode the prompt still decides."""
    prompts = list(rollout([Unit(TASK, s) for s in (11, 12)], [LocalSlot()], ExpertPolicy()))
    observation, _ = find(TASK).make().reset(seed=5)
    chosen = []
    for prompt in prompts:
        session = Agent(make_bundle(tokenizer, 1, ("greedy", "mean"), prompt=prompt)).session(TASK)
        chosen.append([session.act(observation) for _ in range(3)][-1])
    numbers = [np.concatenate([np.ravel(v).astype(float) for v in action.values()]) for action in chosen]
    assert np.abs(numbers[0] - numbers[1]).max() > 1e-6


def test_sessions_and_sugar(tokenizer):
    agent = Agent(make_bundle(tokenizer, 1))
    env = find(TASK).make()
    observation, _ = env.reset(seed=1)
    session = agent.session(TASK)
    action = session.act(observation)
    assert env.action_space.contains(
        {k: np.asarray(v, env.action_space[k].dtype) if not np.isscalar(v) else np.int64(v) for k, v in action.items()}
    )
    assert str(agent.act(observation, task=TASK)) == str(action)
    with pytest.raises(ObservationError, match=TASK):
        session.act({**observation, next(iter(observation)): object()})
    with pytest.raises(UnknownNameError):
        agent.session("dummy/cuont")
    with pytest.raises(UnknownNameError):
        agent.caption(np.zeros((32, 32, 3), np.uint8))


def test_random_play_uses_the_same_loop():
    episodes = list(rollout([Unit(TASK, s) for s in range(3)], [LocalSlot()], RandomPolicy()))
    assert [e.info["seed"] for e in episodes] == [0, 1, 2]


def test_xl_memory_reaches_one_context_further(tokenizer):
    """A context of 128 with XL memory is the same network with a context of 256 (whose meaning tests/model has), and not
    the one of 128 alone, over an episode of about 400 tokens."""

    def play(context, **acting):
        bundle = make_bundle(tokenizer, None, ("greedy", "mean"), token_sequence_length=context)
        policy = Agent(bundle).policy(TASK, 1, **acting)
        episode = next(rollout([Unit(TASK, 3, max_steps=14)], [LocalSlot()], policy))
        assert policy._cache.window == (256 if acting or context == 256 else 128)
        return np.concatenate([np.asarray(v, float).reshape(14, -1) for v in episode.actions.values()], axis=1)

    remembering, longer, plain = play(128, memory="xl"), play(256), play(128)
    assert np.array_equal(remembering, longer)
    assert np.array_equal(remembering[:3], plain[:3]) and not np.array_equal(remembering, plain)


def test_no_more_is_seen_than_training_showed_together(tokenizer):
    """A context of 256 whose recipe had windows of 128 tokens acts as one of 128 does, and is scored so; where its card says
    nothing, it sees 256."""

    def make(context, recipe):
        bundle = make_bundle(tokenizer, None, ("greedy", "mean"), token_sequence_length=context)
        return replace(bundle, card={"recipe": recipe} if recipe else {})

    def play(bundle):
        episode = next(rollout([Unit(TASK, 3, max_steps=14)], [LocalSlot()], Agent(bundle).policy(TASK, 1)))
        actions = np.concatenate([np.asarray(v, float).reshape(14, -1) for v in episode.actions.values()], axis=1)
        return actions, action_errors(Agent(bundle), TASK, [episode])

    said = [make(256, {"window_tokens": 128}), make(256, {"window_tokens": 200, "slot_tokens": 128}), make(128, {})]
    assert [bundle.window() for bundle in said] == [128] * 3
    (first, errors), *others = map(play, said)
    assert all(np.array_equal(first, actions) and errors == told for actions, told in others)
    longer, _ = play(make(256, {}))
    assert not np.array_equal(first, longer)
    assert make(256, {"window_tokens": 512, "document_tokens": 64}).window() == 256
    assert make(256, {"window_tokens": 512, "document_tokens": 64}).window(documents=True) == 64


def test_top_k_and_temperature_by_hand(tokenizer):
    policy = Agent(make_bundle(tokenizer, 1)).policy(TASK, 1, temperature=0.5, top_k=2)
    p = policy._chances(torch.log(torch.tensor([[0.5, 0.3, 0.2]])))
    assert p[0].tolist() == pytest.approx([25 / 34, 9 / 34, 0.0])
    policy.change(top_k=None)
    assert policy._chances(torch.log(torch.tensor([0.5, 0.3, 0.2]))).tolist() == pytest.approx(
        [25 / 38, 9 / 38, 4 / 38]
    )


@pytest.mark.parametrize(
    "options, said",
    [
        ({"temprature": 1.0}, "temperature"), ({"discrete": "best"}, "sample, greedy"), ({"temperature": 0}, "above 0"),
        ({"top_k": 0}, "from 1"), ({"memory": "all"}, "window, xl"), ({"temperature": float("nan")}, "above 0"),
    ],
    ids=str,
)  # fmt: skip
def test_ways_of_acting_that_there_are_not(tokenizer, options, said):
    with pytest.raises(UsageError, match=said):
        Agent(make_bundle(tokenizer, 1)).session(TASK, **options)


@pytest.fixture(scope="module")
def trained(tokenizer):
    """A tiny network that has learned some of the dummy world: its greedy actions are worth comparing."""
    bundle = make_bundle(tokenizer, None)
    codec = bundle.codec(TASK)
    episodes = rollout([Unit(TASK, s) for s in range(8)], [LocalSlot() for _ in range(4)], ExpertPolicy())
    mixture = Mixture([TokenStore.build(TASK, codec, list(episodes))], {"*": 1.0}, 4, 256, 256)
    optimizer = torch.optim.AdamW(bundle.model.train().parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        batch = mixture.batch(step)
        loss = token_losses(bundle.model(batch), batch.targets, batch.kinds, bundle.config.vocabulary.continuous, 4.0)
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.mean().detach()))
    assert losses[-1] < 0.7 * losses[0]
    bundle.model.eval()
    return bundle


def play(bundle, slots=4, units=8, steps=20, **acting):
    """Actions by seed, and the policy that took them."""
    policy = Agent(bundle).policy(TASK, slots, **acting)
    played = rollout(
        [Unit(TASK, s, max_steps=steps) for s in range(units)], [LocalSlot() for _ in range(slots)], policy
    )
    return {e.info["seed"]: {k: v.tolist() for k, v in e.actions.items()} for e in played}, policy


@pytest.mark.parametrize("manner", ["greedy", "sample"])
@pytest.mark.parametrize("verify", ["last", "parallel"])
def test_guessed_actions_are_those_of_one_after_another(trained, verify, manner):
    plain, one_by_one = play(trained, discrete=manner, continuous=manner)
    guessed, policy = play(trained, discrete=manner, continuous=manner, verify=verify)
    assert guessed == plain
    assert policy.decisions == one_by_one.decisions >= 100
    if manner == "greedy" and verify == "last":
        alone, policy = play(trained, 1, discrete=manner, continuous=manner, verify=verify)
        assert alone == plain
        assert policy.passes < policy._part[0].codec.action_tokens * policy.decisions  # it was right now and then


def test_a_guess_that_is_right_costs_one_pass_and_a_wrong_one_no_more_than_all(trained):
    """The same observation again and again is answered with the same action, until memory changes it."""
    observation, _ = find(TASK).make().reset(seed=5)
    guessing, plain = (Agent(trained).policy(TASK, 1, verify=v) for v in ("last", None))
    num = plain._part[0].codec.action_tokens
    assert num > 2
    spent = []
    for _ in range(30):
        before = guessing.passes
        assert str(guessing.act({0: observation})) == str(plain.act({0: observation}))
        spent.append(guessing.passes - before)
        assert torch.equal(guessing._cache.count, plain._cache.count)
    assert plain.passes == 30 * num  # A passes for A tokens: the last one is read with the next observation
    assert max(spent) <= num and spent.count(1) >= 5


def test_a_prompt_is_read_once_for_all_sessions(tokenizer):
    demonstration = next(rollout([Unit(TASK, 11)], [LocalSlot()], ExpertPolicy()))
    bundle = make_bundle(tokenizer, None, prompt=demonstration)
    observation, _ = find(TASK).make().reset(seed=5)
    first, second = (Agent(bundle).policy(TASK, 2) for _ in range(2))
    first.reset(0, 0)
    read = first.passes
    assert read > 0
    first.reset(1, 0)
    second.reset(1, 0)
    assert first.passes == read and second.passes == 0
    assert int(second._cache.count[1]) > 100
    said = [str(p.act({i: observation})[i]) for p, i in ((first, 0), (first, 1), (second, 1))]
    assert said[0] == said[1] == said[2]
    bare = Agent(make_bundle(tokenizer, None)).policy(TASK, 1)
    assert str(bare.act({0: observation})[0]) != said[0]  # and it matters


@pytest.mark.parametrize("precision, share", [("float16", 0.95), ("bf16", 0.5), ("int8", 0.3)])
def test_precisions_agree_as_far_as_their_bits_go(trained, precision, share):
    """Against float32 on the same contexts, its actions fed to both; and not a copy of it."""
    if precision in ("float16", "int8") and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("needs FBGEMM")
    episode = next(rollout([Unit(TASK, 3, max_steps=40)], [LocalSlot()], Agent(trained).policy(TASK, 1)))
    exact, policy = (Agent(trained).policy(TASK, 1, precision=p) for p in ("float32", precision))
    same, apart = [], 0.0
    for t in range(len(episode)):
        observation = {k: v[t] for k, v in episode.observations.items()}
        a, b = exact.act({0: observation})[0], policy.act({0: observation})[0]
        same.append(all(np.array_equal(a[k], b[k]) for k in a))
        apart = max(
            apart,
            *(float(np.abs(p - q).max()) for p, q in zip(exact.probabilities(0), policy.probabilities(0), strict=True)),
        )
        policy._last[0] = exact._last[0]
    assert np.mean(same) >= share
    assert apart > 0
