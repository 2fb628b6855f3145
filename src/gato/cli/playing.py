"""Acting: `gato evaluate`, `play`, `serve`, `report`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from gato.cli.checks import (
    check_some,
    check_suffix,
    check_within,
    check_workers,
    device_named,
    print_table,
    ways_of_acting,
)
from gato.errors import OutputExistsError, UnknownNameError, UsageError, known_instead


@dataclass
class Evaluate:
    """Expert-normalised scores of a bundle: results.json, report.html and films in --out. Interrupted, it goes on."""

    bundle: Positional[Path | None] = None
    """The generalist that comes with the package if not given."""
    policy: Literal["retrieve"] | None = None
    """In place of a bundle, a baseline: retrieve replays the action of the most similar observation in --data."""
    data: tuple[Path, ...] = ()
    """Folders of demonstrations: those to retrieve from, or, with --teacher-forced, held-out ones; of each of these the
    first --episodes. With --language alone: corpora to be scored on, of each the first 1,000 episodes."""
    tasks: str = ""
    """Globs, comma-separated; all control tasks the bundle (or the data) knows if not given."""
    out: Path = Path("runs/evaluation")
    episodes: int = 50
    workers: int | None = None
    """2 if not given; on a cluster, as many as its CPUs allow."""
    cluster: str | None = None
    """Play on a Ray cluster, a task at a time: auto, or HOST:PORT of its head. The scores are the same."""
    seed: int = 0
    film: bool = True
    acting: Annotated[tuple[str, ...], tyro.conf.arg(name="acting")] = ()
    """How to act: discrete=greedy, continuous=mean, temperature=0.5, top_k=4, memory=xl; the bundle's own if not given."""
    shown: tuple[Path, ...] = ()
    """Folders of demonstrations that stay in sight, for a bundle trained with `similar_timesteps`: their tasks, also those that
    it was never trained on, are played reading the timesteps that are most like the present one."""
    plan: int = 0
    """Look ahead on saved states of the worlds, as `gato play --plan` does; such worlds run in this process."""
    plan_steps: int = 20
    plan_follow: int = 4
    imagined: bool = False
    """With --plan: try things out on what the network foretells, not on the world."""
    language: bool = False
    """Language too: captions, replies and text of the generated corpora, held out, that the bundle was trained on, and of your
    own in --data (imported, or written by yourself); also in language.json."""
    scenes: int = 300
    """With --language: how many held-out scenes, questions, dialogues and clips."""
    teacher_forced: bool = False
    """The errors of its actions on the demonstrations in --data too, beside the scores of its own play."""
    overwrite: bool = False
    """Replace the results that are in --out."""
    device: str = "auto"
    json: bool = False

    def run(self) -> None:
        check_within("--episodes", self.episodes, 1)
        check_workers(self.workers, self.cluster)
        check_within("--seed", self.seed, 0)
        from gato.evaluation.begun import check_free

        planning = _planning(self.plan, self.plan_steps, self.plan_follow, self.imagined)
        if (self.out / "MANIFEST.json").exists():
            raise OutputExistsError("this folder holds a dataset or a bundle", where=str(self.out), fix="another --out")
        if self.out.exists() and not self.out.is_dir():
            raise OutputExistsError("this is not a folder", where=str(self.out), fix="another --out")
        check_free(self.out, self.overwrite)
        if self.teacher_forced and self.policy:
            raise UsageError("--teacher-forced is about a bundle", where="--policy", fix="leave one of the two out")
        check_within("--scenes", self.scenes, 1)
        wants, takes = self.teacher_forced or self.policy, self.teacher_forced or self.policy or self.language
        if (wants and not self.data) or (self.data and not takes):
            raise UsageError(
                "--data goes with --teacher-forced, with --language or with --policy retrieve",
                fix="gato collect TASK --out DIR makes demonstrations; then --teacher-forced --data DIR",
            )
        from gato.evaluation.evaluate import evaluate
        from gato.evaluation.report import write_report

        agent = self._agent()
        known, unplayed = self._chosen(agent)
        demonstrations = None
        if self.teacher_forced:
            chosen = [*(task.id for task in known), *unplayed]
            demonstrations = _demonstrations(agent, chosen, self.data, self.episodes)
        elif unplayed:
            if not known:
                raise UsageError(
                    f"there is no world to play {', '.join(unplayed)} in", where=self._whose,
                    fix="--teacher-forced --data DIR tells the errors of its actions on held-out demonstrations",
                )  # fmt: skip
            print(f"not played, since there is no world of theirs: {', '.join(unplayed)}", file=sys.stderr)
        language = None
        if self.language:
            language = _language(
                agent,
                self.out,
                self._whose,
                () if self.teacher_forced else self.data,
                self.scenes,
            )
        record = evaluate(
            agent,
            known,
            self.episodes,
            self.out,
            workers=self.workers,
            seed=self.seed,
            film=self.film,
            language=language,
            demonstrations=demonstrations,
            planning=planning,
            cluster=self.cluster,
            overwrite=self.overwrite,
        )
        report = write_report(self.out)
        if self.json:
            forced = {t["id"]: t["teacher_forced"] for t in record["tasks"] if "teacher_forced" in t}
            forced |= record.get("open_loop", {})
            print(json.dumps({**record["aggregates"], **({"teacher_forced": forced} if forced else {})}, indent=1))
        else:
            if demonstrations:
                _print_open_loop(record["tasks"], record.get("open_loop", {}))
            facts = record["protocol"]
            print(
                f"{facts['environment_steps']:,} environment steps, "
                f"{facts['environment_steps_per_second']:,.0f} per second"
            )
            mean = record["aggregates"]["mean_of_domain_means"]
            said = "no task with reference scores" if mean is None else f"{mean:.1f} % of expert (mean of domain means)"
            print(f"{said}; report: {report}")

    @property
    def _whose(self) -> str:
        """Where what is evaluated comes from, for errors."""
        return ", ".join(map(str, self.data)) if self.policy else str(self.bundle or "the generalist")

    def _chosen(self, agent: Any) -> tuple[list[Any], list[str]]:
        """The tasks to be played, and the ids of those that have no world to be played in."""
        from fnmatch import fnmatchcase

        from gato.policy.agent import installed, without_world
        from gato.worlds import find, select

        nowhere = without_world(agent)
        if not self.tasks:
            played = [t for t in agent.tasks if t not in nowhere] if self.policy else installed(agent)
            return [find(t) for t in played], nowhere
        patterns = [pattern.strip() for pattern in self.tasks.split(",")]
        for pattern in patterns:
            if not any(fnmatchcase(t, pattern) for t in agent.tasks):
                select(pattern)  # says so where there is no such task at all
        asked = [t for t in agent.tasks if any(fnmatchcase(t, pattern) for pattern in patterns)]
        if not asked:
            raise UnknownNameError(
                f"no demonstrations of {self.tasks}" if self.policy else f"this bundle was not trained on {self.tasks}",
                where=self._whose,
                fix=known_instead(self.tasks, agent.tasks),
            )
        return [find(t) for t in asked if t not in nowhere], [t for t in asked if t in nowhere]

    def _agent(self) -> Any:
        """The bundle's agent, or the demonstrations in its place."""
        if self.policy:
            if self.bundle or self.language or self.acting:
                raise UsageError(
                    f"--policy {self.policy} goes without a bundle, --language and --acting",
                    fix=f"gato evaluate --policy {self.policy} --data DIR --out DIR",
                )
            check_some(
                self.data, "a folder of demonstrations", f"gato evaluate --policy {self.policy} --data DIR --out DIR"
            )
            from gato.rollouts.retrieve import Retrieval

            return Retrieval.open(self.data)
        from gato.policy import load
        from gato.policy.acting import check_rank

        agent = load(self.bundle, device_named(self.device))
        agent.bundle.acting |= ways_of_acting(self.acting, agent.bundle.acting)
        check_rank(agent.bundle.acting, agent.bundle, agent.tasks)
        if self.shown:
            if self.cluster:
                raise UsageError("--shown and --cluster", fix="one of the two: what is shown does not travel")
            from gato.episodes.store import Dataset, find_datasets

            agent = agent.shown([Dataset.open(folder) for folder in find_datasets(list(self.shown))])
        return agent


