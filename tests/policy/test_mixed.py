"""One batch, slots of different tasks: each decides as it would alone, whoever is beside it and whatever they play."""

import numpy as np
import pytest
import torch

from gato.episodes import Episode, Spec, TaskSpec
from gato.errors import UnknownNameError
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import AgentPolicy
from gato.rollouts import LocalSlot, Unit, rollout
from gato.sequences import Segment, TokenStore, collate
from gato.worlds import find

# Actions of 1, 3 and 4 tokens; windows of 1, 2 and all timesteps; texts, pictures, numbers.
SPECS = {
    "own/talk": TaskSpec({"words": Spec("text", (), "str")}, {"button": Spec("discrete", (), "int64", (0.0,), (4.0,))}),
    "own/arm": TaskSpec(
        {"joints": Spec("continuous", (3,), "float32")},
        {"torque": Spec("continuous", (3,), "float32", (-2.0,) * 3, (2.0,) * 3)},
    ),
    "own/see": TaskSpec(
        {"image": Spec("image", (32, 16, 3), "uint8"), "level": Spec("discrete", (), "int64", (0.0,), (9.0,))},
        {
            "grip": Spec("discrete", (), "int64", (0.0,), (1.0,)),
            "move": Spec("continuous", (3,), "float32", (-1.0,) * 3, (1.0,) * 3),
        },
    ),
}
WINDOWS = {"own/talk": None, "own/arm": 1, "own/see": 2}
PLAYED = ["own/see", "own/talk", "own/arm", "own/arm", "own/talk", "own/see", "own/see"]


def make_bundle(tokenizer, acting=("sample", "mean"), **config):
    torch.manual_seed(1)
    base = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=2,
        vocabulary_size=tokenizer.size, **config,
    )  # fmt: skip
    cards = {task: TaskCard(spec, WINDOWS[task]) for task, spec in SPECS.items()}
    how = {"discrete": acting[0], "continuous": acting[1], "temperature": 1.0}
    return Bundle(base, Gato(base).eval(), tokenizer, cards, how, {})


def observe(task, rng):
    if task == "own/talk":
        return {"words": " ".join(rng.choice(["open", "the", "red", "door"], int(rng.integers(1, 9))))}
    if task == "own/arm":
        return {"joints": rng.normal(size=3).astype(np.float32)}
    return {"image": rng.integers(0, 256, (32, 16, 3), dtype=np.uint8), "level": np.int64(rng.integers(10))}


def play(policy, tasks, seeds, steps, slots=None):
    """{slot: its actions}, every slot with observations of its own."""
    slots = list(range(len(tasks))) if slots is None else slots
    rngs = {}
    for slot, task, seed in zip(slots, tasks, seeds, strict=True):
        policy.reset(slot, seed, task)
        rngs[slot] = np.random.default_rng(seed)
    out = {slot: [] for slot in slots}
    for _ in range(steps):
        seen = {slot: observe(task, rngs[slot]) for slot, task in zip(slots, tasks, strict=True)}
        for slot, action in policy.act(seen).items():
            out[slot].append(np.concatenate([np.ravel(v).astype(np.float64) for v in action.values()]))
    return {slot: np.array(actions) for slot, actions in out.items()}


@pytest.mark.parametrize("verify", (None, "last", "parallel"))
@pytest.mark.parametrize("position", ("rope", "xl"))
def test_each_slot_decides_as_alone(tokenizer, position, verify):
    """Greedy actions beside others equal those of a batch of one, of that one task."""
    bundle = make_bundle(tokenizer, ("greedy", "greedy"), position=position)
    mixed = AgentPolicy(bundle, list(SPECS), len(PLAYED), acting={"verify": verify})
    together = play(mixed, PLAYED, range(7), 12)
    for slot, task in enumerate(PLAYED):
        alone = play(AgentPolicy(bundle, task, 1), [task], [slot], 12)[0]
        assert np.array_equal(together[slot], alone), task


def test_neighbours_change_no_bit(tokenizer):
    """The same session, first beside some neighbours, then beside others that play other tasks: the same bits."""
    bundle = make_bundle(tokenizer)
    several = list(SPECS)
    one = play(
        AgentPolicy(bundle, several, 5), ["own/see", "own/arm", "own/arm", "own/talk", "own/see"], [9, 1, 2, 3, 4], 15
    )
    two = play(
        AgentPolicy(bundle, several, 5), ["own/see", "own/talk", "own/see", "own/arm", "own/arm"], [9, 5, 6, 7, 8], 15
    )
    three = play(AgentPolicy(bundle, several, 5), ["own/see"], [9], 15, slots=[3])
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[0], three[3])


def test_a_slot_may_change_its_task(tokenizer):
    bundle = make_bundle(tokenizer)
    policy = AgentPolicy(bundle, list(SPECS), 3)
    play(policy, ["own/talk", "own/see", "own/arm"], [1, 2, 3], 6)
    again = play(policy, ["own/arm", "own/talk", "own/see"], [4, 5, 6], 6)
    fresh = play(AgentPolicy(bundle, list(SPECS), 3), ["own/arm", "own/talk", "own/see"], [4, 5, 6], 6)
    assert all(np.array_equal(again[slot], fresh[slot]) for slot in fresh)


