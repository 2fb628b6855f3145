"""The one training loop: batch, loss, backward, step, now and then log and save. Fine-tuning is a run with a starting bundle."""

from __future__ import annotations

import ctypes
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from gato.episodes.manifest import lock_folder, write_file_atomically
from gato.errors import NonFiniteError, OutputExistsError, RecipeError
from gato.model import Gato
from gato.model.bundle import Bundle, TaskCard, check_weights
from gato.model.transformer import Block
from gato.sequences import Mixture, Store
from gato.tokens.text import TextTokenizer
from gato.training.best import Best
from gato.training.checkpoint import State, load_checkpoint
from gato.training.data import make_mixture, stream
from gato.training.log import Log, Tracker, check_tracker
from gato.training.loss import target_weights, token_losses
from gato.training.optimizer import learning_rate, make_optimizers
from gato.training.recipe import Recipe
from gato.training.saving import Saver
from gato.training.sharding import clip_gradients, shard, whole
from gato.training.signals import StopSignals
from gato.training.team import Forked, Team, dismiss, fork, free_port, keeping_threads

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass
class Report:
    """What a run tells whoever watches: one line of log.jsonl."""

    record: dict[str, Any]
    progress: float  # 0 … 1


@keeping_threads()
def train(
    recipe: Recipe,
    stores: Sequence[Store],
    tokenizer: TextTokenizer,
    out: Path,
    *,
    resume: bool = False,
    start: Bundle | None = None,
    device: str = "cpu",
    watch: Callable[[Report], None] | None = None,
    references: Mapping[str, Any] | None = None,
    processes: int = 1,
    team: Team | None = None,
    visit: Callable[[Gato, State], None] | None = None,
    score: Callable[[Bundle], float] | None = None,
    score_every: int = 1000,
    track: Tracker | None = None,
    profile: bool = False,
) -> Bundle:
    """Train and leave a bundle in `out/bundle`. Killed or interrupted, `resume=True` goes on from the last checkpoint.

    `start` is a bundle to fine-tune: its weights and its network, but for the fields in `recipe.model` (dropout, say).
    `visit` sees the network after each step, in evaluation mode where it asks for it, and must leave it in training mode.

    `score` is called every `score_every` steps; the bundle that it liked best is kept in `out/best-step-…`.
    `track` sends the log to a tracker too; `profile` writes where the time of some steps went to `out/profile.json`.
    `processes` share each batch's slots on a CPU (one thread each); 1 leaves the threads to PyTorch. `team` is this
    process's place in one that torchrun started: every rank calls this, rank 0 writes, and the network is sharded.

    Raises OutputExistsError where another run is, NonFiniteError before a step that would spoil the weights, TeamError
    where a rank is lost.
    """
    out = Path(out)
    world = team.world if team else processes
    lead = team is None or team.lead
    assert team is None or visit is None, "a network in slices cannot be looked at from one rank"
    with lock_folder(out) if lead else nullcontext():
        if Team.parts_of(recipe.accumulate, world) > recipe.slots:
            raise RecipeError(
                f"{recipe.slots} slots cannot be shared by {world} processes in {recipe.accumulate} parts",
                where=recipe.name, fix=f"--processes {recipe.slots}, or more slots",
            )  # fmt: skip
        if track is not None:
            check_tracker(track)
        config = start.config.replace(**recipe.model) if start else recipe.config()
        mixture = make_mixture(stores, recipe, config)  # what is wrong is said before the folder belongs to the recipe
        with torch.device("meta"):
            outline = Gato(config)
        make_optimizers(outline, recipe)
        if start:
            check_weights(outline, start.model.state_dict(), f"the bundle that {recipe.name} starts from")
        if lead:
            _claim(out, recipe, resume)
        port = free_port() if processes > 1 else 0

        def bundle_of(model: Gato, state: State) -> Bundle:
            network = _unsharded(model) if team is not None and team.sharded else model
            return make_bundle(network, state, recipe, stores, tokenizer, start, references)

        def work(team: Team) -> tuple[Gato, State]:
            with team:
                torch.manual_seed(recipe.seed)
                model = Gato(config)
                if start:
                    model.load_state_dict(start.model.state_dict())
                model.to(device).train()
                if device == "cpu":
                    _keep_memory()
                _prepare(model, recipe, team, device)
                optimizers = make_optimizers(model, recipe)
                saved = resume and (out / "checkpoints" / "last").exists()
                state = load_checkpoint(out, model, optimizers) if saved else State()
                judge = Best(out, score, score_every, lambda: bundle_of(model, state)) if score else None
                if judge and resume and team.lead:
                    judge.forget_after(state.step)
                _run(model, recipe, mixture, optimizers, state, out, device, watch, visit, team, judge, track, profile)
                model = _unsharded(model) if team.sharded else model
            return model, state

        others = fork(processes - 1, lambda rank: work(Forked(rank, processes, port)))
        try:
            if team is None:
                team = Forked(0, processes, port, others) if others else Team()
            model, state = work(team)
        finally:
            dismiss(others)
        team = None  # what is left is one whole network
        bundle = bundle_of(model, state)
        if lead and not (out / "bundle").exists():
            bundle.save(out / "bundle")
        return bundle