def _demonstrations(agent: Any, tasks: list[str], paths: tuple[Path, ...], most: int) -> dict[str, list[Any]]:
    """At most so many episodes of each of the tasks that has a dataset there."""
    from gato.episodes.store import Dataset, find_datasets
    from gato.errors import DataError
    from gato.sequences.returns import tell, world_spec

    found: dict[str, list[Any]] = {}
    for folder in find_datasets(list(paths)):
        dataset = Dataset.open(folder)
        if dataset.task not in tasks:
            continue
        spec = agent.bundle.tasks[dataset.task].spec
        if dataset.spec != world_spec(spec):
            raise DataError(
                "this dataset's observations or actions are not those the bundle was trained on",
                where=str(folder), fix=f"gato collect {dataset.task} --out another folder",
            )  # fmt: skip
        held = found.setdefault(dataset.task, [])
        first, returns = dataset.episodes(range(min(len(dataset), most - len(held)))), dataset.returns
        held += (tell(episode, spec, returns) for episode in first)
    found = {task: episodes for task, episodes in found.items() if episodes}
    if not found:
        raise UsageError(
            "no demonstrations of the tasks that are evaluated",
            where=", ".join(map(str, paths)), fix=f"gato collect {tasks[0]} --out DIR; or gato data import, of recordings",
        )  # fmt: skip
    return found


