"""The command line as a person meets it: real processes, real folders, exit codes, and the whole path once."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from gato.cli import Evaluate
from gato.errors import UnknownNameError
from gato.model.bundle import Bundle
from gato.worlds import registry

VERBS = ["demo", "doctor", "tasks", "collect", "train", "finetune", "evaluate", "play", "chat", "caption", "report"]


def gato(*words, cwd=None):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "gato", *map(str, words)], capture_output=True, text=True, cwd=cwd, env=env, timeout=300
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Collected, trained for a few steps, evaluated: by commands alone."""
    folder = tmp_path_factory.mktemp("run")
    for words in (
        ["collect", "dummy/count", "--out", folder / "data", "--episodes", 6, "--workers", 1],
        ["collect", "sokoban/7x7-1-box", "--out", folder / "data", "--episodes", 6, "--workers", 1],
        [
            "train",
            "tiny",
            "--data",
            folder / "data",
            "--out",
            folder / "train",
            "--steps",
            3,
            "--set",
            "slots=2",
            "slot_tokens=512",
            "--processes",
            1,
        ],
        [
            "evaluate",
            folder / "train",
            "--tasks",
            "sokoban/7x7-1-box",
            "--out",
            folder / "eval",
            "--episodes",
            2,
            "--workers",
            1,
        ],
    ):
        done = gato(*words)
        assert done.returncode == 0, done.stderr
    return folder


def test_help_is_quick():
    for verb in VERBS:
        began = time.monotonic()
        done = gato(verb, "--help")
        assert done.returncode == 0 and "usage" in done.stdout.lower()
        assert time.monotonic() - began < 5  # no torch: that alone takes longer on a busy machine
    code = "import sys; from gato import cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules or 'gymnasium' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_tasks():
    records = json.loads(gato("tasks", "--json").stdout)
    ids = [r["id"] for r in records]
    assert len(ids) == len(set(ids)) and {
        "babyai/go-to-local",
        "meta-world/push",
        "ale-atari/breakout",
        "dm-control-suite/cartpole-swingup",
    } <= set(ids)
    assert all(r["domain"] == r["id"].split("/")[0] and isinstance(r["installed"], bool) for r in records)
    assert (
        sum(r["domain"] == "babyai" for r in records) == 96 and sum(r["domain"] == "meta-world" for r in records) == 50
    )


def test_tasks_with_their_specs():
    """Printed and as JSON; a domain that is not installed would say how to install it."""
    record = json.loads(gato("tasks", "dummy/count", "--spec", "--json").stdout)[0]
    assert record["extra"] == "" and record["spec"]["action"]["stick"] == {
        "kind": "continuous", "shape": [2], "dtype": "float32", "low": [-1.0, -1.0], "high": [1.0, 1.0],
        "channels_first": False,
    }  # fmt: skip
    shown = gato("tasks", "dummy/count", "--spec").stdout
    assert "nested/unbounded: continuous float64 (2,) in -inf … inf" in shown


def test_single_actions_on_demonstrations(run, tmp_path):
    """Beside the scores, as a table and as JSON; and what is missing is said."""
    words = ["evaluate", run / "train", "--tasks", "sokoban/7x7-1-box", "--episodes", 2, "--workers", 0, "--no-film"]
    done = gato(*words, "--teacher-forced", "--data", run / "data", "--out", tmp_path / "a")
    assert done.returncode == 0 and "right" in done.stdout and "environment steps, " in done.stdout, done.stderr
    [task] = json.loads((tmp_path / "a" / "results.json").read_text())["tasks"]
    assert task["teacher_forced"]["episodes"] == 2 and 0 <= task["teacher_forced"]["accuracy"] <= 1
    for wrong, said in (
        (["--teacher-forced"], "--data"),
        (["--data", run / "data"], "--teacher-forced"),
        (["--teacher-forced", "--data", run / "data" / "dummy"], "no demonstrations"),
    ):
        done = gato(*words, *wrong, "--out", tmp_path / "b")
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_usage_of_verbs_that_do_not_exist():
    assert gato().returncode == 2 and gato("--help").returncode == 0
    done = gato("evalute")
    assert done.returncode == 2 and "did you mean evaluate" in done.stderr
    for word in ("finetune", "answer"):  # nothing to do is no success
        assert gato(word).returncode == 2
    assert gato("doctor", "--frobnicate").returncode == 2
    assert gato("--version").stdout.startswith("gato ")


