"""Films of an episode: no more than a frame or two of them unpacked at a time, and what cannot be written is said first."""

import importlib.util
import weakref

import numpy as np
import pytest
from PIL import Image

from gato import cli
from gato.errors import ObservationError, UsageError
from gato.evaluation import animation
from gato.evaluation.animation import Film, write_film


def frame(number, height=90, width=160):
    """A plain ground, and a block that moves."""
    picture = np.full((height, width, 3), 250, np.uint8)
    picture[20:40, number : number + 20] = 30
    return picture


def read(file):
    film = Image.open(file)
    shown = [
        (np.asarray(film.convert("RGB")), film.info["duration"]) for i in range(film.n_frames) if film.seek(i) is None
    ]
    return [picture for picture, _ in shown], sum(duration for _, duration in shown)


def test_one_frame_of_a_long_film_is_unpacked_at_a_time(tmp_path, monkeypatch):
    unpack, made, alive = Film._unpack, [], []

    def watched(film, packed):
        image = unpack(film, packed)
        made.append(weakref.ref(image))
        alive.append(sum(each() is not None for each in made))
        return image

    monkeypatch.setattr(Film, "_unpack", watched)
    with Film(tmp_path / "film.webp", fps=10) as film:
        for i in range(120):
            film.add(frame(i))
    assert sum(map(len, film._packed)) < 120 * frame(0).nbytes / 50
    pictures, lasted = read(film.file)
    assert max(alive) <= 3 and len(pictures) == 120 and lasted == 13_000  # the end is held
    assert all(np.abs(p.astype(int) - frame(i)).mean() < 2 for i, p in enumerate(pictures))


def test_an_mp4_is_written_as_it_comes(tmp_path):
    pytest.importorskip("av")
    noise = np.random.default_rng(0).integers(0, 256, (80, 96, 64, 3), np.uint8)
    with Film(tmp_path / "film.mp4") as film:
        for picture in noise:
            film.add(picture)
        assert not film._packed and film._part.stat().st_size > 0
    assert film.frames == 80 and film.file.stat().st_size > 0 and not film._part.exists()


@pytest.mark.parametrize("ending", ["gif", "png"])
def test_what_pillow_holds_whole_is_thinned_and_lasts_as_long(tmp_path, monkeypatch, ending):
    monkeypatch.setitem(animation.HELD, ending, 6)
    pictures, lasted = read(write_film([frame(i) for i in range(20)], tmp_path / f"film.{ending}", fps=10))
    assert len(pictures) == 6 and abs(lasted - 3000) < 30
    assert (pictures[0] == frame(0)).all() and (pictures[-1] == frame(19)).all()


@pytest.mark.parametrize("ending", ["webp", "mp4"])
def test_an_error_leaves_no_film_and_the_one_before(tmp_path, ending):
    if ending == "mp4":
        pytest.importorskip("av")
    file = tmp_path / f"film.{ending}"
    write_film([frame(0)], file)
    before = file.read_bytes()
    with pytest.raises(ObservationError, match="after some of"), Film(file) as film:
        film.add(frame(0))
        film.add(frame(0, 48))
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
    with pytest.raises(ObservationError, match="without frames"):
        write_film([], file)


def test_what_cannot_be_written_is_said_before_it_is_played(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gato.policy.load", lambda *_: pytest.fail("the network was loaded for nothing"))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "av" else found(name, *more))
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.webp").mkdir()
    for name, said in (("film.mp4", "PyAV"), ("file/film.webp", "written"), ("folder.webp", "Is a directory")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["play", "classic-control/cartpole-v1", "--video", str(tmp_path / name)])
        assert ended.value.code == 2 and said in capsys.readouterr().err
    with pytest.raises(UsageError, match="ending says the format"):
        Film(tmp_path / "film.avi")
