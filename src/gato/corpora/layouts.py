"""The layouts by name, and the way from one into a dataset that a network can be trained on.

    for progress in import_corpus("coco", "coco/", "data"): …    →  data/captions/ms-coco/{meta.json, data/…, MANIFEST.json}

Reading streams; what comes out is a folder of episodes as any other, since training shuffles, and so wants its tokens at
hand. An import that was stopped goes on behind the last episode on disk, and ends in the same episodes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from gato.corpora.clips import Clips
from gato.corpora.documents import Documents
from gato.corpora.images import check_size, fitting_size, image_tokens
from gato.corpora.pages import Bild, Mmc4, Obelics
from gato.corpora.pairs import CocoCaptions, ConceptualCaptions, TarPairs, in_fives
from gato.corpora.questions import Questions
from gato.corpora.reading import MAX_RECORD_BYTES, OnBad, Place, Reader
from gato.episodes import Episode
from gato.episodes.columns import encode_chunk
from gato.episodes.exchange import LAYOUTS as RECORDINGS
from gato.episodes.exchange import Imported
from gato.episodes.manifest import MANIFEST
from gato.episodes.store import Dataset
from gato.episodes.writer import DatasetWriter
from gato.errors import DataError, UnknownNameError, UsageError, nearest

CHUNK_EPISODES, CHUNK_BYTES = 256, 1 << 24  # made durable together
SHARD_CHUNKS = 32  # compacted together


@dataclass(frozen=True)
class Layout:
    """A way in which a corpus is distributed. `files` is what `path` must hold; `stands_for` is the paper's data set."""

    name: str
    reader: Callable[..., Reader]
    task: str
    files: str
    stands_for: str
    joins: bool = False  # whether its Episodes are single pairs, to be joined


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("text", Documents, "text/files", "*.txt, *.md, *.rst, *.jsonl[.gz|.zst], *.parquet, *.arrow", "MassiveText"),
        Layout("pile", Documents, "text/pile", "00.jsonl.zst … 29.jsonl.zst, val.jsonl.zst", "MassiveText"),
        Layout("c4", Documents, "text/c4", "en/c4-train.00000-of-01024.json.gz …", "MassiveText"),
        Layout("fineweb", Documents, "text/fineweb", "sample/10BT/000_00000.parquet …, data/CC-MAIN-*/*.parquet", "MassiveText"),
        Layout("datasets", Documents, "text/datasets", "data-00000-of-00001.arrow … (save_to_disk), or *.parquet", "MassiveText"),
        Layout("coco", CocoCaptions, "captions/ms-coco", "annotations/captions_train2014.json, train2014/", "MS-COCO captions", True),
        Layout("conceptual-captions", ConceptualCaptions, "captions/conceptual-captions",
               "Train_GCC-training.tsv or cc12m.tsv, the images on disk", "Conceptual Captions", True),
        Layout("webdataset", TarPairs, "captions/pairs", "00000.tar … of key.jpg, key.txt, key.json", "ALIGN, LTIP", True),
        Layout("laion", TarPairs, "captions/laion", "00000.tar … as img2dataset writes them", "ALIGN, LTIP", True),
        Layout("datacomp", TarPairs, "captions/datacomp", "shards/00000000.tar …", "ALIGN, LTIP", True),
        Layout("vqav2", Questions, "questions/vqav2",
               "v2_OpenEnded_mscoco_train2014_questions.json, v2_mscoco_train2014_annotations.json, train2014/", "VQAv2", True),
        Layout("ok-vqa", Questions, "questions/ok-vqa",
               "OpenEnded_mscoco_train2014_questions.json, mscoco_train2014_annotations.json, train2014/", "OKVQA", True),
        Layout("obelics", Obelics, "pages/obelics", "data/train-00000-of-01335.parquet …, images/", "M3W"),
        Layout("mmc4", Mmc4, "pages/mmc4", "docs_no_face_shard_0_v2.jsonl[.zip] …, images/", "M3W"),
        Layout("bild", Bild, "pages/bild", "00000.parquet … with Text and Imgs, images/", "M3W"),
        Layout("clips", Clips, "clips/films", "*.mp4, each with a .txt", "–"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Preparation:
    """How a corpus becomes episodes. It is written into the dataset, and a dataset keeps to one."""

    size: tuple[int, int] | None = None  # of images, (height, width) in pixels; None: as large as fits the window
    pairs: int = 5  # (image, text) pairs in an episode, as in the paper
    frames: int = 8  # of a clip
    stride: int = 4  # film frames from one of a clip's to the next
    window_tokens: int = 1024  # what must hold the pairs, or the clip
    text_tokens: int = 36  # left free beside each image for its text
    split: str = "train"  # train, heldout or all
    column: str = "text"  # of objects and tables
    on_bad: OnBad = "error"
    max_record_bytes: int = MAX_RECORD_BYTES

    def __post_init__(self) -> None:
        if self.split not in ("train", "heldout", "all"):
            raise UsageError(f"no split {self.split!r}", fix="train, heldout or all")
        for name in ("pairs", "window_tokens", "max_record_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}", fix="at least 1")
        if self.size is not None:
            check_size(self.size)

    def sized(self, layout: Layout) -> Preparation:
        """The same with a size where there is none: the largest of which enough fit into the window. A page's images are
        sized as if there were as many of them as pairs in an episode."""
        if self.size is not None or layout.reader is Documents:
            return self
        images, texts = self.pairs, self.text_tokens
        if layout.reader is Clips:
            images, texts = self.frames, -(-self.text_tokens // self.frames)
        return replace(self, size=fitting_size(images, self.window_tokens, texts))

    def described(self, layout: Layout) -> str:
        """What decides the episodes, in words; how bad records are met is no part of it, since an import may go on with
        another rule."""
        parts = [f"{self.split} split"]
        if self.size is not None:
            parts.append(f"{self.size[0]} × {self.size[1]} pixels")
        if layout.joins:
            parts.append(f"{self.pairs} pairs")
        if layout.reader is Clips:
            parts.append(f"{self.frames} frames, stride {self.stride}")
        return ", ".join(parts)

    def cost(self, layout: Layout) -> str:
        """What an episode costs, in words: `192 × 192 pixels: 144 tokens an image, 5 × (144 + text) of 1,024`."""
        if layout.reader is Documents:
            return "text alone"
        size = self.sized(layout).size
        assert size is not None
        each = image_tokens(size)
        said = f"{size[0]} × {size[1]} pixels: {each} tokens an image"
        if layout.joins:
            said += f", {self.pairs} × ({each} + text) in a window of {self.window_tokens:,}"
        elif layout.reader is Clips:
            said += f", {self.frames * each} + text in a window of {self.window_tokens:,}"
        return said


def find_layout(name: str) -> Layout:
    """Raises UnknownNameError."""
    if name not in LAYOUTS:
        known = [*LAYOUTS, *RECORDINGS]
        raise UnknownNameError(f"no layout {name!r}", fix=nearest(name, known) or f"one of {', '.join(known)}")
    return LAYOUTS[name]


def make_reader(
    name: str, path: str | Path, how: Preparation = Preparation(), *, task: str = "", images: Path | None = None
) -> Reader:
    """The reader of a layout. Raises UnknownNameError where the files are not there."""
    layout = find_layout(name)
    options: dict[str, Any] = {
        **asdict(how.sized(layout)), "images": images, "task": task or layout.task, "split": None if how.split == "all" else how.split,
    }  # fmt: skip
    if layout.reader is Documents:
        return Documents([path], **_taken(Documents, options))
    if images is not None and "images" not in _parameters(layout.reader):
        raise UsageError(f"the layout {name} holds its images itself", fix="leave out images")
    return layout.reader(path, **_taken(layout.reader, options))


def episodes(name: str, reader: Reader, how: Preparation, start: Place = Place()) -> Iterator[tuple[Place, Episode]]:
    """(place behind it, episode) as the paper forms them: pairs joined, everything else as it comes."""
    found = reader.read(start)
    return in_fives(found, how.pairs) if find_layout(name).joins and how.pairs > 1 else found


def _parameters(kind: Any) -> set[str]:
    """Names that a reader and those it extends take."""
    return {name for each in kind.__mro__ if "__init__" in vars(each) for name in inspect.signature(each).parameters}


def _taken(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in _parameters(kind)}


# -- into a dataset ---------------------------------------------------------------------------------------------------


def import_corpus(
    name: str,
    path: str | Path,
    out: str | Path,
    how: Preparation = Preparation(),
    *,
    task: str = "",
    images: Path | None = None,
    limit: int | None = None,
) -> Iterator[Imported]:
    """Write a corpus as the dataset `out`/<task>, reporting after every chunk and at the end; at most `limit` episodes.

    The same call again goes on where the last one stopped. Raises OutputExistsError where the folder holds another
    corpus or another preparation, DataError as the reader does, and where there is not one episode: then nothing is written.
    """
    layout = find_layout(name)
    how = how.sized(layout)
    reader = make_reader(name, path, how, task=task, images=images)
    folder = Path(out) / reader.task
    facts = {
        "source": f"{layout.name} {Path(path).name}, {how.described(layout)}",
        "layout": layout.name,
        "preparation": asdict(how),
    }
    begun = None
    if not (folder / MANIFEST).exists():  # no folder is made before there is something to write
        begun = episodes(name, reader, how)
        first = next(begun, None)
        if first is None:
            fix = "; ".join(reader.complaints[:3]) or f"{'--split all, or ' * (how.split != 'all')}more files"
            raise DataError("not one episode could be read", where=str(path), fix=fix)
        begun = chain([first], begun)
    with DatasetWriter(folder, reader.task, reader.spec, facts) as writer:
        held = Dataset(folder).index
        start = Place(*held[-1].info["place"]) if held else Place()
        before = int(held[-1].info["skipped"]) if held else 0
        state = Imported(folder, reader.task, len(held), 0, before)
        waiting: list[Episode] = []
        size, chunks = 0, 0

        def flush() -> None:
            nonlocal size, chunks
            numbers = range(state.episodes, state.episodes + len(waiting))
            writer.add_chunk(encode_chunk(reader.spec, waiting, numbers), numbers)
            state.episodes, state.added = state.episodes + len(waiting), state.added + len(waiting)
            waiting.clear()
            size, chunks = 0, chunks + 1
            if chunks % SHARD_CHUNKS == 0:
                writer.compact()

        room = None if limit is None else max(0, limit - len(held))
        found = begun if begun and not held else episodes(name, reader, how, start)
        try:
            for place, episode in found if room != 0 else ():
                state.skipped = before + reader.skipped
                episode.info |= {"place": list(place), "skipped": state.skipped}
                waiting.append(episode.check(reader.spec, f"{reader.task} episode {state.episodes + len(waiting)}"))
                size += sum(_bytes(leaf) for leaf in episode.observations.values())
                if len(waiting) == room or len(waiting) >= CHUNK_EPISODES or size >= CHUNK_BYTES:
                    room = None if room is None else room - len(waiting)
                    flush()
                    yield state
                if room == 0:
                    break
        except DataError:  # what came before the bad record is kept
            if waiting:
                flush()
            raise
        if waiting:
            flush()
        state.skipped, state.complaints = before + reader.skipped, list(reader.complaints)
    yield state


def _bytes(leaf: Any) -> int:
    return sum(len(text) for text in leaf) if isinstance(leaf, list) else leaf.nbytes
