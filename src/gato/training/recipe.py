"""A recipe says what to train: a frozen dataclass in a Python file you can copy. A variant replaces fields of another."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import json
import math
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gato.episodes.spec import MAX_DISCRETE
from gato.errors import GatoError, RecipeError, UnknownNameError, nearest
from gato.model.config import GatoConfig, is_a, size

POSITIVE = ("steps", "slots", "slot_tokens", "accumulate", "window_tokens", "document_tokens")
ABOVE_ZERO = ("seconds", "clip", "temperature", "eps")  # of 0 a run would not begin, not learn, or not act
RECIPES = ("demo", "finetune", "generalist", "language", "paper", "tiny")  # files of gato.recipes
PYTHONS = {"True": True, "False": False, "None": None}  # in a word of the command line, beside those of JSON


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run but its data and its folder.

    `steps` or `seconds` bounds it: with `seconds` the schedule follows the clock (of training alone), so that the same
    line fits machines of different speed. A batch is `slots` × `slot_tokens` tokens, in `accumulate` parts.
    """

    name: str = "tiny"
    size: str = "tiny"
    model: Mapping[str, Any] = field(default_factory=dict)  # fields of GatoConfig that differ from the size's
    steps: int | None = 1000
    seconds: float | None = None
    # data
    hold_out: tuple[
        str, ...
    ] = ()  # globs of tasks, or domains, whose data are not read: to be learned from few demonstrations later
    weights: Mapping[str, float] = field(default_factory=lambda: {"*": 1.0})
    slots: int = 8
    slot_tokens: int = 1024
    accumulate: int = 1  # parts that a step's slots are taken in, over all ranks: one at a time is in memory
    window_tokens: int = 1024
    document_tokens: int | None = None  # documents are cut into windows of so many tokens; None for window_tokens
    window_timesteps: Mapping[str, int | None] = field(
        default_factory=dict
    )  # most timesteps in a window; one of questions that share a picture holds all from the picture on
    prompt_share: float = 0.25
    similar_timesteps: int = 0  # in place of windows and prompts: a timestep behind so many like it, of other episodes
    prompt_loss: bool = True
    text_targets: bool = True
    question_targets: bool = False  # the paper predicts the answer alone (figure 2)
    lazy: bool = False  # datasets are tokenised when first drawn from, not all of them before the first step
    data_workers: int = 0  # processes that prepare batches beside the training; 0 for none
    validation_share: float = 0.0  # of each dataset's episodes, drawn by their numbers: set aside, never trained on
    return_filter: float | None = None  # train on episodes with at least this share of the expert's return (paper: 0.8)
    return_ranks: int = 0  # so many ranks of return, which each timestep names (gato.sequences.returns); 0 for none
    reward_shown: bool = False  # each timestep says what the step before brought
    # optimiser (paper: section 2.3 and appendix D for AdamW's; Muon is ours)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4
    table_learning_rate: float | None = None  # of the look-up tables, where it is another
    muon_learning_rate: float = 0.02
    final_ratio: float = 0.1  # of the learning rate at the end of the cosine
    warmup: float = 0.015  # share of the run, from 1e-7
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    loss_by: Literal["targets", "tokens"] = (
        "targets"  # tokens: a dataset counts by its share of tokens, however few are targets
    )
    observation_loss: float = 0.0  # weight of predicting discrete and continuous observations; the paper's is 0
    smooth_targets: float = 0.0  # sd, in bins, of the soft target of a continuous action; 0 for one-hot
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 where the hardware multiplies it, else float32
    seed: int = 0
    # how the bundle acts
    discrete: Literal["sample", "greedy"] = "sample"
    continuous: Literal["sample", "greedy", "mean"] = "sample"
    temperature: float = 1.0
    # saving
    save_every_seconds: float = 300.0
    save_async: bool = True  # written, hashed and committed beside the training, from a copy
    keep_last: int = 2
    keep_every: int | None = None  # steps: so often a checkpoint is made that stays for ever
    # memory and speed
    activation_checkpointing: bool = False  # blocks are computed again in the backward pass, their insides not kept
    compile: bool = False  # torch.compile of the feed-forward layers

    def __post_init__(self) -> None:
        self._check_fields()
        if (self.steps is None) == (self.seconds is None):
            raise RecipeError(
                "a recipe is bounded by steps or by seconds, one of them", where=self.name, fix="--set steps=1000"
            )
        if self.similar_timesteps < 0 or (self.similar_timesteps and self.prompt_share):
            raise RecipeError(
                f"similar_timesteps {self.similar_timesteps}, prompt_share {self.prompt_share}", where=self.name,
                fix="one of the two; similar_timesteps at least 1, or 0 for none",
            )  # fmt: skip
        for name in ("prompt_share", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(
                    f"{name} {getattr(self, name)} is not a share", where=self.name, fix="between 0 and 1"
                )
        if any(n is not None and n < 1 for n in self.window_timesteps.values()):
            raise RecipeError(
                f"window_timesteps {dict(self.window_timesteps)}",
                where=self.name,
                fix="at least 1, or null for no limit",
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"betas {list(self.betas)}", where=self.name, fix="at least 0, below 1")
        if self.return_filter is not None and not 0 < self.return_filter <= 1:
            raise RecipeError(
                f"return_filter {self.return_filter} is not a share", where=self.name, fix="the paper's 0.8"
            )
        if self.return_ranks and not 2 <= self.return_ranks <= MAX_DISCRETE:
            raise RecipeError(
                f"return_ranks {self.return_ranks}", where=self.name, fix=f"0 for none, or 2 to {MAX_DISCRETE:,}"
            )
        if not 0 <= self.validation_share < 1:
            raise RecipeError(f"validation_share {self.validation_share}", where=self.name, fix="a share, say 0.05")
        if self.observation_loss < 0:
            raise RecipeError(f"observation_loss {self.observation_loss}", where=self.name, fix="0 or a small weight")
        if any(w < 0 for w in self.weights.values()) or not 0 < sum(self.weights.values()) < math.inf:
            raise RecipeError(
                f"weights {dict(self.weights)}", where=self.name, fix="none negative or infinite, not all zero"
            )
        if self.slots % self.accumulate:
            raise RecipeError(
                f"{self.slots} slots in {self.accumulate} parts", where=self.name, fix="accumulate must divide slots"
            )
        if self.keep_last < 1 or (self.keep_every is not None and self.keep_every < 1):
            raise RecipeError(
                f"keep_last {self.keep_last}, keep_every {self.keep_every}", where=self.name, fix="at least 1"
            )
        self.config()  # sizes that do not fit are errors now

    def _check_fields(self) -> None:
        """Raises RecipeError for a value that is not of its field's type, or a number that is too small."""
        for name, hint in _hints().items():
            value = getattr(self, name)
            if not is_a(hint, value):
                choices = [
                    repr(c) for part in (hint, *get_args(hint)) if get_origin(part) is Literal for c in get_args(part)
                ]
                fix = f"one of {', '.join(choices)}" if choices else str(Recipe.__annotations__[name])
                raise RecipeError(f"{name}={value!r}", where=self.name, fix=fix)
            least = 1 if name in POSITIVE else 0
            if isinstance(value, int | float) and not least <= value < math.inf:
                raise RecipeError(f"{name}={value!r}", where=self.name, fix=f"a number of at least {least}")
            if name in ABOVE_ZERO and value == 0:
                raise RecipeError(f"{name}={value!r}", where=self.name, fix="a number above 0")

    def config(self) -> GatoConfig:
        return size(self.size).replace(**self.model)

    @property
    def acting(self) -> dict[str, Any]:
        return {"discrete": self.discrete, "continuous": self.continuous, "temperature": self.temperature}

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Recipe:
        """Raises RecipeError for a field that a recipe does not have, or a value that is not its field's."""
        names = [f.name for f in fields(cls)]
        for name in record:
            if name not in names:
                raise RecipeError(
                    f"a recipe has no field {name!r}", where=str(record.get("name", "")), fix=nearest(name, names)
                )
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        return cls(**values)

    def replace(self, **changes: Any) -> Recipe:
        names = [f.name for f in fields(self)]
        for name in changes:
            if name not in names:
                raise UnknownNameError(f"a recipe has no field {name!r}", fix=nearest(name, names))
        if changes.get("steps") is not None:
            changes.setdefault("seconds", None)
        if changes.get("seconds") is not None:
            changes.setdefault("steps", None)
        return replace(self, **changes)

    def override(self, assignments: list[str]) -> Recipe:
        """`field=value` words of the command line, the value JSON, or True, False, None; `model.field=value` reaches into the
        network's config."""
        changes: dict[str, Any] = {}
        for word in assignments:
            name, equals, text = word.partition("=")
            if not equals:
                raise RecipeError(f"{word!r} is not field=value", fix="--set steps=1000 --set model.layer_width=256")
            try:
                value = json.loads(text)
            except ValueError:
                value = PYTHONS.get(text, text)
            if name.startswith("model."):
                model = changes.get("model", self.model)
                if isinstance(model, Mapping):  # what is none is refused below
                    changes["model"] = {**model, name.removeprefix("model."): value}
            else:
                changes[name] = tuple(value) if isinstance(value, list) else value
        return self.replace(**changes)


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Recipe)


