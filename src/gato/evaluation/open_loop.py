"""Open loop: how far the network's actions are from a demonstrator's, when the history it sees is the demonstrator's own.

    action_errors(agent, "meta-world/push", episodes)
    {"episodes": 20, "timesteps": 1480, "context": "1 timestep",
     "actions": {"action": {"kind": "continuous", "mean_absolute_error": 0.031, "of_half_range": 0.031, "nll": 3.2}},
     "of_half_range": 0.031, "accuracy": None}

A network is trained in this way (teacher forcing), and acts in another: there, its own actions lead to observations that
no demonstration may hold. So a task with small errors here and a small return there has demonstrations that cover too
little; one with large errors here has not been learned.

* `mean_absolute_error`, in units of the action, over all values of the leaf; `of_half_range`, as a share of half the way
  between the action's bounds. The network's value is the mean over the bins where the agent acts by that
  (`continuous=mean`), else the centre of the likeliest bin.
* `accuracy` of a discrete leaf: how often the likeliest legal id is the demonstrator's.
* `nll`: nats per action token, over the legal ids.

Before each action the network sees what it saw in training: as many timesteps, behind its prompt if it has one; where
that is the whole window, at least half of one, unless the episode has just begun. A network trained with
`similar_timesteps` sees a timestep behind those of other episodes that are most like it: of the demonstrations that are
kept in its sight (`Agent.shown`), and without any, of those that it is scored on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from gato.episodes import Episode
from gato.episodes.likeness import Memory
from gato.model.bundle import Bundle
from gato.policy import Agent
from gato.policy.batch import tempered
from gato.policy.shown import Shown
from gato.sequences import Segment, TokenStore, collate
from gato.tokens import Tokens
from gato.tokens.timestep import CONTINUOUS, DISCRETE
from gato.tokens.values import from_bins, unscale_action

BATCH_TOKENS = 4096
Window = tuple[int, int, int]  # timesteps [first, stop) are seen, those from the third number on are scored


@torch.inference_mode()
def action_errors(agent: Agent, task: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Errors of one task's actions, as above. Raises EpisodeError where there are no episodes."""
    bundle = agent.bundle
    card, codec = bundle.tasks[task], bundle.codec(task)
    room = bundle.window()
    shown = card.shown or _each_other(bundle, task, episodes)
    given = [] if card.prompt is None or shown else [card.prompt]
    steps = None if given else card.window_timesteps  # as in acting: behind a prompt, the context is the whole window
    if shown:
        store, segments, scored = _behind_alike(shown, episodes, room)
    else:
        store = TokenStore.build(task, codec, [*given, *episodes])
        segments, scored = _in_windows(store, len(given), room, steps)
    order = sorted(range(len(segments)), key=lambda i: -len(segments[i]))  # the order in which a batch lays them out
    ids, log_p = _predict(agent, store, [segments[i] for i in order])
    at = np.concatenate([np.fromiter(scored[i], np.int64) for i in order])
    truth = [e.actions for e in (*given, *episodes)]
    leaves, a = {}, 0
    for path, spec in card.spec.action.items():
        values = np.concatenate([np.asarray(t[path], np.float64).reshape(-1, spec.size) for t in truth])[at]
        low, high = (b.ravel() for b in spec.bounds())
        columns = range(a, a + spec.size)
        nll = -np.mean(
            [p[np.arange(len(p)), ids[:, c]] for c, p in zip(columns, log_p[a : a + spec.size], strict=True)]
        )
        if spec.kind == "discrete":
            hits = [p.argmax(1) == ids[:, c] for c, p in zip(columns, log_p[a : a + spec.size], strict=True)]
            leaves[path] = {"kind": "discrete", "accuracy": float(np.mean(hits)), "nll": float(nll)}
        else:
            said = np.stack([_value(p, bundle.acting) for p in log_p[a : a + spec.size]], axis=1)
            errors = np.abs(np.clip(unscale_action(said, low, high), low, high) - values)
            shares = errors / np.where(high > low, (high - low) / 2, np.inf)  # of no range nothing can be missed
            leaves[path] = {
                "kind": "continuous", "mean_absolute_error": float(errors.mean()),
                "of_half_range": float(shares.mean()), "nll": float(nll),
            }  # fmt: skip
        a += spec.size
    return {
        "episodes": len(episodes), "timesteps": len(at), "context": _context(steps, bool(given), shown), "actions": leaves,
        "of_half_range": _over_values(card.spec.action, leaves, "of_half_range"),
        "accuracy": _over_values(card.spec.action, leaves, "accuracy"),
    }  # fmt: skip