def make_bundle(
    model: Gato,
    state: State,
    recipe: Recipe,
    stores: Sequence[Store],
    tokenizer: TextTokenizer,
    start: Bundle | None = None,
    references: Mapping[str, Any] | None = None,
) -> Bundle:
    """A run at one of its steps, ready to act."""
    facts = {"recipe": recipe.to_json(), "parameters": model.num_parameters, "steps": state.step, "tokens": state.tokens,
             "seconds": round(state.elapsed_seconds, 1), "data": [_describe(s) for s in stores]}  # fmt: skip
    if start:  # the runs before this one, oldest first
        last = {k: start.card.get(k) for k in ("recipe", "steps", "tokens", "seconds")}
        facts["history"] = [*start.card.get("history", []), last]
    # In the order of their task tokens.
    cards = {**(start.tasks if start else {}), **_task_cards(stores, recipe)}
    return Bundle(model.config, model.eval(), tokenizer, cards, recipe.acting, {**facts, **(references or {})})


def _prepare(model: Gato, recipe: Recipe, team: Team, device: str) -> None:
    """What the recipe or the team asks for beyond the plain network, in place."""
    blocks = cast(Iterable[Block], model.blocks)
    if recipe.activation_checkpointing:
        for block in blocks:
            block.recompute = True
    if recipe.compile:
        # What is per token compiles for every number of tokens at once. Attention does not: its groups are a new list of
        # lengths at each step, and would be compiled anew each time.
        for block in blocks:
            block.feedforward.compile(dynamic=True)
    if team.sharded:
        shard(model, team.world, device, _in_bf16(recipe, device))


def _keep_memory() -> None:
    """What a step frees the next one needs again. glibc gives it back to the system, and asking anew costs a fault for every
    4 kB, a twelfth of a step: told so, it keeps what it has."""
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _unsharded(model: Gato) -> Gato:
    """A whole copy of a network in slices. A collective."""
    weights = whole(model.state_dict())
    with torch.device("meta"):
        copy = Gato(model.config)
    copy = copy.to_empty(device="cpu")
    for name, buffer in model.named_buffers():
        copy.get_buffer(name).copy_(buffer)
    copy.load_state_dict(weights)
    return copy


