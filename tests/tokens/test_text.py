"""Text tokens: nothing is lost, nothing is random, and every limit has a name."""

import copy
import io
import time

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gato.errors import CheckpointCorruptError, CheckpointMissingError, TokenizerError
from gato.tokens.text import SPACE_MARK, TextTokenizer


def lines(seed: int, count: int = 3000) -> list[str]:
    """Sentences of made-up words, enough of them for a vocabulary of 1,024."""
    rng = np.random.default_rng(seed)
    syllables = np.array([c + v for c in "bcdfghjklmnprstvz" for v in "aeiou"])
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(2000)]
    return [" ".join(sentence) + ".\n\n    >>> 1024\n" for sentence in rng.choice(words, (count, 12))]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(lines(0), 1024)


EVERYTHING = st.text(st.characters(exclude_categories=["Cs"]))
WRITTEN_OUT = st.lists(st.sampled_from(["</s>", "<s>", "<unk>", "<0x41>", "\u2581", "\u2585", "\t", " ", "\r\n", "a"]))


@given(st.one_of(EVERYTHING, WRITTEN_OUT.map("".join)))
@example("")
@example("\0")
@example("\u2581")
@example(" \u2581 \u2581\u2581a</s><0x41><unk>")
@example("  two  spaces \n\n\t\ttabs \r\n \ufeff\ufffd\U0010ffff\u0301e\u0301 ")
@settings(max_examples=400, deadline=None)
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_id not in ids and 0 not in ids  # special ids are never made from text


EMOJI = st.text(
    st.one_of(
        st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF),
        st.characters(min_codepoint=0x1F1E6, max_codepoint=0x1F1FF),  # flags are pairs of these
        st.characters(min_codepoint=0x1F3FB, max_codepoint=0x1F3FF),  # skin tones
        st.characters(min_codepoint=0xE0020, max_codepoint=0xE007F),  # tags
        st.sampled_from("\u200d\ufe0e\ufe0f\u20e3#*0"),  # joiners, variation selectors, keycaps
    )
)
RIGHT_TO_LEFT = st.text(
    st.one_of(
        st.characters(min_codepoint=0x0590, max_codepoint=0x08FF),  # Hebrew, Arabic, Syriac, their marks
        st.characters(min_codepoint=0xFB1D, max_codepoint=0xFEFC),  # presentation forms
        st.sampled_from("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069 a1"),
    )
)
CONTROL = st.text(
    st.one_of(
        st.characters(max_codepoint=0x1F),
        st.characters(min_codepoint=0x7F, max_codepoint=0x9F),
        st.sampled_from("\u00a0\u00ad\u2028\u2029\u200b\u2060\u3000\ufeff\ufff9\ufffe\uffff\U0001fffe\U0010ffff"),
    )
)
MARKED = st.text(st.sampled_from("\u2580\u2581\u2582 \u00a0a\n\0\U0001f600\u05d0"))  # the space mark and its neighbours
COMPOSED = st.text(
    st.sampled_from("é\u0065\u0301\u212b\u00c5ﬁ①Ⅳ가\u1100\u1161\u0344Ω\u2126")
)  # what NFC, NFKC would change


@given(st.lists(st.one_of(EMOJI, RIGHT_TO_LEFT, CONTROL, MARKED, COMPOSED, EVERYTHING), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_every_script_sign_and_control_character_comes_back_alone_and_mixed(tokenizer, parts):
    for text in (*parts, "".join(parts), SPACE_MARK.join(parts)):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = np.concatenate([tokenizer.encode(part) for part in parts])  # tokens laid after one another, as in a sequence
    assert tokenizer.decode(ids) == "".join(parts)


@given(st.lists(st.one_of(MARKED, EMOJI, RIGHT_TO_LEFT), max_size=4))
@settings(max_examples=8, deadline=None)
def test_a_tokenizer_that_learned_from_such_texts_loses_nothing(parts):
    texts = [*lines(5, 1200), *parts, "\u2581 \u2581\u2581 a\u2581b " * 50]
    learned = TextTokenizer.train(texts, 1024)
    for text in (*texts[-len(parts) - 1 :], " \u2581 ", "\u2581", " "):
        assert learned.decode(learned.encode(text)) == text


@pytest.mark.slow
def test_every_code_point_there_is_comes_back(tokenizer):
    for start in range(0, 0x110000, 0x800):
        if not 0xD800 <= start < 0xE000:  # halves of surrogate pairs are no characters
            block = "".join(map(chr, range(start, start + 0x800)))
            assert tokenizer.decode(tokenizer.encode(block)) == block, hex(start)


def test_every_character_of_the_planes_comes_back(tokenizer):
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000), *range(0x1F000, 0x20000)]))
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


@given(st.lists(EVERYTHING, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_batch_is_its_texts_one_by_one(tokenizer, texts):
    texts = [*texts, "a \u2581 b"]
    for ids, text in zip(tokenizer.encode_batch(texts), texts, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))


def test_the_end_mark_is_one_silent_id(tokenizer):
    assert tokenizer.pieces([tokenizer.eos_id]) == ["</s>"]
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.eos_id]) == "a"
    assert len(tokenizer.encode("</s>")) > 1


