"""Traces: an episode of a deterministic world as its seed, its actions and proof of what came of them.

    traces = read_traces("ale-atari/boxing")          # a few kilobytes each, from this package
    episode = replay("ale-atari/boxing", traces[0])   # the whole episode, frames and all, at the simulator's speed

One Parquet file per task, one row per episode, page checksums on. Actions and rewards are packed little-endian arrays,
steps first; an action is its leaves one after another in the order of the spec (small discrete values as uint8, index
minus minimum). `actions` are the expert's choices, `executed` what was done where noise was mixed in. Replaying plays
the executed actions again and compares: rewards always; and for a world that offers `state_bytes()` (an emulator, the
same to the bit everywhere) the final state and every frame too. A trace that does not come true is a TraceError.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.episodes import Episode, stack_episode, unflatten
from gato.episodes.spec import Spec, Specs, TaskSpec
from gato.errors import DatasetCorruptError, DatasetMissingError
from gato.worlds import Task, find

FORMAT_VERSION = 1
Leaves = dict[str, np.ndarray]


class TraceError(DatasetCorruptError):
    """A trace file that is damaged, or a trace that does not come true on this simulator."""

    code = "trace"


@runtime_checkable
class Exact(Protocol):
    """A world whose states and frames are the same to the bit on every machine."""

    def state_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class Trace:
    """One episode without its observations. Leaves have time first; `rewards` is float32 (T,).

    `state` and `frames` are SHA-256 sums of the final state and of all images, or empty for a world that is not exact.
    `facts` is the episode's `info`: source, noise, wide, terminated, success.
    """

    seed: int
    actions: Leaves
    executed: Leaves | None
    rewards: np.ndarray
    state: str = ""
    frames: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def total_return(self) -> float:
        return float(np.sum(self.rewards, dtype=np.float64))


# -- recording and replaying ------------------------------------------------------------------------------------------


def record(episode: Episode, env: gymnasium.Env) -> Trace:
    """The trace of an episode that has just ended in `env` (its final state is read, so before the next reset)."""
    exact = isinstance(env.unwrapped, Exact)
    return Trace(
        seed=int(episode.info["seed"]),
        actions=episode.actions,
        executed=episode.executed,
        rewards=episode.rewards,
        state=_sha(env.unwrapped.state_bytes()) if exact else "",  # type: ignore[attr-defined]
        frames=_frames_sum(episode, find(episode.task).spec) if exact else "",
        facts={k: v for k, v in episode.info.items() if k != "seed"},
        versions=installed_versions(find(episode.task)),
    )


def replay(task_id: str, trace: Trace, env: gymnasium.Env | None = None) -> Episode:
    """The full episode of a trace, played again. Raises TraceError if it does not come true, naming the step.

    `env` is an environment of the task to play it in; one is made and closed if absent.
    """
    task = find(task_id)
    if env is None:
        env = task.make()
        try:
            return replay(task_id, trace, env)
        finally:
            env.close()
    played = trace.actions if trace.executed is None else trace.executed
    if set(played) != set(task.spec.action):
        raise _untrue(task, trace, f"actions {sorted(played)}, the task takes {list(task.spec.action)}")
    observation, _ = env.reset(seed=trace.seed, options={"wide": True} if trace.facts.get("wide") else None)
    observations, rewards = [], np.zeros(len(trace), np.float32)
    for t in range(len(trace)):
        observations.append(observation)
        action = unflatten({path: values[t] for path, values in played.items()}, env.action_space, "action")
        observation, rewards[t], terminated, truncated, _ = env.step(action)
        if (terminated or truncated) and t + 1 < len(trace):
            raise _untrue(task, trace, f"the episode ended at step {t}, recorded were {len(trace)}")
    exact = isinstance(env.unwrapped, Exact) and bool(trace.state)
    wrong = rewards != trace.rewards if exact else ~np.isclose(rewards, trace.rewards, rtol=1e-3, atol=1e-3)
    if wrong.any():
        t = int(np.argmax(wrong))
        raise _untrue(task, trace, f"reward {rewards[t]:.6g} at step {t}, recorded was {trace.rewards[t]:.6g}")
    if exact and _sha(env.unwrapped.state_bytes()) != trace.state:  # type: ignore[attr-defined]
        raise _untrue(task, trace, "the final state differs")

    def nested(leaves: Leaves) -> list[Any]:
        steps = range(len(trace))
        return [unflatten({p: v[t] for p, v in leaves.items()}, env.action_space, "action") for t in steps]

    episode = stack_episode(
        task_id,
        task.spec,
        observations,
        nested(trace.actions),
        trace.rewards.tolist(),
        None if trace.executed is None else nested(trace.executed),
        {"seed": trace.seed, **trace.facts},
    )
    if exact and trace.frames and _frames_sum(episode, task.spec) != trace.frames:
        raise _untrue(task, trace, "the frames differ")
    return episode


def _untrue(task: Task, trace: Trace, what: str) -> TraceError:
    recorded, here = dict(trace.versions), installed_versions(task)
    versions = "" if recorded == here else f" (recorded with {recorded}, here are {here})"
    return TraceError(
        f"a trace did not come true: {what}{versions}",
        where=f"{task.id} seed {trace.seed}",
        fix=task.pip_line or "collect the episode anew with the task's expert",
    )


def _frames_sum(episode: Episode, spec: TaskSpec) -> str:
    images = [np.ascontiguousarray(episode.observations[p]) for p, s in spec.observation.items() if s.kind == "image"]
    return _sha(*images) if images else ""


def _sha(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@functools.cache
def _distribution(module: str) -> str:
    return importlib.metadata.packages_distributions().get(module, [module])[0]


def installed_versions(task: Task) -> dict[str, str]:
    """{distribution: version} of the simulators that a task needs."""
    return {(name := _distribution(module)): importlib.metadata.version(name) for module in task.requires}


# -- files ------------------------------------------------------------------------------------------------------------


def trace_path(task_id: str, folder: Path | None = None) -> Path:
    """Where a task's traces lie: in `folder`, or in this package."""
    return (folder or Path(str(resources.files("gato.worlds") / "traces"))) / f"{task_id.replace('/', '--')}.parquet"


