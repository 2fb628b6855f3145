"""Tiny real files in the very layout of each official corpus: names, folders, columns, compression.

    python tests/corpora/make_samples.py DIR        writes all of them; a few hundred kilobytes

Pictures are drawn and texts are made up here; nothing of the corpora themselves is in them. Every maker takes a folder
and returns what a reader is pointed at.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import zipfile
import zlib
from hashlib import md5
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (40, 60, 220),
    "yellow": (230, 210, 40),
    "grey": (128,) * 3,
}
NAMES = list(COLOURS)


def colour(i: int) -> str:
    return NAMES[i % len(NAMES)]


def picture(i: int, side: int = 96) -> Image.Image:
    """A field of one of five colours with a little grain, so that it compresses as photographs do."""
    rng = np.random.default_rng(i)
    grain = rng.integers(-6, 7, (side, side + side // 2, 3))
    return Image.fromarray(np.clip(grain + np.array(COLOURS[colour(i)]), 0, 255).astype(np.uint8))


def jpeg(i: int, side: int = 96) -> bytes:
    out = io.BytesIO()
    picture(i, side).save(out, "JPEG", quality=95)
    return out.getvalue()


def text(i: int) -> str:
    return f"Document {i}: a {colour(i)} field, “quoted”, 日本語.\n\nIts second paragraph.\n"


def address(i: int) -> str:
    return f"http://example.org/pictures/{i}.jpg?size=large"


def write(file: Path, content: bytes | str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def by_md5(folder: Path, i: int) -> None:
    """A picture under the MD5 of its address."""
    write(folder / f"{md5(address(i).encode()).hexdigest()}.jpg", jpeg(i))


# -- text -------------------------------------------------------------------------------------------------------------


def make_pile(folder: Path, count: int = 40) -> Path:
    """The Pile: train/00.jsonl.zst, one {"text", "meta": {"pile_set_name"}} a line, in two zstd frames as appended to."""
    rows = [json.dumps({"text": text(i), "meta": {"pile_set_name": "Pile-CC"}}) + "\n" for i in range(count)]
    half = count // 2
    codec = pa.Codec("zstd")
    frames = [codec.compress("".join(part).encode(), asbytes=True) for part in (rows[:half], rows[half:])]
    write(folder / "train" / "00.jsonl.zst", b"".join(frames))
    return folder


def make_c4(folder: Path, count: int = 40) -> Path:
    """C4: en/c4-train.00000-of-01024.json.gz, one {"text", "timestamp", "url"} a line."""
    for shard in range(2):
        rows = [
            json.dumps({"text": text(i), "timestamp": "2019-04-25T12:57:54Z", "url": f"http://example.org/{i}"})
            for i in range(shard, count, 2)
        ]
        file = folder / "en" / f"c4-train.{shard:05d}-of-01024.json.gz"
        write(file, gzip.compress("\n".join(rows).encode() + b"\n", mtime=0))
    return folder


def make_fineweb(folder: Path, count: int = 40) -> Path:
    """FineWeb: sample/10BT/000_00000.parquet with its nine columns, several row groups."""
    rows = [
        {"text": text(i), "id": f"<urn:uuid:{i}>", "dump": "CC-MAIN-2013-20", "url": f"http://example.org/{i}",
         "date": "2013-05-18T05:48:54Z", "file_path": "s3://commoncrawl/x.warc.gz", "language": "en",
         "language_score": 0.97, "token_count": 19}
        for i in range(count)
    ]  # fmt: skip
    file = folder / "sample" / "10BT" / "000_00000.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=16, compression="snappy")
    return folder


def make_saved_dataset(folder: Path, count: int = 40) -> Path:
    """What `datasets.Dataset.save_to_disk` writes: data-00000-of-00002.arrow, dataset_info.json, state.json."""
    import datasets

    made = datasets.Dataset.from_dict({"text": [text(i) for i in range(count)], "id": list(range(count))})
    made.save_to_disk(str(folder), num_shards=2)
    return folder


# -- image–text pairs -------------------------------------------------------------------------------------------------


def make_coco(folder: Path, count: int = 12) -> Path:
    """MS-COCO captions: annotations/captions_train2014.json, two captions an image, not in the order of the images."""
    ids = [9 + 16 * i for i in range(count)]
    images = [
        {"license": 5, "file_name": f"COCO_train2014_{n:012d}.jpg", "coco_url": "", "height": 96, "width": 144,
         "date_captured": "2013-11-14 16:28:13", "flickr_url": "", "id": n}
        for n in ids
    ]  # fmt: skip
    said = [
        {
            "image_id": ids[i],
            "id": 1000 + i + count * k,
            "caption": f"A {colour(i)} field, told {k + 1} times – naïvely.",
        }
        for k in range(2)
        for i in reversed(range(count))
    ]
    record = {"info": {"year": 2014, "version": "1.0"}, "images": images, "licenses": [{"id": 5}], "annotations": said}
    write(folder / "annotations" / "captions_train2014.json", json.dumps(record, ensure_ascii=False))
    for i, n in enumerate(ids):
        write(folder / "train2014" / f"COCO_train2014_{n:012d}.jpg", jpeg(i))
    return folder


def make_conceptual_captions(folder: Path, count: int = 12) -> Path:
    """Conceptual Captions: Train_GCC-training.tsv, with images as the usual downloader leaves them."""
    rows = [f"a {colour(i)} field , number {i}\t{address(i)}\n" for i in range(count)]
    write(folder / "Train_GCC-training.tsv", "".join(rows))
    for i in range(count):
        write(folder / "training" / f"{i}_{zlib.crc32(address(i).encode())}", jpeg(i))
    return folder


def make_cc12m(folder: Path, count: int = 12) -> Path:
    """Conceptual 12M: cc12m.tsv, the address first; images under the MD5 of their address."""
    write(folder / "cc12m.tsv", "".join(f"{address(i)}\ta {colour(i)} field, number {i}\n" for i in range(count)))
    for i in range(count):
        by_md5(folder / "images", i)
    return folder


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def make_shards(
    folder: Path, shards: int, each: int, *, digits: int = 5, long_names: bool = False, side: int = 96
) -> Path:
    """Shards as img2dataset writes them: <shard><number>.jpg, .json, .txt; statistics beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:0{digits}d}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for i in range(each):
                number = shard * each + i
                key = f"{shard:0{digits}d}{i:04d}"
                key = f"{'a-long-folder-name/' * 8}{key}" if long_names else key
                about = {"url": address(number), "caption": f"a {colour(number)} field, number {number}", "status": "success",
                         "key": key, "width": 144, "height": 96, "sha256": "0" * 64}  # fmt: skip
                add(archive, f"{key}.jpg", jpeg(number, side))
                add(archive, f"{key}.json", json.dumps(about).encode())
                add(archive, f"{key}.txt", about["caption"].encode())  # type: ignore[attr-defined]
        write(folder / f"{shard:0{digits}d}_stats.json", json.dumps({"count": each, "successes": each}))
    return folder