def _run(
    model: Gato,
    recipe: Recipe,
    mixture: Mixture,
    optimizers,
    state: State,
    out: Path,
    device: str,
    watch,
    visit,
    team: Team,
    judge: Best | None,
    track: Tracker | None,
    profile: bool,
) -> None:
    stores = mixture.stores
    lead = team.lead
    log = Log(out if lead else None, stores, state, track)
    parameters = [p for p in model.parameters() if p.requires_grad]
    parts = team.parts(recipe.accumulate)
    weight_of = torch.ones(len(stores), device=device)
    if recipe.loss_by == "tokens":
        weight_of = target_weights([s.target_share for s in stores]).to(device)
    stop = StopSignals()
    saver = Saver(out, recipe, team)
    saver.start(state)
    in_bf16 = _in_bf16(recipe, device) and not team.sharded  # where it is sharded, its weights come in bf16
    autocast = torch.autocast(device.split(":")[0], torch.bfloat16) if in_bf16 else nullcontext()
    patient = recipe.compile
    mine = range(team.rank, parts, team.world)
    with (
        stop,
        _finishing(saver),
        _profiler(out if profile and lead else None) as profiler,
        stream(mixture, mine, parts, state.step, recipe.data_workers) as data,
    ):
        progress = _progress(recipe, state)
        began = time.perf_counter() - state.elapsed_seconds  # the lead's counts, for all ranks
        while progress < 1:
            for optimizer in optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(group["peak"], progress, recipe)
            saver.check()
            tick = time.perf_counter()
            team.at(state.step, "reading data", patient=recipe.lazy)  # a dataset may be tokenised just now
            batches = [(part, batch.to(device)) for part, batch in zip(mine, next(data), strict=True)]
            waited = time.perf_counter() - tick
            counted = 0.0
            for i, (part, batch) in enumerate(batches, 1):
                team.at(state.step, f"computing part {i} of {len(batches)}", patient)
                torch.manual_seed(_noise_seed(recipe.seed, state.step, part))
                with team.naming_the_lost():
                    with autocast:
                        logits = model(batch)
                    losses = token_losses(
                        logits, batch.targets, batch.kinds, model.config.vocabulary.continuous, recipe.smooth_targets,
                        batch.observed,
                    )  # fmt: skip
                    weights = weight_of[batch.stores]
                    if recipe.observation_loss and batch.observed is not None:
                        weights = torch.where(batch.observed, recipe.observation_loss * weights, weights)
                    (losses * weights).sum().backward()
                counted += float(weights.sum())
                log.add(batch, losses.detach())
            patient = False
            # Sums over all parts and ranks, then one division: the loss is per target of the whole step.
            state.elapsed_seconds = time.perf_counter() - began
            tokens_here = float(sum(b.num_tokens for _, b in batches))
            clock = [state.elapsed_seconds, float(stop.asked)] if lead else [0.0, 0.0]
            team.at(state.step, "summing")
            targets, tokens, state.elapsed_seconds, asked = team.sum(
                parameters, [counted, tokens_here, *clock], state.step
            )
            team.at(state.step, "updating")
            for p in parameters:
                if p.grad is not None:
                    p.grad.div_(targets or 1.0)
            with team.naming_the_lost():
                norm = clip_gradients(parameters, recipe.clip)
            if not math.isfinite(norm):
                save_note = out / "non-finite.json"
                if lead:
                    windows = [
                        (stores[w.store].task, np.array(w.spans).tolist())
                        for i in range(recipe.slots)
                        for w in mixture.slot(state.step, i)
                    ]
                    note = {"step": state.step, "seed": recipe.seed, "windows": windows}
                    write_file_atomically(save_note, json.dumps(note).encode())
                raise NonFiniteError(
                    f"the gradient is not finite at step {state.step}; nothing was updated", where=str(save_note),
                    fix="resume with a lower --set learning_rate, or --set precision=float32",
                )  # fmt: skip
            with team.naming_the_lost():
                for optimizer in optimizers.values():
                    if targets:  # pictures may fill all windows of a step, and nothing is to be learned from it
                        optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.tokens += int(tokens)
            log.waited += waited
            if profiler is not None:
                profiler.step()
            paused = time.perf_counter()
            if visit and lead:
                team.at(state.step, "being looked at", patient=True)
                visit(model, state)
            if judge and judge.due(state) and (lead or team.sharded):
                team.at(state.step, "being evaluated", patient=True)
                judge.judge(model, state, lead)
            began += time.perf_counter() - paused  # the clock is of training alone
            progress = _progress(recipe, state)
            if log.due(state) or progress >= 1:
                log.gather(team, state)
                if lead:
                    record = log.write(state, norm, next(iter(optimizers.values())).param_groups[0]["lr"])
                    if watch:
                        watch(Report(record, min(1.0, progress)))
            if saver.due(state):
                saver.save(model, optimizers, state)
            if asked:
                break
        log.close()
        saver.save(model, optimizers, state)
        saver.wait()
    if progress < 1:
        if lead:
            print(
                f"stopped at step {state.step}; go on with: gato train --resume {shlex.quote(str(out))}",
                file=sys.stderr,
            )
        if lead or team.sharded:
            raise SystemExit(130)


