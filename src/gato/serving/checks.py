"""Bytes become values: JSON, msgpack, arrays and images, each checked before memory is taken for it.

    {"position": [0.1, 0.2]}                                          numbers, nested lists
    {"observation": {"dtype": "uint8", "shape": [64, 80, 3], "data": …}}   an array: bytes in msgpack, base64 in JSON

Whatever is wrong is a `Refused` that names the field.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import warnings
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from PIL import Image, ImageOps

from gato.episodes import TaskSpec
from gato.episodes.spec import Spec, check_value
from gato.errors import GatoError
from gato.serving.limits import Refused

DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
ARRAY_KEYS = {"dtype", "shape", "data"}
FORMATS = ("PNG", "JPEG", "WEBP")
MSGPACK, JSON = "application/msgpack", "application/json"
DEPTH = 32  # of nested lists and maps
FEW = 4096  # elements of lists and maps, all together, where no array is expected: some milliseconds to read


def most_listed(spec: TaskSpec, most_text: int) -> int:
    """How many elements an observation may be written with: its arrays as nested lists, in which each dimension has its own,
    and a few for the names. A text counts as long as it may be, since what separates elements separates words too."""
    leaves = spec.observation.values()
    return FEW + sum(
        16 + (most_text if leaf.kind == "text" else leaf.size * max(1, len(leaf.shape))) for leaf in leaves
    )


def decode(body: bytes | str, kind: str, most: int = FEW) -> Any:
    """A body of content type `kind` with at most so many elements. Raises Refused (400, 413, 415).

    Elements are counted before they are made: four megabytes of them keep the interpreter, and with it every other session, for
    a second or more, in whatever thread they are read.
    """
    kind = kind.split(";")[0].strip().lower()
    if kind not in (JSON, MSGPACK):
        raise Refused(
            415, "content-type", f"{kind or 'no type'} is not understood", "content-type", f"{JSON} or {MSGPACK}"
        )
    try:
        if kind == MSGPACK:
            assert isinstance(body, bytes)
            count = _Count(most)
            value = msgpack.unpackb(
                body, strict_map_key=True, ext_hook=_no_extensions, timestamp=0,
                max_array_len=most, max_map_len=most, list_hook=count, object_hook=count,
            )  # fmt: skip
        else:
            if _at_most(body) > most:
                raise _too_many(most)
            value = json.loads(body)
        return _shallow(value, DEPTH)
    except Refused:
        raise
    except (ValueError, RecursionError, OverflowError, TypeError, msgpack.UnpackException) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise Refused(400, "body", f"the body is not {kind}: {said}", "body") from None


def encode(value: Any, kind: str) -> bytes:
    """The other way: numpy arrays become lists in JSON and {"dtype", "shape", "data"} in msgpack."""
    if kind == MSGPACK:
        return msgpack.packb(value, default=_pack_array)
    return json.dumps(value, default=lambda array: array.tolist(), allow_nan=False).encode()


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return {"dtype": str(value.dtype), "shape": list(value.shape), "data": np.ascontiguousarray(value).tobytes()}


def _at_most(body: bytes | str) -> int:
    """Elements of a JSON text: each of them stands behind one of these."""
    if isinstance(body, str):
        return sum(body.count(c) for c in ",[{")
    return sum(body.count(c) for c in b",[{")


class _Count:
    """Lets lists and maps by until they have too many elements together."""

    def __init__(self, most: int):
        self._most, self._left = most, most

    def __call__(self, value: Any) -> Any:
        self._left -= len(value)
        if self._left < 0:
            raise _too_many(self._most)
        return value


def _too_many(most: int) -> Refused:
    fix = 'an array as {"dtype", "shape", "data"}'
    return Refused(413, "too-large", f"lists and maps of more than {most:,} elements", "body", fix)


def _no_extensions(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


def _shallow(value: Any, depth: int) -> Any:
    """What is nested deeper than any observation is refused, before other code descends into it."""
    layer, seen = [value], 0
    while layer and seen <= depth:
        layer = [v for x in layer if isinstance(x, list | dict) for v in (x.values() if isinstance(x, dict) else x)]
        seen += 1
        if layer and not any(isinstance(x, list | dict) for x in layer):
            return value
    if layer:
        raise Refused(400, "body", f"nested deeper than {depth}", "body")
    return value


# -- observations -----------------------------------------------------------------------------------------------------


def observation(spec: TaskSpec, value: Any, most_text: int) -> dict[str, Any]:
    """{path: checked leaf} of one timestep. Raises Refused (422) naming the field, `observation.position`; 413 for a text of more
    than `most_text` characters, before it is made into tokens."""
    flat = _leaves(value, spec)
    missing, extra = [k for k in spec.observation if k not in flat], [k for k in flat if k not in spec.observation]
    if missing or extra:
        name = missing[0] if missing else str(extra[0])[:100]
        said = "is missing" if missing else "is unexpected"
        known = ", ".join(spec.observation)
        raise Refused(422, "observation", f"{name} {said}", f"observation.{name}", f"expected fields: {known}")
    for path, leaf in flat.items():
        if isinstance(leaf, str) and len(leaf) > most_text:
            said = f"{len(leaf):,} characters; at most {most_text:,}"
            raise Refused(413, "too-large", said, f"observation.{path}", "a shorter text")
    return {path: _leaf(s, flat[path], f"observation.{path}") for path, s in spec.observation.items()}


def _leaves(value: Any, spec: TaskSpec) -> dict[str, Any]:
    """{path: leaf} of nested fields, and of lists where the spec has tuples. Any other value, or an array written as fields, is
    one leaf."""
    out: dict[str, Any] = {}
    tuples = {known[:-1].rstrip("/") for known in _prefixes(spec) if known.rpartition("/")[2] == "0"}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and set(value) != ARRAY_KEYS:
            for key, inside in value.items():
                walk(inside, f"{path}/{key}" if path else str(key))
        elif isinstance(value, list) and path in tuples:
            for number, inside in enumerate(value):
                walk(inside, f"{path}/{number}" if path else str(number))
        else:
            out[path or "observation"] = value

    walk(value, "")
    return out


def _prefixes(spec: TaskSpec) -> set[str]:
    """All paths of the spec's leaves, and of what they are in."""
    names = [path.split("/") for path in spec.observation]
    return {"/".join(each[:depth]) for each in names for depth in range(1, len(each) + 1)}


