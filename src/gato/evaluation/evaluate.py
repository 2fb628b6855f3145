"""Bundle and tasks become scores: closed loop, on seeds that training never saw, films beside the numbers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.episodes import Episode, check_same
from gato.episodes.manifest import lock_file
from gato.errors import GatoError, OutputExistsError, UsageError
from gato.evaluation.animation import animate, plot_episode
from gato.evaluation.begun import BEGUN, check_free, claim, fingerprint
from gato.evaluation.open_loop import action_errors
from gato.evaluation.scores import TaskScores, expert_normalised, plain, results, write_results, write_whole
from gato.model.bundle import Bundle
from gato.policy import Agent
from gato.policy.planning import Planning
from gato.rollouts import LocalSlot, Unit, episode_seed, rollout
from gato.rollouts.loop import BatchPolicy
from gato.rollouts.pool import WorkerPool
from gato.rollouts.retrieve import Retrieval
from gato.sequences.returns import world_spec
from gato.worlds import Task, find

SLOTS = 20  # episodes of one task played side by side
FILM_STEPS = 400
CHOOSING = 9  # the block of seeds by which training chooses its best bundle
PLAYED = "played"  # in the results' folder, until they are whole: a file of each task that was played


def evaluate(
    agent: Agent | Retrieval,
    tasks: Sequence[Task],
    episodes: int,
    out: Path,
    *,
    workers: int | None = 2,
    seed: int = 0,
    film: bool = True,
    language: Mapping[str, Any] | None = None,
    demonstrations: Mapping[str, Sequence[Episode]] | None = None,
    progress: bool = True,
    protocol: Mapping[str, Any] | None = None,
    planning: Planning | None = None,
    cluster: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Play `episodes` of every task and write out/results.json and out/media/; returns the results.

    `seed` shifts the block of evaluation seeds. `language` is what `telling.tell` returned, if anything.
    `demonstrations`, held out, by task: the tasks' records get the errors of `open_loop.action_errors` on them, under
    `teacher_forced`; those of demonstrated tasks that are not among `tasks`, having no world, stand under `open_loop`. Scores do not depend on `workers`, not by a bit.
    With `cluster`, a Ray cluster's address, whole tasks are played on its members, to the same scores.
    With `planning` the agent looks ahead on saved states of the worlds, which then run in this process; so do their films.
    A task that was played is kept in out/played until all are: interrupted, or stopped by a world that fails, the same call goes
    on with the others. Raises OutputExistsError where there are results already, or tasks that another agent played, or that were
    played with other settings, unless `overwrite`, and where another process is at it; SimulatorMissingError.
    """
    out = Path(out)
    for task in tasks:
        task.check_installed()
    with lock_file(out / "results.json"):
        check_free(out, overwrite)
        forced = {
            f"demonstrations of {t}": [len(d), sum(e.total_return for e in d)]
            for t, d in (demonstrations or {}).items()
        }
        facts = protocol_of(agent, episodes, seed, 0.0)
        said = {
            "agent": agent.identity if isinstance(agent, Retrieval) else [fingerprint(agent.bundle), _seen(agent)],
            **{k: v for k, v in facts.items() if k not in ("data", "evaluation_seconds", "processor")},
            "film": film, "planning": planning and asdict(planning), "teacher-forced": bool(forced), **forced,
        }  # fmt: skip
        try:
            claim(out, said, fix="another --out, or --overwrite")
        except OutputExistsError:
            if not overwrite and any((out / PLAYED).glob("*.json")):
                raise
            _forget(out)
            claim(out, said)
        (out / "media").mkdir(exist_ok=True)
        (out / PLAYED).mkdir(exist_ok=True)
        files = {task.id: out / PLAYED / f"{task.id.replace('/', '--')}.json" for task in tasks}
        left = [task for task in tasks if not files[task.id].exists()]
        if progress and len(left) < len(tasks):
            print(f"goes on: {len(tasks) - len(left)} of {len(tasks)} tasks were played before", file=sys.stderr)
        began = time.perf_counter()
        with contextlib.ExitStack() as stack:
            shown = stack.enter_context(_Progress(progress, len(tasks) * episodes, (len(tasks) - len(left)) * episodes))
            if cluster is None:
                pool = stack.enter_context(WorkerPool(2 if workers is None else workers))
                played: Iterator[tuple[Task, TaskScores, Episode | None]] = (
                    (task, *evaluate_task(agent, task, episodes, pool, seed, shown, planning)) for task in left
                )
            else:
                played = _on_cluster(agent, left, episodes, seed, planning, cluster, workers, shown)
            for task, scores, best in played:
                piece: dict[str, Any] = {"scores": asdict(scores)}
                if demonstrations and task.id in demonstrations and isinstance(agent, Agent):
                    piece["teacher_forced"] = action_errors(agent, task.id, demonstrations[task.id])
                if film:
                    piece["film"], piece["note"] = film_task(agent, task, best, scores, out / "media", planning)
                piece["seconds"] = time.perf_counter() - began
                began = time.perf_counter()
                write_whole(files[task.id], json.dumps(piece, default=plain))
        pieces = {task.id: json.loads(files[task.id].read_text()) for task in tasks}
        scored = [TaskScores(**piece["scores"]) for piece in pieces.values()]
        record = results(
            {
                **protocol_of(agent, episodes, seed, sum(piece["seconds"] for piece in pieces.values())),
                **_speed(scored),
                **({"planning": asdict(planning)} if planning else {}),
                **(protocol or {}),
                "notes": list(dict.fromkeys(piece["note"] for piece in pieces.values() if piece.get("note"))),
            },
            scored,
            dict(language) if language else None,
        )
        for entry in record["tasks"]:
            if "teacher_forced" in pieces[entry["id"]]:
                entry["teacher_forced"] = pieces[entry["id"]]["teacher_forced"]
        if demonstrations and isinstance(agent, Agent) and (unplayed := demonstrations.keys() - pieces.keys()):
            record["open_loop"] = {t: action_errors(agent, t, demonstrations[t]) for t in sorted(unplayed)}
        films = [piece["film"] for piece in pieces.values() if "film" in piece]
        write_whole(out / "media" / "index.json", json.dumps(films, indent=1))
        write_results(record, out / "results.json")
        _forget(out)
        return record