def _print_open_loop(tasks: list[dict[str, Any]], unplayed: Mapping[str, Any]) -> None:
    """Per task: the errors of single actions on demonstrations, beside what the agent's own play is worth."""
    from rich.table import Column, Table

    from gato.evaluation.open_loop import as_text

    shown = Table(Column("task", no_wrap=True), "actions on demonstrations", "its own play", "% of expert")
    for task in tasks:
        percent = task["expert_normalised"]
        shown.add_row(
            task["id"], as_text(task["teacher_forced"]) if "teacher_forced" in task else "–",
            f"{task['measure']} {task['score']:.3g}", f"{percent:.1f}" if percent is not None else "–",
        )  # fmt: skip
    for task_id, errors in unplayed.items():
        shown.add_row(task_id, as_text(errors), "no world", "–")
    print_table(shown)


def _language(agent: Any, out: Path, where: str, data: tuple[Path, ...], count: int) -> dict[str, Any]:
    """Scores on the held-out part of the corpora that the package makes itself, and on the corpora in `data`; also written to
    `out`/language.json."""
    from gato.episodes.manifest import write_file_atomically
    from gato.evaluation.telling import held_out, of_data, tell

    own = held_out(agent, count)
    if not own and not data:
        raise UsageError(
            "this bundle was not trained on corpora that the package makes", where=where,
            fix="leave out --language, or name corpora of yours with --data",
        )  # fmt: skip
    found = tell(agent, own, out / "media", of_data(data) if data else None)
    out.mkdir(parents=True, exist_ok=True)
    write_file_atomically(out / "language.json", json.dumps(found, indent=1, ensure_ascii=False).encode())
    return found


