"""Minari datasets, both ways. Reading and writing is Minari's own; what follows is what one of its episodes means here.

    NAME-v0/data/metadata.json     spaces, format, counts
    NAME-v0/data/main_data.hdf5    episode_0/{observations (T+1), actions (T), rewards, terminations, truncations, infos}

Minari's actions are those that were executed. Where an info of T (or T+1) values tells what an expert would have done
(`expert_action`), that is the target, and the actions are kept as what was executed.

Our episodes end with their last action, Minari's with one more observation. So export repeats the last observation, and
import leaves the last one out. Spec, task and facts about an episode travel in the metadata under `gato`: an exported
dataset comes back bit for bit, and any other program reads it as what it is, a Minari dataset. Images are stored raw.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from gato.episodes.episode import Episode, Leaves
from gato.episodes.exchange.leaves import action_spec
from gato.episodes.manifest import fsync_folder, make_folder, naming_disk_errors, temporary_beside
from gato.episodes.spec import Spec, Specs, TaskSpec, flatten, specs_from_space
from gato.episodes.store import Dataset
from gato.errors import DataError, OutputExistsError, UsageError
from gato.installed import pip_line

ENDS = ("terminated", "truncated")  # what Minari always says of an episode, and ours need not


def _library() -> Any:
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise UsageError(f"Minari is not installed: {error}", fix=pip_line("minari")) from None
    return minari


# -- in ---------------------------------------------------------------------------------------------------------------


class MinariRecordings:
    """A Minari dataset's folder (the one that holds `data/`, or that itself)."""

    def __init__(self, path: Path, target: str = "expert_action", action_bounds: tuple[float, float] | None = None):
        _library()
        from minari.dataset.minari_storage import MinariStorage

        self._folder = path / "data" if (path / "data" / "metadata.json").is_file() else path
        self._where = self._folder / "metadata.json"
        try:
            self._metadata: dict[str, Any] = json.loads(self._where.read_text())
        except FileNotFoundError:
            raise DataError(
                "not a Minari dataset: there is no metadata.json", where=str(path), fix="name the folder NAME-v0"
            ) from None
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read: {error}", where=str(self._where), fix="download it again") from error
        # Without spaces Minari would make the environment that the file names: what a file says is not to be run.
        if absent := [k for k in ("observation_space", "action_space") if not isinstance(self._metadata.get(k), str)]:
            raise DataError(
                f"it does not say its {absent[0].replace('_', ' ')}", where=str(self._where),
                fix="write the dataset again with Minari 0.4 or later",
            )  # fmt: skip
        try:
            self._storage = MinariStorage.read(self._folder)
        except (
            Exception
        ) as error:  # of many kinds: a space that is none, a format that is unknown, a file that is missing
            raise DataError(
                f"cannot be opened: {type(error).__name__}: {error}", where=str(self._where), fix="download it again"
            ) from error
        own = self._metadata.get("gato") or {}
        self.task = own.get("task") or f"minari/{_plain_name(str(self._metadata.get('dataset_id') or path.name))}"
        self._observation = self._storage.observation_space
        self._action = self._storage.action_space
        self.spec = TaskSpec.from_json(own["spec"]) if "spec" in own else self._make_spec(action_bounds)
        self.described = f"target {target}" if target != "expert_action" else ""
        self._target = target

    def __len__(self) -> int:
        return int(self._metadata["total_episodes"])

    def place(self, number: int) -> str:
        return f"{self._folder} episode_{number}"

    def _make_spec(self, bounds: tuple[float, float] | None) -> TaskSpec:
        """From the spaces; actions without bounds get those of the data."""
        where = str(self._where)
        acted: Specs = {}
        for path, spec in specs_from_space(self._action, "action", where).items():
            if spec.kind in ("image", "text"):
                raise DataError(
                    f"an action of kind {spec.kind}", where=f"{where} {path}", fix="leave it out of the dataset"
                )
            if spec.kind == "continuous" and (bounds is not None or not np.isfinite([*spec.low, *spec.high]).all()):
                spec = action_spec(*self._extremes(path, spec), spec.dtype, spec.shape, bounds)
            acted[path] = spec
        return TaskSpec(specs_from_space(self._observation, "observation", where), acted)

    def _extremes(self, path: str, spec: Spec) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest finite of each value of an action leaf, flat, over those episodes that can be read; else 0."""
        low, high = np.full(spec.size, np.inf), np.full(spec.size, -np.inf)
        for n in range(len(self)):
            with contextlib.suppress(Exception):  # met again, and named, when it is its turn
                [raw] = self._storage.get_episodes([n])
                values = np.array(flatten(raw["actions"], "action")[path], np.float64).reshape(-1, spec.size)
                values[~np.isfinite(values)] = np.nan
                low, high = np.fmin(low, np.fmin.reduce(values)), np.fmax(high, np.fmax.reduce(values))
        return np.where(low <= high, low, 0.0), np.where(low <= high, high, 0.0)

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, Episode | DataError]]:
        for number in numbers:
            where = self.place(number)
            try:
                [raw] = self._storage.get_episodes([number])
                [facts] = self._storage.get_episode_metadata([number])
                yield number, self._episode(raw, dict(facts))
            except DataError as error:
                yield number, DataError(error.what, where=where, fix=error.fix)
            except Exception as error:  # HDF5 and Arrow fail in many ways
                fix = "download it again; or leave it out: --on-bad skip"
                yield number, DataError(f"cannot be read: {type(error).__name__}: {error}", where=where, fix=fix)

    def _episode(self, raw: Mapping[str, Any], facts: dict[str, Any]) -> Episode:
        rewards = np.asarray(raw["rewards"], np.float32)
        steps = len(rewards)
        observed = _leaves(self.spec.observation, raw["observations"], "observation")
        if any(len(v) not in (steps, steps + 1) for v in observed.values()):
            counts = ", ".join(f"{len(v)} {p}" for p, v in observed.items())
            raise DataError(f"{counts} in the observations for {steps} rewards")
        done = _leaves(self.spec.action, raw["actions"], "action")
        infos = raw.get("infos") or {}
        executed = None
        if self._target in infos:
            executed, done = done, _leaves(self.spec.action, infos[self._target], "action")
            done = {path: values[:steps] for path, values in done.items()}
        elif self._target != "expert_action":
            raise DataError(f"no info {self._target!r}", fix=f"--target one of {', '.join(infos) or 'none'}")
        ended = {name: bool(np.asarray(raw[name])[-1]) for name in ("terminations", "truncations")} if steps else {}
        if steps and any(len(raw[name]) != steps for name in ended):
            raise DataError(f"terminations or truncations are not {steps}")
        info: dict[str, Any] = {"terminated": ended.get("terminations", False)}
        if ended.get("truncations"):
            info["truncated"] = True
        if "seed" in facts:
            info["seed"] = int(facts["seed"])
        if "success" in infos and len(infos["success"]):
            info["success"] = bool(np.any(np.asarray(infos["success"])[-1]))
        if "gato" in facts:
            info |= json.loads(facts["gato"])
            info = {k: v for k, v in info.items() if v is not None or k not in ENDS}
        observed = {path: values[:steps] for path, values in observed.items()}
        return Episode(self.task, observed, done, rewards, executed, info)


def _leaves(specs: Specs, value: Any, root: str) -> Leaves:
    flat = flatten(value, root)
    return {
        path: [str(v) for v in flat[path]] if s.kind == "text" else _transposed(s, np.asarray(flat[path]))
        for path, s in specs.items()
        if path in flat
    } | {path: values for path, values in flat.items() if path not in specs}  # named by the check


def _transposed(spec: Spec, values: np.ndarray) -> np.ndarray:
    if spec.channels_first and values.shape[1:] != spec.shape:
        return np.moveaxis(values, 1, -1)
    return values


def _plain_name(dataset_id: str) -> str:
    return dataset_id.strip("/").replace("/", "-")


# -- out --------------------------------------------------------------------------------------------------------------


def write_minari(dataset: Dataset, out: Path, name: str = "", progress: Callable[[int], None] | None = None) -> Path:
    """`dataset` as out/<name>/, whole or not at all. With MINARI_DATASETS_PATH=out, `minari.load_dataset(name)` finds it.

    `name` is Minari's (namespace/name-v0); the task's own with -v0 if not given. Raises OutputExistsError, and DataError
    for a text with a null character, which HDF5 cannot hold.
    """
    minari = _library()
    out = out.absolute()  # Minari joins a relative path onto itself when it measures what it wrote
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.dataset.minari_storage import MinariStorage

    name = name or f"{dataset.task.replace(':', '-')}-v0"
    if not DATASET_ID_RE.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a Minari dataset", fix="--name NAMESPACE/NAME-v0")
    final = out / name
    if final.exists():
        raise OutputExistsError("something is there already", where=str(final), fix="another --out, or --name")
    texts = _texts(dataset)
    sides = [
        _space(specs, {p: texts.get(p) for p in specs}) for specs in (dataset.spec.observation, dataset.spec.action)
    ]
    make_folder(final.parent)
    beside = temporary_beside(final)
    try:
        with naming_disk_errors(beside), _quiet():
            storage = MinariStorage.new(
                beside / "data", *sides, env_spec=_env_spec(dataset.task), data_format="hdf5", jpeg_encoding=False
            )
            gato = {"task": dataset.task, "spec": dataset.spec.to_json(), "final_observation": "repeats the last one"}
            storage.update_metadata(
                {"dataset_id": name, "minari_version": minari.__version__, "gato": gato,
                 "algorithm_name": str(dataset.meta.get("source", ""))}
            )  # fmt: skip
            for i, episode in enumerate(dataset):
                storage.update_episodes([EpisodeBuffer(id=i, **_buffer(dataset.spec, episode))])
                facts = {**dict.fromkeys(ENDS), **{k: v for k, v in episode.info.items() if k != "seed"}}
                storage.update_episode_metadata([{"gato": json.dumps(facts, sort_keys=True)}], [i])
                if progress is not None:
                    progress(i + 1)
        for file in (beside / "data").iterdir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        os.rename(beside, final)
        fsync_folder(final.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return final


def _buffer(spec: TaskSpec, episode: Episode) -> dict[str, Any]:
    steps = len(episode)
    seed = episode.info.get("seed")
    observed = {
        path: [*values, values[-1]] if isinstance(values, list) else np.concatenate([values, values[-1:]])
        for path, values in episode.observations.items()
    }
    terminations, truncations = np.zeros(steps, bool), np.zeros(steps, bool)
    terminations[-1] = episode.info.get("terminated", False)
    truncations[-1] = episode.info.get("truncated", not terminations[-1])
    infos: dict[str, Any] = {}
    if episode.executed is not None:
        infos["expert_action"] = _nested({p: np.concatenate([v, v[-1:]]) for p, v in episode.actions.items()})
    if episode.success is not None:
        infos["success"] = np.r_[np.zeros(steps, bool), bool(episode.success)]
    return {
        "seed": seed, "observations": _nested(observed), "actions": _nested(episode.executed or episode.actions),
        "rewards": episode.rewards, "terminations": terminations, "truncations": truncations, "infos": infos or None,
    }  # fmt: skip


def _nested(flat: Mapping[str, Any]) -> Any:
    """{"a/b": v} → {"a": {"b": v}}; a leaf that stands alone under its root's name, as itself."""
    if set(flat) in ({"observation"}, {"action"}):
        return next(iter(flat.values()))
    out: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        inner = out
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return out


