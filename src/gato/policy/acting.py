"""How an agent acts: a handful of named options, checked before an episode begins."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gato.errors import UnknownNameError, UsageError, nearest
from gato.model.bundle import Bundle
from gato.model.decoder import PRECISIONS
from gato.sequences.returns import num_ranks

CHOICES: dict[str, tuple[Any, ...]] = {
    "discrete": ("sample", "greedy"), "continuous": ("sample", "greedy", "mean"), "memory": ("window", "xl"),
    "precision": PRECISIONS, "verify": (None, "last", "parallel"),
}  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "discrete": "sample",
    "continuous": "sample",
    "temperature": 1.0,  # of what is sampled, and of a mean
    "top_k": None,  # only the k likeliest ids of a token are sampled
    "memory": "window",  # "xl": keys reach back one context more than the network was trained on (paper section 2.4)
    "precision": "float32",  # of the weights: "float16", "bf16" and "int8" are read faster (gato.model.decoder)
    "return_rank": None,  # how good an episode to ask for, where the network was told of demonstrations; None: the best
    "verify": None,  # guess all of an action, check it in one pass: "last", the last action, or "parallel", blank tokens
}


def check_acting(options: Mapping[str, Any]) -> dict[str, Any]:
    """All options, the defaults where nothing is said. Raises UnknownNameError, UsageError."""
    for name, value in options.items():
        if name not in DEFAULTS:
            raise UnknownNameError(
                f"no way of acting is called {name!r}", fix=nearest(name, DEFAULTS) or f"one of {', '.join(DEFAULTS)}"
            )
        if name in CHOICES and value not in CHOICES[name]:
            raise UsageError(f"{name}={value!r}", fix=f"one of {', '.join(map(str, CHOICES[name]))}")
        if name == "temperature" and not (_is_number(value) and 0 < value < math.inf):
            raise UsageError(f"temperature={value!r}", fix="a number above 0; discrete=greedy for the likeliest")
        if (
            name == "return_rank"
            and value is not None
            and not (_is_number(value) and value == int(value) and value >= 0)
        ):
            raise UsageError(f"return_rank={value!r}", fix="a whole number from 0, the worst")
        if name == "top_k" and value is not None and not (_is_number(value) and value == int(value) and value >= 1):
            raise UsageError(f"top_k={value!r}", fix="a whole number from 1")
    # numpy's numbers too are taken, and said in Python's, for they are written down as JSON
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
    return {**DEFAULTS, **plain}


def check_rank(acting: Mapping[str, Any], bundle: Bundle, tasks: Iterable[str]) -> None:
    """Raises UsageError for a `return_rank` that none of these tasks has, or, where they were told of none, none of the bundle's."""
    ranks = {task: num_ranks(card.spec) for task, card in bundle.tasks.items()}
    most = max((ranks[task] for task in tasks), default=0) or max(ranks.values(), default=0)
    if acting.get("return_rank") is not None and acting["return_rank"] >= most:
        raise UsageError(
            f"return_rank={acting['return_rank']}: the network was told of {most or 'no'} ranks",
            fix=f"0, the worst, to {most - 1}" if most else "leave it out, or train with return_ranks",
        )


def check_seed(seed: Any) -> int:
    """Raises UsageError for what no sampling can begin from."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(f"seed={seed!r}", fix="a whole number from 0")
    return number


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
