"""What each reader gives per second of one core, beside what people would otherwise use: `datasets` and `webdataset`.

    python benchmarks/readers.py [--documents 4000] [--pictures 300] [--rounds 5]     # writes results/readers.json

The corpora are made here in the official layouts (tests/corpora/make_samples.py), pictures of 256 × 384 pixels. Both sides
end in the same thing: a text, or an image of 192 × 192 pixels as an array and its text. They take turns, round by round;
the ratio is the median over the rounds of theirs / ours in the same round. Seconds are processor seconds of the whole
process, so threads are paid for and neighbours on the machine are not. Tokens are those of the package's codec, with 1,024
pieces; they are counted beforehand and not timed.

Last, how long a CPU training step of `tiny` waits for its batch, over all these corpora at once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "corpora"))

import datasets
import make_samples as make
import numpy as np
import pyarrow as pa
import torch
import webdataset
from PIL import Image

from gato.corpora.layouts import Preparation, episodes, import_corpus, make_reader
from gato.corpora.text import python_docs
from gato.model.transformer import Gato
from gato.sequences import Mixture
from gato.tokens import TimestepCodec, Vocabulary
from gato.tokens.text import TextTokenizer
from gato.training import Recipe
from gato.training.data import load_stores

SIZE = (192, 192)
HOW = Preparation(size=SIZE, split="all")


def pixels(file: Any) -> np.ndarray:
    """What most code does with an image file."""
    picture = file if isinstance(file, Image.Image) else Image.open(file)
    return np.asarray(picture.convert("RGB").resize((SIZE[1], SIZE[0]), Image.Resampling.LANCZOS))


def streamed(kind: str, pattern: str) -> Callable[[Path], Iterable[Any]]:
    def read(folder: Path) -> Iterable[Any]:
        files = sorted(map(str, folder.glob(pattern)))
        rows = datasets.load_dataset(kind, data_files=files, split="train", streaming=True)
        return (row["text"] for row in rows)

    return read


def saved(folder: Path) -> Iterable[Any]:
    return (row["text"] for row in datasets.load_from_disk(str(folder)))


def shards(folder: Path) -> Iterable[Any]:
    files = sorted(map(str, folder.rglob("*.tar")))
    pairs = webdataset.WebDataset(files, shardshuffle=False).decode("pil").to_tuple("jpg", "txt")
    return ((pixels(image), caption) for image, caption in pairs)


def coco(folder: Path) -> Iterable[Any]:
    record = json.loads((folder / "annotations" / "captions_train2014.json").read_text())
    name = {image["id"]: image["file_name"] for image in record["images"]}
    return ((pixels(folder / "train2014" / name[a["image_id"]]), a["caption"]) for a in record["annotations"])


def vqa(folder: Path) -> Iterable[Any]:
    questions = json.loads((folder / "v2_OpenEnded_mscoco_train2014_questions.json").read_text())["questions"]
    told = json.loads((folder / "v2_mscoco_train2014_annotations.json").read_text())["annotations"]
    answer = {a["question_id"]: a["multiple_choice_answer"] for a in told}
    return (
        (
            pixels(folder / "train2014" / f"COCO_train2014_{q['image_id']:012d}.jpg"),
            q["question"],
            answer[q["question_id"]],
        )
        for q in questions
    )


def obelics(folder: Path) -> Iterable[Any]:
    files = sorted(map(str, folder.glob("data/*.parquet")))
    for row in datasets.load_dataset("parquet", data_files=files, split="train", streaming=True):
        shown = [make.md5(address.encode()).hexdigest() for address in row["images"] if address]
        yield [pixels(folder / "images" / f"{name}.jpg") for name in shown], [text for text in row["texts"] if text]


def films(folder: Path) -> Iterable[Any]:
    import av

    for file in sorted(folder.glob("*.mp4")):
        with av.open(str(file)) as container:
            frames = [f.to_image() for i, f in zip(range(29), container.decode(video=0), strict=False) if i % 4 == 0]
        yield np.stack([pixels(frame) for frame in frames]), file.with_suffix(".txt").read_text()


def corpora(root: Path, documents: int, pictures: int) -> dict[str, tuple[Path, Callable[[Path], Iterable[Any]], str]]:
    """{layout: (path, the other way, its name)}, the files made."""
    make.text = lambda i: f"Document {i}. " + "The quick brown fox jumps over the lazy dog, and 日本語 too. " * 40  # type: ignore
    make.jpeg = jpeg_of(256)  # type: ignore[assignment]
    return {
        "pile": (make.make_pile(root / "pile", documents), streamed("json", "train/*.zst"), "datasets, streaming"),
        "c4": (make.make_c4(root / "c4", documents), streamed("json", "en/*.gz"), "datasets, streaming"),
        "fineweb": (
            make.make_fineweb(root / "fineweb", documents),
            streamed("parquet", "sample/10BT/*"),
            "datasets, streaming",
        ),
        "datasets": (make.make_saved_dataset(root / "saved", documents), saved, "datasets, memory-mapped"),
        "laion": (make.make_shards(root / "laion", 2, pictures // 2), shards, "webdataset, decode('pil')"),
        "coco": (make.make_coco(root / "coco", pictures // 2), coco, "json.load and Pillow"),
        "vqav2": (make.make_vqav2(root / "vqa", pictures // 2), vqa, "json.load and Pillow"),
        "obelics": (make.make_obelics(root / "obelics", pictures // 2), obelics, "datasets, streaming, and Pillow"),
        "clips": (make.make_clips(root / "clips", max(2, pictures // 40)), films, "PyAV and Pillow"),
    }


def jpeg_of(side: int) -> Callable[..., bytes]:
    def jpeg(i: int, _side: int = 0) -> bytes:
        out = io.BytesIO()
        make.picture(i, side).save(out, "JPEG", quality=90)
        return out.getvalue()

    return jpeg


def seconds(read: Callable[[], Iterable[Any]]) -> tuple[float, int]:
    begun = time.process_time()
    count = sum(1 for _ in read())
    return time.process_time() - begun, count


def measure(
    name: str, path: Path, other: Callable[[Path], Iterable[Any]], codec_of: Any, rounds: int
) -> dict[str, Any]:
    single = Preparation(size=SIZE, split="all", pairs=1)
    reader = make_reader(name, path, single)
    codec = codec_of(reader)
    tokens = [len(codec.encode(e)) for _, e in episodes(name, reader, single)]
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(rounds + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            if side == 0:
                took, count = seconds(lambda: make_reader(name, path, single))
                ours.append(took)
            else:
                took, count = seconds(lambda: other(path))
                theirs.append(took)
            assert count == len(tokens), (name, side, count, len(tokens))
    ours, theirs = ours[1:], theirs[1:]  # the first turn pays for imports
    best = statistics.median(ours)
    return {
        "samples": len(tokens), "tokens": sum(tokens), "seconds": round(best, 4),
        "samples_per_second_per_core": round(len(tokens) / best, 1),
        "tokens_per_second_per_core": round(sum(tokens) / best),
        "alternative_samples_per_second_per_core": round(len(tokens) / statistics.median(theirs), 1),
        "speedup": round(statistics.median(t / o for o, t in zip(ours, theirs, strict=True)), 2),
        "speedup_range": [round(f(t / o for o, t in zip(ours, theirs, strict=True)), 2) for f in (min, max)],
    }  # fmt: skip


def waiting(paths: dict[str, Path], root: Path, text: TextTokenizer, steps: int) -> dict[str, Any]:
    """Share of a CPU training step of `tiny` (8 × 1,024 tokens) that goes into making its batch."""
    for name, path in paths.items():
        list(import_corpus(name, path, root, HOW, limit=200))
    recipe = Recipe(weights={"*": 1.0})
    stores = load_stores([root], recipe.config(), text, recipe)
    mixture = Mixture(stores, recipe.weights, recipe.slots, recipe.slot_tokens, recipe.window_tokens)
    model = Gato(recipe.config())
    spent = [0.0, 0.0]
    for step in range(steps + 1):
        begun = time.process_time()
        batch = mixture.batch(step)
        made = time.process_time()
        torch.nn.functional.cross_entropy(model(batch), batch.targets).backward()
        model.zero_grad()
        if step:
            spent = [spent[0] + made - begun, spent[1] + time.process_time() - made]
    return {
        "steps": steps, "batch_seconds": round(spent[0] / steps, 4), "network_seconds": round(spent[1] / steps, 4),
        "share_waiting": round(spent[0] / sum(spent), 4),
    }  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--documents", type=int, default=4000)
    words.add_argument("--pictures", type=int, default=300)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--steps", type=int, default=5)
    words.add_argument("--out", type=Path, default=Path("results/readers.json"))
    said = words.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    text = TextTokenizer.train((e.observations["text"][0] for e in python_docs("heldout")), 1024)

    def codec_of(reader: Any) -> TimestepCodec:
        return TimestepCodec(reader.spec, Vocabulary(1024), text, task=reader.task)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = corpora(root / "raw", said.documents, said.pictures)
        readers = {}
        for name, (path, other, called) in made.items():
            readers[name] = {**measure(name, path, other, codec_of, said.rounds), "alternative": called}
            print(name, json.dumps(readers[name], ensure_ascii=False), flush=True)
        wait = waiting({name: path for name, (path, _, _) in made.items()}, root / "data", text, said.steps)
        print("waiting", json.dumps(wait))
    record = {
        "protocol": {
            "what": "processor seconds of one process, both sides in turns, medians over rounds", "rounds": said.rounds,
            "documents": said.documents, "pictures": "256 × 384 JPEG → 192 × 192", "vocabulary": 1024,
            "processor": _processor(), "python": platform.python_version(), "datasets": datasets.__version__,
            "webdataset": webdataset.__version__, "pyarrow": pa.__version__, "torch": torch.__version__,
        },
        "readers": readers,
        "waiting": wait,
    }  # fmt: skip
    said.out.parent.mkdir(parents=True, exist_ok=True)
    said.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _processor() -> str:
    found = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{found[0]}, {os.cpu_count()} cores" if found else platform.processor()


if __name__ == "__main__":
    main()