def make_laion(folder: Path) -> Path:
    """LAION: 00000.tar, 00001.tar."""
    return make_shards(folder, 2, 6)


def make_datacomp(folder: Path) -> Path:
    """DataComp: shards/00000000.tar."""
    make_shards(folder / "shards", 2, 6, digits=8)
    return folder


# -- questions --------------------------------------------------------------------------------------------------------


def _make_questions(folder: Path, count: int, prefix: str, extra: dict) -> Path:
    ids = [9 + 16 * i for i in range(count)]
    questions = [
        {"image_id": n, "question": f"What colour is field {i}?", "question_id": n * 1000 + k}
        for i, n in enumerate(ids)
        for k in range(2)
    ]
    annotations = []
    for q in reversed(questions):  # joined by question_id, not by place
        i = ids.index(q["image_id"])
        given = [colour(i)] * 6 + ["brown"] * 3 + ["light " + colour(i)]
        rng = np.random.default_rng(q["question_id"])
        answers = [
            {"answer": given[int(j)], "answer_confidence": "yes", "answer_id": a + 1} | extra
            for a, j in enumerate(rng.permutation(10))
        ]
        annotations.append(
            {"question_type": "what color is the", "multiple_choice_answer": colour(i), "answers": answers,
             "image_id": q["image_id"], "answer_type": "other", "question_id": q["question_id"]}
        )  # fmt: skip
    about = {"info": {"year": 2015}, "license": {"name": "CC BY 4.0"}, "data_subtype": "train2014"}
    head = {**about, "task_type": "Open-Ended", "data_type": "mscoco"}
    write(folder / f"{prefix}OpenEnded_mscoco_train2014_questions.json", json.dumps({**head, "questions": questions}))
    write(folder / f"{prefix}mscoco_train2014_annotations.json", json.dumps({**about, "annotations": annotations}))
    for i, n in enumerate(ids):
        write(folder / "train2014" / f"COCO_train2014_{n:012d}.jpg", jpeg(i))
    return folder


def make_vqav2(folder: Path, count: int = 6) -> Path:
    """VQAv2: v2_OpenEnded_mscoco_train2014_questions.json and v2_mscoco_train2014_annotations.json."""
    return _make_questions(folder, count, "v2_", {})


