"""The weighted mixture: which windows make up which batch.

Slot i of step s is a pure function of (seed, s, i), so the loader's state is one integer and any number of workers or
ranks sees the same global batch. A slot draws windows and packs them until it is full.

Weights are over domains, uniform over tasks inside a domain, uniform over windows inside a task. A domain's weight is
its share of the *tokens*: windows differ in length by a factor of fifty between domains, so short ones are drawn more
often (see `Mixture._chances`).
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gato.errors import RecipeError
from gato.sequences.batch import Batch, Segment, collate
from gato.sequences.store import Layout, Store

ROUND = 64  # tokens, queries and patches of a step are multiples of this (see `collate`)
SCRAP, DOCUMENT_SCRAP = 4, 32  # fewer tokens than these are not worth a segment, or a piece of a document
PROBES, LEAST_PROBES, ALL_PROBES = 256, 32, 2**15  # segments of each store that are measured beforehand; of all


@dataclass
class Mixture:
    """Batches of `slots` × `slot_tokens` tokens from many stores."""

    stores: Sequence[Store]
    weights: Mapping[str, float]  # domain (or a glob of task ids) → share of tokens
    slots: int
    slot_tokens: int
    window_tokens: int
    window_timesteps: Mapping[str, int | None] = field(
        default_factory=dict
    )  # glob of task ids → most timesteps in a window (of questions that share a picture: see Layout.window)
    prompt_share: float = 0.0
    prompt_loss: bool = True
    parallel_actions: bool = False
    seed: int = 0
    document_tokens: int | None = None  # the window of documents, where it is another
    similar_timesteps: int = 0  # a timestep stands alone, behind so many of other episodes that are most like it

    def __post_init__(self) -> None:
        if not 0 <= self.prompt_share <= 1:
            raise RecipeError(f"prompt_share {self.prompt_share} is not a share", fix="between 0 and 1")
        if any(w < 0 for w in self.weights.values()):
            raise RecipeError(f"negative weights: {dict(self.weights)}", fix="every weight at least 0")
        self.window_tokens = min(self.window_tokens, self.slot_tokens)  # the first window of a slot always fits
        for store in self.stores:
            if store.codec.acts and store.codec.fixed_tokens > self.window_tokens:
                raise RecipeError(
                    f"a window of {self.window_tokens} tokens is shorter than one timestep ({store.codec.fixed_tokens} tokens)",
                    where=store.task, fix="a larger window_tokens (and slot_tokens)",
                )  # fmt: skip
        self._most = [pattern_value(self.window_timesteps, s.task, None) for s in self.stores]
        share = self._share()
        if not share.sum() > 0:
            raise RecipeError(f"the weights sum to nothing over {len(self.stores)} datasets: {dict(self.weights)}")
        self.shares = share / share.sum()  # of tokens, per store
        self._cumulative = np.cumsum(self._chances())

    def _share(self) -> np.ndarray:
        """Each store's weight: its pattern's, divided among the tasks that the same pattern governs; a task's, among its datasets
        by their timesteps, as if they were one. (stores,)"""
        pattern = {store.task: governing(self.weights, store.task) for store in self.stores}
        tasks, timesteps = Counter(pattern.values()), Counter[str]()
        for store in self.stores:
            timesteps[store.task] += store.num_timesteps

        def weight(store: Store) -> float:
            p = pattern[store.task]
            of_task = 0.0 if p is None else self.weights[p] / tasks[p]
            return of_task * (store.num_timesteps / timesteps[store.task])

        return np.array([weight(store) for store in self.stores], np.float64)

    def slot(self, step: int, i: int) -> list[Segment]:
        """The segments of slot i at a step."""
        rng = np.random.default_rng((self.seed, step, i))
        left = self.slot_tokens
        segments: list[Segment] = []
        while left >= SCRAP:
            k = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.stores) - 1)
            segment = self._segment(k, rng, left, self.stores[k])
            if segment is None:
                break
            segments.append(segment)
            left -= len(segment)
        return segments

    def _segment(self, k: int, rng: np.random.Generator, left: int, layout: Store | Layout) -> Segment | None:
        """A window of store k, prompted or not, within `left` tokens; None where it does not fit."""
        acts = self.stores[k].codec.acts
        if acts and self.similar_timesteps:
            *others, (begin, end) = layout.among_alike(rng, self.similar_timesteps, self.window_tokens)
            begin = max(begin, end - self.slot_tokens)  # of one longer than a slot, what the action is nearest to
            behind = sum(stop - start for start, stop in others)
            if behind + end - begin > left:
                return None
            return Segment(k, (*others, (begin, end)), behind, int(rng.integers(2**62)))
        prompted = bool(self.prompt_share and acts and rng.random() < self.prompt_share)
        # A prompt may take half of the window; it is decided first, so that long episodes get theirs too.
        most = self.window_tokens // 2 if prompted else self.window_tokens
        if self.document_tokens and not acts:
            most = min(most, self.document_tokens)
        begin, end = layout.window(rng, most, self._most[k], whole=self.window_tokens if prompted else 0)
        if end - begin > left:
            if acts or left < DOCUMENT_SCRAP:
                return None
            end = begin + left  # a document fills what is left
        spans: tuple[tuple[int, int], ...] = ((begin, end),)
        masked = 0
        if prompted:
            room = min(self.window_tokens // 2, self.window_tokens - (end - begin), left - (end - begin))
            from_end = bool(rng.random() < 0.5)
            prompt = layout.prompt(rng, layout.episode_at(begin), room, from_end)
            if prompt is not None:
                spans = (prompt, *spans)
                masked = 0 if self.prompt_loss else prompt[1] - prompt[0]
        return Segment(k, spans, masked, int(rng.integers(2**62)))

    def _chances(self) -> np.ndarray:
        """How often each store must be drawn, (stores,), so that its share of the tokens is its weight.

        A segment counts only if it fits into what is left of its slot, a long one less often than a short one. So a
        store's chance goes with share / mean tokens that a draw of it adds, over the fill levels at which draws are
        made. These follow from the chances in turn; a few rounds settle both. Only outlines are looked at: no file of
        tokens is opened.
        """
        rng = np.random.default_rng(0)
        n = max(LEAST_PROBES, min(PROBES, ALL_PROBES // len(self.stores)))
        probes = [
            [self._segment(k, rng, self.slot_tokens, store.outline) for _ in range(n)]
            for k, store in enumerate(self.stores)
        ]
        whole = np.array([[len(s) for s in row if s] for row in probes])
        window = np.array([[s.spans[-1][1] - s.spans[-1][0] for s in row if s] for row in probes])
        acts = np.array([s.codec.acts for s in self.stores])
        if self.similar_timesteps:  # what stands before a timestep is not cropped, as a prompt is
            window[acts] = whole[acts]

        def added(k, j, left):  # tokens of probe j of store k where `left` are left
            cut = np.where(~acts[k] & (left >= DOCUMENT_SCRAP), left, 0)
            return np.where(window[k, j] <= left, np.minimum(whole[k, j], left), cut)

        chances = self.shares / whole.mean(axis=1)
        chances /= chances.sum()
        for _ in range(4):
            levels, left = [], np.full(512, self.slot_tokens)
            while len(left):
                levels.append(left)
                tokens = added(rng.choice(len(chances), len(left), p=chances), rng.integers(n, size=len(left)), left)
                left = (left - tokens)[(tokens > 0) & (left - tokens >= SCRAP)]
            met = np.sort(np.concatenate(levels))
            met = met[np.linspace(0, len(met) - 1, 256).astype(int)]
            gain = [added(k, np.arange(n)[:, None], met).mean() for k in range(len(chances))]
            chances = self.shares / np.array(gain)
            chances /= chances.sum()
        return chances

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Step `step` of rank `rank`: its slots i ≡ rank (mod world), collated."""
        mine = range(rank, self.slots, world)
        segments = [segment for i in mine for segment in self.slot(step, i)]
        return collate(segments, self.stores, parallel_actions=self.parallel_actions, round_to=ROUND)

    def __iter__(self) -> Iterator[Batch]:
        step = 0
        while True:
            yield self.batch(step)
            step += 1


def governing(table: Mapping[str, object], task: str) -> str | None:
    """The most specific key that governs a task: its id, the longest matching glob, or its domain."""
    if task in table:
        return task
    globs = [k for k in table if "/" in k and fnmatch.fnmatch(task, k)]
    if globs:
        return max(globs, key=len)
    domain = task.split("/", 1)[0]
    if domain in table:
        return domain
    return "*" if "*" in table else None


def pattern_value(table: Mapping[str, int | None], task: str, default: int | None) -> int | None:
    pattern = governing(table, task)
    return default if pattern is None else table[pattern]
