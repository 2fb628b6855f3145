"""Text ↔ token ids: SentencePiece byte-pair encoding that gives back every character it was given.

    "Return a key.\\n" → [▁-pieces, bytes where no piece fits] → "Return a key.\\n"

Paper section 2.1: SentencePiece, 32,000 sub-words, ids [0, 32000). Ours is lossless: no normalisation, no white space
added or removed, and a byte (`<0x41>`) for whatever has no piece. Two ids are special and stand for no characters:
`<unk>` (0, never made) and `</s>` (1), the end of a document. Written out as text, both are ordinary characters.

SentencePiece writes a space as U+2581, and so would turn a true U+2581 into a space. `encode` spells that one character
as its three bytes, and `decode` joins bytes by itself.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from gato.episodes.manifest import make_folder, write_file_atomically
from gato.errors import CheckpointCorruptError, CheckpointMissingError, TokenizerError

MIN_SIZE = 1024  # discrete values share the first 1,024 ids (paper section 2.1), so there must be that many
SPACE_MARK = "\u2581"  # how a model file writes a space
PROBE = " a\n\t  \u2460e\u0301\u2581 b \0 "  # what normalisers and prefixes change
CHUNK = 1 << 20  # characters handed to the trainer at once; it silently skips sentences beyond its limit


class TextTokenizer:
    """A trained SentencePiece model. Make one with `train`, `load` or `from_bytes`."""

    def __init__(self, model: bytes, where: str = "tokenizer"):
        """Raises CheckpointCorruptError for what is no such model, TokenizerError for one that changes text."""
        damaged = CheckpointCorruptError(
            "not a SentencePiece model with byte fallback and an end mark </s>", where=where,
            fix="copy the file again, or make a new one: gato tokenizer train FILES",
        )  # fmt: skip
        if not model:
            raise damaged
        self._model = bytes(model)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self._model)
            self.eos_id: int = self._processor.piece_to_id("</s>")
            byte_ids = [self._processor.piece_to_id(f"<0x{b:02X}>") for b in range(256)]
            pieces = [self._processor.id_to_piece(i) for i in range(self.size)]
        except (RuntimeError, UnicodeError, IndexError) as error:
            raise damaged from error
        if not self._processor.is_control(self.eos_id) or not all(map(self._processor.is_byte, byte_ids)):
            raise damaged
        self._bytes = [piece.replace(SPACE_MARK, " ").encode() for piece in pieces]
        for b, i in enumerate(byte_ids):
            self._bytes[i] = bytes([b])
        for i in (self.eos_id, self._processor.unk_id()):
            self._bytes[i] = b""
        self._space_mark_ids = [byte_ids[b] for b in SPACE_MARK.encode()]
        if self.decode(self.encode(PROBE)) != PROBE:
            raise TokenizerError(
                "this SentencePiece model changes text (it normalises, or adds or removes white space)", where=where,
                fix="make one that does not: gato tokenizer train FILES",
            )  # fmt: skip

    @property
    def size(self) -> int:
        """Number of ids, special ones included."""
        return self._processor.get_piece_size()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model: two tokenizers with the same fingerprint give the same ids."""
        return hashlib.sha256(self._model).hexdigest()

    def __repr__(self) -> str:
        return f"TextTokenizer({self.size:,} pieces, {self.fingerprint[:12]})"

    def __len__(self) -> int:
        return self.size

    def __reduce__(self):  # crosses process boundaries
        return TextTokenizer.from_bytes, (self._model,)

    # -- text ↔ ids ---------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> np.ndarray:
        """Ids, int32 (tokens,), without an end mark. Raises TokenizerError for what is not Unicode."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[np.ndarray]:
        """`encode` for many texts, several times faster than one by one."""
        for n, text in enumerate(texts):
            _check(text, f"text {n}")
        plain = [SPACE_MARK not in text for text in texts]
        fast = iter(self._processor.encode([t for t, p in zip(texts, plain, strict=True) if p], num_threads=threads))
        return [
            np.array(next(fast) if p else self._encode_around_marks(text), np.int32)
            for text, p in zip(texts, plain, strict=True)
        ]

    def _encode_around_marks(self, text: str) -> list[int]:
        first, *rest = self._processor.encode(text.split(SPACE_MARK))
        return sum((self._space_mark_ids + ids for ids in rest), first)

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text. Special ids are silent; bytes that are no UTF-8 (a model's, never `encode`'s) become U+FFFD."""
        ids = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.size):
            raise TokenizerError(f"ids {ids.min()}…{ids.max()} are not all text ids, 0…{self.size - 1}")
        return b"".join([self._bytes[i] for i in ids.tolist()]).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int] | np.ndarray) -> list[str]:
        """Each id as people write it: `▁the`, `<0x0A>`, `</s>`."""
        return [self._processor.id_to_piece(int(i)) for i in ids]

    # -- training -----------------------------------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> TextTokenizer:
        """A tokenizer of exactly `size` pieces; the same texts give the same model.

        Raises TokenizerError where `size` is under 1,024, or the texts do not hold that many pieces (it then names the
        largest possible size). What `texts` raises passes through.
        """
        if size < MIN_SIZE:
            raise TokenizerError(
                f"a vocabulary of {size:,}; at least {MIN_SIZE:,} are needed, since discrete values share those ids",
                fix=f"--size {MIN_SIZE}",
            )
        model = io.BytesIO()
        chunks = _Chunks(texts)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(chunks), model_writer=model, model_type="bpe", vocab_size=size,
                byte_fallback=True, character_coverage=0.9995,  # the rarest characters are spelt in bytes
                normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True, split_digits=True,  # indentation is one piece, a digit its own
                unk_id=0, eos_id=1, bos_id=-1, pad_id=-1, max_sentence_length=4 * CHUNK + 1,
                num_threads=1, minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:
            if chunks.error:
                raise chunks.error from None
            raise _training_error(str(error), size, chunks.characters) from error
        if chunks.error:
            raise chunks.error
        return cls(model.getvalue())

    # -- files --------------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        return self._model

    @classmethod
    def from_bytes(cls, model: bytes) -> TextTokenizer:
        return cls(model)

    def save(self, path: str | Path) -> Path:
        """Write the model, a plain SentencePiece file that other programs read too."""
        path = Path(path)
        make_folder(path.parent)
        write_file_atomically(path, self._model)
        return path

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """Raises CheckpointMissingError or CheckpointCorruptError, both named after the file."""
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise CheckpointMissingError(
                f"no readable tokenizer file ({error.strerror})", where=str(path), fix="gato tokenizer train FILES"
            ) from error
        return cls(model, where=str(path))


