"""GatoConfig: the sizes. Field names are those known from the community port; values are the paper's (appendix C.1)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gato.errors import RecipeError, UnknownNameError, nearest
from gato.tokens.values import NUM_BINS, Vocabulary

FIXED = {"img_patch_size": 16, "continuous_values_size": 1024, "actions_size": 1024, "discretize_depth": 128}
LEAST = {"num_residual_blocks": 0, "vocabulary_size": NUM_BINS}  # other whole numbers are at least 1
WEIGHTLESS = (  # no weight's shape follows from these (but of learned positions): a trained network can go on with others
    "token_sequence_length", "encodings", "action_position", "task_token", "observation_bins", "dropout_rate",
    "stochastic_depth", "parallel_actions",
)  # fmt: skip


@dataclass(frozen=True)
class GatoConfig:
    """One network. `feedforward_hidden_size` is the width before the gate of GEGLU (8192 → 4096)."""

    num_transformer_blocks: int = 8
    num_attention_heads: int = 24
    layer_width: int = 768
    feedforward_hidden_size: int = 3072
    key_value_size: int = 32
    token_sequence_length: int = 1024
    vocabulary_size: int = 32000
    continuous_values_size: int = 1024
    actions_size: int = 1024
    separate_discrete: bool = False
    img_patch_size: int = 16
    num_residual_blocks: int = 1
    num_group_norm_groups: int = 32
    patch_embedder: Literal["resnet", "linear"] = "resnet"
    patch_stem_width: int = 64
    patch_stem_stride: int = 4
    discretize_depth: int = 128
    local_position_encoding_size: int = 512
    encodings: Literal["learned", "fixed"] = "learned"  # of local and patch positions
    action_position: bool = True
    task_token: bool = False
    observation_bins: Literal["mu_law", "linear"] = "mu_law"
    position: Literal["xl", "rope", "learned"] = "xl"  # in the sequence
    dropout_rate: float = 0.0
    stochastic_depth: float = 0.0
    smooth_bin_rows: bool = False
    parallel_actions: bool = False

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            value = getattr(self, name)
            low, high = (0, 1) if hint is float else (LEAST.get(name, 1), math.inf)
            if not is_a(hint, value) or (hint in (int, float) and not low <= value < high):
                raise RecipeError(f"{name}={value!r}", fix=_wanted(hint, low))
        if self.num_attention_heads * self.key_value_size != self.layer_width:
            raise RecipeError(
                f"{self.num_attention_heads} heads of {self.key_value_size} are not the width {self.layer_width}",
                fix="num_attention_heads · key_value_size = layer_width",
            )
        halved = {"rope": "key_value_size", "xl": "layer_width"}.get(self.position)
        if halved and getattr(self, halved) % 2:
            raise RecipeError(
                f"{halved} {getattr(self, halved)} cannot be halved into sines and cosines", fix="an even number"
            )
        if self.feedforward_hidden_size % 2:
            raise RecipeError(
                f"feedforward_hidden_size {self.feedforward_hidden_size} cannot be gated", fix="an even number"
            )
        if self.patch_stem_width % self.num_group_norm_groups:
            raise RecipeError(
                f"patch_stem_width {self.patch_stem_width} is not a multiple of {self.num_group_norm_groups} groups",
                fix="a multiple of num_group_norm_groups",
            )
        if self.patch_stem_stride > self.img_patch_size:
            raise RecipeError(f"patch_stem_stride {self.patch_stem_stride}", fix="no more than a patch is wide, 16")
        if any(getattr(self, name) != value for name, value in FIXED.items()):
            raise RecipeError(
                "patches of 16 pixels, 1024 bins, 1024 actions and 128 patch positions are fixed",
                fix="leave these fields alone",
            )

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.vocabulary_size, self.separate_discrete)

    @classmethod
    def large(cls) -> GatoConfig:
        """Gato, 1.18 B parameters."""
        return cls(24, 16, 2048, 8192, 128, stochastic_depth=0.1)

    @classmethod
    def baseline(cls) -> GatoConfig:
        """364 M parameters."""
        return cls(12, 12, 1536, 6144, 128, stochastic_depth=0.1)

    @classmethod
    def small(cls) -> GatoConfig:
        """79 M parameters."""
        return cls(8, 24, 768, 3072, 32, stochastic_depth=0.1)

    @classmethod
    def tiny(cls) -> GatoConfig:
        """A network for a laptop without a GPU."""
        return cls(
            4, 4, 128, 512, 32, vocabulary_size=1024, patch_stem_width=32, position="rope", smooth_bin_rows=True
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> GatoConfig:
        """Of a bundle, perhaps one from before values were checked: a switch was on where it was anything but false, and
        `actions_size` is read by nothing."""
        known = {k: v for k, v in record.items() if _known(k) and k != "actions_size"}
        values: dict[str, Any] = {k: bool(v) if _hints()[k] is bool else v for k, v in known.items()}
        return cls(**values)

    def replace(self, **changes: Any) -> GatoConfig:
        for name in changes:
            _known(name)
        return replace(self, **changes)


def _known(name: str) -> bool:
    names = [f.name for f in fields(GatoConfig)]
    if name not in names:
        raise UnknownNameError(f"GatoConfig has no field {name!r}", fix=nearest(name, names))
    return True


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(GatoConfig)


def _wanted(hint: Any, low: int) -> str:
    named = {int: f"a whole number of at least {low}", float: "a share: at least 0, below 1", bool: "true or false"}
    return named.get(hint) or f"one of {', '.join(get_args(hint))}"


def is_a(hint: Any, value: Any) -> bool:
    """Whether a value is of a field's type: of those that a config or a recipe uses."""
    kind, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if kind is Literal:
        return value in parts
    if kind in (Union, UnionType):
        return any(is_a(part, value) for part in parts)
    if kind is tuple:
        of = [parts[0]] * len(value) if isinstance(value, tuple) and parts[-1] is ... else parts
        return isinstance(value, tuple) and len(value) == len(of) and all(map(is_a, of, value))
    if kind is Mapping:
        return isinstance(value, Mapping) and all(is_a(parts[0], k) and is_a(parts[1], v) for k, v in value.items())
    return isinstance(value, hint)


SIZES = {
    "tiny": GatoConfig.tiny, "gato-79m": GatoConfig.small, "gato-364m": GatoConfig.baseline, "gato-1.18b": GatoConfig.large,
}  # fmt: skip


def size(name: str) -> GatoConfig:
    """A named size. Raises UnknownNameError."""
    if name not in SIZES:
        raise UnknownNameError(f"no size {name!r}", fix=nearest(name, SIZES) or f"one of {', '.join(SIZES)}")
    return SIZES[name]()
