"""Runs that begin from a bundle: whatever happens to them, they go on from it, and its tasks keep their tokens."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import gato.training.start as start
from gato.cli import main
from gato.errors import CheckpointMissingError, OutputExistsError, RecipeError
from gato.model.bundle import Bundle
from gato.rollouts.collect import collect
from gato.training import Recipe
from gato.training.start import bundle_so_far, finetune_recipe, finetune_run, resume_run, start_run
from gato.worlds import find

RECIPE = Recipe(
    name="small", steps=2, slots=2, slot_tokens=256, window_tokens=256, precision="float32",
    model={
        "layer_width": 32, "num_attention_heads": 2, "key_value_size": 16, "feedforward_hidden_size": 64,
        "num_transformer_blocks": 1, "task_token": True,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory, tokenizer):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("started")
    collect([find("sokoban/7x7-1-box"), find("sokoban/7x7-2-boxes")], 3, folder / "old", workers=0, progress=False)
    collect([find("dummy/count"), find("sokoban/7x7-2-boxes")], 3, folder / "new", workers=0, progress=False)
    (folder / "tokenizer.model").write_bytes(tokenizer.to_bytes())
    (folder / "small.py").write_text(f"from gato.training import Recipe\nrecipe = Recipe(**{RECIPE.to_json()!r})\n")
    start_run(
        str(folder / "small.py"), [], [folder / "old"], folder / "run", folder / "tokenizer.model", "cpu", processes=1
    )
    return folder


def test_tasks_keep_their_tokens(home, tmp_path):
    """dummy/count sorts before sokoban, but the network knew sokoban first: its token must not move."""
    before = Bundle.load(home / "run" / "bundle")
    after = Bundle.load(
        finetune_run(before, str(home / "small.py"), [], [home / "new"], tmp_path / "run", "cpu", processes=1)
    )
    assert list(before.tasks) == ["sokoban/7x7-1-box", "sokoban/7x7-2-boxes"]
    assert list(after.tasks) == [*before.tasks, "dummy/count"]
    for task in before.tasks:
        assert after.codec(task).identity == before.codec(task).identity
    assert [d["task"] for d in after.card["data"]] == ["dummy/count", "sokoban/7x7-2-boxes"]
    assert [run["steps"] for run in after.card["history"]] == [2]


def test_a_run_stopped_before_its_first_checkpoint_goes_on_from_the_bundle(home, tmp_path):
    bundle = Bundle.load(home / "run" / "bundle")
    run, words = tmp_path / "run", ["learning_rate=1e-12", "weight_decay=0.0"]  # so that what it began from shows
    whole = finetune_run(bundle, str(home / "small.py"), words, [home / "new"], run, "cpu", processes=1)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(whole)
    resume_run(run, "cpu", processes=1)
    began, ended = (load_file(f / "model.safetensors") for f in (home / "run" / "bundle", run / "bundle"))
    assert all(torch.allclose(began[k], ended[k], atol=1e-6) for k in began)
    assert list(json.loads((run / "bundle" / "tasks.json").read_text())) == [*bundle.tasks, "dummy/count"]


def scores_of(run):
    return [json.loads(line)["step"] for line in (run / "scores.jsonl").read_text().splitlines()]


def test_a_run_is_evaluated_on_what_it_learns_at_its_end_and_when_it_goes_on(home, tmp_path, capsys):
    """Of the tasks that match those of the data, however few its steps are; and, resumed, as it began."""
    run = tmp_path / "run"
    words = ["train", home / "small.py", "--data", home / "new", "--out", run, "--tokenizer", home / "tokenizer.model",
             "--processes", 1, "--device", "cpu", "--set", "save_every_seconds=0.0", "keep_last=9", "--steps", 3]  # fmt: skip
    judged = ["--evaluate", "dummy/*, sokoban/7x7-1-box", "--evaluate-episodes", 1]
    with pytest.raises(SystemExit, match="0"):
        main([*map(str, [*words, *judged])])
    assert scores_of(run) == [3] and [f.name for f in run.glob("best-*")] == ["best-step-00000003"]
    assert "no data of sokoban/7x7-1-box to evaluate" in capsys.readouterr().err

    for more, steps in (([], [3]), (["--evaluate-every", "1"], [3]), ([], [2, 3])):
        shutil.rmtree(run / "bundle")
        (run / "scores.jsonl").unlink()
        (run / "checkpoints" / "last").write_text("step-00000002" if more else "step-00000001")
        with pytest.raises(SystemExit, match="0"):
            main(["train", "--resume", str(run), "--processes", "1", *more])
        assert scores_of(run) == steps

    shutil.rmtree(run / "best-step-00000003", ignore_errors=True)  # killed between its bundle and its last evaluation
    (run / "scores.jsonl").write_text('{"step": 2, "tokens": 9, "score": -1.0}\n')
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            main(["train", "--resume", str(run)])
        assert scores_of(run) == [2, 3] and (run / "best-step-00000003" / "MANIFEST.json").exists()


def test_an_evaluation_of_nothing_is_refused_before_a_run_begins(home, tmp_path, capsys):
    words = ["train", home / "small.py", "--data", home / "old", "--out", tmp_path / "run", "--device", "cpu", "--processes", 1,
             "--tokenizer", home / "tokenizer.model"]  # fmt: skip
    for judged, said in (
        (["--evaluate", "dummy/*"], "the data have no task of dummy/*"),
        (["--evaluate-every", 5], "--evaluate-every goes with --evaluate"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*map(str, [*words, *judged])])
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_a_run_does_not_go_into_a_dataset_or_a_bundle(home, tmp_path):
    shutil.copytree(home / "old" / "sokoban" / "7x7-1-box", tmp_path / "dataset")
    shutil.copytree(home / "run" / "bundle", tmp_path / "bundle")
    for out in (tmp_path / "dataset", tmp_path / "bundle"):
        before = sorted(out.rglob("*"))
        with pytest.raises(OutputExistsError, match="a dataset or a bundle"):
            start_run(
                str(home / "small.py"), [], [home / "old"], out, home / "tokenizer.model", "cpu", processes=1
            )  # fmt: skip
        with pytest.raises(OutputExistsError, match="a dataset or a bundle"):
            bundle = Bundle.load(home / "run" / "bundle")
            finetune_run(bundle, str(home / "small.py"), [], [home / "new"], out, "cpu", processes=1)
        assert sorted(out.rglob("*")) == before


class Killed(BaseException):
    pass


def test_a_stopped_run_gives_the_bundle_that_it_is(home, tmp_path, capsys):
    """The one it would have ended with there; and it goes on afterwards as if nobody had asked."""
    run = tmp_path / "run"
    with pytest.raises(CheckpointMissingError):
        bundle_so_far(run)
    start_run(
        str(home / "small.py"), ["steps=5", "save_every_seconds=0.0", "keep_last=9"], [home / "old"], run,
        home / "tokenizer.model", "cpu", processes=1,
    )  # fmt: skip
    whole = Bundle.load(run / "bundle")
    shutil.rmtree(run / "bundle")
    (run / "checkpoints" / "last").write_text("step-00000002")
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--resume", str(run), "--bundle"])
    assert capsys.readouterr().out.strip() == f"bundle: {run / 'bundle-step-00000002'}"
    now, saved = Bundle.load(run / "bundle-step-00000002"), run / "checkpoints" / "step-00000002" / "model.safetensors"
    for name, tensor in load_file(saved).items():
        assert torch.equal(tensor, now.model.state_dict()[name]), name
    assert now.card["steps"] == 2 and list(now.tasks) == list(whole.tasks) and now.acting == whole.acting
    again = Bundle.load(resume_run(run, "cpu", processes=1))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    for words in (["--resume", str(run), "--set", "steps=9"], ["tiny", "--resume", str(run)], ["--bundle"]):
        with pytest.raises(SystemExit, match="2"):
            main(["train", *words])
    assert "goes on as it began: set" in capsys.readouterr().err


@pytest.fixture
def killed_while_tokenising(monkeypatch):
    """A function that runs another until it is killed there."""

    def until_killed(run):
        def kill(stores):
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(start, "tokenise", kill)
            run()

    return until_killed


def test_a_fine_tuning_that_did_not_begin_leaves_its_folder_free(home, tmp_path, killed_while_tokenising):
    """The same line again; and other data, and no bundle to begin with: nothing of the attempt is in that run."""
    bundle, run = Bundle.load(home / "run" / "bundle"), tmp_path / "run"
    again, small = tmp_path / "again", str(home / "small.py")
    for out in (run, again):
        killed_while_tokenising(
            lambda out=out: finetune_run(bundle, small, [], [home / "new"], out, "cpu", processes=1)
        )
        assert (out / "start").exists() and not (out / "recipe.json").exists()
    finetune_run(bundle, small, [], [home / "new"], run, "cpu", processes=1)
    assert resume_run(run, "cpu", processes=1) == run / "bundle"
    with pytest.raises(OutputExistsError, match="--resume"):
        finetune_run(bundle, small, [], [home / "new"], run, "cpu", processes=1)
    assert (run / "start").exists()
    start_run(small, [], [home / "old"], again, home / "tokenizer.model", "cpu", processes=1)
    assert not (again / "start").exists()
    assert "dummy/count" not in (again / "datasets.json").read_text()


def test_a_folder_called_start_that_is_somebody_elses_stays(home, tmp_path):
    bundle = Bundle.load(home / "run" / "bundle")
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "mine").write_text("")
    with pytest.raises(OutputExistsError, match="something else"):
        finetune_run(bundle, str(home / "small.py"), [], [home / "new"], tmp_path, "cpu", processes=1)
    assert (tmp_path / "start" / "mine").exists()


def test_a_recipe_that_is_refused_leaves_its_folder_free(home, tmp_path):
    for words, data in ((['weights={"babyai":1}'], home / "old"), ([], home / "new")):
        line = (str(home / "small.py"), words, [data], tmp_path / "run", home / "tokenizer.model", "cpu")
        if words:
            with pytest.raises(RecipeError, match="weights"):
                start_run(*line, processes=1)
        else:
            start_run(*line, processes=1)


@pytest.mark.parametrize("name", ["demo", "generalist", "language", "finetune"])
def test_fine_tuning_by_any_recipe_keeps_the_network(home, tmp_path, name):
    """Its sizes are the bundle's, whatever the recipe says of its own network; what weighs nothing is the recipe's."""
    bundle = Bundle.load(home / "run" / "bundle")
    words = ["slots=2", "slot_tokens=256", "window_tokens=256", "document_tokens=256", "precision=float32", "steps=1"]
    recipe = finetune_recipe(bundle, name, words)
    dropout = {"dropout_rate": 0.1} if name == "finetune" else {}
    assert recipe.config() == bundle.config.replace(**dropout)
    if name == "generalist":  # of its own weights none is dummy's
        finetune_run(bundle, name, [*words, 'weights={"*":1}'], [home / "new"], tmp_path / "run", "cpu", processes=1)


@pytest.mark.parametrize("word", ["model.vocabulary_size=2048", 'model={"vocabulary_size":2048}'])
def test_a_vocabulary_that_is_not_the_tokenizers_is_refused(home, tmp_path, word):
    """Where it was asked for; a recipe's own gives way to a tokenizer."""
    line = ([home / "old"], tmp_path / "run", home / "tokenizer.model", "cpu")
    with pytest.raises(RecipeError, match=r"vocabulary_size=2048, .* 1024 pieces"):
        start_run(str(home / "small.py"), [word], *line, processes=1)
    assert not (tmp_path / "run" / "data.json").exists()


