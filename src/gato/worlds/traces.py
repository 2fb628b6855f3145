"""Traces: an episode of a deterministic world as its seed, its actions and proof of what came of them.

    traces = read_traces("ale-atari/boxing")          # a few kilobytes each, from this package
    episode = replay("ale-atari/boxing", traces[0])   # the whole episode, frames and all, at the simulator's speed

One Parquet file per task, one row per episode, page checksums on. Actions and rewards are packed little-endian arrays,
steps first; an action is its leaves one after another in the order of the spec (small discrete values as uint8, index
minus minimum). `actions` are the expert's choices, `executed` what was done where noise was mixed in.

Replaying plays the executed actions again and compares. What a trace is held to depends on the world:

* `state_bytes()` (an emulator, the same to the bit everywhere): every reward, the final state and every frame;
* `state_vector()` (physics, the same to the bit on one kind of processor): every reward and the final state; where these
  differ, the first of a few stored states tells a wrong trace from drift, and a drifted one still counts if all stored
  states and the return come out within a tolerance;
* neither: the rewards, within a tolerance.

What a simulation does is the same in whatever way it is seen, so the traces of one sense serve the others: what was planned on
a state becomes an episode of pictures, or of text.

A trace that does not come true is a TraceError, whose `kind` is "corrupt" or "drifted".
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.episodes import Episode, stack_episode, unflatten
from gato.episodes.manifest import make_folder, write_file_atomically
from gato.episodes.spec import Spec, Specs, TaskSpec
from gato.errors import DatasetCorruptError, DatasetMissingError
from gato.worlds import Task, find, senses

PACKAGE = Path(str(resources.files("gato.worlds") / "traces"))  # those that come with it: few and small
FORMAT_VERSION = 2  # 1 had no stored states; it is read as well
STORED_STATES = 5
STATE_TOLERANCE = 1e-2  # of a stored state, relative to 1 plus its size: small beside what a policy would correct
FIRST_TOLERANCE = 1e-5  # of the first stored state, a few steps after the start, where no drift can have grown
RETURN_TOLERANCE = 1e-2  # of the return
Leaves = dict[str, np.ndarray]


class TraceError(DatasetCorruptError):
    """A trace file that is damaged ("corrupt"), or a trace that does not come true here ("corrupt" or "drifted")."""

    code = "trace"
    kind: Literal["corrupt", "drifted"] = "corrupt"


@runtime_checkable
class Exact(Protocol):
    """A world whose states and frames are the same to the bit on every machine."""

    def state_bytes(self) -> bytes: ...


@runtime_checkable
class Physical(Protocol):
    """A world whose states are numbers, the same to the bit on one kind of processor: float64 (n,)."""

    def state_vector(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Trace:
    """One episode without its observations. Leaves have time first; `rewards` is float32 (T,).

    `state` and `frames` are SHA-256 sums of the final state and of all images, or empty where a world promises none.
    `states` are those after the steps `state_steps`, float32 (K, n), of a physical world. `facts` is the episode's
    `info`: source, noise, wide, what was drawn, terminated, success. `seconds` it took to make, of one core.
    """

    seed: int
    actions: Leaves
    executed: Leaves | None
    rewards: np.ndarray
    state: str = ""
    frames: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    state_steps: tuple[int, ...] = ()
    states: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def total_return(self) -> float:
        return float(np.sum(self.rewards, dtype=np.float64))


# -- recording and replaying ------------------------------------------------------------------------------------------


def record(episode: Episode, env: gymnasium.Env, seconds: float = 0.0) -> Trace:
    """The trace of an episode that has just ended in `env` (its final state is read, so before the next reset).

    In a physical world the episode is played again at once, for the states on the way and to prove the trace.
    """
    world = env.unwrapped
    trace = Trace(
        seed=int(episode.info["seed"]),
        actions=episode.actions,
        executed=episode.executed,
        rewards=episode.rewards,
        state=_sum_of_state(world),
        frames=_frames_sum(episode, find(episode.task).spec) if isinstance(world, Exact) else "",
        facts={k: v for k, v in episode.info.items() if k != "seed"},
        versions=installed_versions(find(episode.task)),
        seconds=seconds,
    )
    if not isinstance(world, Physical):
        return trace
    last = len(trace) - 1
    steps = sorted({min(8, last), *(last * (k + 1) // (STORED_STATES - 1) for k in range(STORED_STATES - 1))})
    trace = replace(trace, state_steps=tuple(steps))
    played = _play(find(episode.task), trace, env)
    trace = replace(trace, states=np.stack(played.states).astype(np.float32))
    _prove(find(episode.task), trace, played)
    return trace


def replay(task_id: str, trace: Trace, env: gymnasium.Env | None = None) -> Episode:
    """The full episode of a trace, played again. Raises TraceError if it does not come true, naming the step.

    `env` is an environment of the task to play it in; one is made and closed if absent. The episode's info says
    `replay: close` where it came true within the tolerances only.
    """
    task = find(task_id)
    if env is None:
        env = task.make()
        try:
            return replay(task_id, trace, env)
        finally:
            env.close()
    played = _play(task, trace, env)
    exact = _prove(task, trace, played)

    def nested(leaves: Leaves) -> list[Any]:
        steps = range(len(trace))
        return [unflatten({p: v[t] for p, v in leaves.items()}, env.action_space, "action") for t in steps]

    episode = stack_episode(
        task_id,
        task.spec,
        played.observations,
        nested(trace.actions),
        (trace.rewards if exact else played.rewards).tolist(),
        None if trace.executed is None else nested(trace.executed),
        {"seed": trace.seed, **trace.facts} | ({} if exact else {"replay": "close"}),
    )
    if trace.frames and isinstance(env.unwrapped, Exact) and _frames_sum(episode, task.spec) != trace.frames:
        raise _untrue(task, trace, "the frames differ")
    return episode


@dataclass
class _Played:
    """What came of a trace's actions."""

    observations: list[Any]
    rewards: np.ndarray
    states: list[np.ndarray]  # at the trace's `state_steps`, of a physical world
    state: str  # sum of the final one