def _space(specs: Specs, texts: Mapping[str, tuple[int, str] | None]) -> gymnasium.Space:
    def built(tree: Any) -> gymnasium.Space:
        return gymnasium.spaces.Dict({k: built(v) for k, v in tree.items()}) if isinstance(tree, dict) else tree

    return built(_nested({path: _leaf_space(spec, texts[path]) for path, spec in specs.items()}))


def _leaf_space(spec: Spec, text: tuple[int, str] | None) -> gymnasium.Space:
    spaces = gymnasium.spaces
    if spec.kind == "text":
        longest, characters = text or (1, "a")
        return spaces.Text(max(longest, 1), min_length=0, charset=characters or "a")
    low, high = (b.reshape(spec.shape) for b in spec.bounds())
    if spec.kind == "discrete" and spec.shape == () and spec.dtype == "int64":
        return spaces.Discrete(int(high - low) + 1, start=int(low))
    return spaces.Box(low.astype(spec.dtype), high.astype(spec.dtype), spec.shape, np.dtype(spec.dtype).type)


def _texts(dataset: Dataset) -> dict[str, tuple[int, str]]:
    """Of each text leaf: the length of the longest, and every character in them. A Text space wants to know.

    Raises DataError, naming the episode, for a null character."""
    found: dict[str, tuple[int, set[str]]] = {
        path: (0, set()) for path, spec in dataset.spec.observation.items() if spec.kind == "text"
    }
    if not found:
        return {}
    for entry, episode in zip(dataset.index, dataset, strict=True):
        for path, (longest, characters) in found.items():
            said = set(episode.observations[path])
            if any("\0" in text for text in said):
                raise DataError(
                    f"a null character in the text {path}, which Minari's HDF5 cannot hold",
                    where=f"{dataset.folder} episode {entry.number}", fix="write the dataset without it",
                )  # fmt: skip
            found[path] = (max([longest, *map(len, said)]), characters.union(*said))
    return {path: (longest, "".join(sorted(characters))) for path, (longest, characters) in found.items()}


def _env_spec(task: str) -> Any:
    """Of a Gymnasium environment, so that Minari can make it again; None for any other task."""
    if not task.startswith("gym/"):
        return None
    with contextlib.suppress(gymnasium.error.Error, ImportError):
        return gymnasium.spec(task.removeprefix("gym/"))
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Minari warns of what is meant to be so."""
    import warnings

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