class _Chunks:
    """Texts in pieces the trainer takes whole. It keeps what `texts` raised: the trainer would report it as its own."""

    def __init__(self, texts: Iterable[str]):
        self.texts, self.characters = texts, 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for n, text in enumerate(self.texts):
                _check(text, f"text {n}")
                for start in range(0, len(text), CHUNK):
                    chunk = text[start : start + CHUNK]
                    self.characters += len(chunk)
                    yield chunk.replace(SPACE_MARK, " ")  # encoded as bytes, so it must not be learned as a space mark
        except Exception as error:
            self.error = error


def _check(text: str, where: str) -> None:
    if not isinstance(text, str):
        raise TokenizerError(f"expected text, got {type(text).__name__}", where=where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"character {error.start} is U+{ord(text[error.start]):04X}, half of a surrogate pair, and not Unicode",
            where=where, fix='text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") mends or marks it',
        ) from error  # fmt: skip


def _training_error(said: str, size: int, characters: int) -> TokenizerError:
    """The trainer's complaint in our words."""
    if not characters:
        return TokenizerError("no text to train on", fix="name files that are not empty")
    if largest := re.search(r"set it to a value <= (\d+)", said):
        possible = int(largest[1])
        fix = f"--size {possible}" if possible >= MIN_SIZE else f"give more text: {MIN_SIZE:,} pieces are the least"
        return TokenizerError(
            f"{characters:,} characters of text hold at most {possible:,} pieces, {size:,} were asked for", fix=fix
        )
    if smallest := re.search(r"required_chars\. \d+ vs (\d+)", said):
        return TokenizerError(
            f"the text's own characters and the 256 bytes take {int(smallest[1]):,} pieces, {size:,} were asked for",
            fix=f"--size {2 * int(smallest[1])}",
        )
    return TokenizerError(f"training failed: {said}", fix="try a smaller --size")
