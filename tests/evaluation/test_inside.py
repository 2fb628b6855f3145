"""benchmarks/inside.py: what is drawn and counted is what the network does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import inside
from gato.episodes import Dataset, Episode, Spec, TaskSpec
from gato.episodes.writer import DatasetWriter
from gato.errors import UsageError
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.policy.look import attention, first_layer_attention
from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.worlds import find

ROOT = Path(__file__).parents[2]

TASK = "dummy/count"
SEEN = TaskSpec({"image": Spec("image", (32, 48, 3), "uint8"), "text": Spec("text", (), "str")}, {})
POINTS = TaskSpec({"x": Spec("continuous", (2,), "float32", (-1.0,), (1.0,))},
                  {"a": Spec("continuous", (1,), "float32", (-1.0,), (1.0,))})  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The counting world's expert, two tasks of two numbers, and pictures with words."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    made = {TASK: list(rollout([Unit(TASK, seed) for seed in range(6)], [LocalSlot()], ExpertPolicy()))}
    for task, centre in (("own/left", -0.8), ("own/right", 0.8)):
        made[task] = [
            Episode(task, {"x": (centre + 0.01 * rng.normal(size=(5, 2))).astype(np.float32)},
                    {"a": np.full((5, 1), centre, np.float32)}, np.ones(5, np.float32))
            for _ in range(6)
        ]  # fmt: skip
    pictures = rng.integers(0, 256, (6, 1, 32, 48, 3), dtype=np.uint8)
    made["seen/pictures"] = [
        Episode("seen/pictures", {"image": p, "text": ["a red door"]}, {}, np.zeros(1, np.float32)) for p in pictures
    ]
    for task, episodes in made.items():
        spec = {TASK: find(TASK).spec, "seen/pictures": SEEN}.get(task, POINTS)
        with DatasetWriter(folder / task, task, spec, {}) as writer:
            for episode in episodes:
                writer.add(episode)
    return folder


def make(tokenizer, prompts=(), **config) -> Bundle:
    torch.manual_seed(0)
    base = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=64, num_transformer_blocks=2,
        vocabulary_size=tokenizer.size, **config,
    )  # fmt: skip
    specs = {TASK: find(TASK).spec, "own/left": POINTS, "own/right": POINTS, "seen/pictures": SEEN}
    cards = {task: TaskCard(spec, 1, dict(prompts).get(task)) for task, spec in specs.items()}
    card = {"recipe": {"name": "own"}, "tokens": 5}
    return Bundle(
        base,
        Gato(base).eval(),
        tokenizer,
        cards,
        {"discrete": "greedy", "continuous": "mean", "temperature": 1.0},
        card,
    )


def test_a_row_of_attention_is_that_of_the_separator_and_means_are_means(tokenizer, data):
    bundle = make(tokenizer)
    observation = Dataset.open(data / TASK)[0].observations
    tokens = bundle.codec(TASK).encode_observations({k: v[:1] for k, v in observation.items()}, 1)
    last = len(tokens) - 1
    assert np.array_equal(attention(bundle, tokens, [last]), first_layer_attention(bundle, tokens))
    both = attention(bundle, tokens, [3, last], layer=1)
    one = [attention(bundle, tokens, [row], layer=1) for row in (3, last)]
    assert np.allclose(both[:, :4], (np.pad(one[0], ((0, 0), (0, 0))) + one[1][:, :4]) / 2, atol=1e-6)
    assert np.allclose(both[:, 4:], one[1][:, 4:] / 2, atol=1e-6) and np.allclose(both.sum(1), 1, atol=1e-5)
    assert not np.allclose(one[1], first_layer_attention(bundle, tokens), atol=1e-3)  # the second layer is another


@pytest.mark.parametrize("task", [TASK, "seen/pictures"])
def test_a_gaze_lies_on_the_patch_that_is_looked_at(tokenizer, data, task):
    """A network whose keys are zero looks at all tokens alike: rows and columns of patches, each with one token's share."""
    bundle = make(tokenizer, position="learned")
    with torch.no_grad():
        bundle.model.blocks[0].attention.key.zero_()
    g = inside.gaze(bundle, task, Dataset.open(data / task)[1], 0)
    rows, columns = {TASK: (2, 2), "seen/pictures": (2, 3)}[task]
    assert g.weights.shape == (2, rows, columns) and np.allclose(g.weights, g.weights[0, 0, 0], atol=1e-6)
    assert g.share == pytest.approx(g.even, abs=1e-6)
    assert g.picture.shape == (16 * rows, 16 * columns, 3)


