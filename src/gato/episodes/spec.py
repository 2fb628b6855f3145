"""Spec: what one observation or action is. A Gymnasium space turns into a flat, ordered dict of specs.

    Dict(image=Box(0, 255, (64, 80, 3), uint8), state=Dict(q=Box(-1, 1, (2,))))
    → {"image": image 64×80×3, "state/q": continuous (2,)}

Keys are sorted lexicographically on the flattened path, as the paper orders them (section 2.1). A space that is not a
Dict or Tuple gets the path `observation` or `action`. Discrete kinds (Discrete with a start, MultiDiscrete,
MultiBinary, integer Boxes) are stored as they come and tokenised as index minus minimum.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np

from gato.errors import ObservationError, SpecError

Kind = Literal["text", "image", "discrete", "continuous"]
UNBOUNDED = 1e9  # bounds of this size and more count as none (paper: nothing; ours, so that lqr's 1e10 is no scale)
MAX_DISCRETE = 1024


@dataclass(frozen=True)
class Spec:
    """One leaf. `low`/`high` are flat tuples over the elements (row-major); one entry serves all of them.

    image: shape is (height, width, channels), uint8, channels last whatever the world delivers (`channels_first` says
    that it must be transposed), or (frames, height, width, channels), a clip; discrete: integer bounds, both inclusive; continuous: ±inf where unbounded;
    text: shape ().
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    channels_first: bool = False

    @property
    def size(self) -> int:
        return int(math.prod(self.shape))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds as float64 arrays of length `size`."""
        return self._bounds

    @functools.cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = (np.broadcast_to(np.asarray(b, np.float64), (self.size,)) for b in (self.low, self.high))
        return low, high

    def num_values(self) -> np.ndarray:
        """How many values each element of a discrete spec can take, int64 (size,)."""
        low, high = self.bounds()
        return (high - low + 1).astype(np.int64)

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shape)) or "scalar"
        if self.kind == "discrete":
            return f"discrete {shape} of {int(self.num_values().max())}"
        return "text" if self.kind == "text" else f"{self.kind} {shape}"

    def to_json(self) -> dict[str, Any]:
        def bound(values):  # JSON has no infinity
            return [v if math.isfinite(v) else ("inf" if v > 0 else "-inf") for v in values]

        return {
            "kind": self.kind, "shape": list(self.shape), "dtype": self.dtype,
            "low": bound(self.low), "high": bound(self.high), "channels_first": self.channels_first,
        }  # fmt: skip

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Spec:
        return cls(
            record["kind"], tuple(record["shape"]), record["dtype"], tuple(map(float, record["low"])),
            tuple(map(float, record["high"])), bool(record.get("channels_first", False)),
        )  # fmt: skip


Specs = dict[str, Spec]  # flattened path → leaf, in lexicographic order


@dataclass(frozen=True)
class TaskSpec:
    """What goes in and out of one task. Both are flat and ordered."""

    observation: Specs
    action: Specs

    def to_json(self) -> dict[str, Any]:
        return {
            side: {path: s.to_json() for path, s in getattr(self, side).items()} for side in ("observation", "action")
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TaskSpec:
        sides = [
            {path: Spec.from_json(s) for path, s in sorted(record[side].items())} for side in ("observation", "action")
        ]
        return cls(*sides)


def specs_from_space(space: gymnasium.Space, root: str, where: str = "") -> Specs:
    """Flatten a Gymnasium space. Raises SpecError for what cannot become tokens and for two of a path, naming it."""
    leaves: Specs = {}
    for path, sub in _walk(space, root, top=True):
        if path in leaves:
            raise _two_of(path, where)
        leaves[path] = _leaf(sub, path, where)
    return dict(sorted(leaves.items()))


def task_spec(env: gymnasium.Env, where: str = "") -> TaskSpec:
    """The spec of an environment. Raises SpecError as `specs_from_space` and `check_actions` do."""
    spec = TaskSpec(
        specs_from_space(env.observation_space, "observation", where),
        specs_from_space(_told_apart(env.action_space, where), "action", where),
    )
    check_actions(spec, where)
    return spec


def check_actions(spec: TaskSpec, where: str = "") -> None:
    """Raises SpecError for actions that no agent could be taught: pictures, texts, numbers without bounds."""
    for path, leaf in spec.action.items():
        if leaf.kind in ("image", "text"):
            raise SpecError(f"an action of kind {leaf.kind} is not supported", where=f"{where} {path}".strip())
        if leaf.kind == "continuous" and not np.isfinite([*leaf.low, *leaf.high]).all():
            raise SpecError(
                f"the action space has no bounds: {leaf.low} … {leaf.high}",
                where=f"{where} {path}".strip(),
                fix="wrap the environment with gymnasium.wrappers.RescaleAction, or give its action_space finite bounds",
            )


def _two_of(path: str, where: str) -> SpecError:
    fix = 'a key with a slash in it reads as a path, and the key 1 as "1": rename one of them'
    return SpecError(f"two leaves are called {path!r}", where=where, fix=fix)


def _walk(space: gymnasium.Space, path: str, top: bool = False):
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        items = space.spaces.items() if isinstance(space, gymnasium.spaces.Dict) else enumerate(space.spaces)
        for key, sub in items:
            yield from _walk(sub, str(key) if top else f"{path}/{key}")
    else:
        yield path, space


def _leaf(space: gymnasium.Space, path: str, where: str) -> Spec:
    place = f"{where} {path}".strip()
    s = gymnasium.spaces
    if isinstance(space, s.Text):
        return Spec("text", (), "str")
    if isinstance(space, s.Discrete):
        return _discrete((), "int64", [int(space.start)], [int(space.start) + int(space.n) - 1], place)
    if isinstance(space, s.MultiDiscrete):
        start = np.asarray(space.start).ravel()
        return _discrete(space.shape, str(space.dtype), start, start + np.asarray(space.nvec).ravel() - 1, place)
    if isinstance(space, s.MultiBinary):
        return _discrete(space.shape, "int8", [0], [1], place)
    if isinstance(space, s.Box):
        if _is_image(space):
            if len(space.shape) == 4:
                return Spec("image", tuple(space.shape), "uint8", (0.0,), (255.0,))
            first = space.shape[0] in (1, 3, 4) and space.shape[-1] not in (1, 3, 4)
            h, w, c = (*space.shape[1:], space.shape[0]) if first else space.shape
            return Spec("image", (h, w, c), "uint8", (0.0,), (255.0,), first)
        low, high = np.asarray(space.low).ravel(), np.asarray(space.high).ravel()
        if np.issubdtype(space.dtype, np.integer) or space.dtype == np.bool_:
            return _discrete(space.shape, str(space.dtype), low, high, place)
        if space.dtype.itemsize > 8:
            raise SpecError(f"values of type {space.dtype} cannot be stored", where=place, fix="use float64 or float32")
        low, high = low.astype(np.float64), high.astype(np.float64)
        low, high = np.where(low <= -UNBOUNDED, -np.inf, low), np.where(high >= UNBOUNDED, np.inf, high)
        return Spec("continuous", tuple(space.shape), str(space.dtype), tuple(low.tolist()), tuple(high.tolist()))
    raise SpecError(
        f"a {type(space).__name__} space cannot become tokens", where=place,
        fix="use Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict or Tuple",
    )  # fmt: skip


def _is_image(space: gymnasium.spaces.Box) -> bool:
    """A uint8 Box of rank 3, 1, 3 or 4 channels first or last, at least 16 pixels a side; or several of them, channels
    last, as a clip of rank 4."""
    if space.dtype != np.uint8 or len(space.shape) not in (3, 4):
        return False
    if len(space.shape) == 4:
        return space.shape[-1] in (1, 3, 4) and min(space.shape[1:3]) >= 16
    for channels, sides in ((space.shape[-1], space.shape[:2]), (space.shape[0], space.shape[1:])):
        if channels in (1, 3, 4) and min(sides) >= 16:
            return True
    return False


def _discrete(shape, dtype: str, low, high, place: str) -> Spec:
    low, high = np.asarray(low), np.asarray(high)
    values = int((high.astype(float) - low.astype(float) + 1).max(initial=0))  # as int64 the widest would wrap round
    if values > MAX_DISCRETE:
        raise SpecError(
            f"a discrete value with {values:,} possibilities (at most {MAX_DISCRETE:,})", where=place,
            fix="declare it as a float Box, split it into digits, or narrow its bounds",
        )  # fmt: skip
    return Spec("discrete", tuple(shape), dtype, tuple(low.astype(float).tolist()), tuple(high.astype(float).tolist()))


def _told_apart(space: gymnasium.Space, where: str) -> gymnasium.Space:
    """An action space, itself. Raises SpecError for a Dict whose one key is `action`: its leaf has the path that a space which is
    no Dict has, and an action for the one would be given to the other."""
    s = gymnasium.spaces
    inside = space.spaces if isinstance(space, s.Dict) else {}
    if list(inside) == ["action"] and not isinstance(inside["action"], s.Dict | s.Tuple):
        raise SpecError(
            "a Dict action space whose one key is 'action' cannot be told from the space inside it", where=where,
            fix="rename the key, or let action_space be what is inside",
        )  # fmt: skip
    return space


def check_same(held: TaskSpec, world: TaskSpec, where: str) -> None:
    """Whether what was learned from `held` can be played in `world`: the same paths, kinds and shapes, and for actions the same
    bounds, since what is chosen is a place between them. Types of numbers do not matter.

    Raises SpecError naming the first path that differs.
    """
    for side in ("observation", "action"):
        mine, theirs = getattr(held, side), getattr(world, side)
        for path in sorted({*mine, *theirs}):
            a, b = mine.get(path), theirs.get(path)
            same = a is not None and b is not None and (a.kind, a.shape) == (b.kind, b.shape)
            apart = f"{a or 'nothing'}, and {b or 'nothing'} in the environment"
            if same and side == "action" and not np.allclose(a.bounds(), b.bounds(), rtol=1e-6):
                bounds = (f"{np.unique(x.low).tolist()} … {np.unique(x.high).tolist()}" for x in (a, b))
                same, apart = False, "bounds {}, and {} in the environment".format(*bounds)
            if not same:
                raise SpecError(
                    f"the environment is not the one that was learned from: {side} {path} was {apart}", where=where,
                    fix="the environment as it was, or collect and train anew",
                )  # fmt: skip


# -- nested values ↔ flat dicts ---------------------------------------------------------------------------------------


def flatten(value: Any, root: str) -> dict[str, Any]:
    """A nested observation as {path: leaf}, paths as in `specs_from_space`. Raises SpecError for two of a path."""
    out: dict[str, Any] = {}

    def walk(v, path, top=False):
        if isinstance(v, Mapping | tuple):
            for key, sub in v.items() if isinstance(v, Mapping) else enumerate(v):
                walk(sub, str(key) if top else f"{path}/{key}")
        elif path in out:
            raise _two_of(path, root)
        else:
            out[path] = v

    walk(value, root, top=True)
    return out


def unflatten(flat: Mapping[str, Any], space: gymnasium.Space, root: str) -> Any:
    """The nested value that a Gymnasium space expects, from {path: leaf}, in memory of its own."""

    def build(space, path, top=False):
        def child(key):
            return str(key) if top else f"{path}/{key}"

        if isinstance(space, gymnasium.spaces.Dict):
            return {key: build(sub, child(key)) for key, sub in space.spaces.items()}
        if isinstance(space, gymnasium.spaces.Tuple):
            return tuple(build(sub, child(i)) for i, sub in enumerate(space.spaces))
        value = flat[path]
        if isinstance(space, gymnasium.spaces.Discrete):
            return int(value)
        return np.array(value, space.dtype).reshape(space.shape)

    return build(space, root, top=True)


def check_value(spec: Spec, value: Any, where: str) -> np.ndarray | str:
    """One leaf of one timestep, checked and in canonical form (images channels last, contiguous, own memory).

    Raises ObservationError naming `where` for a wrong type, shape, range, NaN or infinity. Floats outside declared
    bounds pass: simulators step over them by rounding, and mu-law saturates.
    """
    if spec.kind == "text":
        if not isinstance(value, str):
            raise ObservationError(f"expected text, got {type(value).__name__}", where=where)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ObservationError(f"half a character: {error}", where=where) from error
        return value
    array = np.asarray(value)
    if array.dtype == object:
        raise ObservationError("an array of Python objects", where=where, fix="return plain numpy arrays")
    if spec.channels_first and array.ndim == 3 and array.shape != spec.shape:  # not transposed yet
        array = np.moveaxis(array, 0, -1)
    if array.shape != spec.shape:
        raise ObservationError(f"shape {array.shape}, expected {spec.shape}", where=where)
    if spec.kind == "continuous":
        if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
            raise ObservationError(f"type {array.dtype}, expected {spec.dtype}", where=where)
        given = array
        with np.errstate(over="ignore"):  # what is too large for the spec's type is infinite in it, and refused
            array = given.astype(spec.dtype, order="C")
        if not np.isfinite(array).all():
            i = int(np.argmin(np.isfinite(array).ravel()))
            bad = "NaN" if np.isnan(given).any() else "infinity"
            if np.isfinite(given).all():
                bad = f"{given.ravel()[i]:g}, too large for {spec.dtype},"
            raise ObservationError(f"{bad} at element {i}", where=where)
        return array
    else:
        if not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
            raise ObservationError(f"type {array.dtype}, expected {spec.dtype}", where=where)
        if spec.kind == "image":
            if array.dtype != np.uint8:
                raise ObservationError(f"type {array.dtype}, expected uint8", where=where)
        elif spec.size:
            low, high = spec.bounds()
            flat = array.ravel().astype(np.int64)
            outside = (flat < low) | (flat > high)
            if outside.any():
                i = int(np.argmax(outside))
                raise ObservationError(
                    f"value {flat[i]} at element {i}, outside {low[i]:.0f}…{high[i]:.0f}", where=where
                )
    return np.array(array, dtype=spec.dtype, order="C")  # a copy: worlds may reuse their buffers


def check_values(specs: Specs, values: Mapping[str, Any], where: str) -> dict[str, np.ndarray | str]:
    """All leaves of one timestep, in the order of the specs. A missing or unexpected key is an ObservationError."""
    missing, extra = [k for k in specs if k not in values], [k for k in values if k not in specs]
    if missing or extra:
        said = [f"missing {missing}"] * bool(missing) + [f"unexpected {extra}"] * bool(extra)
        raise ObservationError("; ".join(said), where=where, fix=f"expected keys: {list(specs)}")
    return {path: check_value(spec, values[path], f"{where} {path}") for path, spec in specs.items()}
