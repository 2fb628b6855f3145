"""Every official layout: what is read is what is there, in order, the same every time, from any place on."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_samples import (
    COLOURS,
    SAMPLES,
    colour,
    jpeg,
    make_cc12m,
    make_clips,
    make_coco,
    make_laion,
    make_shards,
    text,
)

from gato.corpora import split_of
from gato.corpora.clips import clips_of
from gato.corpora.documents import Documents
from gato.corpora.images import fitting_size, read_image
from gato.corpora.layouts import LAYOUTS, Preparation, episodes, import_corpus, make_reader
from gato.corpora.pairs import JsonTable, TarPairs
from gato.corpora.questions import most_common
from gato.corpora.reading import Place, scan_json
from gato.episodes import Dataset, Episode
from gato.errors import OutputExistsError, UnknownNameError, UsageError

SMALL = Preparation(size=(32, 48), split="all")


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("samples")
    return {name: make(root / name) for name, make in SAMPLES.items()}


def read(name: str, path: Path, how: Preparation = SMALL, start: Place = Place()) -> list[tuple[Place, Episode]]:
    return list(episodes(name, make_reader(name, path, how), how, start))


def facts(found) -> list:
    """What two readings must agree in: places, texts, pixels, notes."""
    return [
        (place, episode.info, [v if isinstance(v, list) else v.tobytes() for v in episode.observations.values()])
        for place, episode in found
    ]


def shown(image: np.ndarray) -> str:
    """Which of the samples' colours an image is."""
    mean = image.reshape(-1, 3).mean(0)
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


# -- what all layouts keep --------------------------------------------------------------------------------------------


def test_every_layout_has_a_sample():
    same = {"webdataset": "laion", "text": "pile"}  # other names for what is there
    assert {same.get(name, name) for name in LAYOUTS} == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_reading_is_checked_deterministic_and_goes_on_from_every_place(samples, name):
    reader = make_reader(name, samples[name], SMALL)
    whole = list(episodes(name, reader, SMALL))
    assert whole and reader.skipped == 0
    for place, episode in whole:
        episode.check(reader.spec)
        assert all(type(number) is int for number in place)
        assert json.loads(json.dumps(episode.info)) == episode.info
    expected = facts(whole)
    for done, (place, _) in enumerate(whole, start=1):
        assert facts(read(name, samples[name], start=Place(*json.loads(json.dumps(place))))) == expected[done:]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_two_splits_are_the_whole_and_share_no_document(samples, name):
    if name == "clips":
        pytest.skip("two films are too few for two splits")
    single = Preparation(size=(32, 48), split="all", pairs=1)
    named = {}
    for split in ("train", "heldout", "all"):
        how = Preparation(size=(32, 48), split=split, pairs=1)
        named[split] = [e.info["document"] for _, e in read(name, samples[name], how)]
        assert all(e.info["split"] == split_of(e.info["document"]) for _, e in read(name, samples[name], single))
    assert not set(named["train"]) & set(named["heldout"])
    assert sorted(named["train"] + named["heldout"]) == sorted(named["all"])


@pytest.mark.parametrize("name", SAMPLES)
def test_an_import_is_a_dataset_that_holds_what_was_read(samples, name, tmp_path):
    expected = [e for _, e in read(name, samples[name])]
    for limit in (1, 3, None):  # broken off twice, and gone on
        *_, done = import_corpus(name, samples[name], tmp_path, SMALL, limit=limit)
    dataset = Dataset.open(tmp_path / LAYOUTS[name].task)
    assert done.episodes == len(dataset) == len(expected) and done.skipped == 0
    for got, wanted in zip(dataset, expected, strict=True):
        for path, leaf in wanted.observations.items():
            np.testing.assert_array_equal(got.observations[path], leaf)
        assert {k: got.info[k] for k in wanted.info} == wanted.info
    *_, again = import_corpus(name, samples[name], tmp_path, SMALL)
    assert again.added == 0
    if name not in ("pile", "c4", "fineweb", "datasets"):
        with pytest.raises(OutputExistsError):
            list(import_corpus(name, samples[name], tmp_path, Preparation(size=(48, 48), split="all")))


# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pile", "c4", "fineweb", "datasets"])
def test_texts_come_back_whole(samples, name):
    found = [e.observations["text"][0] for _, e in read(name, samples[name])]
    order = [*range(0, 40, 2), *range(1, 40, 2)] if name == "c4" else range(40)
    assert found == [text(i) for i in order]


def test_our_reading_is_that_of_the_datasets_library(samples):
    import datasets

    theirs = datasets.load_from_disk(str(samples["datasets"]))["text"]
    assert list(theirs) == [e.observations["text"][0] for _, e in read("datasets", samples["datasets"])]


def test_caches_beside_saved_tables_are_not_read(samples, tmp_path):
    import shutil

    shutil.copytree(samples["datasets"], tmp_path / "d")
    (tmp_path / "d" / "cache-0123456789abcdef.arrow").write_bytes(b"not Arrow at all")
    assert len(read("datasets", tmp_path / "d")) == 40


def test_plain_files_go_on_in_the_middle(tmp_path):
    whole = "\ufefffirst é\n" + "".join(f"line {i} 日本\n" for i in range(400)) + "é" * 500
    (tmp_path / "a.txt").write_bytes(whole.encode())
    reader = Documents([tmp_path], part_bytes=101)
    found = list(reader.read())
    assert "".join(e.observations["text"][0] for _, e in found) == whole.removeprefix("\ufeff")
    for n in (0, 7, len(found) - 3):
        assert facts(Documents([tmp_path], part_bytes=101).read(found[n][0])) == facts(found[n + 1 :])


