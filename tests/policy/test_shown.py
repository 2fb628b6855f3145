"""Demonstrations in sight: what is most alike, the same tokens in training and acting, and a task never trained on."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gato.cli import main
from gato.episodes import Dataset, Episode, Spec, TaskSpec
from gato.episodes.likeness import Memory
from gato.episodes.store import dataset_folder
from gato.errors import RecipeError
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.open_loop import action_errors
from gato.model.bundle import make_codec
from gato.model.config import GatoConfig
from gato.policy import load
from gato.policy.shown import Shown
from gato.rollouts.collect import collect
from gato.rollouts.pool import WorkerPool
from gato.sequences import Mixture, TokenStore
from gato.tokens.patches import PatchTable
from gato.training import load_recipe, load_stores
from gato.training.start import start_run
from gato.worlds import find

SMALL = ["steps=150", "slots=2", "slot_tokens=512", "window_tokens=128", "precision=float32", "discrete=greedy",
         "optimizer=muon", "learning_rate=0.003", "prompt_share=0", "similar_timesteps=3", "model.layer_width=64",
         "model.num_attention_heads=4", "model.key_value_size=16", "model.feedforward_hidden_size=128",
         "model.num_transformer_blocks=2"]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=4), min_size=1, max_size=5), st.integers(1, 6), st.data()
)
def test_the_most_alike_are_those_of_a_slow_search(values, count, data):
    spec = TaskSpec(
        {"x": Spec("continuous", (1,), "float32", (-9.0,), (9.0,))},
        {"a": Spec("discrete", (), "int64", (0.0,), (1.0,))},
    )
    episodes = [
        Episode("gym/x", {"x": np.array(v, np.float32)[:, None]}, {"a": np.zeros(len(v), np.int64)}, np.zeros(len(v)))
        for v in values
    ]
    memory = Memory.build(spec, episodes, "test")
    flat, of = (
        np.concatenate([np.array(v, float) for v in values]),
        np.repeat(np.arange(len(values)), [len(v) for v in values]),
    )
    t = data.draw(st.integers(0, len(flat) - 1))
    (found,) = memory.most_alike(memory.keys[t : t + 1], count, of[t : t + 1])
    others = [i for i in range(len(flat)) if of[i] != of[t]]
    best = sorted(abs(flat[i] - flat[t]) for i in others)[:count]
    there = [i for i in found if i >= 0]
    assert len(there) == len(best) and set(there) <= set(others) and len(set(there)) == len(there)
    assert np.allclose([abs(flat[i] - flat[t]) for i in there], best, atol=0.02)


@pytest.mark.parametrize("kinds", [1, 4, 300])
def test_of_equals_the_earliest_is_the_likest(kinds):
    """However many keys are asked for at once; some of them are equal, and some as far on another side."""
    rng = np.random.default_rng(kinds)
    half = rng.normal(size=(kinds, 7))
    seen = np.concatenate([half, -half])[rng.integers(2 * kinds, size=4000)].astype(np.float32)
    spec = TaskSpec(
        {"x": Spec("continuous", (7,), "float32", (-9.0,), (9.0,))},
        {"a": Spec("discrete", (), "int64", (0.0,), (1.0,))},
    )
    none = np.zeros(4000, np.int64)
    memory = Memory.build(spec, [Episode("gym/x", {"x": seen}, {"a": none}, none.astype(np.float32))], "test")
    asked = np.concatenate([np.arange(0, 4000, 100), [1, 3999]])
    away = np.square(memory.keys[asked, None] - memory.keys).sum(axis=2).astype(np.float32)
    right = np.argsort(away, axis=1, kind="stable")[:, :5]
    assert (memory.most_alike(memory.keys[asked], 5) == right).all()
    for t, row in zip(asked, right, strict=True):
        assert (memory.most_alike(memory.keys[t : t + 1], 5) == row).all()
        assert memory.nearest({"x": seen[t]}) == row[0]


@pytest.mark.parametrize("task", ["babyai/go-to-red-ball-grey", "sokoban/7x7-1-box"])
def test_training_and_acting_read_the_same(task, tokenizer, tmp_path):
    pytest.importorskip("minigrid")
    collect([find(task)], 5, tmp_path, workers=0, progress=False)
    dataset = Dataset.open(dataset_folder(tmp_path, task))
    config = GatoConfig.tiny().replace(vocabulary_size=1024)
    codec = make_codec(config, tokenizer, dataset.spec, task)
    store = TokenStore.build(task, codec, dataset, alike=3)
    mixture = Mixture([store], {"*": 1.0}, 1, 1024, 1024, similar_timesteps=3)
    (segment, *_) = mixture.slot(0, 0)
    *others, (begin, _) = segment.spans
    assert segment.masked == sum(b - a for a, b in others) and len(others) == 3
    episode = store.episode_at(begin)
    assert all(store.episode_at(a) != episode for a, _ in others)

    step = int(np.searchsorted(store.starts, begin))
    number = int(np.searchsorted(store.episodes, step, side="right")) - 1
    assert number == episode
    inside = step - int(store.episodes[number])
    rest = [e for i, e in enumerate(dataset) if i != number]
    memory = Memory.build(dataset.spec, rest, "test")
    shown = Shown(memory, TokenStore.build(task, codec, rest), 3)
    leaves = {k: v[inside] for k, v in dataset[number].observations.items()}
    table = PatchTable()
    rows = shown.rows(leaves, 900, table, 0)
    trained = np.concatenate([np.arange(a, b) for a, b in others])
    if task.startswith(
        "babyai"
    ):  # nothing there is measured in deviations of the demonstrations, so the rest finds the same
        assert rows["ids"].tolist() == store.tokens.ids[trained].tolist()
    assert len(rows["ids"]) == len(trained) and rows["kinds"].tolist() == store.tokens.kinds[trained].tolist()
    pictures = rows["patches"] >= 0
    if pictures.any():  # an action apart from its picture would be the worst
        own = shown.store.tokens
        (near,) = memory.most_alike(memory.key(leaves)[None], 3)
        at = np.concatenate([np.arange(shown.store.starts[t], shown.store.starts[t + 1]) for t in near[::-1]])
        assert np.array_equal(table.rows[rows["patches"][pictures]], own.table.rows[own.patches[at][pictures]])
        assert rows["ids"].tolist() == own.ids[at].tolist()
    assert (
        shown.rows(leaves, len(rows["ids"]) - 1, table, 0)["ids"].tolist()
        == rows["ids"].tolist()[-2 * len(rows["ids"]) // 3 :]
    )
    assert len(shown.rows(leaves, 0, table, 0)["ids"]) == 0


@pytest.fixture(scope="module")
def learned(tmp_path_factory, tokenizer, match):
    """Twelve ways of naming four numbers, learned; and demonstrations of one that was not."""
    folder = tmp_path_factory.mktemp("shown")
    tokenizer.save(folder / "tokenizer.model")
    ways = ["".join(map(str, p)) for p in itertools.permutations(range(4))]
    tasks = [find(f"gym/Match-{way}-v0") for way in ways]

    def knowing(env, seed):
        return lambda shown, info: env.unwrapped.names[int(shown)]

    collect(tasks[:12], 4, folder / "data", workers=0, policy=knowing, progress=False)
    collect([tasks[17]], 3, folder / "new", workers=0, policy=knowing, progress=False)
    bundle = start_run("tiny", SMALL, [folder / "data"], folder / "run", folder / "tokenizer.model", "cpu", processes=1)
    return bundle, tasks[17], folder


def test_a_task_never_trained_on(learned):
    bundle, task, folder = learned
    agent = load(bundle)
    assert task.id not in agent.tasks
    seeing = agent.shown([Dataset.open(dataset_folder(folder / "new", task.id))])
    with WorkerPool(0) as pool:
        scores, _ = evaluate_task(seeing, task, 10, pool)
    assert np.mean(scores.episodes) > 18  # of 20; chance has five
    assert task.id not in agent.tasks  # the agent itself is what it was


def test_single_actions_are_scored_behind_what_the_network_reads(learned):
    """Right where it sees demonstrations: those kept in its sight, or the other ones that it is scored on; never its own."""
    bundle, task, folder = learned
    agent, new = load(bundle), Dataset.open(dataset_folder(folder / "new", task.id))
    seeing = agent.shown([new])
    found = action_errors(seeing, task.id, list(new))
    assert found["accuracy"] > 0.9 and found["timesteps"] == 60 and "behind the 3" in found["context"]
    known = find("gym/Match-0123-v0")
    held = list(Dataset.open(dataset_folder(folder / "data", known.id)))
    assert action_errors(agent, known.id, held)["accuracy"] > 0.9
    assert action_errors(agent, known.id, held[:1])["accuracy"] < 0.7  # nothing but itself to be shown

    first, *rest = new
    alone = seeing.bundle.codec(task.id)
    others = Shown(Memory.build(new.spec, rest, "test"), TokenStore.build(task.id, alone, rest), 3)
    seeing.bundle.tasks[task.id] = replace(seeing.bundle.tasks[task.id], shown=others)
    apart = action_errors(seeing, task.id, [first])
    assert apart == action_errors(agent.shown([new]), task.id, [first])


@pytest.mark.parametrize("words", [["return_ranks=3"], ["reward_shown=true"], ["return_ranks=2", "reward_shown=true"]])
def test_a_network_told_of_returns_reads_demonstrations_that_tell_of_them(words, tokenizer, match, tmp_path):
    """The leaves, tokens and likeness of training, of the task that it learned and of one that it did not."""
    known, new = find("gym/Match-0123-v0"), find("gym/Match-3210-v0")
    collect([known, new], 4, tmp_path / "all", workers=0, policy="random", progress=False)
    tokenizer.save(tmp_path / "tokenizer.model")
    folders = [dataset_folder(tmp_path / "all", task.id) for task in (known, new)]
    said = [*SMALL, "steps=1", *words]
    bundle = start_run("tiny", said, folders[:1], tmp_path / "run", tmp_path / "tokenizer.model", "cpu", processes=1)
    agent = load(bundle)
    recipe = load_recipe("tiny").override(["model.vocabulary_size=1024", *said])
    trained = load_stores(folders, agent.bundle.config, tokenizer, recipe)
    seeing = agent.shown([Dataset.open(folder) for folder in folders])
    for task, store in zip((known, new), trained, strict=True):
        card = seeing.bundle.tasks[task.id]
        assert card.spec == store.codec.spec and set(card.spec.observation) > {"observation"}
        assert card.shown.store.tokens.ids.tolist() == store.tokens.ids.tolist()
        memory = card.shown.memory
        assert memory.most_alike(memory.keys, 3, memory.episodes).tolist() == store.alike.tolist()
        with WorkerPool(0) as pool:
            scores, _ = evaluate_task(seeing, task, 2, pool)
        assert len(scores.episodes) == 2


def test_from_the_command_line(learned, tmp_path):
    bundle, task, folder = learned
    words = [
        "evaluate",
        bundle,
        "--shown",
        folder / "new",
        "--tasks",
        task.id,
        "--episodes",
        2,
        "--workers",
        0,
        "--out",
        tmp_path / "o",
    ]
    with pytest.raises(SystemExit) as stopped:
        main([str(w) for w in words])
    assert stopped.value.code == 0 and (tmp_path / "o/results.json").is_file()


def test_what_cannot_read_like_that_says_so(learned, tokenizer, tmp_path):
    bundle, task, folder = learned
    agent = load(bundle)
    agent.bundle.card = {**agent.bundle.card, "recipe": {**agent.bundle.card["recipe"], "similar_timesteps": 0}}
    with pytest.raises(RecipeError, match="not trained to read"):
        agent.shown([Dataset.open(dataset_folder(folder / "new", task.id))])
    with pytest.raises(RecipeError, match="similar_timesteps"):
        load_recipe("tiny").override(["similar_timesteps=4"])  # beside a prompt
