"""What real corpora are full of, made to happen: a named error, or left out and counted, the rest in its order."""

import contextlib
import gzip
import json
import re
import shutil
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_samples import (
    add,
    colour,
    jpeg,
    make_bild,
    make_c4,
    make_clips,
    make_coco,
    make_conceptual_captions,
    make_fineweb,
    make_mmc4,
    make_obelics,
    make_pile,
    make_saved_dataset,
    make_shards,
    make_vqav2,
)
from PIL import Image
from test_captioned_images import png_header

from gato.corpora.documents import Documents
from gato.corpora.layouts import Preparation, import_corpus, make_reader
from gato.corpora.pairs import TarPairs
from gato.corpora.reading import Reader
from gato.episodes import Dataset
from gato.errors import DataError, UnknownNameError

HOW = {"size": (32, 48), "split": "all", "pairs": 1}


def both_ways(name: str, path: Path, said: str, skipped: int, kept: list[str] | None = None, **how) -> Reader:
    """Read with an error (which matches `said`), and leaving out (which counts `skipped` and keeps the names `kept`)."""
    with pytest.raises(DataError, match=said) as error:
        list(make_reader(name, path, Preparation(**HOW, **how)))
    assert error.value.where and "--on-bad skip" in error.value.fix
    reader = make_reader(name, path, Preparation(**HOW, on_bad="skip", **how))
    found = [(place, e) for place, e in reader.read()]
    for _, episode in found:
        episode.check(reader.spec)
    assert reader.skipped == skipped and len(reader.complaints) == min(20, skipped)
    if kept is not None:
        assert [e.info["document"] for _, e in found] == kept
    for n in {0, len(found) // 2, len(found) - 1} if found else ():  # places hold in spite of what lies between
        place = found[n][0]
        again = make_reader(name, path, Preparation(**HOW, on_bad="skip", **how))
        assert [e.info["document"] for e in (x for _, x in again.read(place))] == [
            e.info["document"] for _, e in found[n + 1 :]
        ]
    return reader


@contextlib.contextmanager
def at_most(most: float):
    """What Python holds at any time within, in bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def names(name: str, path: Path) -> list[str]:
    return [e.info["document"] for e in make_reader(name, path, Preparation(**HOW))]


def without(names: list[str], *gone: int) -> list[str]:
    return [n for i, n in enumerate(names) if i not in gone]


# -- images -----------------------------------------------------------------------------------------------------------


def spoil_coco(folder: Path, i: int, content: bytes | None) -> None:
    file = folder / "train2014" / f"COCO_train2014_{9 + 16 * i:012d}.jpg"
    file.unlink()
    if content is not None:
        file.write_bytes(content)


BAD_IMAGES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "no image"),
    "no image": (b"<html>404 Not Found</html>", "not a readable image"),
    "empty": (b"", "not a readable image"),
    "cut short": (jpeg(0)[:700], "not a readable image"),
    "bomb": (png_header(60_000, 60_000), "claims"),
    "smaller bomb": (png_header(9_000, 9_000), "claims 9,000 × 9,000 pixels"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images_of_captions_and_questions(tmp_path, kind):
    content, said = BAD_IMAGES[kind]
    for name, make, count in (("coco", make_coco, 12), ("vqav2", make_vqav2, 6)):
        folder = make(tmp_path / name)
        whole = names(name, folder)
        spoil_coco(folder, 3, content)
        bad = f"COCO_train2014_{9 + 16 * 3:012d}.jpg"
        assert whole.count(bad) == 2 and len(set(whole)) == count
        both_ways(name, folder, said, 2, [n for n in whole if n != bad])


@pytest.mark.parametrize("kind", [k for k in BAD_IMAGES if k != "missing"])
def test_bad_images_in_shards(tmp_path, kind):
    content, said = BAD_IMAGES[kind]
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for i in range(4):
            add(archive, f"{i}.png", content if i == 2 else jpeg(i))
            add(archive, f"{i}.txt", b"a field")
    both_ways("laion", tmp_path, said, 1, ["0.tar/0", "0.tar/1", "0.tar/3"])


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    """A true picture of 13,000 × 13,000 pixels in some 20 kB: 500 MB, were it decoded."""
    Image.new("1", (13_000, 13_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 10**6
    (tmp_path / "captions.tsv").write_text("a bomb\tbomb.png\n")
    begun = time.process_time()
    with at_most(10e6):
        both_ways("conceptual-captions", tmp_path, "claims 13,000 × 13,000", 1, [])
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("name, make", [("obelics", make_obelics), ("mmc4", make_mmc4), ("bild", make_bild)])
def test_a_page_keeps_its_text_where_an_image_is_missing(tmp_path, name, make):
    make(tmp_path)
    whole = names(name, tmp_path)
    gone = sorted((tmp_path / "images").iterdir())[:3]
    for file in gone:
        file.unlink()
    reader = make_reader(name, tmp_path, Preparation(**HOW, on_bad="skip"))
    pages = list(reader)
    assert [e.info["document"] for e in pages] == whole
    assert reader.skipped >= 3 and sum(len(e) for e in pages) > len(whole)
    for episode in pages:
        assert episode.check(reader.spec).observations["text"][0].startswith("Page")
    with pytest.raises(DataError, match="no image"):
        list(make_reader(name, tmp_path, Preparation(**HOW)))


def test_an_annotation_without_its_image_record(tmp_path):
    folder = make_coco(tmp_path)
    whole = names("coco", folder)
    file = folder / "annotations" / "captions_train2014.json"
    record = json.loads(file.read_text())
    record["annotations"][4]["image_id"] = 999_999
    record["annotations"][6]["caption"] = "  "
    file.write_text(json.dumps(record))
    both_ways("coco", folder, "image_id 999999 is not among the images", 2, without(whole, 4, 6))


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30, 0.5, None])
def test_ids_that_are_none(tmp_path, number):
    """What is asked for by an id that is none cannot be found: it is left out, and nothing else of the file."""
    for name, make, pattern, array, field in (
        ("coco", make_coco, "annotations/*.json", "images", "id"),
        ("coco", make_coco, "annotations/*.json", "annotations", "image_id"),
        ("vqav2", make_vqav2, "*questions.json", "questions", "question_id"),
    ):
        folder = make(tmp_path / array)
        whole = names(name, folder)
        [file] = folder.glob(pattern)
        record = json.loads(file.read_text())
        lost, said = [1], f"a record without a number '{field}' within"
        if array == "images":
            before = record[array][1][field]
            lost = [n for n, told in enumerate(record["annotations"]) if told["image_id"] == before]
            said = f"image_id {before} is not among the images"
        record[array][1][field] = number
        file.write_text(json.dumps(record))
        both_ways(name, folder, said, len(lost), without(whole, *lost))


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_ids_as_far_out_as_they_go(tmp_path, number):
    folder = make_coco(tmp_path)
    whole = names("coco", folder)
    file = folder / "annotations" / "captions_train2014.json"
    file.write_text(re.sub(r'("image_id": |"id": )9\b', rf"\g<1>{number}", file.read_text()))
    assert file.read_text().count(str(number)) == 3 and names("coco", folder) == whole


def test_infinite_numbers(tmp_path):
    vqa, mmc4 = make_vqav2(tmp_path / "vqa"), make_mmc4(tmp_path / "mmc4")
    whole = names("vqav2", vqa), names("mmc4", mmc4)
    [file] = vqa.glob("*questions.json")
    file.write_text(file.read_text().replace('"image_id": 9,', '"image_id": Infinity,', 1))
    both_ways("vqav2", vqa, "not a question with answers", 1, whole[0][1:])
    (mmc4 / "zz.jsonl").write_text(
        '{"text_list": ["a"], "image_info": [{"image_name": "x", "matched_text_index": 1e999}]}\n'
    )
    both_ways("mmc4", mmc4, "not a page of MMC4", 1, whole[1])


def test_questions_without_answers(tmp_path):
    folder = make_vqav2(tmp_path)
    whole = names("vqav2", folder)
    file = folder / "v2_mscoco_train2014_annotations.json"
    record = json.loads(file.read_text())
    del record["annotations"][-1]  # question 0
    record["annotations"][0]["answers"] = []  # the last question
    file.write_text(json.dumps(record))
    both_ways("vqav2", folder, "question_id 9000 has no answers", 2, whole[1:-1])
    file.unlink()
    with pytest.raises(UnknownNameError, match=r"no annotations v2_mscoco_train2014_annotations\.json"):
        names("vqav2", folder)


# -- archives ---------------------------------------------------------------------------------------------------------


def tar_of(folder: Path) -> tuple[Path, list[str]]:
    make_shards(folder, 2, 4)
    return folder / "00000.tar", names("laion", folder)


@pytest.mark.parametrize("where", ["in a picture", "in a header", "between two files", "before the end mark"])
def test_a_truncated_tar(tmp_path, where):
    file, whole = tar_of(tmp_path)
    with tarfile.open(file) as archive:
        members = archive.getmembers()
    third = members[6]  # the picture of key 2
    end = members[-1].offset_data + -(-members[-1].size // 512) * 512
    cut, kept = {
        "in a picture": (third.offset_data + 100, 2),
        "in a header": (third.offset + 200, 2),
        "between two files": (third.offset, 2),
        "before the end mark": (end, 4),
    }[where]
    with file.open("r+b") as stream:
        stream.truncate(cut)
    both_ways("laion", tmp_path, "cut short", 1, whole[:kept] + whole[4:])


def test_a_tar_with_a_damaged_header(tmp_path):
    file, whole = tar_of(tmp_path)
    with tarfile.open(file) as archive:
        at = archive.getmembers()[3].offset
    content = bytearray(file.read_bytes())
    content[at + 20] ^= 0xFF
    file.write_bytes(content)
    both_ways("laion", tmp_path, "not a tar header", 1, whole[:1] + whole[4:])


def test_a_file_that_is_no_tar(tmp_path):
    _, whole = tar_of(tmp_path)
    (tmp_path / "00000.tar").write_bytes(np.random.default_rng(0).bytes(5000))
    both_ways("laion", tmp_path, "not a tar header", 1, whole[4:])
    (tmp_path / "00000.tar").write_bytes(b"")
    both_ways("laion", tmp_path, "cut short", 1, whole[4:])


@pytest.mark.parametrize(
    "bad", ["../outside.jpg", "/tmp/outside.jpg", "a/../../outside.jpg", "C:\\outside.jpg", "..\\o.jpg"]
)
def test_members_that_lead_out_of_the_archive(tmp_path, bad):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for i in range(3):
            add(archive, f"{i}.jpg", jpeg(i))
            add(archive, f"{i}.txt", b"a field")
            if i == 1:
                add(archive, bad, jpeg(9))
                add(archive, bad.replace(".jpg", ".txt"), b"a trap")
    before = sorted(tmp_path.parent.iterdir())
    both_ways("laion", tmp_path, "lies outside the folder", 1, ["0.tar/0", "0.tar/1", "0.tar/2"])
    assert sorted(tmp_path.parent.iterdir()) == before and not Path("/tmp/outside.jpg").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_an_archive(tmp_path, kind):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, "0.jpg", jpeg(0))
        add(archive, "0.txt", b"a field")
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = kind, "/etc/passwd"
        archive.addfile(link)
        add(archive, "1.txt", b"a trap")
    both_ways("laion", tmp_path, "link or a device", 1, ["0.tar/0"])


def test_keys_that_lack_a_part_or_are_huge(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, "0.txt", b"words alone")
        add(archive, "1.jpg", jpeg(1))
        add(archive, "2.jpg", jpeg(2))
        add(archive, "2.txt", "caf\xe9".encode("latin1"))
        add(archive, "3.jpg", jpeg(3))
        add(archive, "3.json", b"[1]")
        add(archive, "4.jpg", jpeg(4) + bytes(60_000))
        add(archive, "4.txt", b"too large")
        add(archive, "5.jpg", jpeg(5))
        add(archive, "5.txt", b"fine")
    monkeypatch.setattr("gato.corpora.pairs.MAX_MEMBER_BYTES", 50_000)
    reader = both_ways("laion", tmp_path, "a key without an image", 5, ["0.tar/5"])
    said = " ".join(reader.complaints)
    for words in ("without an image", "without a caption", "no readable caption", "at most 50,000"):
        assert words in said


def test_random_damage_to_a_tar_never_surprises(tmp_path):
    file, _ = tar_of(tmp_path)
    (tmp_path / "00001.tar").unlink()
    whole = file.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=4):
            damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged[: int(rng.integers(len(whole)))] if rng.random() < 0.5 else damaged)
        reader = TarPairs(tmp_path, size=(32, 48), on_bad="skip")
        for episode in reader:
            episode.check(reader.spec)


def test_zips_that_lead_out_or_hold_several(tmp_path):
    make_mmc4(tmp_path)
    whole = names("mmc4", tmp_path)
    row = json.dumps({"text_list": ["x"], "image_info": []}) + "\n"
    for n, members in enumerate((["../out.jsonl"], ["a.jsonl", "b.jsonl"])):
        with zipfile.ZipFile(tmp_path / f"docs_no_face_shard_{n + 1}_v2.jsonl.zip", "w") as archive:
            for member in members:
                archive.writestr(member, row)
    (tmp_path / "docs_no_face_shard_3_v2.jsonl.zip").write_bytes(b"PK\x03\x04 and no more")
    reader = both_ways("mmc4", tmp_path, "outside the folder", 3, whole)
    assert "2 files in the archive" in reader.complaints[1] and "damaged" in reader.complaints[2]


@pytest.mark.parametrize(
    "flags, method, said",
    [(1, zipfile.ZIP_STORED, "password required"), (0, 97, "compression method is not supported")],  # 97: WavPack
)
def test_zips_that_cannot_be_unpacked(tmp_path, flags, method, said):
    make_mmc4(tmp_path)
    whole = names("mmc4", tmp_path)
    file = tmp_path / "docs_no_face_shard_1_v2.jsonl.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jsonl", json.dumps({"text_list": ["x"], "image_info": []}) + "\n")
    content = bytearray(file.read_bytes())
    for at in (6, content.index(b"PK\x01\x02") + 8):  # of the file's header and of the list's, flags and method
        content[at : at + 4] = flags.to_bytes(2, "little") + method.to_bytes(2, "little")
    file.write_bytes(content)
    both_ways("mmc4", tmp_path, f"cannot be unpacked here: .*{said}", 1, whole)


def test_a_zip_whose_bytes_are_damaged(tmp_path):
    """LZMA has errors of its own."""
    make_mmc4(tmp_path)
    whole = names("mmc4", tmp_path)
    file = tmp_path / "docs_no_face_shard_1_v2.jsonl.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.jsonl", json.dumps({"text_list": ["x" * 999], "image_info": []}) + "\n")
    content = bytearray(file.read_bytes())
    content[30 + len("a.jsonl") + 4 : 30 + len("a.jsonl") + 9] = b"\xff" * 5  # behind the header, LZMA's own properties
    file.write_bytes(content)
    both_ways("mmc4", tmp_path, "damaged or cut short", 1, whole)


IMPOSSIBLE = {
    "too long": "x" * 400,
    "too deep": "x/" * 3000,
    "half a surrogate pair": "\ud800.jpg",
    "a loop": "loop.jpg",
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_names_that_no_file_can_have(tmp_path, kind):
    said = "not Unicode" if kind == "half a surrogate pair" else "no image '(x{400}|x/x/|loop)"
    coco = make_coco(tmp_path / "coco")
    whole = names("coco", coco)
    file, first = coco / "annotations" / "captions_train2014.json", "COCO_train2014_000000000009.jpg"
    (coco / "train2014" / "loop.jpg").symlink_to("loop.jpg")
    file.write_text(file.read_text().replace(json.dumps(first), json.dumps(IMPOSSIBLE[kind])))
    both_ways("coco", coco, said, 2, [n for n in whole if n != first])


def test_a_caption_where_the_name_should_be(tmp_path):
    """Where no column holds an address, the second holds the name of a file."""
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "captions.tsv").write_text(f"a red field\t0.jpg\nwww.example.org/0.jpg\ta red field{' and on' * 50}\n")
    both_ways("conceptual-captions", tmp_path, "no image 'a red field and on", 1, ["0.jpg"])


def test_names_in_tables_that_lead_out_of_the_images(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(0))
    folder = make_mmc4(tmp_path / "mmc4")
    (folder / "images" / "link.jpg").symlink_to(secret)
    rows = [
        {"text_list": ["x"], "image_info": [{"image_name": name, "matched_text_index": 0}]}
        for name in ("../../secret.jpg", str(secret), "link.jpg")
    ]
    (folder / "more.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    reader = make_reader("mmc4", folder, Preparation(**HOW, on_bad="skip"))
    more = [e for e in reader if e.info["document"].startswith("more")]
    assert reader.skipped == 3 and len(more) == 3 and not any(e.observations["marks"][:, 0].any() for e in more)
    coco = make_coco(tmp_path / "coco")
    file = coco / "annotations" / "captions_train2014.json"
    file.write_text(file.read_text().replace("COCO_train2014_000000000009.jpg", "../../secret.jpg"))
    whole = names("coco", make_coco(tmp_path / "again"))
    both_ways("coco", coco, "outside the folder", 2, [n for n in whole if n != "COCO_train2014_000000000009.jpg"])


# -- lines, encodings, tables -----------------------------------------------------------------------------------------


def test_a_single_line_of_ten_megabytes(tmp_path):
    long = "x" * 10_000_000
    (tmp_path / "a.jsonl").write_text(f'{{"text": "one"}}\n{{"text": "{long}"}}\n{{"text": "two"}}\n')
    with at_most(40e6):  # it is read as far as the limit, and then thrown away
        both_ways("text", tmp_path, r"a\.jsonl line 2", 1, ["a.jsonl#0", "a.jsonl#2"])
    raised = list(make_reader("text", tmp_path, Preparation(**HOW, max_record_bytes=20_000_000)))
    assert [len(e.observations["text"][0]) for e in raised] == [3, 10_000_000, 3]

    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.txt").write_text(long)  # plain text may be cut anywhere
    parts = [e.observations["text"][0] for e in Documents([tmp_path])]
    assert "".join(parts) == long and max(map(len, parts)) <= 1 << 20

    folder = make_conceptual_captions(tmp_path / "cc")
    table = folder / "Train_GCC-training.tsv"
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*rows[:5], long + "\n", *rows[5:]]))
    with pytest.raises(DataError, match="line 6"):
        names("conceptual-captions", folder)


def test_a_line_that_grows_a_thousandfold(tmp_path):
    """30 MB of zeros in 30 kB: no more of it is held than the limit."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "' + b"0" * 30_000_000 + b'"}\n{"text": "two"}\n'))
    assert (tmp_path / "a.jsonl.gz").stat().st_size < 100_000
    with at_most(40e6):
        both_ways("text", tmp_path, "more than 8,388,608 bytes", 1, ["a.jsonl.gz#1"])


def test_a_json_record_of_ten_megabytes(tmp_path):
    folder = make_coco(tmp_path)
    whole = names("coco", folder)
    file = folder / "annotations" / "captions_train2014.json"
    record = json.loads(file.read_text())
    record["annotations"][3]["caption"] = "x" * 10_000_000
    file.write_text(json.dumps(record))
    both_ways("coco", folder, "a record of more than 8,388,608 bytes", 1, without(whole, 3))
    record["annotations"][3]["caption"] = "x" * 40_000_000  # nothing behind it can be found without holding it
    file.write_text(json.dumps(record))
    both_ways("coco", folder, "a record of more than 8,388,608 bytes", 1, [])


@pytest.mark.parametrize("encoding", ["utf-16", "latin1", "shift-jis"])
def test_wrong_encodings(tmp_path, encoding):
    said = "日本語" if encoding == "shift-jis" else "café, naïve"
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_bytes(said.encode(encoding))
    (tmp_path / "c.jsonl").write_bytes(
        b'{"text": "fine"}\n' + json.dumps({"text": said}, ensure_ascii=False).encode(encoding)
    )
    (tmp_path / "d.txt").write_text("fine too")
    reader = make_reader("text", tmp_path, Preparation(**HOW, on_bad="skip"))
    assert [e.info["document"] for e in reader] == ["a.txt#0", "c.jsonl#0", "d.txt#0"]
    assert reader.skipped == 2
    with pytest.raises(DataError, match=r"b\.txt"):
        names("text", tmp_path)
    folder = make_conceptual_captions(tmp_path / "cc")
    whole = names("conceptual-captions", folder)
    table = folder / "Train_GCC-training.tsv"
    rows = table.read_bytes().splitlines(keepends=True)
    rows[2] = said.encode("shift-jis" if encoding == "shift-jis" else "latin1") + b"\t" + rows[2].partition(b"\t")[2]
    rows[7] = b"one column\n"
    table.write_bytes(b"".join(rows))
    both_ways("conceptual-captions", folder, "line 3", 2, without(whole, 2, 7))


def test_coco_in_a_wrong_encoding(tmp_path):
    folder = make_coco(tmp_path)
    whole = names("coco", folder)
    file = folder / "annotations" / "captions_train2014.json"
    content = file.read_bytes()
    at = content.rindex("ï".encode())  # of the last caption
    file.write_bytes(content[:at] + b"\xef" + content[at + 2 :])
    both_ways("coco", folder, "not UTF-8", 1, whole[:-1])


def cut(file: Path, share: float = 0.6) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


@pytest.mark.parametrize(
    "name, make, pattern",
    [
        ("pile", make_pile, "train/*.zst"),
        ("c4", make_c4, "en/*00000-of*.gz"),
        ("fineweb", make_fineweb, "sample/10BT/*.parquet"),
        ("datasets", make_saved_dataset, "data-00000*.arrow"),
        ("coco", make_coco, "annotations/*.json"),
        ("vqav2", make_vqav2, "*questions.json"),
        ("mmc4", make_mmc4, "*.zip"),
        ("clips", make_clips, "0.mp4"),
    ],
)
def test_files_that_are_cut_short(tmp_path, name, make: Callable[[Path], Path], pattern):
    path = make(tmp_path)
    whole = names(name, path)
    [file] = path.glob(pattern)
    cut(file)
    kept = [e.info["document"] for e in make_reader(name, path, Preparation(**HOW, on_bad="skip"))]
    assert kept == [n for n in whole if n in kept] and len(kept) < len(whole)  # in order
    both_ways(name, path, file.name, 1, kept)


def test_tables_without_the_column(tmp_path):
    pq.write_table(pa.table({"content": ["a"]}), tmp_path / "x.parquet")
    pq.write_table(pa.table({"text": [None, "b", 5 * "c"]}), tmp_path / "y.parquet")
    reader = both_ways("text", tmp_path, "no column 'text'", 2, ["y.parquet#1", "y.parquet#2"])
    assert 'without a "text" string' in reader.complaints[1]
    [episode] = make_reader("text", tmp_path / "x.parquet", Preparation(**HOW, column="content"))
    assert episode.observations["text"] == ["a"]


def test_pages_that_are_none(tmp_path):
    make_obelics(tmp_path / "o", 2)
    rows = [{"images": [None], "texts": ["a", "b"]}, {"images": None, "texts": ["a"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "o" / "data" / "zz.parquet")
    both_ways("obelics", tmp_path / "o", "lists of one length", 2)
    make_mmc4(tmp_path / "m", 2)
    (tmp_path / "m" / "zz.jsonl").write_text(
        '{"text_list": ["a"], "image_info": [{"image_name": "x", "matched_text_index": 5}]}\n{"text_list": 3}\n'
    )
    both_ways("mmc4", tmp_path / "m", "not a page of MMC4", 2)


def test_films_that_are_none(tmp_path):
    pytest.importorskip("av")
    make_clips(tmp_path, 3)
    (tmp_path / "1.mp4").write_bytes(b"no film")
    (tmp_path / "2.txt").unlink()
    both_ways("clips", tmp_path, r"not a readable film.*1\.mp4", 2, ["0.mp4"])


# -- an import -------------------------------------------------------------------------------------------------------


def test_an_import_that_meets_an_error_goes_on_with_skip(tmp_path, monkeypatch):
    """What was read before the error is kept; with on_bad="skip" the same folder is finished, and the count with it."""
    monkeypatch.setattr("gato.corpora.layouts.CHUNK_EPISODES", 2)
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for i in range(12):
            add(archive, f"{i:02d}.jpg", b"nothing" if i in (5, 8) else jpeg(i))
            add(archive, f"{i:02d}.txt", f"a {colour(i)} field".encode())
    with pytest.raises(DataError, match="not a readable image"):
        list(import_corpus("laion", tmp_path, tmp_path / "out", Preparation(**HOW)))
    folder = tmp_path / "out" / "captions" / "laion"
    assert len(Dataset.open(folder)) == 5
    *_, done = import_corpus("laion", tmp_path, tmp_path / "out", Preparation(**HOW, on_bad="skip"))
    assert (done.episodes, done.added, done.skipped) == (10, 5, 2)
    assert [e.info["document"] for e in Dataset.open(folder)] == [
        f"0.tar/{i:02d}" for i in range(12) if i not in (5, 8)
    ]


def test_an_import_that_gives_nothing_leaves_nothing(tmp_path):
    """Neither where the first record is an error nor where all are left out; the one before a bad one is kept."""
    (tmp_path / "a.jsonl").write_text('{"words": "one"}\n{"words": 2}\n')
    out, how = tmp_path / "out", Preparation(split="all")
    for bad, why in ((how, "text"), (replace(how, on_bad="skip"), "not one episode")):
        with pytest.raises(DataError, match=why):
            list(import_corpus("text", tmp_path / "a.jsonl", out, bad))
        assert not out.exists()
    with pytest.raises(DataError, match="line 2"):
        list(import_corpus("text", tmp_path / "a.jsonl", out, replace(how, column="words")))
    assert len(Dataset.open(out / "text" / "files")) == 1


def test_a_skipped_record_moves_no_other(tmp_path):
    """The numbers that name documents, and so their splits, count what is bad as well."""
    rows = [json.dumps({"text": f"number {i}"}) for i in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    whole = {e.info["document"]: e.observations["text"][0] for e in Documents([tmp_path])}
    rows[10], rows[20], rows[30] = "{", "[]", '{"text": null}'
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    reader = Documents([tmp_path], on_bad="skip")
    left = {e.info["document"]: e.observations["text"][0] for e in reader}
    assert reader.skipped == 3 and left == {
        k: v for k, v in whole.items() if k not in ("a.jsonl#10", "a.jsonl#20", "a.jsonl#30")
    }
    assert list(left) == [k for k in whole if k in left]


def test_shards_unpack_nothing(tmp_path):
    make_shards(tmp_path / "shards", 1, 3)
    before = sorted(p.name for p in (tmp_path / "shards").iterdir())
    list(TarPairs(tmp_path / "shards", size=(32, 48)))
    assert sorted(p.name for p in (tmp_path / "shards").iterdir()) == before
    assert not [p for p in tmp_path.iterdir() if p.name != "shards"]


def test_a_copied_half_of_a_corpus_is_named(tmp_path):
    folder = make_coco(tmp_path / "coco")
    shutil.rmtree(folder / "train2014")
    with pytest.raises(DataError, match="--images DIR"):
        names("coco", folder)