def test_doctor_examines():
    found = json.loads(gato("doctor", "--json").stdout)
    assert {"python", "torch", "device", "rendering", "training", "babyai", "meta-world"} <= set(found)
    before, after = found["training"].split("loss ")[1].split(" → ")
    assert found["training"].startswith("two steps") and 0 < float(after) < float(before)


def test_doctor_counts_the_sizes():
    found = json.loads(gato("doctor", "--sizes", "--json").stdout)
    for name, printed in (("gato-79m", 79e6), ("gato-364m", 364e6), ("gato-1.18b", 1.18e9)):
        assert abs(found[name]["parameters"] / printed - 1) < 0.015, name


def test_the_whole_path(run):
    results = json.loads((run / "eval" / "results.json").read_text())
    task = results["tasks"][0]
    assert {"id", "domain", "score", "random", "expert", "expert_normalised", "interval", "episodes"} <= set(task)
    assert task["episodes"] == 2 and "mean_of_domain_means" in results["aggregates"]
    page = (run / "eval" / "report.html").read_text()
    assert "sokoban/7x7-1-box" in page and "<script" not in page
    assert (run / "eval" / "media" / "sokoban--7x7-1-box.webp").stat().st_size > 100


def test_resuming_a_finished_run_and_refusing_a_second(run):
    again = gato("train", "--resume", run / "train")
    assert again.returncode == 0 and "bundle" in again.stdout
    second = gato("train", "tiny", "--data", run / "data", "--out", run / "train", "--steps", 3)
    assert second.returncode == 2 and "output-exists" in second.stderr and "--resume" in second.stderr


def test_topping_up_costs_nothing(run):
    done = gato("collect", "dummy/count", "--out", run / "data", "--episodes", 6)
    assert done.returncode == 0 and "6 episodes (+0)" in done.stdout


def test_data_verbs(run, tmp_path):
    rows = json.loads(gato("data", "ls", run / "data", "--json").stdout)
    assert {r["task"] for r in rows} == {"dummy/count", "sokoban/7x7-1-box"} and all(r["tokens"] for r in rows)
    shown = gato("data", "show", run / "data/sokoban/7x7-1-box", "--picture", tmp_path / "step.png")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("image") >= 49 and "●" in shown.stdout and (tmp_path / "step.png").stat().st_size > 500
    texts = gato("data", "show", run / "data/dummy/count", "--tokenizer", run / "train" / "tokenizer.model")
    assert texts.returncode == 0, texts.stderr
    assert gato("data", "verify", run / "data").returncode == 0


def test_shown_tokens_are_the_trained_ones(run, tokenizer, tmp_path):
    """Row for row: what `data show` prints is what the store that training reads holds."""
    from gato.episodes.store import Dataset
    from gato.model import GatoConfig
    from gato.sequences import TokenStore
    from gato.tokens import TimestepCodec
    from gato.tokens.timestep import IMAGE, KINDS

    tokenizer.save(tmp_path / "t.model")
    dataset = Dataset.open(run / "data/dummy/count")
    vocabulary = GatoConfig.tiny().replace(vocabulary_size=tokenizer.size).vocabulary
    codec = TimestepCodec(dataset.spec, vocabulary, tokenizer, task=dataset.task)
    store = TokenStore.build(dataset.task, codec, [dataset[i] for i in range(3)])
    timestep = int(store.episodes[2]) + 4
    first, last = int(store.starts[timestep]), int(store.starts[timestep + 1])
    done = gato(
        "data", "show", run / "data/dummy/count", "--episode", 2, "--step", 4, "--tokenizer", tmp_path / "t.model"
    )
    rows = [line for line in done.stdout.splitlines() if line.strip()[:1].isdigit()]
    t = store.tokens
    assert len(rows) == last - first
    for line, i in zip(rows, range(first, last), strict=True):
        kind, shown = line.split()[1:3]
        assert kind == KINDS[t.kinds[i]] and shown == ("–" if t.kinds[i] == IMAGE else str(t.ids[i]))
        assert line.rstrip().endswith("●") == bool(t.targets[i])
    assert int(np.sum(t.targets[first:last])) > 3