def test_the_size_is_the_size_asked_for_and_text_gets_shorter(tokenizer):
    assert tokenizer.size == len(tokenizer) == 1024
    text = "".join(lines(0, 50))
    assert len(tokenizer.encode(text)) < len(text) / 2


def test_halves_of_characters_decode_to_a_mark(tokenizer):
    half = tokenizer.encode("日")[:1]
    assert tokenizer.decode(half) == "\ufffd"


def test_training_is_deterministic_and_other_texts_give_another_model():
    first, second, other = (TextTokenizer.train(iter(lines(seed)), 1024) for seed in (1, 1, 2))
    assert first.to_bytes() == second.to_bytes() and first.fingerprint == second.fingerprint
    assert first.fingerprint != other.fingerprint


def test_three_megabytes_train_and_encode_quickly():
    texts = lines(3, 30_000)
    begun = time.process_time()
    tokenizer = TextTokenizer.train(texts, 2048)
    trained = time.process_time()
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    assert trained - begun < 15 and tokens / (time.process_time() - trained) > 200_000


def test_a_training_text_longer_than_the_trainer_takes_is_not_dropped():
    long = "".join(lines(4, 35_000))  # one document of some megabytes
    assert len(long) > 2_000_000
    assert TextTokenizer.train([long], 1024).size == 1024


def test_files_and_bytes_give_the_same_tokenizer(tokenizer, tmp_path):
    file = tokenizer.save(tmp_path / "tokenizer" / "text.model")
    for again in (
        TextTokenizer.load(file),
        TextTokenizer.from_bytes(tokenizer.to_bytes()),
        copy.copy(tokenizer),  # as it crosses processes
    ):
        assert again.fingerprint == tokenizer.fingerprint and again.eos_id == tokenizer.eos_id
        np.testing.assert_array_equal(again.encode("Bada boku ▁\n"), tokenizer.encode("Bada boku ▁\n"))
    assert [p.name for p in file.parent.iterdir()] == ["text.model"]


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_truncated_model_file_is_named(tokenizer, tmp_path, keep):
    file = tmp_path / "text.model"
    file.write_bytes(tokenizer.to_bytes()[:keep])
    with pytest.raises(CheckpointCorruptError, match=r"text\.model"):
        TextTokenizer.load(file)


def test_other_files_and_missing_files_are_named(tmp_path):
    (tmp_path / "photo.model").write_bytes(b"\x89PNG\r\n" * 50)
    with pytest.raises(CheckpointCorruptError, match=r"photo\.model"):
        TextTokenizer.load(tmp_path / "photo.model")
    with pytest.raises(CheckpointMissingError, match=r"none\.model"):
        TextTokenizer.load(tmp_path / "none.model")


def test_a_lone_surrogate_is_a_named_error(tokenizer):
    with pytest.raises(TokenizerError, match=r"character 2 is U\+D800.*surrogate"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(TokenizerError, match="text 1"):
        tokenizer.encode_batch(["fine", "\udfff"])
    with pytest.raises(TokenizerError, match="text 1"):
        TextTokenizer.train(["fine", "\udfff"], 1024)
    with pytest.raises(TokenizerError, match="expected text, got bytes"):
        tokenizer.encode(b"bytes")


def test_ids_outside_the_text_range_are_refused(tokenizer):
    for ids in ([1024], [-1], np.array([5, 5000])):
        with pytest.raises(TokenizerError, match="0…1023"):
            tokenizer.decode(ids)
    assert tokenizer.decode([]) == ""


def test_sizes_that_cannot_be_say_what_can():
    with pytest.raises(TokenizerError, match=r"at least 1,024"):
        TextTokenizer.train(lines(0), 200)
    with pytest.raises(
        TokenizerError, match=r"at most [\d,]+ pieces, 60,000 were asked for\n  next: --size \d+"
    ) as said:
        TextTokenizer.train(lines(0), 60_000)
    largest = int(said.value.fix.split()[-1])
    assert TextTokenizer.train(lines(0), largest).size == largest
    with pytest.raises(TokenizerError, match="give more text"):
        TextTokenizer.train(["hello world"], 1024)
    with pytest.raises(TokenizerError, match="no text"):
        TextTokenizer.train(["", ""], 1024)
    han = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    with pytest.raises(TokenizerError, match=r"take 3,\d+ pieces"):
        TextTokenizer.train([han], 1024)


def test_a_foreign_model_that_changes_text_is_refused():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # the library's own defaults, but for the bytes
        sentence_iterator=iter(lines(0)), model_writer=model, vocab_size=1024, byte_fallback=True, minloglevel=2
    )
    with pytest.raises(TokenizerError, match="changes text"):
        TextTokenizer.from_bytes(model.getvalue())


def test_what_the_reader_of_files_raises_is_not_lost():
    def broken():
        yield "some text"
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        TextTokenizer.train(broken(), 1024)