def as_text(errors: Mapping[str, Any]) -> str:
    """One line a leaf: `button right 97.2 % (0.08 nats)`, `stick off by 0.031 (3.1 % of half range)`."""
    said = []
    for path, leaf in errors["actions"].items():
        if leaf["kind"] == "discrete":
            said.append(f"{path} right {100 * leaf['accuracy']:.1f} % ({leaf['nll']:.2f} nats)")
        else:
            said.append(
                f"{path} off by {leaf['mean_absolute_error']:.3g} ({100 * leaf['of_half_range']:.1f} % of half range)"
            )
    return "\n".join(said)


def windows(store: TokenStore, episode: int, room: int, steps: int | None) -> Iterator[Window]:
    """Windows over one episode, each timestep of which is scored in exactly one.

    With `steps`, one window per timestep. Otherwise windows of at most `room` tokens, as few as leave half a window of
    context before what is scored.
    """
    first, last = int(store.episodes[episode]), int(store.episodes[episode + 1])
    if steps is not None:
        yield from ((max(first, t - steps + 1), t + 1, t) for t in range(first, last))
        return
    begin = score = first
    while True:
        stop = int(np.searchsorted(store.starts, store.starts[begin] + room, side="right")) - 1
        stop = min(last, max(stop, score + 1))
        yield begin, stop, score
        if (score := stop) == last:
            return
        begin = int(np.searchsorted(store.starts, store.starts[score] - room // 2, side="left"))
        begin = min(max(begin, first), score)
        while begin < score and store.starts[score + 1] - store.starts[begin] > room:
            begin += 1  # one long timestep leaves room for less


def _in_windows(store: TokenStore, first: int, room: int, steps: int | None) -> tuple[list[Segment], list[range]]:
    """A segment for each window over the episodes from `first` on (behind those before it, a prompt), and the timesteps that
    are scored in it."""
    segments, scored = [], []
    prompt = (0, _prompt_end(store, room // 2)) if first else (0, 0)
    for e in range(first, store.num_episodes):
        for begin, stop, score in windows(store, e, room - prompt[1], steps):
            spans = (int(store.starts[begin]), int(store.starts[stop]))
            unscored = prompt[1] + int(store.starts[score]) - spans[0]
            segments.append(Segment(0, (prompt, spans) if prompt[1] else (spans,), unscored))
            scored.append(range(score, stop))
    return segments, scored


def _each_other(bundle: Bundle, task: str, episodes: Sequence[Episode]) -> Shown | None:
    """The episodes in sight of one another, where the network was so trained on this task."""
    count = int((bundle.card.get("recipe") or {}).get("similar_timesteps", 0))
    if not count or task not in {data["task"] for data in bundle.card.get("data", [])}:
        return None
    store = TokenStore.build(task, bundle.codec(task), episodes)
    return Shown(Memory.build(bundle.tasks[task].spec, episodes, task), store, count)


def _behind_alike(
    shown: Shown, episodes: Sequence[Episode], room: int
) -> tuple[TokenStore, list[Segment], list[range]]:
    """A store of what is shown and of the episodes, and a segment for each timestep of these, behind the shown ones that are
    most like it, as many as `room` tokens hold. None is shown its own episode, where that is among what is shown."""
    source = shown.store
    store = TokenStore.build(source.task, source.codec, episodes, source.tokens.table)
    known = {_tokens_of(source, e): e for e in range(source.num_episodes)}
    own = np.repeat([known.get(_tokens_of(store, e), -1) for e in range(len(episodes))], np.diff(store.episodes))
    near = shown.memory.most_alike(shown.memory.keys_of(episodes), shown.count, own)
    sizes, offset = np.diff(source.starts), source.num_tokens
    segments = []
    for t, alike in enumerate(near):
        begin, end = int(store.starts[t]), int(store.starts[t + 1])
        alike = alike[alike >= 0]
        alike = alike[np.cumsum(sizes[alike]) <= room - (end - begin)][::-1]  # the likest next to it
        spans = [(int(source.starts[n]), int(source.starts[n + 1])) for n in alike]
        segments.append(Segment(0, (*spans, (offset + begin, offset + end)), int(sizes[alike].sum())))
    return _joined(source, store), segments, [range(t, t + 1) for t in range(len(near))]


def _tokens_of(store: TokenStore, episode: int) -> bytes:
    """What tells an episode from others of stores that share their patches."""
    first, last = (int(store.starts[t]) for t in store.episodes[episode : episode + 2])
    return store.tokens.ids[first:last].tobytes() + store.tokens.patches[first:last].tobytes()


def _joined(one: TokenStore, other: TokenStore) -> TokenStore:
    """Two stores that share their patches, end to end."""
    arrays = {
        f.name: np.concatenate([getattr(one.tokens, f.name), getattr(other.tokens, f.name)])
        for f in fields(Tokens) if f.name != "table"
    }  # fmt: skip
    return TokenStore(
        np.concatenate([one.starts, one.num_tokens + other.starts[1:]]),
        np.concatenate([one.episodes, one.num_timesteps + other.episodes[1:]]),
        one.prompts, one.task, one.codec, Tokens(**arrays, table=one.tokens.table),
    )  # fmt: skip


def _prompt_end(store: TokenStore, room: int) -> int:
    """Tokens of the prompt that fit, in whole timesteps, as an agent reads them."""
    starts = store.starts[: int(store.episodes[1]) + 1]
    return int(starts[np.searchsorted(starts, room, side="right") - 1])


def _predict(agent: Agent, store: TokenStore, segments: list[Segment]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The demonstrator's action ids (N, A), counted from the lowest legal one, and log p over the legal ids of each of
    the A action tokens, (N, legal). N: scored timesteps, in the order of the segments."""
    bundle, legal = agent.bundle, store.codec.legal()
    targets: list[np.ndarray] = []
    chosen_from: list[list[np.ndarray]] = [[] for _ in legal]
    device = next(bundle.model.parameters()).device
    for part in _batches(segments):
        batch = collate(part, [store], parallel_actions=bundle.config.parallel_actions)
        logits = bundle.model(batch.to(device)).float().cpu()
        acts = (batch.kinds == DISCRETE) | (batch.kinds == CONTINUOUS)
        if batch.observed is not None:
            acts &= ~batch.observed
        logits = logits[acts].view(-1, len(legal), logits.shape[-1])
        lows = np.array([block.low for block in legal])
        targets.append(batch.targets[acts].view(-1, len(legal)).cpu().numpy() - lows)
        for a, block in enumerate(legal):
            chosen_from[a].append(torch.log_softmax(logits[:, a, block.low : block.high], -1).numpy())
    return np.concatenate(targets), [np.concatenate(parts) for parts in chosen_from]


def _batches(segments: list[Segment]) -> Iterator[list[Segment]]:
    """In order, about BATCH_TOKENS tokens each."""
    part: list[Segment] = []
    for segment in segments:
        if part and sum(map(len, part)) + len(segment) > BATCH_TOKENS:
            yield part
            part = []
        part.append(segment)
    if part:
        yield part


def _value(log_p: np.ndarray, acting: dict[str, Any]) -> np.ndarray:
    """(N, bins) → what the agent would do, in [-1, 1]."""
    if acting.get("continuous") != "mean":
        return from_bins(log_p.argmax(1))
    p = torch.softmax(tempered(torch.from_numpy(log_p), float(acting.get("temperature", 1.0))), -1).numpy()
    return (p * from_bins(np.arange(p.shape[1]))).sum(1)


def _over_values(specs: Any, leaves: dict[str, Any], name: str) -> float | None:
    """The mean over all action values of those leaves that have such a number."""
    sizes = {path: specs[path].size for path, leaf in leaves.items() if name in leaf}
    total = sum(sizes.values())
    return sum(leaves[path][name] * size for path, size in sizes.items()) / total if total else None


def _context(steps: int | None, prompted: bool, shown: Shown | None) -> str:
    if shown:
        return f"1 timestep, behind the {shown.count} of other episodes that are most like it"
    if steps is None:
        return "the window, behind a prompt" if prompted else "the window"
    return "1 timestep" if steps == 1 else f"{steps} timesteps"
