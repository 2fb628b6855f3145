"""What a user can get wrong, made to happen for real through the command line: a code, a place, a next step, no traceback,
the exit code of the design, and what was there is left as it was."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gato.worlds.dummy import make_faulty


def gato(*words, limit_file_bytes=None, cwd=None, path=None):
    def limit():
        if limit_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_bytes, limit_file_bytes))

    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(path or "")}
    return subprocess.run(
        [sys.executable, "-m", "gato", *map(str, words)],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
        preexec_fn=limit,
        cwd=cwd,
    )


def refused(done, exit_code, code, *words):
    assert done.returncode == exit_code, (done.returncode, done.stderr)
    assert f"error[{code}]" in done.stderr and "Traceback" not in done.stderr
    for word in words:
        assert str(word) in done.stderr, done.stderr


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for words in (
        ["collect", "sokoban/7x7-1-box", "--out", folder / "data", "--episodes", 5, "--workers", 1],
        [
            "train",
            "tiny",
            "--data",
            folder / "data",
            "--out",
            folder / "train",
            "--steps",
            2,
            "--set",
            "slots=1",
            "slot_tokens=256",
            "--processes",
            1,
        ],
    ):
        done = gato(*words)
        assert done.returncode == 0, done.stderr
    return folder


def test_unknown_names(good, tmp_path):
    refused(gato("collect", "babyai/go-to-lcoal", "--out", tmp_path), 2, "unknown-name", "babyai/go-to-local")
    refused(gato("train", "dmeo", "--data", good / "data", "--out", tmp_path / "x"), 2, "unknown-name", "demo")
    refused(gato("train", "tiny", "--data", good / "dta", "--out", tmp_path / "x"), 3, "dataset-missing", "dta")
    refused(
        gato("train", "tiny", "--data", good / "data", "--out", tmp_path / "x", "--set", "slotz=2"),
        2,
        "unknown-name",
        "slots",
    )
    refused(gato("collect", "gym/CartPoel-v1", "--out", tmp_path), 2, "unknown-name", "CartPole")
    refused(gato("evaluate", tmp_path / "none"), 4, "checkpoint-missing", "none")
    refused(
        gato("collect", "gym/CartPole-v1", "--policy", "nowhere:expert", "--out", tmp_path),
        2,
        "unknown-name",
        "nowhere",
    )
    assert gato("train", "--frobnicate").returncode == 2


def test_recipes_that_cannot_be(good, tmp_path):
    for word in ("prompt_share=1.5", "model.num_attention_heads=3", "slots=3", 'weights={"*": -1}'):
        done = gato(
            "train",
            "tiny",
            "--data",
            good / "data",
            "--out",
            tmp_path / "x",
            "--set",
            word,
            "accumulate=2" if word == "slots=3" else "seed=1",
        )
        refused(done, 2, "recipe")
    refused(
        gato("train", "tiny", "--data", good / "data", "--out", tmp_path / "x", "--set", "window_tokens=20"),
        2,
        "recipe",
        "sokoban/7x7-1-box",
        "51 tokens",
    )


@pytest.mark.parametrize(
    "words, said",
    [
        ("collect dummy/count --out NEW --noise nan", "--noise nan"),
        ("collect dummy/count --out NEW --wide-share 7", "between 0 and 1"),
        ("collect dummy/count --out NEW --episodes 0", "0 episodes"),
        ("collect dummy/count --out NEW --max-steps 0", "--max-steps 0"),
        ("train tiny --data DATA --out NEW --steps 0", "--steps 0"),
        ("train tiny --data DATA --out NEW --seconds nan", "--seconds nan"),
        ("train tiny --data DATA --out NEW --device potato", "auto, cpu, cuda"),
        ("train tiny --data DATA --out NEW --device cuda:99", "cuda:99"),
        ("evaluate RUN --out NEW --episodes 0", "--episodes 0"),
        ("play RUN sokoban/7x7-1-box --video NEW.foo", ".webp or .mp4"),
        ("play RUN sokoban/7x7-1-box --plan -1", "--plan -1"),
        ("play RUN sokoban/7x7-1-box --plan 2 --plan-steps 0", "--plan-steps 0"),
        ("play RUN sokoban/7x7-1-box and-more", "gato play [BUNDLE] TASK"),
        ("data show DATA/sokoban/7x7-1-box --picture NEW.foo", ".png"),
        ("data verify", "dataset folder"),
        ("data ls", "dataset folder"),
        ("tokenizer train --out NEW", "text file"),
        ("caption RUN", "picture"),
    ],
)
def test_numbers_and_words_out_of_range(words, said, good, tmp_path):
    """Refused before anything is written: the mended line works in the same place."""
    new = tmp_path / "new"
    words = words.replace("NEW", str(new)).replace("DATA", str(good / "data")).replace("RUN", str(good / "train"))
    refused(gato(*words.split()), 2, "usage", said)
    assert not list(tmp_path.iterdir())


def test_a_simulator_that_is_not_installed(tmp_path):
    (tmp_path / "minigrid.py").write_text("raise ImportError('broken on purpose')\n")
    code = "import sys; sys.modules['minigrid'] = None; from gato.cli import main; main(sys.argv[1:])"
    words = ["collect", "babyai/go-to-local", "--out", tmp_path / "out", "--workers", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, env=env, timeout=120
    )
    refused(done, 5, "simulator-missing", "pip install", "babyai")
    assert not list(tmp_path.glob("out/**/MANIFEST.json"))


def test_folders_that_hold_something_else(good):
    before = fingerprint(good)
    done = gato("collect", "sokoban/7x7-1-box", "--out", good / "data", "--policy", "random", "--episodes", 9)
    refused(done, 2, "output-exists", "data")
    refused(gato("train", "tiny", "--data", good / "data", "--out", good / "train"), 2, "output-exists", "--resume")
    bundle = good / "train" / "bundle"
    refused(gato("evaluate", bundle, "--out", bundle), 2, "output-exists", "another --out")
    assert fingerprint(good) == before


def test_results_are_not_replaced_by_accident(good, tmp_path):
    (tmp_path / "results.json").write_text("somebody's")
    refused(gato("evaluate", good / "train", "--out", tmp_path), 2, "output-exists", "--overwrite")
    assert fingerprint(tmp_path) == {"results.json": hashlib.sha256(b"somebody's").hexdigest()}
    done = gato(
        "evaluate", good / "train", "--out", tmp_path, "--overwrite", "--episodes", 1, "--workers", 0, "--no-film"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["tasks"][0]["episodes"] == 1


@pytest.mark.parametrize(
    "kind, word",
    [
        ("nan", "NaN"),
        ("inf", "infinity"),
        ("wrong-shape", "shape"),
        ("wrong-dtype", "float32"),
        ("out-of-range", "level"),
        ("object", "digits"),
        ("extra-key", "surprise"),
        ("missing-key", "missing"),
    ],
)
def test_observations_that_must_not_be(kind, word, tmp_path):
    """A world that always goes wrong at its third step: task, seed, step and field are named."""
    assert callable(make_faulty(kind, at=3))
    (tmp_path / "faulty_world.py").write_text(
        "import sys\nfrom gato.worlds import Task, register\nfrom gato.worlds.dummy import counting_expert, make_faulty\n"
        f"register(Task('dummy/faulty', make_faulty({kind!r}, at=3), counting_expert))\n"
        "if __name__ == '__main__':\n    from gato.cli import main\n    main(sys.argv[1:])\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ["collect", "dummy/faulty", "--out", "out", "--workers", "0", "--episodes", "2"]
    done = subprocess.run(
        [sys.executable, "faulty_world.py", *words], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=120
    )
    refused(done, 3, "episode", "cannot be recorded", "dummy/faulty", "seed", "step", word)


def test_an_action_space_without_bounds(tmp_path):
    (tmp_path / "unbounded.py").write_text(
        "import gymnasium, numpy as np\n"
        "class Env(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-1, 1, (2,))\n"
        "    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))\n"
        "gymnasium.register('Unbounded-v0', entry_point=Env)\n"
    )
    refused(
        gato(
            "collect",
            "gym/unbounded:Unbounded-v0",
            "--policy",
            "random",
            "--out",
            tmp_path / "out",
            "--workers",
            0,
            path=tmp_path,
        ),
        2,
        "spec",
        "bounds",
        "RescaleAction",
    )


def test_a_text_the_tokenizer_cannot_hold(tokenizer):
    from gato.errors import TokenizerError

    with pytest.raises(TokenizerError):
        tokenizer.encode("half of a pair: \ud800")


def test_damaged_datasets(good, tmp_path):
    victim = tmp_path / "data"
    shutil.copytree(good / "data", victim)
    tokenizer = good / "train" / "tokenizer.model"
    shard = next(victim.rglob("data/*.parquet"))
    whole = shard.read_bytes()
    for damaged in (whole[:-100], whole[:200] + bytes([whole[200] ^ 4]) + whole[201:]):
        shard.write_bytes(damaged)
        refused(
            gato("train", "tiny", "--data", victim, "--out", tmp_path / "x", "--steps", 1, "--tokenizer", tokenizer),
            3,
            "dataset-corrupt",
            shard.name,
        )
        assert gato("data", "verify", victim).returncode == 3
    shard.unlink()
    refused(
        gato("train", "tiny", "--data", victim, "--out", tmp_path / "y", "--steps", 1, "--tokenizer", tokenizer),
        3,
        "dataset-corrupt",
        shard.name,
    )


def test_damaged_bundles(good, tmp_path):
    victim = tmp_path / "bundle"
    shutil.copytree(good / "train" / "bundle", victim)
    path = victim / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    refused(gato("evaluate", victim, "--out", tmp_path / "e"), 4, "checkpoint-corrupt", "model.safetensors")
    path.unlink()
    refused(gato("evaluate", victim, "--out", tmp_path / "e"), 4, "checkpoint-corrupt", "model.safetensors")
    assert not (tmp_path / "e" / "results.json").exists()


def retold(folder: Path, change):
    """The same folder with other tensors in it and a manifest that matches them: hashes alone would not notice."""
    import safetensors.torch

    from gato.episodes.manifest import read_manifest, sha256_of_file, write_manifest

    kind = "bundle" if folder.name == "bundle" else "checkpoint"
    record = read_manifest(folder, kind)
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    changed = change(tensors)
    safetensors.torch.save_file(tensors, path)
    entry = record["files"][path.name]
    assert set(entry) == {"bytes", "sha256"}, entry
    record["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    write_manifest(folder, kind, record["files"], record["facts"])
    return changed


def misfit(tensors):
    """One tensor missing, one too many, one of another shape."""
    names = [k for k in sorted(tensors) if tensors[k].ndim == 2]
    tensors["surplus.weight"] = tensors.pop(names[0])
    tensors[names[1]] = tensors[names[1]][:-1].contiguous()
    return names[0], names[1]


def test_tensors_that_do_not_fit(good, tmp_path):
    """A bundle that is to act, and a checkpoint that is to go on: every tensor at fault is named at once."""
    victim = tmp_path / "run"
    shutil.copytree(good / "train", victim)
    gone, short = retold(victim / "bundle", misfit)
    faults = (f"missing {gone}", "unexpected surplus.weight", f"{short} is (", "model.safetensors")
    refused(gato("evaluate", victim / "bundle", "--out", tmp_path / "e"), 4, "checkpoint-mismatch", *faults)
    shutil.rmtree(victim / "bundle")
    retold(victim / "checkpoints" / (victim / "checkpoints" / "last").read_text().strip(), misfit)
    before = fingerprint(victim / "checkpoints")
    refused(gato("train", "--resume", victim, "--processes", 1), 4, "checkpoint-mismatch", *faults)
    assert fingerprint(victim / "checkpoints") == before and not (victim / "bundle").exists()


def test_damaged_checkpoints(good, tmp_path):
    """One flipped bit in any of its files is noticed; with the bit mended the same run goes on."""
    victim = tmp_path / "run"
    shutil.copytree(good / "train", victim)
    shutil.rmtree(victim / "bundle")
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        path = next((victim / "checkpoints").glob(f"step-*/{name}"))
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        refused(gato("train", "--resume", victim, "--processes", 1), 4, "checkpoint-corrupt", name)
        path.write_bytes(whole)
    done = gato("train", "--resume", victim, "--processes", 1)
    assert done.returncode == 0 and (victim / "bundle" / "MANIFEST.json").exists(), done.stderr


def test_a_full_disk_while_collecting(tmp_path):
    """No file may grow past 4 kB: episodes that fitted are kept, and topping up goes on from them."""
    words = ["collect", "sokoban/7x7-1-box", "--out", tmp_path, "--workers", 0]
    refused(gato(*words, "--episodes", 200, limit_file_bytes=4096), 6, "disk-full", "sokoban")
    again = gato(*words, "--episodes", 12)
    assert again.returncode == 0 and "12 episodes" in again.stdout, again.stderr
    assert gato("data", "verify", tmp_path).returncode == 0


def test_an_error_of_ours_is_one_line(tmp_path):
    """What nobody foresaw: its type, the way to see more, exit code 1; the traceback comes with --debug."""
    (tmp_path / "worlds_of_mine.py").write_text(
        "import sys\nfrom gato.worlds import Task, register\n"
        "def make(*, render=False):\n    raise ZeroDivisionError('a slip')\n"
        "register(Task('dummy/slip', make))\n"
        "from gato.cli import main\nmain(sys.argv[1:])\n"
    )
    for words, shows in (([], False), (["--debug"], True)):
        done = subprocess.run(
            [sys.executable, "worlds_of_mine.py", "tasks", "dummy/slip", "--spec", *words],
            capture_output=True, text=True, cwd=tmp_path, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
        assert ("Traceback" in done.stderr) == shows and ("--debug" in done.stderr) != shows


def test_a_full_disk(good, tmp_path):
    """No file may grow past 40 kB: the checkpoint does not fit. What was there is intact, and nothing half-written is left."""
    before = fingerprint(good)
    done = gato(
        "train",
        "tiny",
        "--data",
        good / "data",
        "--out",
        tmp_path / "run",
        "--steps",
        1,
        "--processes",
        1,
        limit_file_bytes=40_000,
    )
    refused(done, 6, "disk-full", "bytes needed")
    assert fingerprint(good) == before
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".safetensors"]
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["name"] == "tiny"
    again = gato("train", "--resume", tmp_path / "run", "--processes", 1)
    assert again.returncode == 0, again.stderr