def _seen(agent: Agent) -> str:
    """A hash of what its tasks read beside the episode: their windows, prompts and shown demonstrations."""
    tasks = {
        task: [
            card.window_timesteps, card.prompt and [len(card.prompt), card.prompt.total_return],
            card.shown and [card.shown.count, zlib.crc32(card.shown.store.tokens.ids.tobytes())],
        ]
        for task, card in agent.bundle.tasks.items()
    }  # fmt: skip
    return f"{zlib.crc32(json.dumps(tasks, sort_keys=True).encode()):08x}"


def _forget(out: Path) -> None:
    """The pieces of results that are whole, or not wanted."""
    shutil.rmtree(out / PLAYED, ignore_errors=True)
    (out / BEGUN).unlink(missing_ok=True)


def evaluate_task(
    agent: Agent | Retrieval,
    task: Task,
    episodes: int,
    pool: WorkerPool,
    seed: int = 0,
    shown: _Progress | None = None,
    planning: Planning | None = None,
    first: int = 0,
) -> tuple[TaskScores, Episode | None]:
    """Scores of one task, and its median episode for a film. `first` is the number of the first episode: 20 and then 30
    from the 20th on are the same scores as 50 at once."""
    numbers = range(seed * 100_000 + first, seed * 100_000 + first + episodes)
    units = [Unit(task.id, episode_seed(task.id, i, "evaluation")) for i in numbers]
    count = min(SLOTS, episodes)
    policy = _policy(agent, task, count, planning)
    slots: list[Any] = pool.slots(count) if planning is None else [LocalSlot() for _ in range(count)]
    if shown:
        shown.begin(task.id)
    began, played = time.perf_counter(), []
    for episode in rollout(units, slots, policy):
        played.append(episode)
        if shown:
            shown.advance(len(episode))
    seconds = time.perf_counter() - began
    if shown:
        shown.end(task.id)
    played.sort(
        key=lambda e: [u.seed for u in units].index(e.info["seed"])
    )  # in the order of the units, not of their ends
    values = [_score(task, e) for e in played]
    steps = sum(map(len, played))
    reference = task.references
    facts = {
        "environment_steps": steps, "seconds": round(seconds, 2), "steps_per_second": round(steps / seconds, 1),
        "legal_mass": round(getattr(policy, "legal_mass", None) or 0.0, 5), "mean_return": float(np.mean([e.total_return for e in played])),
    }  # fmt: skip
    scores = TaskScores(
        task.id, values, reference["random"].mean if "random" in reference else None,
        reference["expert"].mean if "expert" in reference else None, task.score, facts,
    )  # fmt: skip
    middle = played[int(np.argsort(values, kind="stable")[len(values) // 2])] if played else None
    return scores, middle


def _on_cluster(
    agent: Agent | Retrieval,
    tasks: Sequence[Task],
    episodes: int,
    seed: int,
    planning: Planning | None,
    address: str,
    workers: int | None,
    shown: _Progress,
) -> Iterator[tuple[Task, TaskScores, Episode | None]]:
    """`evaluate_task` of each task by a member of a Ray cluster, as they come.

    A unit of work is a task with its whole range of seeds, since how many episodes share a batch may show in the last bit
    of what they compute. The bundle travels as its files, and is loaded by a member as any bundle is.
    """
    from gato.rollouts.cluster import Cluster, told

    if not isinstance(agent, Agent):
        raise UsageError("a bundle is evaluated on a cluster, not a baseline", where="--cluster", fix="leave it out")
    device, threads = next(agent.bundle.model.parameters()).device.type, torch.get_num_threads()
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(address, workers, threads=threads, gpus=device != "cpu") as members,
    ):
        saved = agent.bundle.save(Path(folder) / "bundle")
        files = {str(f.relative_to(saved)): f.read_bytes() for f in saved.rglob("*") if f.is_file()}
        shared = members.share((files, agent.bundle.acting, device, threads))
        payloads = [(shared, told([task.id]), task.id, episodes, seed, planning) for task in tasks]
        for payload, result in members.map(_evaluate_there, payloads):
            shown.begin(payload[2])
            for _ in range(episodes):
                shown.advance(result[0].facts["environment_steps"] // episodes)
            shown.end(payload[2])
            yield (find(payload[2]), *result)


def _evaluate_there(state: dict[str, Any], payload: Any) -> tuple[TaskScores, Episode | None]:
    """In a member of a cluster."""
    from gato.policy import load
    from gato.rollouts.cluster import fetch, learn

    shared, tasks, task_id, episodes, seed, planning = payload
    learn(tasks)
    if state.get("shared") != shared:
        files, acting, device, threads = fetch(shared)
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                file = Path(folder) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            agent = load(folder, device)
        agent.bundle.acting = acting
        state |= {"shared": shared, "agent": agent, "pool": state.get("pool") or WorkerPool(1)}
    return evaluate_task(state["agent"], find(task_id), episodes, state["pool"], seed, None, planning)


def _policy(agent: Agent | Retrieval, task: Task, slots: int, planning: Planning | None) -> BatchPolicy:
    """Raises SpecError for a world that is not the one that was learned from."""
    policy: BatchPolicy
    if not isinstance(agent, Agent):
        policy, held = agent.policy(task.id, slots), agent.spec(task.id)
    else:
        policy = agent.planner(task.id, slots, planning) if planning else agent.policy(task.id, slots, watch_mass=True)
        held = world_spec(agent.bundle.tasks[task.id].spec)
    check_same(held, task.spec, task.id)
    return policy


def mean_percent(bundle: Bundle, tasks: Sequence[Task], episodes: int, workers: int = 0) -> float:
    """Mean over tasks of the percent of expert (of the plain score, where a task has no references): training's watch.

    On a block of seeds of its own, so that a bundle chosen by it is not the luckiest one on those of `gato evaluate`."""
    agent = Agent(bundle)
    values = []
    with WorkerPool(workers) as pool:
        for task in tasks:
            scores, _ = evaluate_task(agent, task, episodes, pool, CHOOSING)
            mean = float(np.mean(scores.episodes))
            percent = expert_normalised(mean, scores.random, scores.expert)
            values.append(mean if percent is None else percent)
    return float(np.mean(values))


def _speed(scored: Sequence[TaskScores]) -> dict[str, Any]:
    """Over all tasks: policy, worlds and waiting for them, without films."""
    steps = sum(s.facts["environment_steps"] for s in scored)
    seconds = sum(s.facts["seconds"] for s in scored)
    return {"environment_steps": steps, "environment_steps_per_second": round(steps / max(seconds, 1e-9), 1)}


def _score(task: Task, episode: Episode) -> float:
    return float(bool(episode.success)) if task.score == "success" else episode.total_return


def film_task(
    agent: Agent | Retrieval,
    task: Task,
    episode: Episode | None,
    scores: TaskScores,
    media: Path,
    planning: Planning | None = None,
) -> tuple[dict[str, Any], str]:
    """The agent's median episode again, with pictures; without a GL library, a plot of its state. (index entry, note)."""
    name = task.id.replace("/", "--")
    percent = expert_normalised(float(np.mean(scores.episodes)), scores.random, scores.expert)
    assert episode is not None
    entry = {
        "task": task.id,
        "return": episode.total_return,
        "expert_normalised": percent,
        "caption": f"{len(episode)} steps",
    }
    try:
        env = task.make(render=True)
        try:
            frames = play(agent, task, env, episode.info["seed"], FILM_STEPS, planning)
        finally:
            env.close()
    except Exception as error:  # whatever hinders a film, the scores are there
        (media / f"{name}.png").write_bytes(plot_episode(episode.observations, episode.rewards))
        said = f"{error.what} {error.fix}" if isinstance(error, GatoError) else f"{type(error).__name__}: {error}"
        return {**entry, "file": f"{name}.png"}, f"{task.domain}: state plots in place of films, {said}"
    (media / f"{name}.webp").write_bytes(animate(frames))
    return {**entry, "file": f"{name}.webp"}, ""


def play(
    agent: Agent | Retrieval, task: Task, env: Any, seed: int, max_steps: int, planning: Planning | None = None
) -> np.ndarray:
    """One episode, rendered: uint8 (T, H, W, 3)."""
    policy = _policy(agent, task, 1, planning)
    frames: list[np.ndarray] = []
    slot = _FilmedSlot(env, frames)
    for _ in rollout([Unit(task.id, seed, max_steps=max_steps)], [slot], policy):
        pass
    return np.stack(frames)


class _FilmedSlot(LocalSlot):
    """A local slot that keeps a copy of the frame of every step."""

    def __init__(self, env: Any, frames: list[np.ndarray]):
        super().__init__()
        self.env, self._frames = env, frames

    def reset(self, unit: Unit) -> None:
        self._envs[unit.task] = self.env  # type: ignore[assignment]
        super().reset(unit)
        self._frames.append(np.array(self.env.render()))  # type: ignore[union-attr]

    def step(self, action: Any) -> None:
        super().step(action)
        self._frames.append(np.array(self.env.render()))  # type: ignore[union-attr]


# -- protocol and progress --------------------------------------------------------------------------------------------


def protocol_of(agent: Agent | Retrieval, episodes: int, seed: int, seconds: float) -> dict[str, Any]:
    """What a reader of the scores must know of how they were made."""
    versions = {}
    for package in (
        "gato-agent",
        "torch",
        "numpy",
        "gymnasium",
        "minigrid",
        "metaworld",
        "dm-control",
        "mujoco",
        "ale-py",
    ):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "episodes_per_task": episodes, "seeds": f"evaluation block {seed}: disjoint from every training seed",
        **(agent.facts if isinstance(agent, Retrieval) else _facts(agent)),
        "evaluation_seconds": round(seconds, 1), "versions": versions,
        "processor": _processor(), "python": platform.python_version(),
    }  # fmt: skip


def _facts(agent: Agent) -> dict[str, Any]:
    bundle = agent.bundle
    return {
        "acting": bundle.acting, "parameters": bundle.model.num_parameters, "training_tokens": bundle.trained("tokens"),
        "training_seconds": bundle.trained("seconds"), "training_steps": bundle.trained("steps"),
    }  # fmt: skip


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {torch.get_num_threads()} threads"
    except OSError:
        pass
    return platform.processor() or platform.machine()


class _Progress:
    """A bar with time left and steps per second on a terminal; elsewhere a line when a task begins, and one when it ends."""

    def __init__(self, on: bool, total: int, before: int = 0):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._plain = on and not console.is_terminal
        self._console = console
        self._steps, self._began = 0, time.perf_counter()  # of this task
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"), console=console, disable=not on or self._plain,
        )  # fmt: skip
        self._id = self._bar.add_task("evaluate", total=total, completed=before, rate="")

    def __enter__(self) -> _Progress:
        self._bar.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self._bar.__exit__(*exc)

    def begin(self, name: str) -> None:
        self._steps, self._began = 0, time.perf_counter()
        self._bar.update(self._id, description=name)
        if self._plain:
            self._console.print(f"evaluate {name}")

    def advance(self, steps: int) -> None:
        """An episode of so many steps was played."""
        self._steps += steps
        self._bar.update(self._id, advance=1, rate=self._rate())

    def end(self, name: str) -> None:
        if self._plain:
            self._console.print(f"  {name}: {self._steps:,} environment steps, {self._rate()}")

    def _rate(self) -> str:
        return f"{self._steps / max(1e-9, time.perf_counter() - self._began):,.0f} steps/s"