def has_traces(task_id: str) -> bool:
    """Whether the package brings traces of this task."""
    return trace_path(task_id).is_file()


def write_traces(path: Path, task_id: str, traces: Iterable[Trace]) -> None:
    """All traces of one task into one file, in place of what was there (written beside it, then renamed)."""
    spec = find(task_id).spec
    rows = [
        {
            "seed": t.seed,
            "steps": len(t),
            "return": t.total_return,
            "actions": _pack(spec.action, t.actions),
            "executed": None if t.executed is None else _pack(spec.action, t.executed),
            "rewards": t.rewards.astype("<f4").tobytes(),
            "state": t.state,
            "frames": t.frames,
            "facts": json.dumps(dict(t.facts), sort_keys=True),
            "versions": json.dumps(dict(t.versions), sort_keys=True),
        }
        for t in traces
    ]
    facts = {
        "format_version": str(FORMAT_VERSION),
        "task": task_id,
        "action_spec": json.dumps({p: s.to_json() for p, s in spec.action.items()}),
    }
    table = pa.Table.from_pylist(rows, _SCHEMA).replace_schema_metadata(facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    pq.write_table(
        table, beside, compression="zstd", compression_level=19, write_page_checksum=True, use_dictionary=False
    )
    with open(beside, "rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)


_SCHEMA = pa.schema(
    {"seed": pa.int64(), "steps": pa.int32(), "return": pa.float64()}
    | {name: pa.binary() for name in ("actions", "executed", "rewards")}
    | {name: pa.string() for name in ("state", "frames", "facts", "versions")}
)


def read_traces(task_id: str, path: Path | None = None) -> list[Trace]:
    """The traces of a task (from `path`, or those in this package). Needs no simulator.

    Raises DatasetMissingError if there are none, TraceError if the file is damaged or another task's.
    """
    path = path or trace_path(task_id)
    if not path.is_file():
        raise DatasetMissingError(f"no traces of {task_id}", where=str(path), fix=f"gato collect {task_id}")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        facts = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        if (version := int(facts["format_version"])) > FORMAT_VERSION:
            raise TraceError(
                f"format {version}, this program reads {FORMAT_VERSION}", where=str(path), fix="upgrade gato-agent"
            )
        spec = {p: Spec.from_json(s) for p, s in sorted(json.loads(facts["action_spec"]).items())}
        traces = [_read_row(row, spec) for row in table.to_pylist()]
    except TraceError:
        raise
    except Exception as error:  # damaged bytes surface as many kinds of error
        raise TraceError(
            f"cannot be read: {type(error).__name__}: {error}",
            where=str(path),
            fix="restore the file, or reinstall gato-agent",
        ) from error
    if facts["task"] != task_id:
        raise TraceError(f"holds traces of {facts['task']}, not of {task_id}", where=str(path))
    return traces


def _read_row(row: Mapping[str, Any], spec: Specs) -> Trace:
    steps = row["steps"]
    trace = Trace(
        row["seed"],
        _unpack(spec, row["actions"], steps),
        None if row["executed"] is None else _unpack(spec, row["executed"], steps),
        np.frombuffer(row["rewards"], "<f4").astype(np.float32),
        row["state"],
        row["frames"],
        json.loads(row["facts"]),
        json.loads(row["versions"]),
    )
    if len(trace) != steps or trace.total_return != row["return"]:
        raise ValueError(
            f"seed {row['seed']}: {len(trace)} rewards adding to {trace.total_return}, expected {steps} and {row['return']}"
        )
    return trace


def _stored_type(spec: Spec) -> np.dtype:
    small = spec.kind == "discrete" and spec.num_values().max(initial=1) <= 256
    return np.dtype(np.uint8) if small else np.dtype(spec.dtype).newbyteorder("<")


def _lowest(spec: Spec) -> np.ndarray | int:
    """What is taken off a small discrete value, so that it starts at zero."""
    return spec.bounds()[0].reshape(spec.shape).astype(np.int64) if _stored_type(spec) == np.uint8 else 0


def _pack(specs: Specs, leaves: Leaves) -> bytes:
    return b"".join((leaves[p] - _lowest(s)).astype(_stored_type(s)).tobytes() for p, s in specs.items())


def _unpack(specs: Specs, packed: bytes, steps: int) -> Leaves:
    leaves, start = {}, 0
    for path, spec in specs.items():
        kind = _stored_type(spec)
        end = start + steps * spec.size * kind.itemsize
        values = np.frombuffer(packed[start:end], kind).reshape(steps, *spec.shape)
        leaves[path] = (values + _lowest(spec)).astype(spec.dtype)
        start = end
    if start != len(packed):
        raise ValueError(f"{len(packed)} bytes of actions, expected {start}")
    return leaves


def verify(task_id: str, path: Path | None = None) -> int:
    """Replay every trace of a task; how many came true. Raises TraceError at the first that does not."""
    traces = read_traces(task_id, path)
    env = find(task_id).make()
    try:
        for trace in traces:
            replay(task_id, trace, env)
    finally:
        env.close()
    return len(traces)