def _play(task: Task, trace: Trace, env: gymnasium.Env) -> _Played:
    actions = trace.actions if trace.executed is None else trace.executed
    if set(actions) != set(task.spec.action):
        raise _untrue(task, trace, f"actions {sorted(actions)}, the task takes {list(task.spec.action)}")
    world = env.unwrapped
    observation, _ = env.reset(seed=trace.seed, options={"wide": True} if trace.facts.get("wide") else None)
    played = _Played([], np.zeros(len(trace), np.float32), [], "")
    for t in range(len(trace)):
        played.observations.append(copy.deepcopy(observation))  # worlds may reuse their buffers
        action = unflatten({path: values[t] for path, values in actions.items()}, env.action_space, "action")
        observation, played.rewards[t], terminated, truncated, _ = env.step(action)
        if (terminated or truncated) and t + 1 < len(trace):
            raise _untrue(task, trace, f"the episode ended at step {t}, recorded were {len(trace)}")
        if t in trace.state_steps and isinstance(world, Physical):
            played.states.append(np.array(world.state_vector(), np.float64))
    played.state = _sum_of_state(world)
    return played


def _prove(task: Task, trace: Trace, played: _Played) -> bool:
    """Whether the trace came true to the bit; False if within the tolerances (or if nothing more is promised)."""
    wrong = played.rewards != trace.rewards
    if trace.state and not wrong.any() and played.state == trace.state:
        return True
    if len(trace.states):
        _prove_close(task, trace, played)
        return False
    if not trace.state:
        wrong = ~np.isclose(played.rewards, trace.rewards, rtol=1e-3, atol=1e-3)
    if wrong.any():
        t = int(np.argmax(wrong))
        raise _untrue(task, trace, f"reward {played.rewards[t]:.6g} at step {t}, recorded was {trace.rewards[t]:.6g}")
    if trace.state:
        raise _untrue(task, trace, "the final state differs")
    return True


def _prove_close(task: Task, trace: Trace, played: _Played) -> None:
    """Raise where stored states or the return are beyond their tolerances, saying whether that is drift."""
    off = [
        float(np.max(np.abs(here - then) / (1 + np.abs(then)))) if here.shape == then.shape else np.inf
        for here, then in zip(played.states, trace.states, strict=True)
    ]
    if not off[0] <= FIRST_TOLERANCE:
        raise _untrue(task, trace, f"after step {trace.state_steps[0]} the state is off by {off[0]:.2g}")
    for step, error in zip(trace.state_steps, off, strict=True):
        if not error <= STATE_TOLERANCE:
            raise _untrue(task, trace, f"it drifted: after step {step} the state is off by {error:.2g}", drifted=True)
    here, then = float(np.sum(played.rewards, dtype=np.float64)), trace.total_return
    if not abs(here - then) <= RETURN_TOLERANCE * max(1.0, abs(then)):
        raise _untrue(task, trace, f"the return is {here:.6g}, recorded was {then:.6g}")