@contextmanager
def _finishing(saver: Saver) -> Iterator[None]:
    """A checkpoint that is on its way is finished, whatever stops the loop; only then does the folder's lock go."""
    try:
        yield
    except BaseException:
        with suppress(BaseException):
            saver.wait()
        raise


@contextmanager
def _profiler(out: Path | None) -> Iterator[Any]:
    """Where the time of three steps goes, after three of warming up: RUN/profile.json for a trace viewer, and a table."""
    if out is None:
        yield None
        return

    def done(profiler: Any) -> None:
        profiler.export_chrome_trace(str(out / "profile.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)
        write_file_atomically(out / "profile.txt", table.encode())

    plan = torch.profiler.schedule(wait=1, warmup=2, active=3, repeat=1)
    with torch.profiler.profile(schedule=plan, on_trace_ready=done) as profiler:
        yield profiler


def _noise_seed(seed: int, step: int, part: int) -> int:
    """Dropout and stochastic depth are drawn anew from where the run is, so that a resumed run draws the same."""
    return int(np.random.SeedSequence((seed, step, part)).generate_state(1)[0])


def _in_bf16(recipe: Recipe, device: str) -> bool:
    """Whether matrix products run in bfloat16; a CPU without instructions for it is faster in float32."""
    if recipe.precision == "auto":
        return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return recipe.precision == "bf16"


def _progress(recipe: Recipe, state: State) -> float:
    return state.step / recipe.steps if recipe.steps is not None else state.elapsed_seconds / recipe.seconds  # type: ignore[operator]


def holds_a_run(out: Path) -> OutputExistsError:
    fix = f"gato train --resume {shlex.quote(str(out))}, or another --out"
    return OutputExistsError("this folder holds a run", where=str(out), fix=fix)


def _claim(out: Path, recipe: Recipe, resume: bool) -> None:
    """A run's folder belongs to one recipe; another run is refused before anything is written."""
    record = json.loads(json.dumps(recipe.to_json()))
    path = out / "recipe.json"
    if path.exists():
        if not resume:
            raise holds_a_run(out)
        before = Recipe.from_json(json.loads(path.read_text())).to_json()  # fields that came later have their defaults
        if json.loads(json.dumps(before)) != record:
            raise OutputExistsError("this folder holds a run of another recipe", where=str(out), fix="another --out")
    else:
        write_file_atomically(path, json.dumps(record, indent=1).encode())


def _task_cards(stores: Sequence[Store], recipe: Recipe) -> dict[str, TaskCard]:
    from gato.sequences.mixture import pattern_value

    return {
        s.task: TaskCard(
            s.codec.spec,
            1 if recipe.similar_timesteps and s.codec.acts else pattern_value(recipe.window_timesteps, s.task, None),
            s.example if recipe.prompt_share and s.codec.acts else None,
        )
        for s in stores
    }


def _describe(store: Store) -> dict[str, Any]:
    return {
        "task": store.task,
        "episodes": store.num_episodes,
        "timesteps": store.num_timesteps,
        "tokens": store.num_tokens,
    }