def test_a_long_text_makes_room_and_disturbs_nobody(tokenizer):
    bundle = make_bundle(tokenizer, ("greedy", "greedy"))
    policy = AgentPolicy(bundle, list(SPECS), 3)
    for slot, task in enumerate(["own/see", "own/talk", "own/arm"]):
        policy.reset(slot, slot, task)
    rng, actions = np.random.default_rng(0), []
    for step in range(6):
        words = "open the red door " * (60 if step == 3 else 1)
        seen = {0: observe("own/see", rng), 1: {"words": words}, 2: observe("own/arm", rng)}
        actions.append((seen, policy.act(seen)))
    for slot, task in ((0, "own/see"), (1, "own/talk"), (2, "own/arm")):
        alone = AgentPolicy(bundle, task, 1)
        alone.reset(0, slot)
        for seen, acted in actions:
            expected = alone.act({0: seen[slot]})[0]
            assert all(np.array_equal(acted[slot][k], v) for k, v in expected.items()), task


def test_probabilities_and_given_actions_per_slot(tokenizer):
    bundle = make_bundle(tokenizer)
    policy = AgentPolicy(bundle, list(SPECS), 3)
    tasks = ["own/talk", "own/arm", "own/see"]
    for slot, task in enumerate(tasks):
        policy.reset(slot, slot, task)
    rng = np.random.default_rng(0)
    given = {1: {"torque": np.array([0.5, -2.0, 2.0], np.float32)}}
    acted = policy.act({slot: observe(task, rng) for slot, task in enumerate(tasks)}, given=given)
    assert np.array_equal(acted[1]["torque"], given[1]["torque"])
    assert [[len(p) for p in policy.probabilities(slot)] for slot in range(3)] == [[5], [1024] * 3, [2, *[1024] * 3]]
    assert all(abs(float(p.sum()) - 1) < 1e-5 for slot in range(3) for p in policy.probabilities(slot))


def test_a_task_it_was_not_made_for(tokenizer):
    policy = AgentPolicy(make_bundle(tokenizer), ["own/arm", "own/see"], 2)
    with pytest.raises(UnknownNameError, match="own/arm, own/see"):
        policy.reset(0, 0, "own/talk")
    with pytest.raises(UnknownNameError):
        AgentPolicy(make_bundle(tokenizer), ["own/arm", "own/other"], 2)


def test_one_loop_plays_several_tasks_at_once(tokenizer):
    """Units of two real worlds through one rollout and one batch: the episodes of each alone."""
    tasks = ["sokoban/7x7-1-box", "dummy/count"]
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=2,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    cards = {task: TaskCard(find(task).spec, 1) for task in tasks}
    how = {"discrete": "greedy", "continuous": "greedy"}
    bundle = Bundle(config, Gato(config).eval(), tokenizer, cards, how, {})
    units = [Unit(tasks[n % 2], 10 + n, max_steps=5) for n in range(4)]
    together = list(rollout(units, [LocalSlot(), LocalSlot()], AgentPolicy(bundle, tasks, 2)))
    for unit, episode in zip(units, sorted(together, key=lambda e: e.info["seed"]), strict=True):
        (alone,) = rollout([unit], [LocalSlot()], AgentPolicy(bundle, unit.task, 1))
        assert episode.task == unit.task and len(episode) == len(alone)
        assert all(np.array_equal(episode.actions[k], alone.actions[k]) for k in alone.actions)


@pytest.mark.parametrize("beside", [0, 300], ids=["alone", "beside a task of 300 values"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_long_text_is_seen_from_its_first_word(tokenizer, steps, beside):
    """However much longer than was estimated; what came before the window is not seen."""
    torch.manual_seed(1)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=2,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    button = SPECS["own/talk"].action
    cards = {"own/talk": TaskCard(SPECS["own/talk"], steps)}
    if beside:
        numbers = TaskSpec({"x": Spec("continuous", (beside,), "float32")}, button)
        cards["own/numbers"] = TaskCard(numbers, 1)
    ways = {"discrete": "greedy", "continuous": "greedy", "temperature": 1.0}
    bundle = Bundle(config, Gato(config).eval(), tokenizer, cards, ways, {})
    codec, words = bundle.codec("own/talk"), ["open", "the", "red", "door,", "then", "take", "a", "blue", "key"]
    rng = np.random.default_rng(0)
    for most in (10, 45, 60, 150):
        texts = [" ".join(rng.choice(words, most)) for _ in range(4)]
        policy = AgentPolicy(bundle, list(cards), 2)
        policy.reset(0, 0, "own/talk")
        actions = []
        for t, text in enumerate(texts):
            actions.append(policy.act({0: {"words": text}})[0]["button"])
            seen = slice(max(0, t + 1 - steps), t + 1)
            episode = Episode(
                "own/talk", {"words": texts[seen]}, {"button": np.array(actions[seen])}, np.zeros(len(texts[seen]))
            )
            store = TokenStore.build("own/talk", codec, [episode])
            with torch.no_grad():
                logits = bundle.model(collate([Segment(0, ((0, store.num_tokens),))], [store]))[-1, :5]
            assert policy.probabilities(0)[0] == pytest.approx(torch.softmax(logits, -1).numpy(), abs=1e-6)
