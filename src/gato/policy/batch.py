"""Acting for many slots at once: context and cache live here, the network stays a function.

A decision is one pass over what is new (the last action token, the observation, the separator) and one more pass per
further action token, A passes in all; with `parallel_actions` no action is ever read, present or past, and all action
tokens come out of one pass. With `verify` an action is guessed whole and read behind the separator in the same pass:
as far as each guess is what would have been chosen anyway, it stands, and what follows a wrong one is taken back, chosen
again and guessed again, so that the actions are those of one after another, from 1 to A passes. What a slot samples
depends on its own seed and tokens, never on its neighbours.

Slots may play different tasks: each sees as far as its own task's window, chooses among its own legal ids, and takes
part in as many passes as its action has tokens. A window of several timesteps is read anew at every decision, as it was in
training: what a cache kept of its earlier ones would know of timesteps before them.

To the last bit, on a CPU and in float32: a row of a matrix product comes out the same whatever other rows there are, as
long as there are a few (`LEAST_ROWS`); with fewer the library takes another kernel, which adds up in another order. So a batch
of several slots never computes fewer. A batch of one does: its logits differ from those in the last digits. One thing neighbours
share is the length of the cache, which an observation with more than TEXT_ROOM tokens of text changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gato.episodes import check_values, flatten
from gato.errors import GatoError, ObservationError, UnknownNameError, UsageError
from gato.model.bundle import Bundle, TaskCard
from gato.model.cache import RingCache
from gato.policy.acting import check_acting, check_rank
from gato.sequences.batch import Batch
from gato.sequences.returns import LAST_REWARD, RETURN_RANK, num_ranks
from gato.tokens import TimestepCodec, Tokens
from gato.tokens.patches import PATCH, PatchTable, mean_index
from gato.tokens.timestep import ACTION_POSITION, CONTINUOUS, DISCRETE, IMAGE, NO_POSITION, Legal
from gato.tokens.values import from_bins, scale_action, to_bins

TEXT_ROOM = 64  # tokens kept free for the texts of one observation, whose length varies
# In every product of a batch of several slots: below, MKL takes other kernels; oneDNN below two (AVX-512).
LEAST_ROWS = 4
SMALLEST = float(np.finfo(np.float64).tiny)  # temperature: CUDA multiplies by its inverse, which is still a number


@dataclass
class Part:
    """What a slot knows of the task it plays."""

    task: str
    codec: TimestepCodec
    card: TaskCard
    legal: list[Legal]  # of each action token
    steps: int | None  # timesteps that it sees; None for as many as the context holds
    longest: int  # tokens that a pass brings, texts estimated
    window: int  # tokens that it sees, texts estimated

    @classmethod
    def of(cls, bundle: Bundle, task: str, acting: Mapping[str, Any]) -> Part:
        """Raises UnknownNameError for a task that is not the bundle's."""
        codec, card = bundle.codec(task), bundle.tasks[task]
        # A prompt would be out of sight after a step or two: with one, the context is the whole window.
        steps = None if card.prompt is not None else card.window_timesteps
        texts = any(s.kind == "text" for s in card.spec.observation.values())
        longest = codec.fixed_tokens + (TEXT_ROOM if texts else 0)
        if card.shown is not None:
            longest = min(longest + card.shown.count * card.shown.longest, bundle.window())
        window = context = _context(bundle, acting)
        if steps is not None:
            longest = window = min(context, steps * longest)
        return cls(task, codec, card, codec.legal(), steps, longest, window)

    @property
    def again(self) -> int:
        """How many timesteps before the present one are read again with it."""
        return 0 if self.steps is None else self.steps - 1


def _context(bundle: Bundle, acting: Mapping[str, Any]) -> int:
    """How many tokens back a slot may see."""
    double = acting.get("memory") == "xl" and bundle.config.position != "learned"  # learned positions end
    return bundle.window() * (2 if double else 1)


