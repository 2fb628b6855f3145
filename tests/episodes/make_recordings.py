"""Tiny real recordings in the very layout of Minari, LeRobot v3 and JAT: names, folders, columns, codecs.

    python tests/episodes/make_recordings.py DIR        writes all of them; a few hundred kilobytes

What is in them is made up here: a dot that is steered to a goal, whose picture is as bright as the step is late, and a
balanced pole. Minari's and JAT's are written by the libraries that people write them with (minari, datasets), LeRobot's
by hand, since its library is not to be had everywhere. Every maker returns what an import is pointed at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS, STEPS, BRIGHT = 10, 12, 15


def steer(seed: int, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(positions and goals (T, 4), actions (T, 2) in [-1, 1], rewards (T,)) of one way to the goal."""
    rng = np.random.default_rng(seed)
    at, goal = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)
    states, actions, rewards = [], [], []
    for _ in range(steps):
        action = np.clip(2 * (goal - at), -1, 1)
        states.append([*at, *goal])
        actions.append(action)
        at = at + 0.2 * action
        rewards.append(-np.abs(goal - at).sum())
    return np.array(states, np.float32), np.array(actions, np.float32), np.array(rewards, np.float32)


def frame(step: int, height: int = 48, width: int = 64) -> np.ndarray:
    """As bright as the step is late."""
    return np.full((height, width, 3), BRIGHT * (step + 1), np.uint8)


def balance(seed: int, steps: int = 30) -> dict[str, np.ndarray | int]:
    """One episode of Gymnasium's CartPole, played by a rule of thumb: T + 1 observations."""
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, terminations, truncations = [observation], [], [], [], []
    for t in range(steps):
        _, _, angle, spin = observation
        action = int(angle + spin > 0)
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        terminations.append(bool(terminated))
        truncations.append(bool(truncated) or t == steps - 1)
    env.close()
    return {
        "seed": seed, "observations": np.array(observations), "actions": np.array(actions), "rewards": np.array(rewards),
        "terminations": np.array(terminations), "truncations": np.array(truncations),
    }  # fmt: skip


def make_minari(folder: Path, episodes: int = 4) -> Path:
    """CartPole by Minari's own writer, in its standard form; one info says whether the pole still stands."""
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    env, out = gymnasium.make("CartPole-v1"), folder / "cartpole" / "thumb-v0"
    (out / "data").mkdir(parents=True)
    storage = MinariStorage.new(out / "data", env.observation_space, env.action_space, env_spec=env.spec)
    storage.update_metadata({"dataset_id": "cartpole/thumb-v0", "minari_version": minari.__version__})
    for i in range(episodes):
        raw = balance(i)
        stands = np.abs(raw["observations"][:, 2]) < 0.2  # type: ignore[index]
        storage.update_episodes([EpisodeBuffer(id=i, **raw, infos={"success": stands})])  # type: ignore[arg-type]
    return out