def test_table_one_adds_up(run):
    rows = json.loads(gato("data", "ls", run / "data", "--json").stdout)
    assert abs(sum(r["sample_weight"] for r in rows) - 1) < 1e-9
    narrow = subprocess.run(
        [sys.executable, "-m", "gato", "data", "ls", str(run / "data")],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}, timeout=60,
    )  # fmt: skip
    assert "sokoban/7x7-1-box" in narrow.stdout  # a name is never cut


def test_chat_and_captions(tmp_path, tokenizer):
    """A few steps on texts and scenes: the words are noise, the path is real, and a seed repeats it."""
    from PIL import Image

    from gato.corpora import TEXT_SPEC
    from gato.corpora.text import text_files
    from gato.episodes import DatasetWriter
    from gato.policy import load
    from gato.scenes import generate

    generate(tmp_path / "data", ["captions/scenes"], scenes=24)
    (tmp_path / "notes.txt").write_text("Return the first of the items. " * 40)
    with DatasetWriter(tmp_path / "data/text/notes", "text/notes", TEXT_SPEC, {"source": "a test"}) as writer:
        for episode in text_files([tmp_path / "notes.txt"], "text/notes"):
            writer.add(episode)
    tokenizer.save(tmp_path / "t.model")
    words = ["--set", "slots=1", "slot_tokens=512", "--processes", 1, "--tokenizer", tmp_path / "t.model"]
    done = gato("train", "tiny", "--data", tmp_path / "data", "--out", tmp_path / "run", "--steps", 2, *words)
    assert done.returncode == 0, done.stderr
    said = gato("chat", tmp_path / "run", "Return the", "--max-tokens", 8, "--seed", 1)
    assert said.returncode == 0, said.stderr
    agent = load(tmp_path / "run")
    again, other = (agent.chat("Return the", 8, seed=seed) for seed in (1, 2))
    assert said.stdout == again + "\n" and again != other
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    done = gato("caption", tmp_path / "run", tmp_path / "red.png", tmp_path / "red.png", "--json")
    captions = json.loads(done.stdout)
    assert len(captions) == 2 and captions[0] == captions[1] and isinstance(captions[0]["caption"], str)
    half = gato("chat", tmp_path / "run", b"half \xff".decode(errors="surrogateescape"))
    assert half.returncode == 2 and "error[tokenizer]" in half.stderr and "Traceback" not in half.stderr


