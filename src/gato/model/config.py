"""GatoConfig: the sizes. Field names are those known from the community port; values are the paper's (appendix C.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from gato.errors import RecipeError, UnknownNameError, nearest
from gato.tokens.values import Vocabulary

CHOICES = {
    "patch_embedder": ("resnet", "linear"), "encodings": ("learned", "fixed"), "observation_bins": ("mu_law", "linear"),
    "position": ("xl", "rope", "learned"),
}  # fmt: skip


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
        if self.num_attention_heads * self.key_value_size != self.layer_width:
            raise RecipeError(
                f"{self.num_attention_heads} heads of {self.key_value_size} are not the width {self.layer_width}",
                fix="num_attention_heads · key_value_size = layer_width",
            )
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise RecipeError(f"{name}={getattr(self, name)!r}", fix=f"one of {', '.join(values)}")
        if self.feedforward_hidden_size % 2:
            raise RecipeError(
                f"feedforward_hidden_size {self.feedforward_hidden_size} cannot be gated", fix="an even number"
            )
        if self.patch_stem_width % self.num_group_norm_groups:
            raise RecipeError(
                f"patch_stem_width {self.patch_stem_width} is not a multiple of {self.num_group_norm_groups} groups",
                fix="a multiple of num_group_norm_groups",
            )
        if self.img_patch_size != 16 or self.continuous_values_size != 1024 or self.discretize_depth != 128:
            raise RecipeError(
                "patches of 16 pixels, 1024 bins and 128 patch positions are fixed", fix="leave these fields alone"
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
        known: dict[str, Any] = {k: v for k, v in record.items() if _known(k)}
        return cls(**known)

    def replace(self, **changes: Any) -> GatoConfig:
        for name in changes:
            _known(name)
        return replace(self, **changes)


def _known(name: str) -> bool:
    names = [f.name for f in fields(GatoConfig)]
    if name not in names:
        raise UnknownNameError(f"GatoConfig has no field {name!r}", fix=nearest(name, names))
    return True


SIZES = {
    "tiny": GatoConfig.tiny, "gato-79m": GatoConfig.small, "gato-364m": GatoConfig.baseline, "gato-1.18b": GatoConfig.large,
}  # fmt: skip


def size(name: str) -> GatoConfig:
    """A named size. Raises UnknownNameError."""
    if name not in SIZES:
        raise UnknownNameError(f"no size {name!r}", fix=nearest(name, SIZES) or f"one of {', '.join(SIZES)}")
    return SIZES[name]()