def test_the_spotlight():
    picture = np.full((32, 48, 3), 200, np.uint8)
    weights = np.array([[0.0, 0.0, 0.5], [0.0, 0.25, 0.0]])
    lit = inside.spotlight(picture, weights)
    assert (lit[:16, 32:] == 200).all() and (lit[16:, 16:32] == 112).all() and (lit[:16, :32] == 24).all()


def test_neighbours_by_hand():
    """Two tasks of one domain side by side, one of another domain far away that predicts the same kind as the first."""
    x = np.array([[0.0, 0], [0.1, 0], [1, 0], [1.1, 0], [5, 0], [5.1, 0]])
    tasks = ["a/1", "a/1", "a/2", "a/2", "b/1", "b/1"]
    found = inside.neighbours(x, tasks, ["discrete", "discrete", "text", "text", "text", "text"])
    assert found["task"] == [1.0, pytest.approx(1 / 5)]
    assert found["domain"] == [1.0, pytest.approx(1 / 2)]  # b has one task: it does not count
    assert found["kind"] == [1.0, pytest.approx((2 * 1 + 2 * 0.5) / 4)]  # the discrete ones find nobody of their kind
    swapped = inside.neighbours(x[[0, 2, 1, 3, 4, 5]], tasks, ["text"] * 6)
    assert swapped["task"][0] == pytest.approx(2 / 6)


@pytest.mark.parametrize("behind", [0, 1, 2])
def test_a_point_is_the_mean_at_its_separators(tokenizer, data, behind):
    """Windows of one timestep, whose separators see that timestep alone: recomputed one by one."""
    bundle = make(tokenizer)
    dataset = Dataset.open(data / "own/left")
    (point,) = inside.points_of(bundle, bundle.model, dataset, 1, 6, 128, behind, seed=3)
    from gato.sequences import Segment, TokenStore, collate

    rng = np.random.default_rng((3, len(dataset)))
    episodes = dataset.episodes(sorted(rng.permutation(6).tolist()))
    store = TokenStore.build("own/left", bundle.codec("own/left"), episodes)
    alone = []
    for _ in range(6):
        begin, end = store.window(rng, 128, 1, whole=bundle.config.token_sequence_length)
        assert end - begin == 4  # two numbers, the separator, one action
        alone.append(inside.embed(bundle.model, collate([Segment(0, ((begin, end),))], [store]), behind)[2])
    assert np.allclose(point, torch.stack(alone).mean(0).numpy(), atol=1e-5)


def test_own_anothers_and_no_prompt(tokenizer, data, monkeypatch):
    """The other prompt is of the same form, and each way of playing has the prompt it says."""
    left, right, count = (Dataset.open(data / task)[0] for task in ("own/left", "own/right", TASK))
    bundle = make(tokenizer, {"own/left": left, "own/right": right, TASK: count}.items())
    assert inside.stranger(bundle, "own/left", True) == "own/right" and inside.stranger(bundle, TASK, True) is None
    given = []

    def watched(agent, task, episodes, pool):
        given.append(agent.bundle.tasks[task.id].prompt)
        return evaluate_task(agent, task, episodes, pool)

    evaluate_task = inside.evaluate_task
    monkeypatch.setattr(inside, "evaluate_task", watched)
    (record,) = inside.effects("prompts", bundle, [TASK], 1, 0)
    assert given == [count, None] and set(record["scores"]) == {"own prompt", "no prompt"}
    swapped = inside.with_prompts(bundle, "own/left", "own/right")["another task's prompt"]
    assert (
        swapped.tasks["own/left"].prompt is right
        and swapped.model is bundle.model
        and bundle.tasks["own/left"].prompt is left
    )
    mine, other = (Agent(b).session("own/left").act({"x": np.zeros(2, np.float32)}) for b in (bundle, swapped))
    assert not np.array_equal(mine, other)  # what stands before changes what is done
    with pytest.raises(UsageError, match="no prompts"):
        list(inside.effects("prompts", make(tokenizer), [TASK], 1, 0))


