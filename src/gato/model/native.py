"""A lone token in C: the part of acting whose time is all reading of weights.

Of a decision of A action tokens, A - 1 passes bring a single token to a single slot. The library's product of one row reads
memory at about half the speed at which memory can be read, and a small network spends such a pass in the calls between
products: here it is one call.

`native.c` is compiled when it is first needed, with the C compiler that is there, for the processor that is there, into the
user's cache. Where that cannot be, everything goes the library's way, and `gato doctor` says why. `GATO_NATIVE=0` switches it
off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from gato.model.cache import RingCache
from gato.model.transformer import Gato

FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
WORTH_THREADS = 4_000_000  # weights; fewer are read faster than a second thread wakes up
SECONDS = 60.0  # that a compiler may take


class _Block(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            "norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias", "query", "key", "value", "out", "hidden", "down",
            "content_bias", "distance_bias",
        )
    ]  # fmt: skip


class LoneToken:
    """The blocks of a model for one row of one token, weights at "float32" or "float16". `LoneToken.of` makes one, or none."""

    def __init__(self, model: Gato, half: bool, library: ctypes.CDLL):
        config = model.config
        self._half, self._library, self._config = half, library, config
        self._eps = float(model.blocks[0].norm1.eps)  # type: ignore[union-attr, arg-type]
        self._held: list[torch.Tensor] = []  # what the pointers point at
        self._blocks = (_Block * len(model.blocks))(*(self._block(block) for block in model.blocks))
        self._many = sum(t.numel() for t in self._held) >= WORTH_THREADS

    @classmethod
    def of(cls, model: Gato, precision: str) -> LoneToken | None:
        """None where the network, the precision, the device or this machine is not one that the C knows."""
        config, weight, half = model.config, next(model.parameters()), precision == "float16"
        whole_lanes = config.layer_width % 16 == config.feedforward_hidden_size % 32 == 0
        if (
            not whole_lanes
            or precision not in ("float32", "float16")
            or weight.device.type != "cpu"
            or weight.dtype != torch.float32
        ):
            return None
        library, _ = load()
        return None if library is None or (half and not library.gato_half()) else cls(model, half, library)

    def _block(self, block: Any) -> _Block:
        a, f = block.attention, block.feedforward
        plain = [block.norm1.weight, block.norm1.bias, block.norm2.weight, block.norm2.bias]
        matrices = [a.query, a.key, a.value, a.out, f.hidden, f.out]
        kept = [t.detach().contiguous() for t in plain]
        kept += [t.detach().to(torch.float16 if self._half else torch.float32).contiguous() for t in matrices]
        if a.kind == "xl":
            kept += [t.detach().contiguous() for t in (a.content_bias, a.distance_bias)]
        self._held += kept
        return _Block(*(t.data_ptr() for t in kept))

    def __call__(
        self,
        x: torch.Tensor,
        cache: RingCache,
        slot: int,
        entry: int,
        turn: tuple[torch.Tensor, torch.Tensor] | None,
        relative: Sequence[torch.Tensor],
    ) -> None:
        """x (D,) in place, from what the first block gets to what the last one gives. The token is the one that has just taken
        this entry of the slot; its keys and values are written there.

        `turn`: cosines and signed sines (d,) of its position, for a network whose positions rotate. `relative`: for one whose
        positions are relative, what each block makes of distances, (H, reach, d).
        """
        c, size = self._config, cache.position.shape[1]
        width, threads = c.layer_width, torch.get_num_threads() if self._many else 1
        scratch = torch.empty(5 * width + c.feedforward_hidden_size // 2 + 2 * size + threads * (2 * width + size))
        keys, values = cache.keys[:, slot], cache.values[:, slot]
        tables = (ctypes.c_void_p * len(relative))(*(t.data_ptr() for t in relative)) if relative else None
        self._library.gato_token(
            self._blocks, len(self._blocks), width, c.num_attention_heads, c.feedforward_hidden_size, size, int(self._half),
            ctypes.c_float(self._eps), *map(_at, (x, keys, values)), ctypes.c_int64(keys.stride(0)), entry,
            *map(_at, (cache.position[slot], cache.time[slot])), *(ctypes.c_int64(int(far[slot])) for far in (cache.band, cache.span)),
            *map(_at, turn or (None, None)), tables, relative[0].shape[1] if relative else 0, _at(scratch), threads,
        )  # fmt: skip

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """hidden (D,), rows (ids, D) of the table → (ids,)."""
        out = torch.empty(len(rows))
        threads = torch.get_num_threads() if rows.numel() >= WORTH_THREADS // 8 else 1
        self._library.gato_logits(_at(rows), *rows.shape, _at(hidden), _at(out), threads)
        return out


def _at(t: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if t is None else t.data_ptr())


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """(the compiled library, where it is), or (None, why there is none)."""
    if os.environ.get("GATO_NATIVE") == "0":
        return None, "switched off by GATO_NATIVE=0"
    compiler = shutil.which(os.environ.get("CC", "cc"))
    source = resources.files("gato.model").joinpath("native.c").read_bytes()
    key = hashlib.sha256(b"\0".join([source, " ".join(FLAGS).encode(), _processor()])).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gato"
        made = folder / f"native-{key}.so"
        if not made.exists():
            if compiler is None:
                return None, "no C compiler (cc) was found"
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as beside:
                (Path(beside) / "native.c").write_bytes(source)
                told = subprocess.run(
                    [compiler, *FLAGS, "native.c", "-o", "native.so", "-lm"],
                    cwd=beside,
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                )
                if told.returncode:
                    return None, f"{compiler} could not compile it: {told.stderr.strip()[:200]}"
                os.replace(Path(beside) / "native.so", made)
        library = ctypes.CDLL(str(made))
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:  # RuntimeError: there is no home
        return None, str(error)
    library.gato_token.restype = library.gato_logits.restype = None
    return library, str(made)


def _processor() -> bytes:
    """What `-march=native` depends on: a cache may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})).encode()
