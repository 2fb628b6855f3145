"""The command line as a person meets it: real processes, real folders, exit codes, and the whole path once."""

import json
import os
import subprocess
import sys
import time

import pytest

VERBS = ["demo", "doctor", "tasks", "collect", "train", "evaluate", "play", "chat", "caption", "report"]


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


def test_doctor_counts_the_sizes():
    found = json.loads(gato("doctor", "--sizes", "--json").stdout)
    assert abs(found["gato-79m"]["parameters"] / 79e6 - 1) < 0.015


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


def test_play(run, tmp_path):
    done = gato("play", run / "train", "sokoban/7x7-1-box", "--video", tmp_path / "film.webp", "--max-steps", 20)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "film.webp").stat().st_size > 100


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
