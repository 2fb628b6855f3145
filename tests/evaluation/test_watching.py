"""Watching: every moment of a real episode, drawn whole; films that decode again; a window without a screen."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
from test_policy import TASK, make_bundle

from gato.errors import ObservationError
from gato.evaluation.animation import write_film
from gato.evaluation.screen import HEIGHT, WIDTH, Screen, kind_colour
from gato.evaluation.watching import Enough, watch
from gato.evaluation.window import Window, WindowError, has_screen
from gato.policy import Agent
from gato.rollouts import LocalSlot, Unit, rollout
from gato.tokens.timestep import KINDS, SEPARATOR
from gato.worlds import find
from gato.worlds.dummy import CountingWorld


@pytest.fixture(scope="module")
def agent(tokenizer):
    return Agent(make_bundle(tokenizer, 1))


@pytest.fixture(scope="module")
def moments(agent):
    seen = []
    watch(agent, find(TASK), agent.policy(TASK, 1), [3, 4], seen.append, max_steps=4)
    return seen


def test_moments_are_those_of_the_episode(agent, moments):
    episodes = list(rollout([Unit(TASK, s, max_steps=4) for s in (3, 4)], [LocalSlot()], agent.policy(TASK, 1)))
    assert [(m.episode, m.step) for m in moments] == [(e, s) for e in (0, 1) for s in range(5)]
    assert [m.done for m in moments] == [False, False, False, False, True] * 2
    for e, episode in enumerate(episodes):
        tokens = agent.bundle.codec(TASK).encode(episode)
        starts = tokens.starts()
        for t in range(4):
            moment = moments[5 * e + t + 1]
            assert moment.tokens.ids.tolist() == tokens.ids[starts[t] : starts[t + 1]].tolist()
            assert moment.choices[0]["chosen"] == int(episode.actions["button"][t])
            assert all(abs(sum(p for _, p in c["bars"]) - 1) < 0.01 for c in moment.choices)
            assert moment.total == pytest.approx(episode.rewards[: t + 1].sum())


def test_the_page_shows_world_stream_and_choice(moments):
    screen = Screen(find(TASK))
    pages = [screen.draw(m) for m in moments[:5]]
    assert all(p.shape == (HEIGHT, WIDTH, 3) and p.dtype == np.uint8 for p in pages)
    count = int(moments[4].frame[0, 0, 0])
    assert (pages[4][200, 200] == count).all()  # the world's picture is a plain grey of its count
    last = pages[4][520:]
    for kind, name in enumerate(KINDS):
        drawn = (last == kind_colour(kind)).all(-1).sum()
        assert name == "image" or drawn > 60, name
    separators = (last == kind_colour(SEPARATOR)).all(-1).any(1)
    assert np.diff(np.flatnonzero(separators)).max() < 60  # a row for each timestep, one below the other
    fresh = Screen(find(TASK)).draw(moments[5])
    assert (screen.draw(moments[5]) == fresh).all()  # a new episode begins with an empty stream


def test_a_discrete_choice_below_zero_is_drawn(moments):
    choice = {
        "name": "gripper",
        "kind": "discrete",
        "chosen": -1,
        "low": -1,
        "high": 1,
        "bars": [[-1, 0.7], [0, 0.2], [1, 0.1]],
    }
    assert Screen(find(TASK)).draw(replace(moments[1], choices=[choice])).shape == (HEIGHT, WIDTH, 3)


class FloatPictures(CountingWorld):
    def render(self):
        return super().render() / 255.0


def test_a_picture_of_floats_is_a_named_error(agent):
    task = replace(find(TASK), make_env=lambda render=False: FloatPictures())
    with pytest.raises(ObservationError, match=r"render\(\) gives float64 \(64, 64, 3\)") as caught:
        watch(agent, task, agent.policy(TASK, 1), [3], lambda moment: None, max_steps=4)
    assert "seed 3" in caught.value.where


@pytest.mark.parametrize("ending", ["mp4", "webp", "gif", "png"])
def test_films_decode_again(moments, tmp_path, ending):
    if ending == "mp4" and importlib.util.find_spec("av") is None:
        pytest.skip("PyAV is not installed")
    screen = Screen(find(TASK))
    pages = [screen.draw(m) for m in moments[:3]]
    file = write_film(pages, tmp_path / "new" / f"film.{ending}", fps=10)
    if ending == "mp4":
        import av

        with av.open(str(file)) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    else:
        film = Image.open(file)
        frames = [np.asarray(film.convert("RGB")) for i in range(film.n_frames) if film.seek(i) is None]
    assert len(frames) == 3
    for frame, page in zip(frames, pages, strict=True):
        assert frame.shape == page.shape and np.abs(frame.astype(int) - page).mean() < 6


@pytest.fixture
def window(monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    opened = Window("test", fps=120)
    yield opened, pygame
    opened.close()


def press(pygame, key):
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))


def test_a_window_shows_pauses_steps_and_closes(agent, window):
    opened, pygame = window
    screen, shown = Screen(find(TASK)), []

    def show(moment):
        if moment.step == 1:
            press(pygame, pygame.K_SPACE)  # pauses, and then two single steps
            press(pygame, pygame.K_RIGHT)
        if moment.step == 2:
            press(pygame, pygame.K_RIGHT)
        if moment.step == 3:
            press(pygame, pygame.K_q)
        opened.show(screen.draw(moment))
        surface = pygame.display.get_surface()
        shown.append((moment.step, surface.get_size(), surface.get_at((200, 200))[0], int(moment.frame[0, 0, 0])))

    assert watch(agent, find(TASK), agent.policy(TASK, 1), [3], show, max_steps=9) == []  # not seen to its end
    assert [step for step, *_ in shown] == [0, 1, 2]
    assert all(size == (WIDTH, HEIGHT) and pixel == count for _, size, pixel, count in shown)


def test_closing_the_window_is_enough(window):
    opened, pygame = window
    opened.show(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    with pytest.raises(Enough):
        opened.show(np.zeros((HEIGHT, WIDTH, 3), np.uint8))


def test_no_library_is_a_named_error_and_no_screen_is_seen(monkeypatch):
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert has_screen() == (sys.platform in ("darwin", "win32"))
    monkeypatch.setenv("DISPLAY", ":0")
    assert has_screen()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pygame" else found(name))
    with pytest.raises(WindowError, match="pygame-ce") as caught:
        Window("test")
    assert "pip install pygame-ce" in caught.value.fix and caught.value.code == "window"
