"""Bundle: a saved model that can act and says what it expects. It needs nothing else.

model.safetensors   weights
config.json         GatoConfig
tokenizer.model     SentencePiece
tasks.json          for each task: spec, memory, how to act, references
prompts/<task>/     one demonstration each, as a dataset, where the recipe uses prompts
card.json           data, training, scores
MANIFEST.json       SHA-256 over all of it
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch

from gato.episodes import Episode, TaskSpec
from gato.episodes.manifest import commit_folder, temporary_beside, verify_manifest
from gato.episodes.store import Dataset
from gato.episodes.writer import DatasetWriter
from gato.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    TokenizerError,
    UnknownNameError,
    UsageError,
    known_instead,
)
from gato.model.config import GatoConfig
from gato.model.decoder import Decoder
from gato.model.transformer import Gato
from gato.tokens import TimestepCodec
from gato.tokens.text import TextTokenizer

FORMAT = 1
Stored = Literal["float32", "bf16"]
STORED: dict[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TaskCard:
    """What the bundle knows of one task. `window_timesteps`: how many timesteps it was trained to see (None: the window)."""

    spec: TaskSpec
    window_timesteps: int | None = None
    prompt: Episode | None = None
    shown: Any = (
        None  # demonstrations whose most similar timesteps it reads at each step (gato.policy.shown); not saved
    )

    def to_json(self) -> dict[str, Any]:
        return {"spec": self.spec.to_json(), "window_timesteps": self.window_timesteps}


@dataclass
class Bundle:
    config: GatoConfig
    model: Gato
    tokenizer: TextTokenizer
    tasks: dict[str, TaskCard] = field(default_factory=dict)
    acting: dict[str, Any] = field(
        default_factory=dict
    )  # {"discrete": "sample", "continuous": "mean", "temperature": 1.0}
    card: dict[str, Any] = field(default_factory=dict)
    prefixes: dict[Any, Any] = field(
        default_factory=dict, repr=False, compare=False
    )  # prompts already read, for sessions
    _decoders: dict[str, Decoder] = field(default_factory=dict, repr=False, compare=False)

    def decoder(self, precision: str = "float32") -> Decoder:
        """The network as it acts, packed once for all sessions. Raises UsageError."""
        if precision not in self._decoders or self._decoders[precision].model is not self.model:
            self._decoders[precision] = Decoder(self.model, precision)
        return self._decoders[precision]

    def trained(self, what: str) -> Any:
        """`steps`, `tokens` or `seconds` of its training, that of the bundles which it was trained on from included; None
        where the card does not say."""
        runs = [*self.card.get("history", []), self.card]
        return sum(run[what] for run in runs if run.get(what)) if self.card.get(what) else None

    def window(self, documents: bool = False) -> int:
        """How many tokens its training showed together, of tasks or of documents; the whole context where the card does not
        say. What lies further back was never there to learn from, so it is not shown when the network acts either."""
        recipe, context = self.card.get("recipe") or {}, self.config.token_sequence_length
        limits = ("window_tokens", "slot_tokens", "document_tokens") if documents else ("window_tokens", "slot_tokens")
        return min(context, *(recipe.get(name) or context for name in limits))

    def codec(self, task: str) -> TimestepCodec:
        """The tokens of one of its tasks. Raises UnknownNameError."""
        if task not in self.tasks:
            raise UnknownNameError(f"this bundle was not trained on {task!r}", fix=known_instead(task, self.tasks))
        return make_codec(self.config, self.tokenizer, self.tasks[task].spec, task, list(self.tasks).index(task))

    def save(self, folder: Path, precision: Stored = "float32") -> Path:
        """Commit atomically; raises OutputExistsError where something else is, DiskFullError, UsageError for another precision.

        `precision` is that of the weights in the file: half as many bytes as "bf16", which has float32's range and three
        digits. The network acts in float32 whatever it was stored in.
        """
        if precision not in STORED:
            raise UsageError(f"precision={precision!r}", where=str(folder), fix=f"one of {', '.join(STORED)}")
        beside = temporary_beside(Path(folder))
        try:
            self._write(beside, STORED[precision])
            facts = {"format": FORMAT, "tokenizer": self.tokenizer.fingerprint}
            return commit_folder(beside, Path(folder), facts, kind="bundle")
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def _write(self, beside: Path, dtype: torch.dtype) -> None:
        weights = self.model.state_dict().items()
        save_tensors(beside / "model.safetensors", {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights})
        write_json(beside / "config.json", self.config.to_json())
        (beside / "tokenizer.model").write_bytes(self.tokenizer.to_bytes())
        write_json(beside / "tasks.json", {task: card.to_json() for task, card in self.tasks.items()})
        write_json(beside / "card.json", {**self.card, "acting": self.acting})
        for task, card in self.tasks.items():
            if card.prompt is not None:
                writer = DatasetWriter(beside / "prompts" / task, task, card.spec, {})
                writer.add(card.prompt)
                writer.close()

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Bundle:
        """Verified against its manifest first. Raises CheckpointMissingError, CheckpointCorruptError, CheckpointMismatchError."""
        folder = Path(folder)
        manifest = verify_manifest(folder, CheckpointCorruptError, kind="bundle")
        if manifest["facts"].get("format") != FORMAT:
            raise CheckpointMismatchError(
                f"a bundle of format {manifest['facts'].get('format')!r}, this version reads {FORMAT}", where=str(folder),
                fix="pip install --upgrade gato-agent, or train it again",
            )  # fmt: skip
        config = GatoConfig.from_json(read_json(folder / "config.json"))
        tokenizer = TextTokenizer.load(folder / "tokenizer.model")
        if tokenizer.fingerprint != manifest["facts"]["tokenizer"] or tokenizer.size != config.vocabulary_size:
            raise TokenizerError(
                "the tokenizer is not the one this bundle was trained with", where=str(folder / "tokenizer.model")
            )
        with torch.device("meta"):
            model = Gato(config)
        model = model.to_empty(device=device)
        if config.smooth_bin_rows:
            from gato.model.embed import hats

            model.embed.hats = hats().to(device)
        load_weights(model, load_tensors(folder / "model.safetensors", device), str(folder / "model.safetensors"))
        tasks = {}
        for task, record in read_json(folder / "tasks.json").items():
            prompt = folder / "prompts" / task
            tasks[task] = TaskCard(
                TaskSpec.from_json(record["spec"]),
                record["window_timesteps"],
                Dataset.open(prompt)[0] if prompt.is_dir() else None,
            )
        card = read_json(folder / "card.json")
        return cls(config, model.eval(), tokenizer, tasks, card.pop("acting"), card)


def make_codec(
    config: GatoConfig, tokenizer: TextTokenizer, spec: TaskSpec, task: str, task_index: int = 0, **targets: bool
) -> TimestepCodec:
    """`task_index` counts where the network has task tokens; `targets` are TimestepCodec's switches of what is predicted."""
    return TimestepCodec(
        spec, config.vocabulary, tokenizer, task=task, max_positions=config.local_position_encoding_size,
        action_position=config.action_position, linear=config.observation_bins == "linear",
        task_index=task_index if config.task_token else None, **targets,
    )  # fmt: skip


