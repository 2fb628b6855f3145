"""One timestep becomes token rows, and an action's ids become an action again (paper section 2.1, appendix B).

    observation leaves in lexicographic order of their paths, each by its own rule
        text        SentencePiece ids
        image       16×16 patches in raster order (no ids: pixels)
        discrete    value minus minimum
        continuous  mu-law, 1,024 bins
    '|'             the separator, its own id, never a target
    action leaves   discrete as above; continuous scaled from the bounds, 1,024 bins; targets

An episode of T steps is T of these one after another, L = T (k + m + n + 1 + A) tokens, and all T are kept. A document
or a caption is a timestep without actions: no separator, no local positions, an end mark after each text, its text the
target; the image comes first since "image" < "text". A text called `question` is no target and has no end: what follows
it, the reply, is (paper, figure 2).

A page that mixes text and images is an episode of such timesteps with a leaf `marks`, which is no token: it says where an
image is shown, and where the page ends (the one end mark). So do several questions about one picture, which the first
shows, and whose replies all end. An image of rank 4, a clip, is its frames one after another.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gato.episodes import Episode, Spec, TaskSpec
from gato.errors import SpecError
from gato.tokens import patches as images
from gato.tokens.text import TextTokenizer
from gato.tokens.values import Vocabulary, mu_law, mu_law_inverse, scale_action, unscale_action

TEXT, IMAGE, DISCRETE, CONTINUOUS, SEPARATOR = range(5)
KINDS = ("text", "image", "discrete", "continuous", "separator")
LINEAR_RANGE = 10.0
QUESTION, MARKS = "question", "marks"
KEPT_TEXTS, KEPT_CHARACTERS = 4096, 256  # whose tokens are remembered: instructions come again and again
NO_POSITION, ACTION_POSITION = -1, -2  # otherwise 0 … n_obs: the index inside the observation (appendix C.3)


@dataclass
class Tokens:
    """A flat table, one row per token (N rows), and the patches its image rows point to."""

    ids: np.ndarray  # int32 (N,); 0 in image rows, which have no id
    kinds: np.ndarray  # uint8 (N,)
    positions: np.ndarray  # int16 (N,) local position, NO_POSITION or ACTION_POSITION
    targets: np.ndarray  # bool (N,)
    steps: np.ndarray  # int32 (N,) timestep inside the episode
    patches: np.ndarray  # int32 (N,) row of `table`, -1 where not an image
    boxes: np.ndarray  # uint8 (N, 4) quantised rows and columns of the patch
    table: images.PatchTable = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def starts(self, steps: int | None = None) -> np.ndarray:
        """Where each timestep begins, int64 (T + 1,), the last entry N. `steps`: T, where the last may have no tokens."""
        if steps is None:
            steps = int(self.steps[-1]) + 1 if len(self) else 0
        return np.searchsorted(self.steps, np.arange(steps + 1)).astype(np.int64)


@dataclass(frozen=True)
class Legal:
    """The ids that one action token may take: [low, high)."""

    low: int
    high: int


class TimestepCodec:
    """Tokens of one task: encodes whole episodes (vectorised over time), single observations, and decodes actions.

    Raises SpecError for an observation longer than the local position table (512 tokens).
    """

    def __init__(
        self,
        spec: TaskSpec,
        vocabulary: Vocabulary,
        text: TextTokenizer | None,
        *,
        task: str = "",
        max_positions: int = 512,
        action_position: bool = True,
        text_targets: bool = True,
        question_targets: bool = False,
        observation_targets: bool = False,
        linear: bool = False,
        task_index: int | None = None,
    ):
        """The switches: `question_targets` makes questions targets too; `observation_targets` makes discrete and continuous observations targets too; `linear` bins
        observations evenly over [-LINEAR_RANGE, LINEAR_RANGE] in place of mu-law; `task_index` opens every timestep
        with a discrete token that names the task."""
        self.spec, self.vocabulary, self.text, self.task = spec, vocabulary, text, task
        self._max_positions, self._action_position, self._linear = max_positions, action_position, linear
        self.acts = bool(spec.action)
        self._text_targets = text_targets or not self.acts
        self._question_targets = question_targets
        self._observation_targets = observation_targets
        self._task_index = task_index if self.acts else None
        self._texts: dict[tuple[str, bool], np.ndarray] = {}
        fixed = self.fixed_tokens - self.acts - self.action_tokens
        if self.acts and fixed + 1 > max_positions:
            grey = next(
                (path for path, s in spec.observation.items() if s.dtype == "uint8" and len(s.shape) == 2), None
            )
            fix = "smaller images, fewer values, or a larger local_position_encoding_size"
            if grey is not None:
                height, width = spec.observation[grey].shape
                fix = f"if {grey} is a picture, give it a channel axis: ({height}, {width}, 1); else {fix}"
            raise SpecError(
                f"an observation of {fixed} tokens; local positions end at {max_positions}", where=task, fix=fix
            )

    # -- sizes --------------------------------------------------------------------------------------------------------

    @property
    def action_tokens(self) -> int:
        return sum(s.size for s in self.spec.action.values())

    @property
    def fixed_tokens(self) -> int:
        """Tokens of a timestep without its texts, whose length varies (of a page's, the most)."""
        named = self._task_index is not None
        tokens = sum(_num_tokens(s) for path, s in self.spec.observation.items() if self.acts or path != MARKS)
        return named + tokens + self.acts + self.action_tokens

    @property
    def identity(self) -> str:
        """A hash of everything that decides which tokens an episode becomes."""
        text = None if self.text is None else hashlib.sha256(self.text.to_bytes()).hexdigest()
        switches = (
            self._max_positions, self._action_position, self._linear, self._text_targets, self._question_targets,
            self._observation_targets, self._task_index,
        )  # fmt: skip
        facts = [self.spec.to_json(), asdict(self.vocabulary), text, switches]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def legal(self) -> list[Legal]:
        """For each action token the block of ids it may take."""
        v = self.vocabulary
        out: list[Legal] = []
        for spec in self.spec.action.values():
            if spec.kind == "discrete":
                out += [Legal(v.discrete, v.discrete + int(n)) for n in spec.num_values()]
            else:
                out += [Legal(v.continuous, v.separator)] * spec.size
        return out

    def observation_beginning(self) -> list[int]:
        """The ids that every observation begins with: that of the task, where the network has task tokens."""
        return [] if self._task_index is None else [int(self.vocabulary.encode_discrete(np.array(self._task_index)))]

    def observation_blocks(self) -> list[Legal]:
        """For each token of an observation after those, the block of ids it may have. Raises SpecError for texts and images."""
        v = self.vocabulary
        out: list[Legal] = []
        for path, spec in self.spec.observation.items():
            if spec.kind not in ("discrete", "continuous"):
                raise SpecError(
                    f"{path} is {spec.kind}: only numbers are foretold", where=self.task,
                    fix="plan on the world itself: without --imagined",
                )  # fmt: skip
            if spec.kind == "discrete":
                out += [Legal(v.discrete, v.discrete + int(n)) for n in spec.num_values()]
            else:
                out += [Legal(v.continuous, v.separator)] * spec.size
        return out

    # -- encode -------------------------------------------------------------------------------------------------------

    def encode(self, episode: Episode, table: images.PatchTable | None = None) -> Tokens:
        """All timesteps of an episode."""
        return self._assemble(episode.observations, episode.actions, len(episode), table)

    def encode_observation(self, observation: Mapping[str, Any], table: images.PatchTable | None = None) -> Tokens:
        """Observation and separator of one timestep, from checked flat leaves: what the agent reads before it acts."""
        leaves = {
            k: [v] if self.spec.observation[k].kind == "text" else np.asarray(v)[None] for k, v in observation.items()
        }
        return self.encode_observations(leaves, 1, table)

    def encode_observations(
        self, leaves: Mapping[str, Any], count: int, table: images.PatchTable | None = None
    ) -> Tokens:
        """The same for many at once: leaves with `count` first, `steps` of the result numbers them."""
        return self._assemble(leaves, None, count, table)

    def _assemble(self, observations, actions, steps: int, table: images.PatchTable | None) -> Tokens:
        table = images.PatchTable() if table is None else table
        marks = None if self.acts or MARKS not in observations else np.asarray(observations[MARKS], bool)
        if marks is None and not self.acts and MARKS in self.spec.observation:  # each timestep for itself
            marks = np.ones((steps, 2), bool)
        columns: list[_Column] = [
            self._observation(path, s, observations[path], steps, table, marks)
            for path, s in self.spec.observation.items()
            if marks is None or path != MARKS
        ]
        if self._task_index is not None:
            name = self.vocabulary.encode_discrete(np.full((steps, 1), self._task_index))
            columns.insert(0, _Column(DISCRETE, name))
        if self.acts:
            columns.append(_Column(SEPARATOR, np.full((steps, 1), self.vocabulary.separator)))
            if actions is not None:
                columns += [self._action(s, actions[path], steps) for path, s in self.spec.action.items()]
        lengths = np.stack([c.lengths(steps) for c in columns])  # (columns, T)
        offsets = np.cumsum(lengths, axis=0) - lengths
        total = lengths.sum(axis=0)
        starts = np.concatenate([[0], np.cumsum(total)])
        n = int(starts[-1])
        out = Tokens(
            np.zeros(n, np.int32), np.zeros(n, np.uint8), np.full(n, NO_POSITION, np.int16), np.zeros(n, bool),
            np.repeat(np.arange(steps, dtype=np.int32), total), np.full(n, -1, np.int32), np.zeros((n, 4), np.uint8), table,
        )  # fmt: skip
        for column, length, offset in zip(columns, lengths, offsets, strict=True):
            inside = _ragged_arange(length)
            where = np.repeat(starts[:-1] + offset, length) + inside
            out.kinds[where] = column.kind
            if column.boxes is not None:
                out.patches[where] = column.values.ravel()
                out.boxes[where] = np.tile(column.boxes, (len(where) // len(column.boxes), 1))
            else:
                out.ids[where] = column.values.ravel()
            out.targets[where] = column.target
            if column.action:
                out.positions[where] = ACTION_POSITION if self._action_position else NO_POSITION
            elif self.acts:
                out.positions[where] = np.repeat(offset, length) + inside
        if self.acts and n and out.positions.max() >= self._max_positions:
            raise SpecError(
                f"an observation of {int(out.positions.max()) + 1} tokens; local positions end at {self._max_positions}",
                where=self.task, fix="shorten the text, or a larger local_position_encoding_size",
            )  # fmt: skip
        return out

    def _observation(
        self, path: str, spec: Spec, values: Any, steps: int, table: images.PatchTable, marks: np.ndarray | None = None
    ) -> _Column:
        """One leaf. `marks` (T, 2), of pages: whether the image is shown, and whether the page ends."""
        v = self.vocabulary
        if spec.kind == "text":
            asks = not self.acts and path.rsplit("/", 1)[-1] == QUESTION
            ends = [not self.acts and not asks] * steps if marks is None or asks else marks[:, 1].tolist()
            encoded = [self._encode_text(text, path, end) for text, end in zip(values, ends, strict=True)]
            flat = np.concatenate(encoded) if encoded else np.zeros(0, np.int32)
            target = self._question_targets if asks else self._text_targets
            return _Column(TEXT, flat, np.array([len(e) for e in encoded]), target=target)
        if spec.kind == "image":
            frames = np.asarray(values)
            shown = frames if marks is None else frames[marks[:, 0]]
            patches = table.add(images.cut(shown.reshape(-1, *spec.shape[-3:])))
            boxes = images.boxes(*spec.shape[-3:-1])
            if marks is None:
                return _Column(IMAGE, patches.reshape(steps, -1), boxes=boxes)
            return _Column(IMAGE, patches.ravel(), marks[:, 0] * len(boxes), boxes=boxes)
        flat = np.asarray(values).reshape(steps, spec.size)
        if spec.kind == "discrete":
            ids = v.encode_discrete(flat.astype(np.int64) - spec.bounds()[0].astype(np.int64))
            return _Column(DISCRETE, ids, target=self._observation_targets)
        y = np.asarray(flat, np.float64) / LINEAR_RANGE if self._linear else mu_law(flat)
        return _Column(CONTINUOUS, v.encode_continuous(y), target=self._observation_targets)

    def _action(self, spec: Spec, values: Any, steps: int) -> _Column:
        flat = np.asarray(values).reshape(steps, spec.size)
        low, high = spec.bounds()
        if spec.kind == "discrete":
            return _Column(
                DISCRETE,
                self.vocabulary.encode_discrete(flat.astype(np.int64) - low.astype(np.int64)),
                target=True,
                action=True,
            )
        return _Column(
            CONTINUOUS, self.vocabulary.encode_continuous(scale_action(flat, low, high)), target=True, action=True
        )

    def _encode_text(self, text: str, path: str, ends: bool) -> np.ndarray:
        if self.text is None:
            raise SpecError("a text needs a tokenizer", where=f"{self.task} {path}", fix="gato tokenizer train FILES")
        known = self._texts.get((text, ends))
        if known is None:
            end = [self.text.eos_id] if ends else []  # documents and captions end with </s>
            known = np.concatenate([self.text.encode(text), np.asarray(end, np.int32)]).astype(np.int32)
            if len(text) <= KEPT_CHARACTERS:
                if len(self._texts) >= KEPT_TEXTS:
                    self._texts.clear()
                self._texts[text, ends] = known
        return known

    # -- decode -------------------------------------------------------------------------------------------------------

    def decode_observation(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Ids (k,) as `observation_blocks` counts them → flat leaves, continuous ones at the centres of their bins."""
        at, out = 0, {}
        for path, spec in self.spec.observation.items():
            part = ids[at : at + spec.size]
            low, high = spec.bounds()
            if spec.kind == "discrete":
                flat = self.vocabulary.decode_discrete(part) + low.astype(np.int64)
            else:
                y = self.vocabulary.decode_continuous(part)
                flat = np.clip(y * LINEAR_RANGE if self._linear else mu_law_inverse(y), low, high)
            out[path] = flat.astype(spec.dtype).reshape(spec.shape)
            at += spec.size
        return out

    def decode_action(
        self, ids: Sequence[int] | np.ndarray, values: Sequence[float] | np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Action ids (A,) → {path: array} inside the action space. `values`, if given, holds continuous tokens as numbers
        in [-1, 1] (a mean over the bins) in place of bin centres. Raises ValueError for an id of another block."""
        ids, at, out = np.asarray(ids), 0, {}
        for path, spec in self.spec.action.items():
            part = ids[at : at + spec.size]
            low, high = spec.bounds()
            if spec.kind == "discrete":
                index = self.vocabulary.decode_discrete(part)
                if (index < 0).any() or (index >= spec.num_values()).any():
                    raise ValueError(f"id {part.tolist()} is no value of {path}")
                flat = index + low.astype(np.int64)
            else:
                y = (
                    self.vocabulary.decode_continuous(part)
                    if values is None
                    else np.asarray(values[at : at + spec.size])
                )
                flat = np.clip(unscale_action(np.clip(y, -1, 1), low, high), low, high)
            out[path] = flat.astype(spec.dtype).reshape(spec.shape)
            at += spec.size
        return out


@dataclass
class _Column:
    """One leaf over all timesteps: values (T, n), or flat with ragged lengths (T,)."""

    kind: int
    values: np.ndarray
    ragged: np.ndarray | None = None
    boxes: np.ndarray | None = None
    target: bool = False
    action: bool = False

    def lengths(self, steps: int) -> np.ndarray:
        return self.ragged if self.ragged is not None else np.full(steps, self.values.shape[1])


def _num_tokens(spec: Spec) -> int:
    """Tokens of one leaf; 0 for text, whose length varies."""
    if spec.kind == "text":
        return 0
    if spec.kind == "image":
        *frames, height, width, channels = spec.shape
        rows, columns = images.grid(height, width)
        return math.prod(frames) * (4 if channels == 4 else 1) * rows * columns
    return spec.size


def _ragged_arange(lengths: np.ndarray) -> np.ndarray:
    """[2, 3] → [0, 1, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
