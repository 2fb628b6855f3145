"""The generalist that comes with the package: found in a checkout and in an installed wheel, and used where no bundle is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import gato
from gato.cli import _bundle_first
from gato.errors import CheckpointMissingError, UnknownNameError
from gato.policy import shipped
from gato.policy.jobs import path_of
from gato.policy.sight import is_clip, shown_in

ROOT = Path(__file__).parents[2]


def run(*words, cwd):
    return subprocess.run([sys.executable, "-m", "gato", *map(str, words)], cwd=cwd, capture_output=True, text=True)


def test_it_acts_captions_and_talks_without_a_path(tmp_path):
    agent = gato.load()
    assert len(agent.tasks) >= 200 and (shipped.shipped() / "README.md").is_file()
    assert sum(f.stat().st_size for f in shipped.shipped().rglob("*")) <= 40e6
    done = run("play", "sokoban/7x7-1-box", "--video", "film.webp", "--max-steps", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 steps" in done.stdout and (tmp_path / "film.webp").is_file()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "red.png")
    for words in (["chat", "hello"], ["answer", "red.png", "what is there?"], ["caption", "red.png"]):
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0 and done.stdout.strip(), (words, done.stderr)


def test_no_bundle_at_all_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "_places", lambda: iter([tmp_path]))
    with pytest.raises(CheckpointMissingError, match="generalist is not installed"):
        gato.load()


def test_the_first_word_is_a_bundle_or_what_is_asked(tmp_path):
    (tmp_path / "run/bundle").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "run/bundle/config.json").write_text("{}")
    assert shipped.names_bundle(tmp_path / "run") and shipped.names_bundle("hf://org/name")
    assert not shipped.names_bundle(tmp_path / "photos") and not shipped.names_bundle("hello there")
    Image.new("RGB", (16, 16)).save(tmp_path / "red.png")
    missing = run("caption", "runs/none", "red.png", cwd=tmp_path)  # no picture is named like a folder
    assert missing.returncode == 4 and "runs/none" in missing.stderr
    assert run("chat", "one", "two", cwd=tmp_path).returncode == 2


def test_a_text_is_longer_than_any_name_of_a_file():
    """The system raises where it is asked for such a file, and nobody meant one."""
    for text in ("What can you do? " * 30, "w" * 300, "and/or" * 300 + ".txt"):
        assert not shipped.names_bundle(text) and not is_clip(text)
        assert _bundle_first((text,)) == (None, (text,))
        assert path_of({"image": text}, Path("beside")) == Path("beside") / text
        with pytest.raises(UnknownNameError, match="no such file"):
            list(shown_in([Path(text)]))


def test_a_wheel_carries_it(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "src", "bundles", "pyproject.toml", "README.md", "LICENSE"], cwd=ROOT,
                             capture_output=True, text=True, check=True).stdout.split("\n")  # fmt: skip
    for name in filter(None, tracked):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--ignore-installed", "--prefix", tmp_path / "there", wheel], check=True
    )
    (packages,) = (tmp_path / "there").glob("lib/python*/site-packages")
    say = (
        "import gato, json; from gato.policy.shipped import shipped; print(json.dumps([gato.__file__, str(shipped())]))"
    )
    done = subprocess.run([sys.executable, "-c", say], env={**os.environ, "PYTHONPATH": str(packages)}, cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    module, folder = json.loads(done.stdout)
    assert Path(module).is_relative_to(tmp_path / "there") and Path(folder).is_relative_to(tmp_path / "there")
    assert (Path(folder) / "model.safetensors").stat().st_size > 1e6
