"""Acting for many slots at once: context and cache live here, the network stays a function.

A decision is one pass over what is new (the last action token, the observation, the separator) and one more pass per
further action token, A passes in all; with `parallel_actions` no action is ever read, present or past, and all action
tokens come out of one pass. What a slot samples depends on its own seed and tokens, never on its neighbours.

To the last bit, on a CPU: a row of a matrix product comes out the same whatever other rows there are, as long as there
are a few (`LEAST_ROWS`); with one to three the library takes another kernel, which adds up in another order. So a batch
of several slots never computes fewer. A batch of one does: its logits differ from those in the last digits. One thing
neighbours share is the length of the cache, which an observation with more than TEXT_ROOM tokens of text changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gato.episodes import check_values, flatten
from gato.model.bundle import Bundle
from gato.model.cache import RingCache
from gato.policy.acting import check_acting
from gato.sequences.batch import Batch
from gato.tokens import Tokens
from gato.tokens.patches import mean_index
from gato.tokens.timestep import ACTION_POSITION, CONTINUOUS, DISCRETE, IMAGE, NO_POSITION
from gato.tokens.values import from_bins, to_bins

TEXT_ROOM = 64  # tokens kept free for the texts of one observation, whose length varies
LEAST_ROWS = 4  # in every product of a batch of several slots: MKL takes other kernels below that (2024.2, AVX-512)


class AgentPolicy:
    """One task, a fixed number of slots. A `BatchPolicy` for `gato.rollouts.rollout`, and what a session is made of."""

    name = "gato"

    def __init__(self, bundle: Bundle, task: str, slots: int, *, acting: Mapping[str, Any] | None = None):
        self._bundle, self.task = bundle, task
        self._codec, self._card = bundle.codec(task), bundle.tasks[task]
        self._acting = check_acting({**bundle.acting, **(acting or {})})
        self._legal = self._codec.legal()
        config = bundle.config
        self._parallel = config.parallel_actions
        # A prompt would be out of sight after a step or two: with one, the context is the whole window.
        steps = None if self._card.prompt is not None else self._card.window_timesteps
        self._steps = steps
        longest = self._codec.fixed_tokens + (
            TEXT_ROOM if any(s.kind == "text" for s in self._card.spec.observation.values()) else 0
        )
        self._context = config.token_sequence_length
        if self._acting["memory"] == "xl" and config.position != "learned":  # learned positions end with the context
            self._context *= 2
        window = self._context if steps is None else min(self._context, steps * longest)
        self._device = next(bundle.model.parameters()).device
        self._least = LEAST_ROWS if slots > 1 else 1
        room = max(slots, self._least)  # an idle slot lends its place to a row of nothing
        self._cache = RingCache(
            config, room, window, steps, most_new=max(longest + 1, self._least), device=self._device
        )
        self._rng = [np.random.default_rng(0) for _ in range(slots)]
        self._time = np.zeros(slots, np.int64)
        self._last: list[int | None] = [None] * slots  # the last action token, not yet in the cache
        self._mass = [0.0, 0]
        self._decided: tuple[list[int], list[torch.Tensor]] = ([], [])  # slots, and log p of each action token

    @property
    def legal_mass(self) -> float | None:
        """Mean probability that the unlimited softmax put on legal ids: does the network know what kind is due?"""
        return self._mass[0] / self._mass[1] if self._mass[1] else None

    def probabilities(self, index: int) -> list[np.ndarray]:
        """How the last `act` came about: for each action token of the slot, the probabilities (legal ids,) that it was
        chosen from, at the temperature of the policy."""
        slots, chosen_from = self._decided
        row = slots.index(index)
        return [self._chances(log_p[row]).cpu().numpy() for log_p in chosen_from]

    def change(self, **acting: Any) -> None:
        """From the next decision on, act otherwise: `discrete=`, `continuous=`, `temperature=`, `top_k=`. The context
        stays, and so does its memory."""
        self._acting = check_acting({**self._acting, **acting})

    def begin(self, index: int, unit: Any, slot: Any = None) -> None:
        self.reset(index, unit.seed)

    def reset(self, index: int, seed: int) -> None:
        """Forget the slot's context, start from the task's prompt if there is one, and seed its sampling."""
        self._cache.clear([index])
        self._rng[index] = np.random.default_rng((seed, 1))
        self._time[index], self._last[index] = 0, None
        if self._card.prompt is not None:
            self._prefill(index)

    def _prefill(self, index: int) -> None:
        """The first half context of the demonstration, in whole timesteps."""
        tokens = self._codec.encode(self._card.prompt)  # type: ignore[arg-type]
        starts = tokens.starts()
        stop = int(
            starts[
                np.searchsorted(
                    starts, min(self._cache.window, self._bundle.config.token_sequence_length) // 2, side="right"
                )
                - 1
            ]
        )
        rows = _rows(tokens, 0, stop)
        if self._parallel:
            rows["blank"] = (tokens.positions[:stop] < 0) & np.isin(tokens.kinds[:stop], (DISCRETE, CONTINUOUS))
        step = self._cache.most_new
        for at in range(0, stop - 1, step):
            part = {k: v[at : min(at + step, stop - 1)] for k, v in rows.items()}
            self._pass([index], [part], tokens)
        self._last[index] = int(tokens.ids[stop - 1])
        self._time[index] = int(tokens.steps[stop - 1]) + 1

    @torch.inference_mode()
    def act(
        self, observations: Mapping[int, Any], infos: Mapping[int, Any] | None = None
    ) -> dict[int, dict[str, np.ndarray]]:
        """{slot: observation} → {slot: action leaves}. Raises ObservationError naming task, slot and field."""
        slots = list(observations)
        spec = self._card.spec.observation
        flat = [check_values(spec, flatten(observations[i], "observation"), f"{self.task} slot {i}") for i in slots]
        leaves = {
            path: [f[path] for f in flat] if s.kind == "text" else np.stack([f[path] for f in flat])
            for path, s in spec.items()
        }
        tokens = self._codec.encode_observations(leaves, len(slots))
        starts = tokens.starts()
        rows = []
        self._start_over(slots, np.diff(starts))
        for r, i in enumerate(slots):
            row = _rows(tokens, int(starts[r]), int(starts[r + 1]), time=int(self._time[i]))
            if self._last[i] is not None:
                row = _join(self._action_row(self._last[i], int(self._time[i]) - 1), row)  # type: ignore[arg-type]
            if self._parallel:
                row = _join(row, *(self._action_row(0, int(self._time[i])) for _ in self._legal[1:]))
            rows.append(row)
        self._make_room(max(len(row["ids"]) for row in rows))
        hidden = self._pass(slots, rows, tokens)  # (R, n, D)
        ends = torch.tensor([len(row["ids"]) for row in rows]) - 1
        ids = np.zeros((len(slots), len(self._legal)), np.int64)
        values = np.zeros(ids.shape)
        at = torch.arange(len(slots))
        self._decided = (slots, [])
        for a in range(len(self._legal)):
            if self._parallel:
                h = hidden[at, ends - (len(self._legal) - 1) + a]
            elif a == 0:
                h = hidden[at, ends]
            else:
                one = [self._action_row(int(ids[r, a - 1]), int(self._time[i])) for r, i in enumerate(slots)]
                h = self._pass(slots, one, tokens)[:, 0]
            ids[:, a], values[:, a] = self._choose(slots, self._logits(h), a)
        out = {}
        for r, i in enumerate(slots):
            out[i] = self._codec.decode_action(ids[r], values[r])
            self._time[i] += 1
            self._last[i] = None if self._steps == 1 else int(ids[r, -1])
        return out

    def _make_room(self, new: int) -> None:
        """An observation with more text than any before it makes the cache longer."""
        if new <= self._cache.most_new:
            return
        new += TEXT_ROOM
        self._cache.grow(self._context if self._steps is None else min(self._context, self._steps * new), new)

    def _start_over(self, slots: list[int], lengths: np.ndarray) -> None:
        """Learned global positions end where the context does: a slot without room for its timestep begins again at
        position 0 (one that sees a single timestep always does). Relative positions never end."""
        if self._bundle.config.position != "learned":
            return
        room = self._bundle.config.token_sequence_length - 1 - len(self._legal)
        for i, length in zip(slots, lengths, strict=True):
            if self._steps == 1 or int(self._cache.count[i]) + length > room:
                self._cache.clear([i])
                self._last[i] = None

    def _choose(self, slots: list[int], logits: torch.Tensor, a: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (R,) within the legal block of action token a, and their values in [-1, 1] (continuous tokens)."""
        legal = self._legal[a]
        log_p = torch.log_softmax(logits.float(), -1)[:, legal.low : legal.high]
        self._mass[0] += float(log_p.exp().sum())
        self._mass[1] += len(slots)
        self._decided[1].append(log_p)
        continuous = legal.low == self._bundle.config.vocabulary.continuous
        manner = self._acting["continuous" if continuous else "discrete"]
        if manner == "greedy":
            index = log_p.argmax(-1).cpu().numpy()
            return legal.low + index, from_bins(index) if continuous else index
        p = self._chances(log_p).double().cpu().numpy()
        if manner == "mean":
            value = (p * from_bins(np.arange(p.shape[1]))).sum(1)
            return legal.low + to_bins(value), value
        cumulative = np.cumsum(p, axis=1)
        draws = np.array([self._rng[i].random() for i in slots])[:, None] * cumulative[:, -1:]
        index = np.minimum((cumulative <= draws).sum(1), p.shape[1] - 1)
        return legal.low + index, from_bins(index) if continuous else index

    def _chances(self, log_p: torch.Tensor) -> torch.Tensor:
        """(…, ids) log p → the probabilities that are sampled from: sharpened by the temperature, cut to the top k."""
        scores = log_p / float(self._acting["temperature"])
        if self._acting["top_k"] is not None and self._acting["top_k"] < scores.shape[-1]:
            least = scores.topk(int(self._acting["top_k"]), dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        return torch.softmax(scores, -1)

    def _action_row(self, token: int, time: int) -> dict[str, np.ndarray]:
        position = ACTION_POSITION if self._bundle.config.action_position else NO_POSITION
        kind = CONTINUOUS if token >= self._bundle.config.vocabulary.continuous else DISCRETE
        return {
            "ids": np.array([token]), "kinds": np.array([kind]), "positions": np.array([position]),
            "patches": np.array([-1]), "boxes": np.zeros((1, 4), np.uint8), "times": np.array([time]), "blank": np.array([self._parallel]),
        }  # fmt: skip

    def _pass(self, slots: list[int], rows: list[dict[str, np.ndarray]], tokens: Tokens) -> torch.Tensor:
        """Hidden states (R, n, D) of the rows, computed among at least LEAST_ROWS in a batch of several slots."""
        idle = [i for i in range(self._least) if i not in slots][: max(0, self._least - len(slots))]
        nothing = {name: values[:0] for name, values in rows[0].items()}
        rows = rows + [nothing] * len(idle)
        return feed(self._bundle, self._cache, slots + idle, rows, tokens, self._least)[: len(slots)]

    def _logits(self, h: torch.Tensor) -> torch.Tensor:
        """(R, D) → (R, V)."""
        more = max(0, self._least - len(h))
        return self._bundle.model.logits(F.pad(h, (0, 0, 0, more)))[: len(h)]


def feed(
    bundle: Bundle,
    cache: RingCache,
    slots: list[int],
    rows: list[dict[str, np.ndarray]],
    tokens: Tokens,
    least: int = 1,
) -> torch.Tensor:
    """One pass of new tokens, a row per slot, padded right. Hidden states (R, n, D)."""
    device = next(bundle.model.parameters()).device
    batch, valid, times = pack(rows, tokens, least)
    return bundle.model.decode(
        batch.to(device), torch.tensor(slots, device=device), valid.to(device), times.to(device), cache
    )


def pack(rows: list[dict[str, np.ndarray]], tokens: Tokens, least: int = 1) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Rows of new tokens → (Batch of one group, valid (R, n), times (R, n)). n is 1, or at least `least`, and so is the
    number of patches where there are any."""
    n = max(len(row["ids"]) for row in rows)
    n = n if n == 1 else max(n, least)

    def grid(name: str, fill: int) -> np.ndarray:
        out = np.full((len(rows), n, *rows[0][name].shape[1:]), fill, np.int64)
        for r, row in enumerate(rows):
            out[r, : len(row[name])] = row[name]
        return out

    kinds, patches = grid("kinds", 0).ravel(), grid("patches", -1).ravel()
    image_rows = np.flatnonzero(kinds == IMAGE)
    unique, index = np.unique(patches[image_rows], return_inverse=True)
    pictures = tokens.table.rows[unique] if len(unique) else np.zeros((0, 768), np.uint8)
    if 0 < len(unique) < least:
        pictures = np.concatenate([pictures, np.zeros((least - len(unique), 768), np.uint8)])
    blank = grid("blank", 0).ravel().astype(bool)
    lengths = np.array([len(row["ids"]) for row in rows])
    empty = torch.zeros(0, dtype=torch.long)
    batch = Batch(
        torch.from_numpy(grid("ids", 0).ravel()), torch.from_numpy(grid("positions", NO_POSITION).ravel()),
        torch.from_numpy(blank) if blank.any() else None, torch.from_numpy(image_rows), torch.from_numpy(index.reshape(-1)),
        torch.from_numpy(mean_index(grid("boxes", 0).reshape(-1, 4)[image_rows])),
        torch.from_numpy(pictures), ((len(rows), n, 0),), empty, empty, empty, empty, int(lengths.sum()),
    )  # fmt: skip
    valid = torch.from_numpy(np.arange(n)[None] < lengths[:, None])
    return batch, valid, torch.from_numpy(grid("times", 0))


def _rows(tokens: Tokens, begin: int, end: int, time: int | None = None) -> dict[str, np.ndarray]:
    part = slice(begin, end)
    times = tokens.steps[part] if time is None else np.full(end - begin, time)
    return {
        "ids": tokens.ids[part], "kinds": tokens.kinds[part], "positions": tokens.positions[part],
        "patches": tokens.patches[part], "boxes": tokens.boxes[part], "times": times, "blank": np.zeros(end - begin, bool),
    }  # fmt: skip


def _join(*rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}