def test_what_fine_tuning_may_change(home):
    bundle, small = Bundle.load(home / "run" / "bundle"), str(home / "small.py")
    changed = finetune_recipe(bundle, small, ["model.dropout_rate=0.2", "model.task_token=false"]).config()
    assert changed == bundle.config.replace(dropout_rate=0.2, task_token=False)
    assert finetune_recipe(bundle, small, ['model={"dropout_rate":0.2}']).config() == bundle.config.replace(
        dropout_rate=0.2
    )
    assert finetune_recipe(bundle, small, ["model.layer_width=32"]).config() == bundle.config
    for word in ("model.num_transformer_blocks=2", "model.feedforward_hidden_size=128", "model.vocabulary_size=2048"):
        with pytest.raises(RecipeError, match=word.partition("=")[0]):
            finetune_recipe(bundle, small, [word])


def test_all_that_there_is_held_out_is_said_before_the_plan(home, tmp_path, capsys):
    line = ([home / "old"], tmp_path / "run", home / "tokenizer.model", "cpu")
    with pytest.raises(RecipeError, match=r"hold_out \['\*'\] leaves none of the datasets \(2\)"):
        start_run(str(home / "small.py"), ['hold_out=["*"]'], *line, processes=1)
    assert not capsys.readouterr().err


def test_what_there_is_not_to_hold_out_is_said(home, tmp_path, capsys):
    words = ['hold_out=["sokoban/7x7-1-box","dummy","sokobann","sokoban/7x7-1"]']
    start_run(
        str(home / "small.py"), words, [home / "old"], tmp_path / "run", home / "tokenizer.model", "cpu", processes=1
    )
    assert "no data of dummy, sokobann, sokoban/7x7-1 to hold out" in capsys.readouterr().err
    assert list(Bundle.load(tmp_path / "run" / "bundle").tasks) == ["sokoban/7x7-2-boxes"]
