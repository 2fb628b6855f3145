"""Films and plots are read back with Pillow: what went in must come out, small and in time."""

import importlib.util
import io

import gymnasium
import numpy as np
import pytest
from PIL import Image

from gato.errors import ObservationError, UsageError
from gato.evaluation.animation import animate, picture, plot_episode, thin, write_film


def _counting(steps, height=64, width=80):
    """Frame t is grey of value 7t, with a bright square in the top left corner."""
    frames = np.repeat(np.arange(steps, dtype=np.uint8)[:, None, None, None] * 7, 3, axis=3)
    frames = np.tile(frames, (1, height, width, 1))
    frames[:, :8, :8] = 255
    return frames


def _read(data):
    image = Image.open(io.BytesIO(data))
    frames, durations = [], []
    for i in range(getattr(image, "n_frames", 1)):
        image.seek(i)
        image.load()
        frames.append(np.asarray(image.convert("RGB")))
        durations.append(image.info.get("duration"))
    return np.stack(frames), durations


@pytest.mark.parametrize("format", ["webp", "gif", "png"])
def test_there_and_back(format):
    data = animate(_counting(30), fps=10, format=format)
    frames, durations = _read(data)
    assert frames.shape == (30, 64, 80, 3)
    middle = frames[:, 40, 40].astype(int).mean(axis=1)
    assert np.abs(middle - np.arange(30) * 7).max() <= 6  # lossy, but the right frame in the right place
    assert frames[:, 2, 2].mean() > 240
    assert len(durations) == 30 and durations[0] == pytest.approx(100, abs=5)
    assert durations[-1] > 1000  # the end is held


def test_thinning_keeps_both_ends_and_the_playing_time():
    assert thin(np.arange(1000), 7).tolist()[0] == 0 and thin(np.arange(1000), 7).tolist()[-1] == 999
    assert len(thin(np.arange(1000), 7)) == 7 and len(thin(np.arange(5), 7)) == 5
    frames, durations = _read(animate(_counting(120), fps=20, max_frames=40))
    assert len(frames) == 40
    assert sum(durations) / 1000 == pytest.approx(120 / 20 + 1.0, abs=0.1)


def test_noise_still_fits():
    noise = np.random.default_rng(0).integers(0, 256, (200, 96, 96, 3), dtype=np.uint8)
    data = animate(noise, max_frames=60, max_side=96, max_bytes=100_000)
    assert len(data) <= 100_000
    assert len(_read(data)[0]) >= 2


def test_large_frames_shrink_and_small_ones_are_left_alone():
    assert _read(animate(_counting(3, 300, 600), max_side=200))[0].shape[1:3] == (100, 200)
    assert _read(animate(_counting(3, 20, 16)))[0].shape[1:3] == (20, 16)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((3, 8, 8, 3)),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((3, 8, 8, 1), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_anything_but_frames_is_an_error(frames):
    with pytest.raises(ObservationError, match="uint8"):
        animate(frames)


def test_a_real_environment_is_filmed():
    env = gymnasium.make("FrozenLake-v1", render_mode="rgb_array", is_slippery=False)
    env.reset(seed=0)
    frames = [env.render()]
    for action in (1, 1, 2, 2):
        env.step(action)
        frames.append(env.render())
    env.close()
    film, _ = _read(animate(frames, fps=5))
    assert len(film) == 5 and len({f.tobytes() for f in film}) == 5


def test_picture_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert (_read(picture(image))[0][0] == image).all()


def test_a_plot_shows_the_state():
    steps = np.arange(200)
    observations = {
        "position": np.stack([np.sin(steps / 20), np.cos(steps / 20)], axis=1),
        "mission": ["go"] * 200,
        "camera": np.zeros((200, 64, 64, 3), np.uint8),
        "gripper": np.zeros(200),
    }
    moving = plot_episode(observations, np.ones(200, np.float32))
    still = plot_episode({**observations, "position": np.zeros((200, 2))}, np.ones(200, np.float32))
    image = Image.open(io.BytesIO(moving))
    assert image.size == (480, 480) and image.mode == "RGBA" and len(moving) < 100_000
    assert image.getpixel((1, 1))[3] == 0  # transparent: it lies on light and on dark pages
    assert moving != still and moving == plot_episode(observations, np.ones(200, np.float32))


def test_a_plot_of_rewards_alone():
    assert Image.open(io.BytesIO(plot_episode({"mission": ["go"]}, np.ones(1)))).size == (480, 480)


def test_mp4_or_the_line_that_installs_it(tmp_path):
    if importlib.util.find_spec("av") is None:
        with pytest.raises(UsageError, match="video"):
            write_film(_counting(5), tmp_path / "film.mp4")
        return
    import av

    file = write_film(_counting(20, 65, 81), tmp_path / "film.mp4", fps=10)
    with av.open(str(file)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == 20 and frames[0].shape == (64, 80, 3)
