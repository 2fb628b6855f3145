"""The generalist that comes with the package: found in a checkout and in an installed wheel, and used where no bundle is named."""

import json
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

import gato
from gato.cli.talking import _bundle_first
from gato.errors import CheckpointMissingError, UnknownNameError
from gato.installed import pip_line
from gato.policy import shipped
from gato.policy.jobs import path_of
from gato.policy.sight import is_clip, shown_in
from gato.worlds import find

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


def test_a_wheel_made_of_the_sources_carries_it_and_the_pinned_versions(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source, made = tmp_path / "source", tmp_path / "made"
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in tracked:
        if not name.startswith("traces/"):  # left out here for their size
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", made, source]  # the wheel from the sdist
    subprocess.run(build, check=True, capture_output=True)
    with tarfile.open(next(made.glob("*.tar.gz"))) as sources:
        packed = {name.partition("/")[2] for name in sources.getnames()}
    assert {
        "Makefile",
        "constraints.txt",
        "docs/errors.md",
        "tests/conftest.py",
        "tests/worlds/test_pages.py",
    } <= packed
    assert set(tracked) - packed <= {n for n in tracked if n.startswith((".", "traces/", "docs/images/"))}

    (wheel,) = made.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--ignore-installed", "--prefix", tmp_path / "there", wheel], check=True
    )
    (packages,) = (tmp_path / "there").glob("lib/python*/site-packages")
    say = (
        "import gato, json; from gato.policy.shipped import shipped; from gato.installed import pip_line; "
        "print(json.dumps([gato.__file__, str(shipped()), pip_line('viz').split(' -c ')[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", say], env={**os.environ, "PYTHONPATH": str(packages)}, cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    module, folder, constraints = map(Path, json.loads(done.stdout))
    assert all(path.is_relative_to(tmp_path / "there") for path in (module, folder, constraints))
    assert (folder / "model.safetensors").stat().st_size > 1e6
    assert constraints.read_bytes() == (ROOT / "constraints.txt").read_bytes()


def test_the_pip_line_works_where_it_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert pip_line("viz") == 'pip install "gato-agent[viz]" -c constraints.txt'
    (tmp_path / "constraints.txt").write_text("of something else\n")
    monkeypatch.chdir(tmp_path)
    assert pip_line("viz") == f'pip install "gato-agent[viz]" -c {shlex.quote(str(ROOT / "constraints.txt"))}'
    line = find("procgen/maze").pip_line
    assert (
        line.startswith(f"{pip_line('procgen')} && pip install --no-deps") and find("sokoban/7x7-1-box").pip_line == ""
    )