def test_interrupting_loses_no_finished_episode(tmp_path):
    """Ctrl-C in a terminal goes to every process of the command: exit 130, no traceback, and what was done is kept."""
    words = ["collect", "sokoban/7x7-1-box", "--out", str(tmp_path), "--episodes", "100000", "--workers", "1"]
    running = subprocess.Popen(
        [sys.executable, "-m", "gato", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    folder, deadline = tmp_path / "sokoban/7x7-1-box", time.monotonic() + 60
    while len(list(folder.glob("pending/*.parquet"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in said, said
    report = json.loads(gato("data", "verify", tmp_path, "--json").stdout)
    assert report["ok"] and report["episodes"] >= 5
    wanted = report["episodes"] + 2
    more = gato("collect", "sokoban/7x7-1-box", "--out", tmp_path, "--episodes", wanted, "--workers", 0)
    assert f"{wanted:,} episodes (+2)" in more.stdout


def test_play(run, tmp_path):
    done = gato("play", run / "train", "sokoban/7x7-1-box", "--video", tmp_path / "film.webp", "--max-steps", 20)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "film.webp").stat().st_size > 100
    words = [run / "train", "sokoban/7x7-1-box", "--plan", 2, "--plan-steps", 3, "--episodes", 2]
    done = gato("play", *words, "--max-steps", 3, "--video", tmp_path / "planned.gif")
    assert done.returncode == 0, done.stderr
    assert "episode 1: return" in done.stdout and (tmp_path / "planned.gif").stat().st_size > 100


def test_tokenizer_train(tmp_path):
    text = tmp_path / "words.txt"
    text.write_text(
        "\n".join(
            f"{a} {b} reads {a}{b}"
            for a in ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
            for b in range(400)
        )
    )
    small = gato("tokenizer", "train", text, "--size", 32000, "--out", tmp_path / "t.model")
    assert small.returncode == 2 and "tokenizer" in small.stderr and "Traceback" not in small.stderr


def test_a_tokenizer_of_datasets_and_files(tmp_path):
    """A folder of datasets is read for its texts, a folder of files as documents."""
    from gato.scenes import generate
    from gato.tokens.text import TextTokenizer

    generate(tmp_path / "data", ["text/python-docs"])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("xyzzyplugh " * 3000)
    done = gato(
        "tokenizer", "train", tmp_path / "data", tmp_path / "notes", "--size", 1024, "--out", tmp_path / "t.model"
    )
    assert done.returncode == 0, done.stderr
    tokenizer = TextTokenizer.load(tmp_path / "t.model")
    assert len(tokenizer.encode("xyzzyplugh")) < 4 and len(tokenizer.encode("Return the list")) < 9


def test_a_flag_of_many_values_may_be_repeated(tmp_path):
    """The parser alone would keep the last `--set` and forget the others without a word."""
    from gato.cli import _together

    words = ["tiny", "--set", "a=1", "--data", "x", "y", "--steps", "3", "--set", "b=2", "c=3", "--data", "z"]
    assert _together(words, ("--set", "--data")) == [
        "tiny",
        "--steps",
        "3",
        "--set",
        "a=1",
        "b=2",
        "c=3",
        "--data",
        "x",
        "y",
        "z",
    ]
    assert _together(["babyai/*", "--json"], ("--set",)) == ["babyai/*", "--json"]


def test_brackets_in_a_table_are_said(capsys):
    """A pip line names an extra in brackets, which is no style of the table's."""
    from rich.table import Table

    from gato.cli.checks import print_table

    table = Table("installed")
    table.add_row('pip install "gato-agent[babyai]"')
    print_table(table)
    assert 'pip install "gato-agent[babyai]"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "way", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_terminal_without_our_letters_is_no_error(way):
    done = subprocess.run([sys.executable, "-m", "gato", "--help"], capture_output=True, env={**os.environ, **way})
    assert done.returncode == 0 and b"?" in done.stdout and b"Error" not in done.stderr


def test_a_task_that_the_agent_does_not_know_is_told_alike_everywhere():
    """Of hundreds of tasks the nearest are said."""
    agent = SimpleNamespace(tasks=[t for t in registry() if not t.startswith("gym/")])  # those another test has found
    for ask in (
        lambda: Evaluate(tasks="gym/CartPole-v1")._chosen(agent),
        lambda: Bundle.codec(SimpleNamespace(tasks=dict.fromkeys(agent.tasks)), "gym/CartPole-v1"),
    ):
        with pytest.raises(UnknownNameError, match="not trained on") as error:
            ask()
        assert error.value.fix.endswith(f"it knows {len(agent.tasks):,}") and len(error.value.fix) < 200
