"""Text becomes documents: in order, whole, split for ever, and bad files are named."""

import hashlib
import json

import pytest

from gato.corpora import TEXT_SPEC, split_of
from gato.corpora.text import python_docs, text_files
from gato.errors import DataError, UnknownNameError, UsageError


def texts(episodes) -> list[str]:
    return [e.check(TEXT_SPEC).observations["text"][0] for e in episodes]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b.md").write_text("# second\r\n", newline="")
    (tmp_path / "a.txt").write_text("\ufefffirst\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.jsonl").write_text('{"text": "third"}\n\n{"text": "fourth \\u2581"}\n')
    (tmp_path / "sub" / "empty.txt").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_a_folder_is_read_in_name_order(folder):
    assert texts(text_files([folder])) == ["first\n", "# second\r\n", "third", "fourth ▁"]
    assert texts(text_files([folder / "b.md"])) == ["# second\r\n"]
    assert [e.info["document"] for e in text_files([folder])] == ["a.txt#0", "b.md#0", "sub/c.jsonl#0", "sub/c.jsonl#1"]


def test_a_long_file_is_cut_at_line_ends_and_nothing_is_lost(tmp_path):
    whole = "".join(f"line {i} é\n" for i in range(1000)) + "x" * 700 + "\nlast"
    (tmp_path / "long.txt").write_text(whole)
    parts = texts(text_files([tmp_path], max_bytes=256))
    assert "".join(parts) == whole and max(map(len, parts)) <= 256
    assert all(part.endswith("\n") for part in parts if "x" not in part and part != parts[-1])


def test_reading_is_lazy(folder):
    (folder / "z.txt").write_bytes(b"\xff\xfe\x00")
    episodes = text_files([folder])
    assert next(episodes).observations["text"] == ["first\n"]  # the bad file comes last, and has not been opened
    with pytest.raises(DataError, match=r"z\.txt"):
        list(episodes)


def test_splits_are_disjoint_complete_and_do_not_depend_on_the_place(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for i in range(300):
            (tmp_path / place / f"{i}.txt").write_text(str(i))
    train, heldout, both, moved = (
        set(texts(text_files([tmp_path / place], split=split)))
        for place, split in (("here", "train"), ("here", "heldout"), ("here", None), ("there", "heldout"))
    )
    assert not train & heldout and train | heldout == both and len(both) == 300
    assert 8 <= len(heldout) <= 50 and heldout == moved


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("latin.txt", "caf\xe9".encode("latin1"), "latin.txt"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', "a.jsonl line 2"),
        ("b.jsonl", b'{"text": 5}\n', "b.jsonl line 1"),
        ("c.jsonl", b"[1]\n", "c.jsonl line 1"),
        ("d.jsonl", b"[" * 100_000, "d.jsonl line 1"),
        ("e.jsonl", b'{"text": "\\ud800"}\n', "e.jsonl line 1"),
        ("f.jsonl", b'{"text": "\xff"}\n', "f.jsonl line 1"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(text_files([tmp_path]))


def test_bad_paths_and_splits_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="nowhere"):
        list(text_files([tmp_path / "nowhere"]))
    with pytest.raises(UnknownNameError, match=r"no .*\.txt"):
        list(text_files([tmp_path]))
    with pytest.raises(UsageError, match="did you mean heldout"):
        list(python_docs("held-out"))  # type: ignore[arg-type]


def test_a_split_never_moves():
    """Golden: a change of the hash would put held-out documents into training."""
    assert [name for name in map(str, range(60)) if split_of(name) == "heldout"] == ["39", "49", "51", "55"]


# -- the standard library's documentation -----------------------------------------------------------------------------


def test_python_docs_are_whole_modules_without_shared_strings():
    splits = {split: list(python_docs(split)) for split in ("train", "heldout")}
    names = {split: [e.info["document"] for e in episodes] for split, episodes in splits.items()}
    assert not set(names["train"]) & set(names["heldout"]) and "json.decoder" in names["train"] + names["heldout"]
    assert all(listed == sorted(set(listed)) for listed in names.values())
    size = {split: sum(len(t.encode()) for t in texts(episodes)) for split, episodes in splits.items()}
    assert size["train"] > 1_000_000 and 0.04 < size["heldout"] / size["train"] < 0.15
    paragraphs = {split: {p for t in texts(e) for p in t.split("\n\n") if len(p) > 400} for split, e in splits.items()}
    assert len(paragraphs["train"] & paragraphs["heldout"]) <= 2  # only what is copied inside longer strings


def test_python_docs_hold_the_true_documentation():
    by_name = {e.info["document"]: e for split in ("train", "heldout") for e in python_docs(split)}
    text = by_name["heapq"].observations["text"][0]
    assert "def heapq.heappush(heap, item)\n\nPush item onto heap, maintaining the heap invariant.\n" in text
    assert by_name["collections"].observations["text"][0].count("class collections.Counter(dict)") == 1
    assert not [name for name in by_name if "test" in name.split(".") or name.startswith("site-packages")]


def test_python_docs_are_the_same_every_time():
    def digest():
        return hashlib.sha256(json.dumps([(e.info, e.observations["text"]) for e in python_docs("heldout")]).encode())

    assert digest().digest() == digest().digest()