def test_a_corpus_is_never_in_memory(tmp_path):
    """40 MB of lines, and of a column, pass through a few megabytes."""
    line = json.dumps({"text": "word " * 2000}) + "\n"
    (tmp_path / "big.jsonl").write_text(line * 4000)
    table = pa.table({"text": ["word " * 2000] * 400})
    with pq.ParquetWriter(tmp_path / "big.parquet", table.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(10):
            writer.write_table(table)
    for name in ("big.jsonl", "big.parquet"):
        assert (tmp_path / name).stat().st_size > 35e6
        pool = pa.default_memory_pool()
        held = pool.bytes_allocated()
        tracemalloc.start()
        try:
            assert sum(1 for _ in Documents([tmp_path / name])) == 4000
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < 8e6 and pool.bytes_allocated() - held < 8e6, name


# -- pictures and words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coco", "conceptual-captions", "laion", "datacomp"])
def test_every_caption_is_with_its_picture(samples, name):
    found = read(name, samples[name])
    assert [len(e) for _, e in found][:2] == [5, 5]  # the paper's five
    pairs = [pair for _, e in found for pair in zip(e.observations["image"], e.observations["text"], strict=True)]
    assert len(pairs) == {"coco": 24}.get(name, 12)
    for image, caption in pairs:
        assert shown(image) in caption.lower()


def test_twelve_million_have_the_address_first(tmp_path):
    make_cc12m(tmp_path)
    reader = make_reader("conceptual-captions", tmp_path, SMALL, images=tmp_path / "images")
    assert [shown(e.observations["image"][0]) for e in reader] == [colour(i) for i in range(12)]
    assert [e.observations["text"][0] for e in reader][:2] == ["a red field, number 0", "a green field, number 1"]


def test_names_of_any_length_and_unknown_members_in_shards(tmp_path):
    import tarfile

    make_shards(tmp_path, 1, 3, long_names=True)
    with tarfile.open(tmp_path / "1.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        from make_samples import add

        for i in range(3):
            add(archive, f"{'folder/' * 30}{i}.JPG", jpeg(i))
            add(archive, f"{'folder/' * 30}{i}.clip.npy", bytes(5000))
            add(archive, f"{'folder/' * 30}{i}.json", json.dumps({"caption": f"a {colour(i)} field"}).encode())
    found = list(TarPairs(tmp_path, size=(32, 48)))
    assert len(found) == 6 and len(found[0].info["document"]) > 150
    assert [e.observations["text"][0][:7] for e in found[3:]] == ["a red f", "a green", "a blue "]


def test_our_reading_of_shards_is_that_of_webdataset(tmp_path):
    import webdataset

    make_laion(tmp_path)
    shards = sorted(map(str, tmp_path.glob("*.tar")))
    theirs = list(webdataset.WebDataset(shards, shardshuffle=False))
    ours = list(TarPairs(tmp_path, size=(32, 48)))
    assert [s["txt"].decode() for s in theirs] == [e.observations["text"][0] for e in ours]
    assert [s["__key__"] for s in theirs] == [e.info["document"].partition("/")[2] for e in ours]
    for s, e in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(read_image(s["jpg"], (32, 48)), e.observations["image"][0])


@pytest.mark.parametrize("name", ["vqav2", "ok-vqa"])
def test_questions_have_the_answer_that_most_people_gave_and_keep_all(samples, name):
    for _, episode in read(name, samples[name], Preparation(size=(32, 48), split="all", pairs=1)):
        number = int(episode.info["document"][-16:-4]) // 16
        assert shown(episode.observations["image"][0]) == colour(number)
        assert episode.observations["question"] == [f"Q: What colour is field {number}? A:"]
        assert episode.observations["reply"] == [f" {colour(number)}"]
        answers = episode.info["answers"]
        assert len(answers) == 10 and answers.count(colour(number)) == 6 and answers.count("brown") == 3


def test_of_equally_common_answers_the_first_is_taken():
    assert most_common(["two", "one", "one", "two", "three"]) == "two"


def test_pages_are_in_their_order(samples):
    for name, first in (("obelics", "Page {} begins."), ("mmc4", "Page {} begins."), ("bild", "Page {}")):
        for i, (_, episode) in enumerate(read(name, samples[name])):
            images, marks, texts = (episode.observations[k] for k in ("image", "marks", "text"))
            assert texts[0] == first.format(i) and not marks[0, 0] and not images[0].any()
            assert marks[:, 1].tolist() == [0] * (len(texts) - 1) + [1]
            seen = [shown(image) for image, mark in zip(images, marks[:, 0], strict=True) if mark]
            if name == "obelics":
                assert seen == [colour(2 * i), colour(2 * i + 1)]
                assert texts[1:] == [f"Above: a {colour(2 * i)} field.", "The end."]
            elif name == "mmc4":  # the second image is matched to the earlier sentence
                assert seen == [colour(2 * i + 1), colour(2 * i)]
                assert texts[1:] == [f"A {seen[0]} field.", f"A {seen[1]} field."]
            else:
                assert seen == [colour(i), colour(i + 1)] and texts[1:] == [f"A {colour(i)} field.", "The end."]


def test_pages_may_hold_their_images(tmp_path):
    row = {"images": [{"bytes": jpeg(2), "path": None}, None], "texts": [None, "Blue."]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    [(_, episode)] = read("obelics", tmp_path)
    assert shown(episode.observations["image"][0]) == "blue" and episode.observations["text"] == ["Blue."]


# -- clips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames, stride", [(8, 4), (3, 1), (4, 30)])
def test_clips_are_every_so_manieth_frame(tmp_path, frames, stride):
    make_clips(tmp_path, 1)
    how = Preparation(size=(32, 48), split="all", frames=frames, stride=stride)
    [(_, episode)] = read("clips", tmp_path, how)
    seen = episode.observations["clip"][0].reshape(frames, -1).mean(1)
    wanted = [6 * min(i * stride, 39 // stride * stride) for i in range(frames)]  # the last stands for what is missing
    assert np.abs(seen - wanted).max() < 4
    assert episode.observations["text"] == ["It grows brighter, film 0."]


def test_clips_of_episodes():
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 48, 1), np.uint8)
    episode = Episode("a/b", {"view": frames}, {}, np.zeros(10, np.float32), info={"seed": 3})
    [made] = clips_of([episode], "view", lambda e: f"seed {e.info['seed']}", size=(32, 48), frames=4, stride=3)
    assert made.observations["clip"][0, :, 0, 0, 0].tolist() == [0, 3, 6, 9]
    assert made.observations["clip"].shape == (1, 4, 32, 48, 3) and made.observations["text"] == ["seed 3"]


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_five_pictures_fit_the_window_and_six_pixels_more_would_not():
    height, width = fitting_size(5, 1024, 36)
    assert (height, width) == (192, 192)
    assert 5 * (144 + 36) <= 1024 < 5 * (13 * 13 + 36)
    with pytest.raises(UsageError, match="do not fit"):
        fitting_size(5, 128, 36)
    said = Preparation().cost(LAYOUTS["coco"])
    assert said == "192 × 192 pixels: 144 tokens an image, 5 × (144 + text) in a window of 1,024"
    clip = Preparation().sized(LAYOUTS["clips"])
    assert 8 * (clip.size[0] // 16) ** 2 + 36 <= 1024


def test_what_cannot_be_is_named(tmp_path):
    for wrong in ({"split": "test"}, {"pairs": 0}, {"size": (100, 100)}):
        with pytest.raises(UsageError):
            Preparation(**wrong)
    with pytest.raises(UnknownNameError, match="did you mean coco"):
        make_reader("cocoa", tmp_path)
    with pytest.raises(UnknownNameError, match=r"captions_\*\.json"):
        make_reader("coco", tmp_path)
    with pytest.raises(UsageError, match="on_bad"):
        Documents([make_coco(tmp_path) / "annotations" / "captions_train2014.json"], on_bad="ignore")
    with pytest.raises(UsageError, match="holds its images itself"):
        make_reader("laion", make_laion(tmp_path / "l"), images=tmp_path)


# -- big JSON ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_json_is_scanned_in_any_window(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("gato.corpora.reading.CHUNK", chunk)
    record = {
        "info": {"a": [1, {"b": None}]}, "empty": [], "n": -12.5, "images": [{"id": 7, "t": "naïve 日本 \\\" ]}"}, {"id": 3}],
        "none": {}, "last": [12],
    }  # fmt: skip
    file = tmp_path / "x.json"
    for indent in (None, 1):
        file.write_text(json.dumps(record, ensure_ascii=False, indent=indent))
        found: dict = {}
        for key, begin, end, _ in scan_json(file):
            found.setdefault(key, []).append(json.loads(file.read_bytes()[begin:end]))
        assert found == {"info": [record["info"]], "n": [-12.5], "images": record["images"], "none": [{}], "last": [12]}
        tables, rest = JsonTable.scan(file, {"images": "id"}, 1 << 20)
        with file.open("rb") as stream:
            assert tables["images"].find(stream, 7) == record["images"][0]
            assert tables["images"].find(stream, 3) == {"id": 3}
            assert tables["images"].find(stream, 5) is None and tables["images"].find(stream, 99) is None
        assert rest["n"] == -12.5


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_imports_and_prints_the_cost(samples, tmp_path):
    line = [sys.executable, "-m", "gato", "data", "import"]
    done = subprocess.run(
        [*line, "coco", str(samples["coco"]), "--out", str(tmp_path), "--split", "all", "--size", "32", "48"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "32 × 48 pixels: 6 tokens an image, 5 × (6 + text)" in done.stdout
    assert "captions/ms-coco: 5 episodes (+5), 0 skipped" in done.stdout
    assert [len(e) for e in Dataset.open(tmp_path / "captions" / "ms-coco")] == [5, 5, 5, 5, 4]
    wrong = subprocess.run([*line, "cocoa", "x", "--out", str(tmp_path)], capture_output=True, text=True)
    assert wrong.returncode == 2 and "did you mean coco" in wrong.stderr