def make_ok_vqa(folder: Path, count: int = 6) -> Path:
    """OK-VQA: the same names without v2_, and answers before stemming in `raw_answer`."""
    return _make_questions(folder, count, "", {"raw_answer": "reds"})


# -- pages ------------------------------------------------------------------------------------------------------------


def make_obelics(folder: Path, count: int = 8) -> Path:
    """OBELICS: data/train-00000-of-01335.parquet, `images` and `texts` aligned, one of them null at each place."""
    rows = []
    for i in range(count):
        images = [None, address(2 * i), None, address(2 * i + 1), None]
        texts = [f"Page {i} begins.", None, f"Above: a {colour(2 * i)} field.", None, "The end."]
        about = [None if a is None else {"document_url": "http://example.org", "src": a} for a in images]
        rows.append({"images": images, "metadata": json.dumps(about), "general_metadata": json.dumps({"url": f"u{i}"}),
                     "texts": texts})  # fmt: skip
        for k in (0, 1):
            by_md5(folder / "images", 2 * i + k)
    schema = pa.schema(
        [("images", pa.list_(pa.string())), ("metadata", pa.string()), ("general_metadata", pa.string()), ("texts", pa.list_(pa.string()))]
    )  # fmt: skip
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.Table.from_pylist(rows, schema), folder / "data" / "train-00000-of-01335.parquet", row_group_size=3
    )
    return folder


def make_mmc4(folder: Path, count: int = 8) -> Path:
    """MMC4: docs_no_face_shard_0_v2.jsonl.zip; images under their `image_name`."""
    rows = []
    for i in range(count):
        names = [f"{md5(address(2 * i + k).encode()).hexdigest()[:12]}.jpg" for k in (0, 1)]
        shown = [
            {"face_detections": None, "image_name": name, "matched_sim": 0.27, "matched_text_index": at, "raw_url": address(2 * i + k)}
            for k, (name, at) in enumerate(zip(names, (2, 1), strict=True))
        ]  # fmt: skip
        sentences = [f"Page {i} begins.", f"A {colour(2 * i + 1)} field.", f"A {colour(2 * i)} field."]
        rows.append({"image_info": shown, "similarity_matrix": [[0.2, 0.3, 0.27], [0.2, 0.32, 0.26]],
                     "text_list": sentences, "url": f"http://example.org/{i}", "could_have_url_duplicate": 0})  # fmt: skip
        for k, name in enumerate(names):
            write(folder / "images" / name, jpeg(2 * i + k))
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "docs_no_face_shard_0_v2.jsonl.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("docs_no_face_shard_0_v2.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_bild(folder: Path, count: int = 4) -> Path:
    """Big Interleaved Dataset: the columns of its extraction."""
    rows = []
    for i in range(count):
        marks = {"###img###0###": address(i), "###img###1###": address(i + 1)}
        rows.append({"Warc_Html": i, "URL": f"http://example.org/{i}", "Page_config": {"img_count": 2, "vid_count": 1},
                     "Text": f"Page {i} ###img###0### A {colour(i)} field. ###video###0### ###img###1### The end.",
                     "Imgs": json.dumps(marks), "Vids": [json.dumps({"###video###0###": "http://example.org/v.mp4"})],
                     "Auds": "{}", "Iframes": "{}"})  # fmt: skip
        by_md5(folder / "images", i)
        by_md5(folder / "images", i + 1)
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    return folder


# -- clips ------------------------------------------------------------------------------------------------------------


def make_clips(folder: Path, count: int = 2, frames: int = 40) -> Path:
    """Films of a grey that brightens by 6 levels a frame, H.264 in .mp4, each with its text."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        with av.open(str(folder / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.options = {"crf": "10"}
            for f in range(frames):
                frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 6 * f, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        write(folder / f"{i}.txt", f"It grows brighter, film {i}.\n")
    return folder


SAMPLES = {
    "pile": make_pile, "c4": make_c4, "fineweb": make_fineweb, "datasets": make_saved_dataset, "coco": make_coco,
    "conceptual-captions": make_conceptual_captions, "laion": make_laion, "datacomp": make_datacomp, "vqav2": make_vqav2,
    "ok-vqa": make_ok_vqa, "obelics": make_obelics, "mmc4": make_mmc4, "bild": make_bild, "clips": make_clips,
}  # fmt: skip


if __name__ == "__main__":
    for name, make in SAMPLES.items():
        print(f"{name:20} {make(Path(sys.argv[1]) / name)}")