def load_recipe(name: str) -> Recipe:
    """A name shipped in the package, or a Python file that defines `recipe`. Running your file is running your code.

    Raises UnknownNameError where there is neither, RecipeError for a file that does not run or defines none.
    """
    if name in RECIPES:
        return importlib.import_module(f"gato.recipes.{name}").recipe
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise UnknownNameError(
            f"no recipe {name!r}", fix=nearest(name, RECIPES) or f"one of {', '.join(RECIPES)}, or a Python file"
        )
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except GatoError:
        raise
    except Exception as error:
        raise _not_loaded(path, error) from error
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise RecipeError("the file defines no `recipe`", where=str(path), fix="recipe = gato.training.Recipe(…)")
    return recipe


def _not_loaded(path: Path, error: Exception) -> RecipeError:
    """What went wrong in a recipe's file, at which of its lines."""
    lines: list[int | None] = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()
    ]
    what = str(error)
    if isinstance(error, SyntaxError) and not lines:  # of this file, which no frame is in yet
        lines, what = [error.lineno], error.msg
    named = re.search(r"unexpected keyword argument '(\w+)'", what)
    return RecipeError(
        f"the file does not load: {type(error).__name__}: {what}",
        where=f"{path}, line {lines[-1]}" if lines and lines[-1] else str(path),
        fix=(nearest(named[1], [f.name for f in fields(Recipe)]) if named else "")
        or "mend that line, or compare it with a shipped recipe in gato/recipes",
    )
