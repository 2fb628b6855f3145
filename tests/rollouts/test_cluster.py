"""Collecting and evaluating on a real Ray cluster of two CPUs on this machine: the same as without, also when it is hurt."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gato.episodes import Dataset
from gato.episodes.repair import verify
from gato.errors import ResourceError, UsageError
from gato.rollouts import CLEAN, Noise
from gato.rollouts.collect import collect
from gato.worlds import find

sys.path.insert(0, str(Path(__file__).parent))

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def ray_command(*words):
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run([*ray, *words], capture_output=True, text=True, env=env, timeout=120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers, started as anybody starts them; ended by their ids, since others may run a Ray of their own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    folder = f"/tmp/gato-ray-{port}"  # sockets lie in it, whose paths must be short
    before = _processes()
    done = ray_command(
        "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false",
        "--disable-usage-stats", f"--temp-dir={folder}", "--object-store-memory=100000000", "--min-worker-port=0",
        "--max-worker-port=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    yield f"127.0.0.1:{port}"
    for process, line in _processes().items():
        if process not in before and (folder in line or f":{port} " in line):
            _kill(process)
    subprocess.run(["rm", "-rf", folder])


def _processes():
    """{id: command line} of everything that runs here."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    return found


def _kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def same(a, b):
    assert len(a) == len(b) and [e.number for e in a.index] == [e.number for e in b.index]
    for one, other in zip(a, b, strict=True):
        for leaves, others in ((one.observations, other.observations), (one.actions, other.actions)):
            for path, values in leaves.items():
                assert (
                    values == others[path] if isinstance(values, list) else values.tobytes() == others[path].tobytes()
                )
        assert one.rewards.tobytes() == other.rewards.tobytes() and one.info == other.info


def slow(env, seed):
    """The expert, which takes its time, so that there is some to be killed in."""
    expert = find("dummy/count").expert(env, seed)

    def act(observation, info):
        time.sleep(0.002)
        return expert(observation, info)

    return act


@needs_ray
@pytest.mark.slow
def test_collecting_there_is_collecting_here_also_when_a_worker_is_killed(cluster, tmp_path):
    """Killed from outside, with -9, while it works: its units are done again, none is lost, none is there twice."""
    task, options = (
        find("dummy/count"),
        {"noise": [CLEAN, Noise(0.2)], "progress": False, "policy": "test_cluster:slow"},
    )
    here = collect([task], 60, tmp_path / "here", 2, **options)
    killed = []

    def kill_one():
        pending = tmp_path / "there/dummy/count/pending"
        while not list(pending.glob("*.parquet")):
            time.sleep(0.05)
        members = [p for p, line in _processes().items() if line.startswith("ray::") and "Member" in line]
        killed.append(min(members))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill_one, daemon=True).start()
    there = collect([task], 60, tmp_path / "there", None, cluster=cluster, **options)
    assert killed and there[0].episodes == here[0].episodes == 60 and not there[0].failed
    assert verify(tmp_path / "there/dummy/count").ok
    same(Dataset(tmp_path / "here/dummy/count"), Dataset(tmp_path / "there/dummy/count"))


@needs_ray
@pytest.mark.slow
def test_scores_there_are_scores_here(cluster, tmp_path, tokenizer):
    import torch

    from gato.evaluation.evaluate import evaluate
    from gato.model import Gato, GatoConfig
    from gato.model.bundle import Bundle, TaskCard
    from gato.policy import Agent

    tasks = [find("dummy/count"), find("gym/CartPole-v1")]
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size, token_sequence_length=256,
    )  # fmt: skip
    ways = {"discrete": "sample", "continuous": "sample", "temperature": 1.0}
    cards = {task.id: TaskCard(task.spec, None) for task in tasks}
    agent = Agent(Bundle(config, Gato(config).eval(), tokenizer, cards, ways, {}))
    kept = ("id", "score", "episode_scores", "interval", "expert_normalised")
    runs = {}
    for name, options in (("here", {"workers": 0}), ("there", {"workers": None, "cluster": cluster})):
        record = evaluate(agent, tasks, 6, tmp_path / name, film=False, progress=False, **options)
        runs[name] = [{**{k: t[k] for k in kept}, "mass": t["facts"]["legal_mass"]} for t in record["tasks"]]
    assert runs["here"] == runs["there"]
    assert len({score for t in runs["here"] for score in t["episode_scores"]}) > 3  # they are about something
    assert json.loads((tmp_path / "there/results.json").read_text())["protocol"]["environment_steps"] > 0


@needs_ray
@pytest.mark.slow
def test_an_expert_that_fails_there_is_named_as_here(cluster, tmp_path):
    from gato.errors import GatoError

    with pytest.raises(GatoError) as here:
        collect([find("dummy/count")], 3, tmp_path / "here", 1, policy="test_cluster:broken", progress=False)
    with pytest.raises(GatoError) as there:
        collect(
            [find("dummy/count")],
            3,
            tmp_path / "there",
            1,
            policy="test_cluster:broken",
            progress=False,
            cluster=cluster,
        )
    assert type(here.value) is type(there.value) and here.value.what == there.value.what


def broken(env, seed):
    raise UsageError("this expert is broken", where=f"seed {seed}")


@needs_ray
def test_a_cluster_that_is_not_there(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = taken.getsockname()[1]
    for address, error, what in (
        (f"127.0.0.1:{closed}", ResourceError, "no Ray cluster answers"),
        ("ray://head:10001", UsageError, "--cluster ray://head"),
        ("somewhere", UsageError, "--cluster somewhere"),
    ):
        with pytest.raises(error, match=what):
            collect([find("dummy/count")], 1, tmp_path / "data", 1, cluster=address, progress=False)
    assert not (tmp_path / "data").exists()


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="Ray is not installed") as raised:
        collect([find("dummy/count")], 1, tmp_path / "data", 1, cluster="auto", progress=False)
    assert "pip install" in raised.value.fix