def _leaf(spec: Spec, value: Any, field: str) -> Any:
    try:
        if isinstance(value, dict):
            value = array(value, field)
        if spec.kind == "text":
            return check_value(spec, value, field)
        if not isinstance(value, np.ndarray):
            value = _from_lists(value, spec, field)
        return check_value(spec, value, field)
    except GatoError as error:
        raise Refused(422, error.code, error.what, field, error.fix) from None
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(422, "observation", f"not an array: {str(error)[:200]}", field) from None


def _from_lists(value: Any, spec: Spec, field: str) -> np.ndarray:
    """Numbers in nested lists. They come without a type, so pixels are recognised by their range."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise Refused(422, "observation", f"expected numbers, got {array.dtype}", field)
    if spec.kind == "image" and array.dtype.kind == "i" and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    return array


def array(record: Mapping[str, Any], field: str) -> np.ndarray:
    """{"dtype", "shape", "data"} → an array over the bytes received. Raises Refused (422)."""

    def wrong(said: str) -> Refused:
        return Refused(422, "observation", said, field, '{"dtype": "float32", "shape": [3], "data": bytes or base64}')

    if set(record) != ARRAY_KEYS:
        raise wrong("expected an array, got fields")
    dtype, shape, data = record["dtype"], record["shape"], record["data"]
    if dtype not in DTYPES:
        raise wrong(f"dtype {str(dtype)[:40]!r}; one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape) or len(shape) > 8:
        raise wrong("shape is not a list of sizes")
    if isinstance(data, str):
        try:
            data = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise wrong("data is not base64") from None
    if not isinstance(data, bytes):
        raise wrong("data is not bytes")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(data):
        raise wrong(f"{len(data)} bytes are not {dtype} {shape}")
    return np.frombuffer(data, dtype).reshape(shape)


# -- images -----------------------------------------------------------------------------------------------------------


def image(encoded: str, most_pixels: int, field: str = "image") -> Image.Image:
    """Base64 (or a data: address) of a picture file → the opened, not yet decoded picture. Raises Refused (413, 422).

    Its header says how large it is: 20 kB can claim 500 MB, and is refused for that.
    """
    head, _, rest = encoded.partition(",")
    if head.startswith("data:"):
        encoded = rest
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "image", "not base64", field) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise Refused(413, "too-large", f"more than {most_pixels:,} pixels", field) from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise Refused(422, "image", f"not a readable picture ({type(error).__name__})", field, _formats()) from None
    if picture.width * picture.height > most_pixels:
        raise Refused(
            413, "too-large", f"{picture.width:,} × {picture.height:,} pixels; at most {most_pixels:,}", field,
            "make it smaller first",
        )  # fmt: skip
    return picture


def pixels(picture: Image.Image, field: str = "image", side: int = 512) -> Image.Image:
    """Decoded, upright, in RGB, no side longer than `side` pixels: what an agent looks at. Raises Refused (422)."""
    try:
        picture.draft("RGB", (2 * side, 2 * side))  # JPEGs decode at a fraction of their size
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        upright.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
        return upright
    except Exception as error:
        raise Refused(422, "image", f"a damaged picture ({type(error).__name__})", field, _formats()) from None


def _formats() -> str:
    return ", ".join(FORMATS)