class AgentPolicy:
    """A fixed number of slots. A `BatchPolicy` for `gato.rollouts.rollout`, and what a session is made of."""

    name = "gato"

    def __init__(
        self,
        bundle: Bundle,
        task: str | Sequence[str],
        slots: int,
        *,
        acting: Mapping[str, Any] | None = None,
        watch_mass: bool = False,
    ):
        """`task`: the task of every slot, or several, of which each slot plays one at a time, the first if none is named.

        `watch_mass`: measure `legal_mass`, for which the whole vocabulary's logits are computed at every token.
        Raises UnknownNameError for a task that is not the bundle's, UsageError for a return rank that it does not have.
        """
        self._bundle = bundle
        self._acting = check_acting({**bundle.acting, **(acting or {})})
        config = bundle.config
        self._parallel = config.parallel_actions
        self._context = _context(bundle, self._acting)
        names = [task] if isinstance(task, str) else task
        self._parts = {name: Part.of(bundle, name, self._acting) for name in names}
        check_rank(self._acting, bundle, names)
        self._part = [next(iter(self._parts.values()))] * slots
        self._device = next(bundle.model.parameters()).device
        self._least = LEAST_ROWS if slots > 1 else 1
        room = max(slots, self._least)  # an idle slot lends its place to a row of nothing
        window = max(part.window for part in self._parts.values())
        longest = max(part.longest for part in self._parts.values())
        self._cache = RingCache(config, room, window, most_new=max(longest + 1, self._least), device=self._device)
        self._rng = [np.random.default_rng(0) for _ in range(slots)]
        self._time = np.zeros(slots, np.int64)
        self._last: list[int | None] = [None] * slots  # the last action token, not yet in the cache
        self._before = [np.zeros(0, np.int64)] * slots  # ids of each slot's last action
        self._again: list[list[_Timestep]] = [[] for _ in range(slots)]  # what is read again
        for slot in range(slots):
            self._forget(slot)
        self._mass = [0.0, 0]
        self._watch_mass = watch_mass
        self.passes, self.decisions = 0, 0  # of the network, over all calls; of slots
        self._decided: dict[int, dict[int, tuple[torch.Tensor, int]]] = {}  # slot → log p of each action token

    @property
    def task(self) -> str:
        """The task of a slot for which none was named."""
        return next(iter(self._parts))

    @property
    def legal_mass(self) -> float | None:
        """Mean probability that the unlimited softmax put on legal ids: does the network know what kind is due? None
        unless it is watched."""
        return self._mass[0] / self._mass[1] if self._mass[1] else None

    def probabilities(self, index: int) -> list[np.ndarray]:
        """How the last `act` came about: for each action token of the slot, the probabilities (legal ids,) that it was
        chosen from, at the temperature of the policy."""
        chosen_from = self._decided[index]
        return [self._chances(log_p[row]).cpu().numpy() for log_p, row in (chosen_from[a] for a in sorted(chosen_from))]

    @property
    def acting(self) -> dict[str, Any]:
        """How it acts now: see `gato.policy.acting`."""
        return dict(self._acting)

    def change(self, **acting: Any) -> None:
        """From the next decision on, act otherwise: `discrete=`, `continuous=`, `temperature=`, `top_k=`, `verify=`,
        `precision=`. The context stays, and with it `memory`, which is decided when it begins. Raises UsageError."""
        changed = check_acting({**self._acting, **acting})
        if changed["memory"] != self._acting["memory"]:
            raise UsageError(
                f"memory={changed['memory']!r} in the middle", fix="begin another session, or batch, with it"
            )
        check_rank(changed, self._bundle, self._parts)
        self._acting = changed

    def begin(self, index: int, unit: Any, slot: Any = None) -> None:
        self.reset(index, unit.seed, unit.task if unit.task in self._parts else None)

    def reset(self, index: int, seed: int, task: str | None = None) -> None:
        """Forget the slot's context, play `task` (the first one's, if not named), start from its prompt if there is one, and
        seed the sampling. Raises UnknownNameError for a task that the batch was not made for."""
        name = self.task if task is None else task
        if name not in self._parts:
            raise UnknownNameError(f"this batch does not play {name!r}", fix=f"it plays {', '.join(self._parts)}")
        self._part[index] = self._parts[name]
        self._forget(index)
        self._rng[index] = np.random.default_rng((seed, 1))
        if self._part[index].card.prompt is not None:
            self._begin_with_prompt(index)

    def _forget(self, index: int) -> None:
        part = self._part[index]
        self._cache.clear([index])
        self._see(index)
        self._time[index], self._last[index], self._again[index] = 0, None, []
        self._before[index] = np.array([legal.low for legal in part.legal])

    def _see(self, index: int) -> None:
        """As far as its task's window; one of timesteps is as long as its texts are."""
        part = self._part[index]
        self._cache.see(index, part.window if part.steps is None else self._cache.window, part.steps)

    def fork(self, source: int, targets: Sequence[int], seed: Sequence[int]) -> None:
        """Give other slots the context of one, to go on from there each in its own way; `seed` begins their sampling."""
        self._cache.fork(source, list(targets))
        for n, i in enumerate(targets):
            self._rng[i] = np.random.default_rng((*seed, n))
            self._part[i] = self._part[source]
            self._time[i], self._last[i] = self._time[source], self._last[source]
            self._before[i], self._again[i] = self._before[source], list(self._again[source])

    def _begin_with_prompt(self, index: int) -> None:
        """Read once, then shared: by the slots and by every session of this bundle that begins alike."""
        part = self._part[index]
        key = (part.task, id(part.card.prompt), part.window, self._acting["precision"])
        if key not in self._bundle.prefixes:
            last, time = self._prefill(index, part)
            self._bundle.prefixes[key] = (part.card.prompt, self._cache.kept(index), last, time)
        _, prefix, self._last[index], self._time[index] = self._bundle.prefixes[key]
        self._cache.begin(index, prefix)

    def _prefill(self, index: int, part: Part) -> tuple[int | None, int]:
        """Feed the first half context of the demonstration, in whole timesteps, up to its last token. That token, and the
        number of timesteps; (None, 0) where not even one fits."""
        tokens = part.codec.encode(part.card.prompt)  # type: ignore[arg-type]
        starts = tokens.starts()
        half = min(part.window, self._bundle.window()) // 2
        stop = int(starts[np.searchsorted(starts, half, side="right") - 1])
        if not stop:
            return None, 0
        rows = _rows(tokens, 0, stop)
        if self._parallel:
            rows["blank"] = (tokens.positions[:stop] < 0) & np.isin(tokens.kinds[:stop], (DISCRETE, CONTINUOUS))
        step = self._cache.most_new
        for at in range(0, stop - 1, step):
            self._pass([index], [{k: v[at : min(at + step, stop - 1)] for k, v in rows.items()}], tokens.table)
        return int(tokens.ids[stop - 1]), int(tokens.steps[stop - 1]) + 1

    @torch.inference_mode()
    def act(
        self,
        observations: Mapping[int, Any],
        infos: Mapping[int, Any] | None = None,
        given: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> dict[int, dict[str, np.ndarray]]:
        """{slot: observation} → {slot: action leaves}. Raises ObservationError naming task, slot and field.

        `given` decides for some slots what they do: their context holds these action leaves, as if they had chosen them."""
        slots = list(observations)
        table = PatchTable()
        encoded = self._encode(observations, infos or {}, slots, table)
        guess = None if self._parallel else self._acting["verify"]
        blanks = self._parallel or guess == "parallel"
        choice = _Choice(self, slots, {i: self._action_ids(i, leaves) for i, leaves in (given or {}).items()})
        rows = []
        for i, row in zip(slots, encoded, strict=True):
            if self._part[i].again:
                row = self._read_again(i, row, table)
            elif self._last[i] is not None:
                row = _join(self._action_row(self._last[i], int(self._time[i]) - 1), row)  # type: ignore[arg-type]
            if blanks or guess:
                ahead = np.zeros_like(self._before[i][:-1]) if blanks else self._before[i][:-1]
                row = _join(row, self._action_rows(ahead, int(self._time[i]), blank=blanks))
            rows.append(row)
        self._make_room(max(len(row["ids"]) for row in rows), int(choice.num.max()))
        most = int(choice.num.max())
        hidden = self._pass(slots, rows, table, most if blanks or guess else 1)
        if self._parallel:
            hidden = _from_separator(hidden, choice.num)
            for a in range(most):
                choice.take(a, hidden[:, a])
        elif guess:
            self._verify(choice, _from_separator(hidden, choice.num), blanks, table)
        else:
            choice.take(0, hidden[:, 0])
            for a in range(1, most):
                due = np.flatnonzero(choice.num > a)
                one = [self._action_row(int(choice.ids[r, a - 1]), int(self._time[slots[r]])) for r in due]
                choice.take(a, self._pass([slots[r] for r in due], one, table, 1)[:, 0], due)
        self._decided = dict(zip(slots, choice.log_p, strict=True))
        self.decisions += len(slots)
        out = {}
        for r, i in enumerate(slots):
            own = given[i] if given and i in given else None
            ids, values = choice.ids[r, : choice.num[r]], choice.values[r, : choice.num[r]]
            out[i] = dict(own) if own is not None else self._part[i].codec.decode_action(ids, values)
            if self._part[i].again:
                done = _join(encoded[r], self._action_rows(ids, int(self._time[i]), blank=self._parallel))
                self._again[i] = [*self._again[i], _Timestep.of(done, table)][-self._part[i].again :]
            self._time[i] += 1
            self._last[i] = None if self._part[i].steps == 1 else int(ids[-1])
            self._before[i] = ids
        return out

    def _beside(self, part: Part, info: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the network reads beside the world's own observation: how good an episode is asked for, and what the last step
        brought (0 where nobody says)."""
        more: dict[str, Any] = {}
        if ranks := num_ranks(part.card.spec):
            wanted = self._acting["return_rank"]
            more[RETURN_RANK] = np.int64(ranks - 1 if wanted is None else min(int(wanted), ranks - 1))
        if LAST_REWARD in part.card.spec.observation:
            more[LAST_REWARD] = np.float32((info or {}).get(LAST_REWARD, 0.0))
        return more

    def seen(self, index: int, observation: Any, info: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All that a slot's network reads of an observation: its flat leaves, checked, and what stands beside them. Raises
        ObservationError."""
        part, where = self._part[index], f"{self._part[index].task} slot {index}"
        given = flatten(observation, "observation")
        beside = {path: value for path, value in self._beside(part, info).items() if path not in given}
        specs = part.card.spec.observation
        try:
            if not beside:
                return check_values(specs, given, where)
            own = {
                path: spec for path, spec in specs.items() if path not in beside
            }  # what the world owes, and is named for
            return check_values(own, given, where) | check_values({path: specs[path] for path in beside}, beside, where)
        except GatoError:
            raise
        except (ValueError, TypeError) as error:  # what numpy says to lists of different lengths
            raise ObservationError(f"not an array: {error}", where=where) from error

    def _encode(
        self, observations: Mapping[int, Any], infos: Mapping[int, Any], slots: list[int], table: PatchTable
    ) -> list[dict[str, np.ndarray]]:
        """The new tokens of each slot's observation, those of one task together."""
        rows: dict[int, dict[str, np.ndarray]] = {}
        for part in self._parts.values():
            mine = [i for i in slots if self._part[i] is part]
            if not mine:
                continue
            spec = part.card.spec.observation
            flat = [self.seen(i, observations[i], infos.get(i)) for i in mine]
            leaves = {
                path: [f[path] for f in flat] if s.kind == "text" else np.stack([f[path] for f in flat])
                for path, s in spec.items()
            }
            tokens = part.codec.encode_observations(leaves, len(mine), table)
            starts = tokens.starts()
            for r, i in enumerate(mine):
                rows[i] = _rows(tokens, int(starts[r]), int(starts[r + 1]), time=int(self._time[i]))
                if part.card.shown is not None:
                    room = self._context - len(rows[i]["ids"]) - len(part.legal)
                    rows[i] = _join(part.card.shown.rows(flat[r], room, table, int(self._time[i])), rows[i])
            self._start_over(mine, np.array([len(rows[i]["ids"]) for i in mine]))
        return [rows[i] for i in slots]

    @torch.inference_mode()
    def imagine(self, slots: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
        """{slot: flat observation leaves} as the network foretells them after each slot's last action, token by token, the
        likeliest each. The slots' context stays as it is. All of one task.

        Raises SpecError where there are texts or images, UsageError where the network sees no more than one timestep.
        """
        part = self._part[slots[0]]
        if part.steps == 1 or self._parallel or any(self._last[i] is None for i in slots):
            raise UsageError(
                "nothing to foretell from: the network does not see its last action", where=part.task,
                fix="train with observation_loss and windows of several timesteps, and act first",
            )  # fmt: skip
        blocks, begun = part.codec.observation_blocks(), part.codec.observation_beginning()
        ids = np.zeros((len(slots), len(blocks)), np.int64)
        table, time = PatchTable(), [int(self._time[i]) for i in slots]
        rows = [
            _join(self._action_row(self._last[i], t - 1), *(self._observation_row(0, token, t) for token in begun))  # type: ignore[arg-type]
            for i, t in zip(slots, time, strict=True)
        ]
        for j, block in enumerate(blocks):
            hidden = self._pass(list(slots), rows, table, 1)[:, 0]
            ids[:, j] = block.low + self._logits(block, hidden).argmax(-1).cpu().numpy()
            rows = [self._observation_row(len(begun) + j, int(ids[r, j]), t) for r, t in enumerate(time)]
        self._take_back(list(slots), np.full(len(slots), len(begun) + len(blocks)))
        return {i: part.codec.decode_observation(ids[r]) for r, i in enumerate(slots)}

    def _observation_row(self, index: int, token: int, time: int) -> dict[str, np.ndarray]:
        return self._action_rows(np.array([token]), time) | {"positions": np.array([index])}

    def _verify(self, choice: _Choice, hidden: torch.Tensor, blanks: bool, table: PatchTable) -> None:
        """Choose the action tokens of each row, from a first pass that read guesses (or blank tokens) for all but the last of
        them. hidden (R, A, D): at the separator, and at each guess."""
        slots, num = choice.slots, choice.num
        rows = np.arange(len(slots))
        guesses = np.zeros_like(choice.ids)
        for r, i in enumerate(slots):
            guesses[r, : num[r]] = self._before[i]
        choice.take(0, hidden[:, 0])
        due = np.ones(len(slots), np.int64)  # how many tokens of each row are settled
        if blanks:  # what the blank tokens led to is the guess; they themselves never stay
            for a in range(1, int(num.max())):
                guesses[:, a] = choice.would_take(a, hidden[:, a])
        else:
            due = self._stand(choice, rows, hidden, guesses, due)
        while True:
            self._take_back([slots[r] for r in rows], (num - due)[rows])  # from the first wrong one on
            rows = np.flatnonzero(due < num)
            if not rows.size:
                return
            guesses[rows, due[rows] - 1] = choice.ids[rows, due[rows] - 1]
            new = [self._action_rows(guesses[r, due[r] - 1 : num[r] - 1], int(self._time[slots[r]])) for r in rows]
            last = int((num - due)[rows].max())
            hidden = self._pass([slots[r] for r in rows], new, table, last)
            hidden = _from_separator(F.pad(hidden, (0, 0, int(num.max()) - last, 0)), num[rows])
            due[rows] = self._stand(choice, rows, hidden, guesses[rows], due[rows])

    def _stand(
        self, choice: _Choice, rows: np.ndarray, hidden: torch.Tensor, guesses: np.ndarray, due: np.ndarray
    ) -> np.ndarray:
        """Settle further tokens of these rows while every guess read before them is right: hidden (rows, A, D) at the
        token before each. How many are settled then (rows,)."""
        due, standing = due.copy(), np.ones(len(rows), bool)
        for a in range(1, int(choice.num[rows].max())):
            standing &= guesses[:, a - 1] == choice.ids[rows, a - 1]
            going = standing & (due <= a) & (choice.num[rows] > a)
            if going.any():
                choice.take(a, hidden[torch.from_numpy(going), a], rows[going])
                due[going] += 1
        return due

    def _take_back(self, slots: list[int], counts: np.ndarray) -> None:
        if counts.any():
            self._cache.forget(torch.tensor(slots, device=self._device), torch.from_numpy(counts).to(self._device))

    def _read_again(self, index: int, row: dict[str, np.ndarray], table: PatchTable) -> dict[str, np.ndarray]:
        """The slot begins anew with its last timesteps before this one's row: as many as its window has, and fit."""
        room, before = self._context - len(row["ids"]) - len(self._part[index].legal), self._again[index]
        while sum(len(timestep) for timestep in before) > room:
            before = before[1:]
        self._cache.clear([index])
        return _join(*(timestep.rows(table) for timestep in before), row)

    def _make_room(self, new: int, num: int) -> None:
        """Rows of `new` tokens, each with an action of up to `num`: more text than ever before makes the cache longer."""
        if new <= self._cache.most_new and min(self._context, new + num) <= self._cache.window:
            return
        self._cache.grow(min(self._context, new + num + TEXT_ROOM), new + TEXT_ROOM)
        for slot in range(len(self._part)):
            self._see(slot)

    def _start_over(self, slots: list[int], lengths: np.ndarray) -> None:
        """Learned global positions end where the window of training does: a slot without room for its timestep begins again at
        position 0 (one that sees a single timestep always does). Relative positions never end."""
        if self._bundle.config.position != "learned":
            return
        for i, length in zip(slots, lengths, strict=True):
            room = self._bundle.window() - 1 - len(self._part[i].legal)
            if self._part[i].steps == 1 or int(self._cache.count[i]) + length > room:
                self._cache.clear([i])
                self._last[i] = None

    def _chances(self, log_p: torch.Tensor) -> torch.Tensor:
        """(…, ids) log p → the probabilities that are sampled from: sharpened by the temperature, cut to the top k."""
        scores = tempered(log_p, float(self._acting["temperature"]))
        if self._acting["top_k"] is not None and self._acting["top_k"] < scores.shape[-1]:
            least = scores.topk(int(self._acting["top_k"]), dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        return torch.softmax(scores, -1)

    def _logits(self, legal: Legal, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, D) before an action token → (rows, legal ids): of the table, only their rows are read."""
        least = max(0, self._least - len(hidden))
        decoder = self._bundle.decoder(self._acting["precision"])
        return decoder.logits(F.pad(hidden, (0, 0, 0, least)), legal.low, legal.high)[: len(hidden)]

    def _manner(self, legal: Legal) -> str:
        return self._acting["continuous" if legal.low == self._bundle.config.vocabulary.continuous else "discrete"]

    def _action_ids(self, index: int, leaves: Mapping[str, Any]) -> np.ndarray:
        """Action leaves of a slot → the ids (A,) that stand for them."""
        part, numbers = self._part[index], []
        for path, spec in part.card.spec.action.items():
            value, (low, high) = np.asarray(leaves[path]).ravel(), spec.bounds()
            numbers.append(value - low if spec.kind == "discrete" else to_bins(scale_action(value, low, high)))
        return np.array([block.low for block in part.legal]) + np.concatenate(numbers).astype(np.int64)

    def _action_row(self, token: int, time: int) -> dict[str, np.ndarray]:
        return self._action_rows(np.array([token]), time, blank=self._parallel)

    def _action_rows(self, ids: np.ndarray, time: int, blank: bool = False) -> dict[str, np.ndarray]:
        position = ACTION_POSITION if self._bundle.config.action_position else NO_POSITION
        n = len(ids)
        return {
            "ids": ids, "kinds": np.where(ids >= self._bundle.config.vocabulary.continuous, CONTINUOUS, DISCRETE),
            "positions": np.full(n, position), "patches": np.full(n, -1), "boxes": np.zeros((n, 4), np.uint8),
            "times": np.full(n, time), "blank": np.full(n, blank),
        }  # fmt: skip

    def _pass(
        self, slots: list[int], rows: list[dict[str, np.ndarray]], table: PatchTable, last: int = 1
    ) -> torch.Tensor:
        """Hidden states (R, last, D) of the last tokens of each row, computed among at least LEAST_ROWS in a batch of
        several slots: of single tokens with idle slots beside, of more with the tokens before the last."""
        self.passes += 1
        alone = max(len(row["ids"]) for row in rows) == 1
        idle = [i for i in range(self._least) if i not in slots][: max(0, self._least - len(slots))] if alone else []
        rows = rows + [{name: values[:0] for name, values in rows[0].items()}] * len(idle)
        seen = last if alone else max(last, self._least)
        precision = self._acting["precision"]
        hidden = feed(self._bundle, self._cache, slots + idle, rows, table, seen, precision, self._least)
        return hidden[: len(slots), seen - last :]


@dataclass(frozen=True)
class _Timestep:
    """Token rows of a timestep, its action included, and the patches (n, 768) that they name."""

    tokens: dict[str, np.ndarray]
    patches: np.ndarray

    @classmethod
    def of(cls, tokens: dict[str, np.ndarray], table: PatchTable) -> _Timestep:
        named = tokens["patches"][tokens["patches"] >= 0]
        return cls(tokens, table.rows[named] if len(named) else np.zeros((0, 768), np.uint8))

    def __len__(self) -> int:
        return len(self.tokens["ids"])

    def rows(self, table: PatchTable) -> dict[str, np.ndarray]:
        """With the patches' numbers in this table."""
        patches = self.tokens["patches"].copy()
        if len(self.patches):
            patches[patches >= 0] = table.add(self.patches.reshape(-1, PATCH, PATCH, 3))
        return {**self.tokens, "patches": patches}


class _Choice:
    """The action tokens of one decision, as they are chosen one by one: R rows, each with as many as its task asks for."""

    def __init__(self, policy: AgentPolicy, slots: list[int], forced: Mapping[int, np.ndarray]):
        self.policy, self.slots = policy, slots
        self._forced = [(slots.index(i), ids) for i, ids in forced.items()]  # rows whose action is given
        self._legal = [policy._part[i].legal for i in slots]
        self._alike = all(policy._part[i] is policy._part[slots[0]] for i in slots)
        self.num = np.array([len(legal) for legal in self._legal])  # (R,)
        self.ids = np.zeros((len(slots), self.num.max()), np.int64)
        self.values = np.zeros(self.ids.shape)
        self.log_p: list[dict[int, tuple[torch.Tensor, int]]] = [
            {} for _ in slots
        ]  # of token a: a tensor, and which row
        # What is sampled is settled by numbers drawn before, so that it is the same however many passes it takes.
        self._draws = np.zeros(self.ids.shape)
        for r, i in enumerate(slots):
            sampled = [policy._manner(block) == "sample" for block in self._legal[r]]
            self._draws[r, : self.num[r]] = [policy._rng[i].random() if s else 0.0 for s in sampled]

    def take(self, a: int, hidden: torch.Tensor, rows: np.ndarray | None = None) -> None:
        """Token a of the rows (every row, if not said, whose action has one) from the hidden states (rows, D) before it."""
        for legal, which, at in self._blocks(a, rows):
            log_p = self._log_p(legal, hidden[at])
            for n, r in enumerate(which):
                self.log_p[r][a] = (log_p, n)
            self.ids[which, a], self.values[which, a] = self._pick(legal, log_p, self._draws[which, a])
            if self.policy._watch_mass:
                logits = self.policy._bundle.model.logits(hidden[at]).float()
                mass = (logits[:, legal.low : legal.high].logsumexp(-1) - logits.logsumexp(-1)).exp()
                self.policy._mass[0] += float(mass.sum())
                self.policy._mass[1] += len(which)
        for row, ids in self._forced:
            if a < len(ids):
                self.ids[row, a] = ids[a]

    def would_take(self, a: int, hidden: torch.Tensor) -> np.ndarray:
        """The ids of all rows (R,), not taken; 0 where an action has no token a."""
        ids = np.zeros(len(self.slots), np.int64)
        for legal, which, at in self._blocks(a, None):
            ids[which] = self._pick(legal, self._log_p(legal, hidden[at]), self._draws[which, a])[0]
        return ids

    def _blocks(self, a: int, rows: np.ndarray | None) -> Iterator[tuple[Legal, np.ndarray, slice | np.ndarray]]:
        """Rows that choose token a among the same ids: (those ids, the rows, where they are in what was given)."""
        given = np.arange(len(self.slots)) if rows is None else rows
        if self._alike:
            if a < self.num[0]:
                yield self._legal[0][a], given, slice(None)
            return
        blocks: dict[Legal, list[int]] = {}
        for at, r in enumerate(given):
            if a < self.num[r]:
                blocks.setdefault(self._legal[r][a], []).append(at)
        for legal, places in blocks.items():
            yield legal, given[places], slice(None) if len(places) == len(given) else np.array(places)

    def _log_p(self, legal: Legal, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, legal ids)."""
        return torch.log_softmax(self.policy._logits(legal, hidden).float(), -1)

    def _pick(self, legal: Legal, log_p: torch.Tensor, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (rows,) among the legal ones, and their values in [-1, 1] (continuous tokens)."""
        policy, manner = self.policy, self.policy._manner(legal)
        continuous = legal.low == policy._bundle.config.vocabulary.continuous
        if manner == "greedy":
            index = log_p.argmax(-1).cpu().numpy()
            return legal.low + index, from_bins(index) if continuous else index
        p = policy._chances(log_p).cpu().numpy()
        if manner == "mean":
            value = (p * from_bins(np.arange(p.shape[1]))).sum(1)
            return legal.low + to_bins(value), value
        cumulative = np.cumsum(p, axis=1)
        index = np.minimum((cumulative <= draws[:, None] * cumulative[:, -1:]).sum(1), p.shape[1] - 1)
        return legal.low + index, from_bins(index) if continuous else index


def tempered(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """(…, ids) over the temperature, float64, the best at 0: divided as they are, scores overflow at a small temperature, and
    the probabilities made of them are NaN."""
    scores = scores.double()
    return (scores - scores.amax(-1, keepdim=True)) / max(temperature, SMALLEST)


def _from_separator(hidden: torch.Tensor, num: np.ndarray) -> torch.Tensor:
    """(R, A, D) at the last A tokens of each row → at its last num[r] tokens, from index 0 on (the rest means nothing)."""
    most = hidden.shape[1]
    if (num == most).all():
        return hidden
    at = torch.from_numpy(np.minimum(most - num[:, None] + np.arange(most), most - 1)).to(hidden.device)
    return hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))


def feed(
    bundle: Bundle, cache: RingCache, slots: list[int], rows: list[dict[str, np.ndarray]], table: PatchTable,
    last: int | None = None, precision: str = "float32", least: int = 1,
) -> torch.Tensor:  # fmt: skip
    """One pass of new tokens, a row per slot, padded right. Hidden states (R, n, D), or (R, last, D) of each row's last
    `last` tokens (of a shorter row the first one stands in for what it lacks)."""
    device = next(bundle.model.parameters()).device
    batch, valid, times = pack(rows, table, least)
    wanted = None
    if last is not None:
        ends = torch.tensor([len(row["ids"]) for row in rows])
        wanted = (ends[:, None] - last + torch.arange(last)).clamp(min=0).to(device)
    return bundle.decoder(precision)(
        batch.to(device), torch.tensor(slots, device=device), valid.to(device), times.to(device), cache, wanted
    )


def pack(
    rows: list[dict[str, np.ndarray]], table: PatchTable, least: int = 1
) -> tuple[Batch, torch.Tensor, torch.Tensor]:
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
    if len(image_rows):
        unique, index = np.unique(patches[image_rows], return_inverse=True)
        missing = np.zeros((max(0, least - len(unique)), 768), np.uint8)
        pictures = np.concatenate([table.rows[unique], missing])
        places = mean_index(grid("boxes", 0).reshape(-1, 4)[image_rows])
    else:
        index, pictures, places = image_rows, np.zeros((0, 768), np.uint8), np.zeros((0, 2), np.int64)
    blank = grid("blank", 0).ravel().astype(bool)
    lengths = np.array([len(row["ids"]) for row in rows])
    empty = torch.zeros(0, dtype=torch.long)
    batch = Batch(
        torch.from_numpy(grid("ids", 0).ravel()), torch.from_numpy(grid("positions", NO_POSITION).ravel()),
        torch.from_numpy(blank) if blank.any() else None, torch.from_numpy(image_rows), torch.from_numpy(index.reshape(-1)),
        torch.from_numpy(places),
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
