"""The loop learns what the data says, in any number of parts, writes down what it did, and stops before it spoils anything."""

import itertools
import json
import math
import time

import numpy as np
import pytest
import torch

import gato
import gato.training.log as training_log
from gato.corpora import TEXT_SPEC, asked_of, caption_spec, captioned, document, page, page_spec, questions_spec
from gato.episodes.store import Dataset
from gato.episodes.writer import DatasetWriter
from gato.errors import CheckpointMismatchError, DataError, NonFiniteError, RecipeError, UsageError
from gato.model import Gato
from gato.model.bundle import Bundle
from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.rollouts.collect import collect
from gato.rollouts.loop import EVALUATION_SEEDS
from gato.sequences import Mixture, Segment, TokenStore, collate
from gato.sequences.filter import good_episodes
from gato.tokens.timestep import ACTION_POSITION, CONTINUOUS, DISCRETE, TEXT
from gato.training import Recipe, load_stores, make_mixture, train
from gato.training.loss import token_losses
from gato.training.optimizer import learning_rate, make_optimizers
from gato.worlds import find

RECIPE = Recipe(
    name="test", steps=150, slots=8, slot_tokens=256, window_tokens=256, window_timesteps={"*": 1}, prompt_share=0.0,
    optimizer="muon", learning_rate=3e-3, precision="float32", save_every_seconds=1e9, text_targets=False,
    model={"layer_width": 64, "num_attention_heads": 2, "feedforward_hidden_size": 128, "num_transformer_blocks": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory, tokenizer):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    collect([find("dummy/count")], 40, folder, workers=0, progress=False)
    return load_stores([folder], RECIPE.config(), tokenizer, RECIPE)


@pytest.fixture(scope="module")
def trained(stores, tokenizer, tmp_path_factory):
    """(bundle, run folder) of 150 steps, every one of them in the log."""
    patch = pytest.MonkeyPatch()
    patch.setattr(training_log, "LOG_EVERY_SECONDS", 0.0)
    run = tmp_path_factory.mktemp("run") / "run"
    bundle = train(RECIPE, stores, tokenizer, run)
    patch.undo()
    return bundle, run


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_the_loss_goes_down(trained):
    losses = [r["loss"] for r in log_of(trained[1])]
    assert len(losses) == 150
    assert losses[0] == pytest.approx(math.log(RECIPE.config().vocabulary.size), rel=0.1)
    assert np.mean(losses[25:30]) < 0.7 * losses[0] and np.mean(losses[-10:]) < 0.4 * losses[0]


def test_actions_are_learned(trained):
    """New episodes, the right history given: the best legal id is the right button, and the right stick to half a count
    (the world's own tolerance, four bins). A sequence shifted by one anywhere between world and loss cannot get there."""
    bundle, _ = trained
    codec = bundle.codec("dummy/count")
    episodes = rollout([Unit("dummy/count", EVALUATION_SEEDS + k) for k in range(6)], [LocalSlot()], ExpertPolicy())
    store = TokenStore.build("dummy/count", codec, episodes)
    steps = [Segment(0, ((int(a), int(b)),)) for a, b in zip(store.starts, store.starts[1:], strict=False)]
    batch = collate(steps, [store])
    with torch.no_grad():
        logits = bundle.model(batch)
    action = batch.kinds != TEXT  # textual observations are targets of a bundle's own codec
    logits, targets, kinds = logits[action], batch.targets[action], batch.kinds[action]
    buttons, sticks = kinds == DISCRETE, kinds == CONTINUOUS
    assert buttons.sum() * 2 == sticks.sum() == 2 * store.num_timesteps
    assert (logits[buttons].argmax(-1) == targets[buttons]).float().mean() > 0.9  # over the whole vocabulary
    assert ((logits[sticks].argmax(-1) - targets[sticks]).abs() <= 4).float().mean() > 0.9


def test_the_log_says_what_was_done(trained, stores):
    _, run = trained
    records = log_of(run)
    assert [r["step"] for r in records] == [*range(1, 151)]
    mixture = make_mixture(stores, RECIPE)
    tokens = np.cumsum([mixture.batch(step).num_tokens for step in range(5)])
    assert [r["tokens"] for r in records[:5]] == tokens.tolist()
    for r in records:
        assert r["loss"] == pytest.approx(r["loss/dummy"]) and r["grad_norm"] > 0 and 0 <= r["padding"] < 0.1
        assert r["learning_rate"] == pytest.approx(learning_rate(3e-3, (r["step"] - 1) / 150, RECIPE))
    assert all(a["elapsed_seconds"] <= b["elapsed_seconds"] for a, b in itertools.pairwise(records))


def test_the_bundle_says_where_it_comes_from(trained):
    bundle, _ = trained
    assert bundle.card["steps"] == 150 and bundle.card["parameters"] == bundle.model.num_parameters
    assert bundle.card["data"][0]["task"] == "dummy/count" and bundle.card["data"][0]["episodes"] == 40
    assert Recipe.from_json(bundle.card["recipe"]).to_json() == RECIPE.to_json()


def gradients(model, mixture, parts):
    """Of one whole step in `parts` parts: sums over all of them, then one division."""
    model.zero_grad()
    targets = 0
    for part in range(parts):
        batch = mixture.batch(3, part, parts)
        losses = token_losses(model(batch), batch.targets, batch.kinds, model.config.vocabulary.continuous, 2.0)
        losses.sum().backward()
        targets += len(losses)
    return torch.cat([(p.grad / targets).flatten() for p in model.parameters()]), targets


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_are_one_batch(trained, stores, parts):
    """The gradient is that of the whole batch, whatever the number of parts: per target, not per part. Patch positions
    belong to the segment, so that they too are the same."""
    mixture = make_mixture(stores, RECIPE.replace(window_timesteps={"*": 3}, prompt_share=0.5))
    model = trained[0].model.eval()
    whole, targets = gradients(model, mixture, 1)
    split, again = gradients(model, mixture, parts)
    assert targets == again
    assert (whole - split).abs().max() <= 1e-5 * whole.abs().max()


def test_the_loss_against_a_plain_one():
    """Every offset and both ends of the block, written out bin by bin in float64."""
    first, sd = 7, 3.0
    logits = torch.randn(40, first + 1024 + 2, generator=torch.Generator().manual_seed(1))
    bins = [0, 1, 5, 300, 511, 512, 1018, 1022, 1023]
    targets = torch.tensor([first + b for b in bins] + [3, 6])
    kinds = torch.tensor([CONTINUOUS] * len(bins) + [DISCRETE, TEXT])
    got = token_losses(logits[: len(targets)], targets, kinds, first, sd)
    for row, bin_ in enumerate(bins):
        q = np.zeros(1024)
        for k in range(-8, 9):  # 2.5 sd, rounded
            q[min(max(bin_ + k, 0), 1023)] += math.exp(-0.5 * (k / sd) ** 2)
        q /= q.sum()
        p = torch.log_softmax(logits[row].double(), 0)[first : first + 1024].numpy()
        assert float(got[row]) == pytest.approx(-(q * p).sum(), rel=1e-5)
    for row in (len(bins), len(bins) + 1):
        wanted = torch.nn.functional.cross_entropy(logits[row : row + 1], targets[row : row + 1])
        assert float(got[row]) == pytest.approx(float(wanted), rel=1e-5)
    hard = token_losses(logits[: len(targets)], targets, kinds, first)
    assert torch.allclose(hard, torch.nn.functional.cross_entropy(logits[: len(targets)], targets, reduction="none"))


def test_half_precision_logits_lose_nothing_in_the_loss():
    logits = torch.randn(4, 3000).bfloat16() * 8
    losses = token_losses(logits, torch.arange(4), torch.full((4,), DISCRETE), 1024)
    assert losses.dtype == torch.float32
    assert torch.allclose(losses, torch.nn.functional.cross_entropy(logits.float(), torch.arange(4), reduction="none"))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_the_ends_of_the_schedule(warmup):
    recipe = Recipe(steps=10, warmup=warmup, final_ratio=0.25)
    rates = [learning_rate(2e-3, x, recipe) for x in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(1e-7 if warmup else 2e-3)
    assert max(rates) == pytest.approx(2e-3) and np.argmax(rates) == round(100 * warmup)
    if warmup < 1:
        assert rates[-1] == pytest.approx(0.25 * 2e-3)
        assert rates[round(50 + 50 * warmup)] == pytest.approx(2e-3 * 0.625)  # half of the cosine
    assert learning_rate(2e-3, 1.3, recipe) >= 0.25 * 2e-3 * (1 - 1e-9)  # a clock may run over its end


def test_what_is_decayed(trained):
    """Matrices of blocks and patch embedder; no vector, no norm, no embedding. Every parameter is in one group."""
    model = trained[0].model
    names = {id(p): n for n, p in model.named_parameters()}
    for kind in ("adamw", "muon"):
        optimizers = make_optimizers(model, RECIPE.replace(optimizer=kind, weight_decay=0.1))
        groups = [g for o in optimizers.values() for g in o.param_groups]
        assert sorted(names[id(p)] for g in groups for p in g["params"]) == sorted(names.values())
        decayed = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
        assert all(dict(model.named_parameters())[n].ndim >= 2 for n in decayed)
        assert decayed >= {"blocks.0.attention.query", "blocks.1.feedforward.out", "embed.patch.out.weight"}
        assert not any(n.startswith("embed.") and not n.startswith("embed.patch") for n in decayed)
        matrices = {names[id(p)] for p in optimizers["muon"].param_groups[0]["params"]} if kind == "muon" else set()
        assert all(n.startswith("blocks.") for n in matrices)


def test_a_real_divergence_is_stopped_before_the_update(stores, tokenizer, tmp_path, monkeypatch):
    """A learning rate of 1e30 makes the second or third step's gradient overflow for real."""
    monkeypatch.setattr(training_log, "LOG_EVERY_SECONDS", 0.0)
    recipe = RECIPE.replace(
        optimizer="adamw", learning_rate=1e30, warmup=0.0, steps=20, save_every_seconds=0.0, keep_last=99
    )
    with pytest.raises(NonFiniteError, match=r"at step \d+; nothing was updated") as caught:
        train(recipe, stores, tokenizer, tmp_path / "run")
    assert caught.value.exit_code == 6 and not (tmp_path / "run" / "bundle").exists()
    note = json.loads((tmp_path / "run" / "non-finite.json").read_text())
    step = note["step"]
    assert len(note["windows"]) >= RECIPE.slots and {task for task, _ in note["windows"]} == {"dummy/count"}
    saved = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert saved == [f"step-{k:08d}" for k in range(1, step + 1)] and step >= 1
    assert (tmp_path / "run" / "checkpoints" / "last").read_text() == saved[-1]
    assert [r["step"] for r in log_of(tmp_path / "run")] == [*range(1, step + 1)]


def test_targets_are_what_the_recipe_says(stores, tokenizer, tmp_path_factory):
    """`text_targets` and `prompt_loss` reach the loss."""
    kinds = {int(k) for k in make_mixture(stores, RECIPE).batch(0).kinds}
    assert kinds == {DISCRETE, CONTINUOUS}
    recipe = RECIPE.replace(prompt_share=1.0, window_timesteps={"*": 2}, prompt_loss=False)
    silent, loud = (
        make_mixture(stores, recipe).batch(0),
        make_mixture(stores, recipe.replace(prompt_loss=True)).batch(0),
    )
    n = loud.num_tokens
    assert torch.equal(silent.ids[:n], loud.ids[:n]) and 0 < len(silent.targets) < len(loud.targets)
    actions = int((loud.positions == ACTION_POSITION).sum())
    assert len(loud.targets) == actions


@pytest.mark.parametrize("smooth", [0.0, 2.0])
def test_observations_are_learned_with_their_weight(stores, tokenizer, tmp_path, smooth):
    """`observation_loss=0.5`: the step's gradient is that of the weighted loss, computed here from its definition. Only
    actions are smoothed."""
    recipe = RECIPE.replace(steps=1, observation_loss=0.5, smooth_targets=smooth)
    folder = tmp_path / "data"
    collect([find("dummy/count")], 4, folder, workers=0, progress=False)
    seeing = load_stores([folder], recipe.config(), tokenizer, recipe)
    train(recipe, seeing, tokenizer, tmp_path / "run")
    torch.manual_seed(recipe.seed)
    model = Gato(recipe.config())
    batch = make_mixture(seeing, recipe).batch(0)
    assert 0.2 < float(batch.observed.float().mean()) < 1
    first = model.config.vocabulary.continuous
    sides = [token_losses(model(batch), batch.targets, batch.kinds, first, sd) for sd in (0.0, smooth)]
    losses = torch.where(batch.observed, *sides)
    weights = torch.tensor([0.5 if observed else 1.0 for observed in batch.observed])
    ((losses * weights).sum() / weights.sum()).backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert log_of(tmp_path / "run")[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_poor_episodes_and_held_out_tasks_are_not_read(tokenizer, tmp_path):
    """A third of the episodes play at random: the return filter keeps the expert's; a held-out task leaves nothing."""
    task = find("dummy/count")
    collect([task], 20, tmp_path, workers=0, progress=False)
    whole = load_stores([tmp_path], RECIPE.config(), tokenizer, RECIPE)[0]
    returns = Dataset.open(tmp_path / task.id).returns
    kept = load_stores([tmp_path], RECIPE.config(), tokenizer, RECIPE.replace(return_filter=0.8))[0]
    assert kept.num_episodes == len(good_episodes(returns, 0.8)) < whole.num_episodes == 20
    for pattern in ("dummy/*", "dummy", "dummy/count", "*count", "*"):  # a domain's name as in `weights`
        with pytest.raises(RecipeError, match="leaves none of the datasets"):
            load_stores([tmp_path], RECIPE.config(), tokenizer, RECIPE.replace(hold_out=(pattern,)))
    assert len(load_stores([tmp_path], RECIPE.config(), tokenizer, RECIPE.replace(hold_out=("dumm", "count")))) == 1


def test_tables_may_learn_at_their_own_rate():
    model = Gato(RECIPE.config())
    groups = make_optimizers(model, RECIPE.replace(table_learning_rate=0.02))["adamw"].param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in groups for p in g["params"]}
    assert {n for n, rate in rates.items() if rate == 0.02} == {
        "embed.table",
        "embed.local",
        "embed.row",
        "embed.column",
        "embed.smooth",
    }
    assert set(rates.values()) == {0.02, RECIPE.learning_rate}
    still = make_optimizers(model, RECIPE.replace(table_learning_rate=0.0))["adamw"].param_groups
    assert [g["peak"] for g in still] == [RECIPE.learning_rate, RECIPE.learning_rate, 0.0]


def test_weights_that_name_nothing_stop_before_anything_starts(stores, tokenizer, tmp_path):
    with pytest.raises(RecipeError):
        train(RECIPE.replace(weights={"babyai": 1.0}), stores, tokenizer, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    train(RECIPE.replace(steps=1), stores, tokenizer, tmp_path / "run")  # and the folder is free


def test_a_bundle_of_another_network_stops_before_anything_starts(stores, tokenizer, tmp_path):
    bundle = Bundle(RECIPE.config(), Gato(RECIPE.config()), tokenizer)
    recipe = RECIPE.replace(model={**RECIPE.model, "num_transformer_blocks": 1})
    with pytest.raises(CheckpointMismatchError, match=r"unexpected blocks\.1"):
        train(recipe, stores, tokenizer, tmp_path / "run", start=bundle)
    assert not list((tmp_path / "run").glob("*.json"))


@pytest.mark.parametrize("accumulate, processes", [(1, 1), (2, 1), (8, 1), (1, 2), (2, 2)])
def test_the_loop_divides_by_all_targets_of_the_step(stores, tokenizer, tmp_path, accumulate, processes):
    """Parts and processes: the first step's gradient is that of one whole batch, before clipping."""
    recipe = RECIPE.replace(steps=1, accumulate=accumulate, window_timesteps={"*": 3}, prompt_share=0.5)
    train(recipe, stores, tokenizer, tmp_path / "run", processes=processes)
    record = log_of(tmp_path / "run")[0]
    torch.manual_seed(recipe.seed)
    model = Gato(recipe.config())
    batch = make_mixture(stores, recipe).batch(0)
    token_losses(model(batch), batch.targets, batch.kinds, model.config.vocabulary.continuous).mean().backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert record["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert record["tokens"] == batch.num_tokens


def test_what_a_run_writes_down(stores, tokenizer, tmp_path, monkeypatch):
    """Losses per domain and per kind of token, rates, memory; the same in TensorBoard's events; a profile; the best bundle."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(training_log, "LOG_EVERY_SECONDS", 0.0)
    scores = iter([1.0, 3.0, 2.0])
    run = tmp_path / "run"
    seen = []

    def score(bundle):
        assert not bundle.model.training and "dummy/count" in bundle.tasks
        seen.append(bundle.card["steps"])
        return next(scores)

    train(RECIPE.replace(steps=9), stores, tokenizer, run, score=score, score_every=3, profile=True)
    lines = log_of(run)
    last = lines[-1]
    assert {"loss/dummy", "loss/kind/discrete", "loss/kind/continuous", "data_wait", "memory_gb", "grad_norm"} <= set(
        last
    )
    assert last["memory_gb"] > 0.05 and last["targets_per_second"] < last["tokens_per_second"]
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([r["loss"] for r in lines])
    assert (
        json.loads((run / "profile.json").read_text())["traceEvents"] and "aten::" in (run / "profile.txt").read_text()
    )
    assert seen == [3, 6, 9]
    assert [p.name for p in run.glob("best-step-*")] == ["best-step-00000006"]
    assert gato.load(run / "best-step-00000006").bundle.card["steps"] == 6
    assert [json.loads(x)["score"] for x in (run / "scores.jsonl").read_text().splitlines()] == [1.0, 3.0, 2.0]


def test_slow_data_are_named(stores, tokenizer, tmp_path, monkeypatch, capsys):
    slow = Mixture.batch

    def wait(self, *a, **k):
        time.sleep(0.2)
        return slow(self, *a, **k)

    monkeypatch.setattr(training_log, "LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(Mixture, "batch", wait)
    train(RECIPE.replace(steps=3), stores, tokenizer, tmp_path / "opening")  # two slow lines: files being opened
    assert "waiting for data" not in capsys.readouterr().err
    train(RECIPE.replace(steps=6), stores, tokenizer, tmp_path / "slow")
    assert capsys.readouterr().err.count("waiting for data") == 1


def test_trackers_that_are_not_there(stores, tokenizer, tmp_path):
    with pytest.raises(UsageError, match="wandb or trackio"):
        train(RECIPE, stores, tokenizer, tmp_path / "run", track="mlflow")
    assert not (tmp_path / "run" / "recipe.json").exists()


# -- steps with little in them --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Texts, pages of a picture of 400 patches each and a few words, and arrays without either."""
    folder, rng = tmp_path_factory.mktemp("mixed"), np.random.default_rng(0)
    with DatasetWriter(folder / "text", "text/notes", TEXT_SPEC, {}) as texts:
        for i in range(20):
            texts.add(document("text/notes", f"Note {i}. " + "Water the plants. " * 5))
    with DatasetWriter(folder / "pages", "pages/big", page_spec(320, 320), {}) as pages:
        for _ in range(3):
            picture = rng.integers(256, size=(320, 320, 3), dtype=np.uint8)
            pages.add(page("pages/big", [picture, "A cat."], (320, 320)))
    for _ in range(3):
        felt, seen = rng.normal(size=(8, 2)).astype(np.float32), rng.integers(256, size=(8, 16, 16, 3), dtype=np.uint8)
        gato.write_episode(folder / "felt", {"joints": felt}, np.tanh(felt), np.ones(8), task="felt/arm")
        gato.write_episode(folder / "seen", {"camera": seen}, np.tanh(felt), np.ones(8), task="seen/arm")
    return folder


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_without_a_picture_is_the_same_on_any_number_of_processes(mixed, tokenizer, tmp_path, optimizer):
    """The patch embedder goes on by its momentum and decays, alone as with others."""
    recipe = RECIPE.replace(
        steps=10, slots=2, accumulate=2, slot_tokens=32, window_tokens=32, weights={"felt": 0.9, "seen": 0.1}, warmup=0.0,
        optimizer=optimizer, model={**RECIPE.model, "patch_embedder": "linear"},
    )  # fmt: skip
    stores = load_stores([mixed / "felt", mixed / "seen"], recipe.config(), tokenizer, recipe)
    mixture = make_mixture(stores, recipe)
    pictures = [len(mixture.batch(step).image_rows) > 0 for step in range(recipe.steps)]
    assert (True, False) in itertools.pairwise(pictures)
    one, two = (train(recipe, stores, tokenizer, tmp_path / str(n), processes=n).model.state_dict() for n in (1, 2))
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-6


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_without_a_target_counts_and_changes_nothing(mixed, tokenizer, tmp_path, processes):
    """Its windows lie in the pictures of pages. No 0/0, no momentum, no decay; the next step with targets learns."""
    recipe = RECIPE.replace(
        steps=8, slots=2, slot_tokens=128, window_tokens=128, weights={"pages": 0.8, "text": 0.2}, optimizer="adamw",
        window_timesteps={},
    )  # fmt: skip
    stores = load_stores([mixed / "pages", mixed / "text"], recipe.config(), tokenizer, recipe)
    mixture = make_mixture(stores, recipe)
    targets = [len(mixture.batch(step).targets) > 0 for step in range(recipe.steps)]
    assert (True, False) in itertools.pairwise(targets)
    torch.manual_seed(recipe.seed)
    weights = [torch.cat([p.flatten() for p in Gato(recipe.config()).parameters()])]

    def visit(model, state):
        weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))

    bundle = train(recipe, stores, tokenizer, tmp_path / "run", processes=processes, visit=visit)
    assert [not torch.equal(a, b) for a, b in itertools.pairwise(weights)] == targets
    assert bundle.card["steps"] == 8


def test_two_datasets_of_one_task_must_be_of_one_spec(mixed, tokenizer, tmp_path):
    """The bundle would act by the spec of one of them alone."""
    wide = np.zeros((4, 3), np.float32)
    gato.write_episode(tmp_path / "wide", {"joints": wide}, wide[:, :2], np.ones(4), task="felt/arm")
    with pytest.raises(DataError, match="felt/arm") as error:
        load_stores([mixed / "felt", tmp_path / "wide"], RECIPE.config(), tokenizer, RECIPE)
    assert str(mixed / "felt") in error.value.where and str(tmp_path / "wide") in error.value.where
    left = RECIPE.replace(hold_out=("felt",))
    assert len(load_stores([mixed, tmp_path / "wide"], left.config(), tokenizer, left)) == 3


def test_a_network_with_learned_positions_has_one_for_every_token(mixed, stores, tokenizer, tmp_path):
    learned = RECIPE.replace(model={**RECIPE.model, "position": "learned", "token_sequence_length": 128})
    with pytest.raises(RecipeError, match=r"up to 256 tokens .* 128 positions"):
        train(learned, stores, tokenizer, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.json"))
    for fits in (learned.replace(window_tokens=128), learned.replace(slot_tokens=128)):
        make_mixture(stores, fits)
    texts = load_stores([mixed / "text"], RECIPE.config(), tokenizer, RECIPE)
    make_mixture(texts, learned.replace(document_tokens=128))
    with pytest.raises(RecipeError, match="129 tokens"):
        make_mixture(texts, learned.replace(document_tokens=129))
    make_mixture(stores, learned, RECIPE.config())  # of the bundle that a run starts from


def test_windows_that_end_before_the_text_begins_are_refused(mixed, tokenizer, tmp_path):
    """Of a caption or a question they would never hold the picture and a target; of a page they may hold text alone."""
    picture = np.zeros((160, 160, 3), np.uint8)  # 100 patches
    for task, spec, episode in (
        ("captions/big", caption_spec(160, 160), captioned("captions/big", picture, "A cat.")),
        ("questions/big", questions_spec(160, 160), asked_of("questions/big", picture, [("Who?", "Me."), ("Why?", "So.")])),
    ):  # fmt: skip
        with DatasetWriter(tmp_path / task, task, spec, {}) as writer:
            writer.add(episode)
        long, short = RECIPE.replace(prompt_share=0.0), RECIPE.replace(document_tokens=100)
        stores = load_stores([tmp_path / task], RECIPE.config(), tokenizer, RECIPE)
        assert len(make_mixture(stores, long).batch(0).targets)
        with pytest.raises(RecipeError, match=f"100 tokens of a picture \\[{task}\\]"):
            train(short, stores, tokenizer, tmp_path / "run")
        assert not list((tmp_path / "run").glob("*.json"))
    make_mixture(load_stores([mixed / "pages"], RECIPE.config(), tokenizer, RECIPE), RECIPE)