# -- tensors and JSON, as every checkpoint stores them ------------------------------------------------------------------


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from gato.episodes.manifest import naming_disk_errors

    size = sum(t.numel() * t.element_size() for t in tensors.values())
    with naming_disk_errors(path, size):
        data = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        path.write_bytes(data)


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path, device=str(device))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointCorruptError(f"not a readable safetensors file: {error}", where=str(path)) from error


def load_weights(
    model: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    where: str,
    place: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Checked first (`check_weights`). `place` makes of a tensor and the weight it is for what is loaded (a slice of it,
    where the network is shared by ranks)."""
    check_weights(model, tensors, where)
    if place is not None:
        wanted = model.state_dict()
        tensors = {k: place(v, wanted[k]) for k, v in tensors.items()}
    model.load_state_dict(tensors)


def check_weights(model: torch.nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Strict: every missing, unexpected or misshaped tensor is listed in one CheckpointMismatchError."""
    wanted = model.state_dict()
    faults = [f"missing {k}" for k in wanted if k not in tensors]
    faults += [f"unexpected {k}" for k in tensors if k not in wanted]
    faults += [
        f"{k} is {tuple(tensors[k].shape)}, expected {tuple(wanted[k].shape)}"
        for k in wanted
        if k in tensors and tensors[k].shape != wanted[k].shape
    ]
    if faults:
        raise CheckpointMismatchError("; ".join(faults), where=where, fix="load it with the config it was saved with")


def write_json(path: Path, record: Any) -> None:
    from gato.episodes.manifest import naming_disk_errors

    with naming_disk_errors(path):
        path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointCorruptError(f"not readable as JSON: {error}", where=str(path)) from error