@dataclass
class Play:
    """Watch the agent play: a window where there is a screen, else a film. `gato play [BUNDLE] TASK`."""

    words: Positional[tuple[str, ...]]
    """The task, or a bundle and a task; without a bundle, the generalist that comes with the package."""
    video: Path | None = None
    """A film in place of the window: .mp4 (with the extra `video`), .webp, .gif or .png."""
    episodes: int = 1
    seed: int = 0
    """Number of the first episode."""
    max_steps: int = 1000
    fps: float = 15.0
    plan: int = 0
    """Look ahead: try so many continuations on saved states of the world, with the policy as prior, and begin the best."""
    plan_steps: int = 20
    """How far."""
    plan_follow: int = 4
    """Steps taken before looking ahead again."""
    imagined: bool = False
    """Try things out on what the network foretells, not on the world; for bundles that were trained to (docs/playing.md)."""
    acting: Annotated[tuple[str, ...], tyro.conf.arg(name="acting")] = ()
    """How to act: see `gato evaluate --help`."""
    device: str = "auto"

    def run(self) -> None:
        for flag in ("episodes", "max_steps"):
            check_within(f"--{flag.replace('_', '-')}", getattr(self, flag), 1)
        check_within("--seed", self.seed, 0)
        check_within("--fps", self.fps, 1, 120)
        planning = _planning(self.plan, self.plan_steps, self.plan_follow, self.imagined)
        if len(self.words) not in (1, 2):
            raise UsageError("a task is needed", fix="gato play [BUNDLE] TASK; gato tasks lists tasks")
        bundle, task_id = (self.words[0] if len(self.words) == 2 else None), self.words[-1]
        if self.video:
            check_suffix("--video", self.video, ".webp", ".mp4", ".gif", ".png")
        from gato.evaluation.animation import Film
        from gato.evaluation.screen import Screen
        from gato.evaluation.watching import Moment, watch
        from gato.evaluation.window import Window, has_screen
        from gato.policy import load
        from gato.rollouts import episode_seed
        from gato.worlds import find

        window = Window(f"gato play {task_id}", self.fps) if self.video is None and has_screen() else None
        film = Film(self.video or Path("episode.webp"), fps=self.fps) if window is None else None
        agent, task = load(bundle, device_named(self.device)), find(task_id)
        acting = ways_of_acting(self.acting, agent.bundle.acting)
        agent.bundle.codec(task.id)
        policy = agent.planner(task.id, 1, planning, **acting) if planning else agent.policy(task.id, 1, **acting)
        screen = Screen(task, f"{self.plan} continuations of {self.plan_steps} steps" if planning else "")

        def show(moment: Moment) -> None:
            frame = screen.draw(moment)
            if window is not None:
                window.show(frame, moment.done)
            if film is not None:
                film.add(frame, 1 + (moment.done and moment.episode + 1 < self.episodes) * round(self.fps))

        seeds = [episode_seed(task.id, self.seed + i, "evaluation") for i in range(self.episodes)]
        with film or contextlib.closing(window):  # type: ignore[type-var]
            seen = watch(agent, task, policy, seeds, show, self.max_steps)
        for i, episode in enumerate(seen):
            ended = {True: ", solved", False: ", not solved", None: ""}[episode.success]
            print(f"episode {self.seed + i}: return {episode.total_return:.4g} in {len(episode):,} steps{ended}")
        if film is not None:
            print(f"{film.frames} frames → {film.file}")


def _planning(continuations: int, steps: int, follow: int, imagined: bool) -> Any:
    """`--plan N` and its companions; None for 0."""
    check_within("--plan", continuations, 0)
    if not continuations:
        return None
    check_within("--plan-steps", steps, 1)
    check_within("--plan-follow", follow, 1)
    from gato.policy.planning import Planning

    return Planning(continuations, steps, follow, drawn=steps, imagined=imagined)


@dataclass
class Serve:
    """A policy server, and a page to watch the agent, on this machine."""

    bundle: Positional[Path | None] = None
    """The generalist that comes with the package if not given."""
    host: str = "127.0.0.1"
    """Any other address needs a token."""
    port: int = 8000
    """0 takes a free one."""
    token: str | None = None
    """What every request must carry; better given as GATO_TOKEN, since others can read command lines."""
    sessions: int = 64
    """How many may act at once."""
    live: int = 2
    """How many worlds may be watched at once, each in a process of its own."""
    idle_seconds: float = 600.0
    """After which an unused session is forgotten."""
    device: str = "auto"

    def run(self) -> None:
        check_within("--port", self.port, 0, 65535)
        check_within("--sessions", self.sessions, 1)
        check_within("--live", self.live, 0)
        check_within("--idle-seconds", self.idle_seconds, 1)
        from gato.serving.run import check_address, serve

        token = self.token or os.environ.get("GATO_TOKEN") or None
        check_address(self.host, token)  # before the bundle is read
        from gato.policy import load
        from gato.serving.limits import Limits

        agent = load(self.bundle, device_named(self.device))
        limits = Limits(sessions=self.sessions, live=self.live, idle_seconds=self.idle_seconds)
        serve(agent, self.host, self.port, token, limits, lambda url: print(f"{agent}\nserving: {url}", flush=True))


@dataclass
class ReportAgain:
    """The report of a run, made again from its results."""

    run_folder: Positional[Path]

    def run(self) -> None:
        from gato.evaluation.report import write_report

        print(f"report: {write_report(self.run_folder)}")