def _sum_of_state(world: Any) -> str:
    if isinstance(world, Exact):
        return _sha(world.state_bytes())
    return _sha(np.array(world.state_vector(), "<f8").tobytes()) if isinstance(world, Physical) else ""


def _untrue(task: Task, trace: Trace, what: str, drifted: bool = False) -> TraceError:
    recorded, here = dict(trace.versions), installed_versions(task)
    versions = "" if recorded == here else f" (recorded with {recorded}, here are {here})"
    error = TraceError(
        f"a trace did not come true: {what}{versions}",
        where=f"{task.id} seed {trace.seed}",
        fix="collect the episode anew with the task's expert" if drifted or not versions else task.pip_line,
    )
    error.kind = "drifted" if drifted else "corrupt"
    return error


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


def trace_path(task_id: str, folder: Path = PACKAGE) -> Path:
    """Where a task's traces lie: in `folder`, or in this package."""
    return folder / f"{task_id.replace('/', '--')}.parquet"


def write_traces(path: Path, task_id: str, traces: Iterable[Trace], failed: Mapping[int, str] | None = None) -> None:
    """All traces of one task into one file, in place of what was there (written beside it, then renamed).

    `failed` episodes, by number with the reason, are noted, so that topping up does not try them again.
    """
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
            "state_steps": list(t.state_steps),
            "states": t.states.astype("<f4").tobytes(),
            "seconds": t.seconds,
        }
        for t in traces
    ]
    facts = {
        "format_version": str(FORMAT_VERSION),
        "task": task_id,
        "action_spec": json.dumps({p: s.to_json() for p, s in spec.action.items()}),
        "failed": json.dumps(dict(failed or {})),
    }
    table = pa.Table.from_pylist(rows, _SCHEMA).replace_schema_metadata(facts)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=19,
        write_page_checksum=True,
        use_dictionary=False,
        write_statistics=False,
    )
    make_folder(path.parent)
    write_file_atomically(path, sink.getvalue())


_SCHEMA = pa.schema(
    {"seed": pa.int64(), "steps": pa.int32(), "return": pa.float64()}
    | {name: pa.binary() for name in ("actions", "executed", "rewards")}
    | {name: pa.string() for name in ("state", "frames", "facts", "versions")}
    | {"state_steps": pa.list_(pa.int32()), "states": pa.binary(), "seconds": pa.float64()}
)


def read_traces(task_id: str, path: Path | None = None) -> list[Trace]:
    """The traces of a task (from `path`, or those in this package), or of its world in another sense. Needs no simulator.

    Raises DatasetMissingError if there are none, TraceError if the file is damaged or another world's.
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
    if facts["task"] not in senses(task_id):
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
        tuple(row.get("state_steps") or ()),
        _stored_states(row),
        row.get("seconds", 0.0),
    )
    if len(trace) != steps or trace.total_return != row["return"]:
        raise ValueError(
            f"seed {row['seed']}: {len(trace)} rewards adding to {trace.total_return}, expected {steps} and {row['return']}"
        )
    return trace


def _stored_states(row: Mapping[str, Any]) -> np.ndarray:
    steps = row.get("state_steps") or []
    flat = np.frombuffer(row.get("states") or b"", "<f4").astype(np.float32)
    return flat.reshape(len(steps), -1) if steps else flat.reshape(0, 0)


def task_of(path: Path) -> str:
    """The task whose traces a file holds. Raises TraceError for a file that is none of ours."""
    return _facts_of(path)["task"]


def failed_in(path: Path) -> dict[int, str]:
    """Numbers of the episodes that could not be traced, with the reasons."""
    return {int(number): reason for number, reason in json.loads(_facts_of(path).get("failed", "{}")).items()}


def _facts_of(path: Path) -> dict[str, str]:
    try:
        metadata = pq.read_schema(path).metadata or {}
        facts = {k.decode(): v.decode() for k, v in metadata.items()}
        return facts | {"task": facts["task"]}
    except FileNotFoundError as error:
        raise DatasetMissingError("no trace file", where=str(path), fix="gato collect PATTERN --traces") from error
    except Exception as error:  # damaged bytes surface as many kinds of error
        raise TraceError(f"not a file of traces: {type(error).__name__}: {error}", where=str(path)) from error


def find_files(paths: Iterable[Path | str]) -> dict[str, list[Path]]:
    """{task: its trace files} of files and of all that lie in folders. DatasetMissingError where there are none."""
    found: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not files:
            raise DatasetMissingError("no trace files", where=str(path), fix="gato collect PATTERN --traces")
        for file in files:
            found.setdefault(task_of(file), []).append(file)
    return found


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