def make_lerobot(folder: Path, episodes: int = 4, tasks: tuple[str, ...] = ("Push the dot to its goal.",)) -> Path:
    """One camera as film, one as images in the table, a state, an action; two files of frames and of films."""
    import av

    out, key = folder / "helm", "observation.images.top"
    images = [key, "observation.images.wrist"]
    features = {
        "observation.state": {"dtype": "float32", "shape": [4], "names": ["x", "y", "goal_x", "goal_y"]},
        key: {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"],
              "info": {"video.fps": FPS, "video.codec": "h264", "video.is_depth_map": False}},
        images[1]: {"dtype": "image", "shape": [16, 16, 3], "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
        "next.success": {"dtype": "bool", "shape": [1], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index", "index", "task_index")},
    }  # fmt: skip
    info = {
        "codebase_version": "v3.0", "robot_type": "dot", "total_episodes": episodes, "total_frames": episodes * STEPS,
        "total_tasks": len(tasks), "chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
        "fps": FPS, "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4", "features": features,
    }  # fmt: skip
    (out / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (out / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    pq.write_table(
        pa.table({"task_index": list(range(len(tasks))), "__index_level_0__": list(tasks)}),
        out / "meta" / "tasks.parquet",
    )
    rows, listed = [], []
    half = -(-episodes // 2)
    for e in range(episodes):
        states, actions, rewards = steer(e)
        first = e * STEPS
        for t in range(STEPS):
            rows.append(
                {"observation.state": states[t].tolist(), images[1]: {"bytes": _png(frame(t, 16, 16)), "path": None},
                 "action": actions[t].tolist(), "next.reward": float(rewards[t]), "next.done": t == STEPS - 1,
                 "next.success": bool(rewards[t] > -0.05), "timestamp": t / FPS, "frame_index": t, "episode_index": e,
                 "index": first + t, "task_index": e % len(tasks)}
            )  # fmt: skip
        file, place = e // half, e % half
        listed.append(
            {"episode_index": e, "tasks": [tasks[e % len(tasks)]], "length": STEPS, "data/chunk_index": 0,
             "data/file_index": file, "dataset_from_index": first, "dataset_to_index": first + STEPS,
             f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": file,
             f"videos/{key}/from_timestamp": place * STEPS / FPS, f"videos/{key}/to_timestamp": (place + 1) * STEPS / FPS,
             "stats/action/min": actions.min(0).tolist(), "stats/action/max": actions.max(0).tolist(),
             "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(listed), out / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {
        "observation.state": pa.list_(pa.float32(), 4), images[1]: image, "action": pa.list_(pa.float32(), 2),
        "next.reward": pa.float32(), "next.done": pa.bool_(), "next.success": pa.bool_(), "timestamp": pa.float32(),
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), pa.int64()),
    }  # fmt: skip
    for file in range(2):
        inside = [r for r in rows if r["episode_index"] // half == file]
        data = out / "data" / "chunk-000" / f"file-{file:03d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(inside, schema=pa.schema(list(kinds.items()))), data)
        film = out / "videos" / key / "chunk-000" / f"file-{file:03d}.mp4"
        film.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(film), "w") as opened:
            stream = opened.add_stream("libx264", rate=FPS, options={"g": "2", "crf": "10"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for row in inside:
                picture = av.VideoFrame.from_ndarray(frame(row["frame_index"]), format="rgb24")
                opened.mux(stream.encode(picture))
            opened.mux(stream.encode(None))
    stats = {
        "action": {"min": [-1.0, -1.0], "max": [1.0, 1.0], "mean": [0.0, 0.0], "std": [0.5, 0.5], "count": [len(rows)]}
    }
    (out / "meta" / "stats.json").write_text(json.dumps(stats, indent=4))
    return out


def make_jat(folder: Path, episodes: int = 4) -> dict[str, Path]:
    """A task of each kind, as `datasets` pushes them: continuous ones, BabyAI's texts and symbols, Atari's stacks."""
    import datasets
    from PIL import Image

    numbers, symbols = datasets.Value("float32"), datasets.Value("int64")
    many = datasets.Sequence
    walks = [steer(seed, 8 + seed) for seed in range(episodes)]
    rng = np.random.default_rng(0)
    lengths = [len(rewards) for *_, rewards in walks]
    tasks = {
        "mujoco-steer": (
            {"continuous_observations": [s.tolist() for s, *_ in walks], "continuous_actions": [(3 * a).tolist() for _, a, _ in walks]},
            {"continuous_observations": many(many(numbers)), "continuous_actions": many(many(numbers))},
        ),
        "babyai-steer": (
            {"text_observations": [[f"go to the {c}"] * n for c, n in zip("abcdefgh", lengths, strict=False)],
             "discrete_observations": [rng.integers(0, 11, (n, 6)).tolist() for n in lengths],
             "discrete_actions": [rng.integers(0, 7, n).tolist() for n in lengths]},
            {"text_observations": many(datasets.Value("string")), "discrete_observations": many(many(symbols)),
             "discrete_actions": many(symbols)},
        ),
        "atari-steer": (
            {"image_observations": [[Image.fromarray(np.full((84, 84, 4), 10 * t, np.uint8)) for t in range(n)] for n in lengths],
             "discrete_actions": [(np.arange(n) % 18).tolist() for n in lengths]},
            {"image_observations": many(datasets.Image()), "discrete_actions": many(symbols)},
        ),
    }  # fmt: skip
    made = {}
    for name, (columns, features) in tasks.items():
        whole = datasets.Dataset.from_dict(
            {**columns, "rewards": [r.tolist() for *_, r in walks]},
            features=datasets.Features({**features, "rewards": many(numbers)}),
        )
        made[name] = folder / name
        made[name].mkdir(parents=True)
        whole.select(range(episodes - 1)).to_parquet(made[name] / "train-00000-of-00001.parquet", batch_size=2)
        whole.select([episodes - 1]).to_parquet(made[name] / "test-00000-of-00001.parquet")
    return made


def _png(array: np.ndarray) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


if __name__ == "__main__":
    root = Path(sys.argv[1]).resolve()  # Minari's writer takes no other
    print(make_minari(root / "minari"), make_lerobot(root / "lerobot"), *make_jat(root / "jat").values(), sep="\n")