def test_own_anothers_and_nobodys_name(tokenizer):
    """What stands at the head of a timestep is that name's token, and the rest is as before."""
    bundle = make(tokenizer, task_token=True)
    assert inside.stranger(bundle, "own/left", False) == "own/right"
    asked = inside.with_names(bundle, "own/left", "own/right")
    assert list(asked) == ["own name", "another task's name", "a name that no task has"]
    seen = {"x": np.zeros(2, np.float32)}
    left, right, nobody = (b.codec("own/left").encode_observation(seen).ids for b in asked.values())
    assert (left[1:] == right[1:]).all() and (left[1:] == nobody[1:]).all()
    assert [int(rows[0] - left[0]) for rows in (left, right, nobody)] == [0, 1, 3]
    assert right[0] == bundle.codec("own/right").encode_observation(seen).ids[0]
    assert list(inside.with_names(bundle, TASK, None)) == ["own name", "a name that no task has"]
    with pytest.raises(UsageError, match="without task tokens"):
        list(inside.effects("names", make(tokenizer), [TASK], 1, 0))


def test_the_commands_write_pictures_numbers_and_a_page(tokenizer, data, tmp_path, capsys):
    folder = make(tokenizer).save(tmp_path / "bundle")
    words = ["--out", str(tmp_path / "i"), "--results", str(tmp_path / "r.json"), "--page", str(tmp_path / "inside.md")]
    inside.main(["attention", str(folder), "--data", str(data), *words])
    inside.main(["tsne", str(folder), "--data", str(data), "--points", "3", "--windows", "2", *words])
    with pytest.raises(SystemExit, match="no prompts"):
        inside.main(["prompts", str(folder), "--tasks", TASK, *words])
    inside.main(["page", *words])
    assert "Not measured yet" in (tmp_path / "inside.md").read_text().split("## What the prompt")[1]
    prompted = make(tokenizer, [(TASK, Dataset.open(data / TASK)[0])]).save(tmp_path / "prompted")
    inside.main(["prompts", str(prompted), "--episodes", "2", "--workers", "0", "--tasks", TASK, *words])
    named = make(tokenizer, task_token=True).save(tmp_path / "named")
    inside.main(["names", str(named), "--episodes", "2", "--workers", "0", "--tasks", TASK, *words])
    inside.main(["page", *words])
    record = json.loads((tmp_path / "r.json").read_text())
    assert {g["task"] for g in record["attention"]["gazes"]} == {TASK, "seen/pictures"}
    assert record["tsne"]["tasks"] == 4 and set(record["tsne"]["neighbours"]) == {"trained", "before training"}
    for name in ("attention", "tsne", "prompts", "names"):
        assert (tmp_path / f"i/inside-{name}.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "inside.md").read_text()
    assert page == inside.page(record) and "`seen/pictures`" in page and "Not measured" not in page


def test_what_was_asked_before_is_not_asked_again(tokenizer, tmp_path, monkeypatch):
    """The same command again goes on behind the tasks that it has; with another number of episodes it has none."""
    folder = make(tokenizer, task_token=True).save(tmp_path / "named")
    words = ["names", str(folder), "--out", str(tmp_path), "--results", str(tmp_path / "r.json"), "--workers", "0"]
    asked = []
    effects = inside.effects

    def watched(way, bundle, tasks, *rest):
        asked.append(list(tasks))
        return effects(way, bundle, tasks, *rest)

    monkeypatch.setattr(inside, "effects", watched)
    for episodes in ("1", "1", "2"):
        inside.main([*words, "--tasks", TASK, "--episodes", episodes])
    assert asked == [[TASK], [], [TASK]]
    found = json.loads((tmp_path / "r.json").read_text())["names"]
    assert found["episodes"] == 2 and [r["task"] for r in found["tasks"]] == [TASK]


def test_the_page_in_the_documentation_is_current():
    record = json.loads(inside.RESULTS.read_text()) if inside.RESULTS.is_file() else {}
    assert (ROOT / "docs/inside.md").read_text() == inside.page(record), "python benchmarks/inside.py page"
    for name in ("attention", "tsne", "prompts", "names"):
        assert (name in record) == (ROOT / f"docs/images/inside-{name}.png").is_file()
