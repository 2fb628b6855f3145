"""Damaged and malicious files: bits that flip, files that are cut, pickles, archives that point elsewhere."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import Failure, Figure, digest_of, emptied, make_data, make_tokenizer, small_recipe

from gato.errors import DataError, GatoError

# -- bits and bytes ---------------------------------------------------------------------------------------------------


@dataclass
class Saved:
    """A run's folder with a checkpoint of one process, one of two ranks, and a bundle."""

    whole: Path
    sharded: Path
    bundle: Path
    recipe: Any
    files: list[tuple[str, Path]]


def save_all(folder: Path) -> Saved:
    from ranks import Ranks, train_once

    data, text = make_data(folder), make_tokenizer(folder)
    recipe = small_recipe(steps=2, optimizer="muon", save_every_seconds=1e9)
    runs = {}
    for world in (1, 2):
        runs[world] = folder / f"run{world}"
        job = Ranks(train_once, recipe.to_json(), str(data), str(text), str(runs[world]), {}, world=world, log=folder / f"log{world}")  # fmt: skip
        assert job.end() == [0] * world, job.said()
    bundle = runs[1] / "bundle"
    files = [(kind, p) for kind, root in (("whole", runs[1] / "checkpoints"), ("sharded", runs[2] / "checkpoints"), ("bundle", bundle))
             for p in sorted(root.rglob("*")) if p.is_file()]  # fmt: skip
    return Saved(runs[1], runs[2], bundle, recipe, files)


def load_it(saved: Saved, kind: str) -> str:
    """Load one of the three; "" if nothing was wrong, else the error's code. Raises Failure where the error has no name, or
    came after something had been put to use."""
    import torch

    from gato.model import Gato
    from gato.model.bundle import Bundle
    from gato.training.checkpoint import load_checkpoint
    from gato.training.optimizer import make_optimizers

    torch.manual_seed(5)
    model = Gato(saved.recipe.config())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizers = make_optimizers(model, saved.recipe)
    try:
        if kind == "bundle":
            Bundle.load(saved.bundle)
        else:
            load_checkpoint(getattr(saved, kind), model, optimizers)
        return ""
    except GatoError as error:
        used = any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
        if used or any(o.state for o in optimizers.values()):
            raise Failure(f"{error.code}, but weights were loaded already") from error
        return error.code


def flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(8 * len(data))
    return data[: at // 8] + bytes([data[at // 8] ^ (1 << at % 8)]) + data[at // 8 + 1 :]


def damaged_checkpoint(saved: Saved, rng: random.Random, harm: Any) -> str:
    kind, path = rng.choice(saved.files)
    good = path.read_bytes()
    path.write_bytes(harm(good, rng))
    try:
        code = load_it(saved, kind)
        if not code:
            raise Failure(f"{kind} {path.name} was loaded as if nothing had been")
        if not code.startswith("checkpoint") and code != "tokenizer":
            raise Failure(f"{kind} {path.name}: {code}")
        return f"{kind}: {code}"
    finally:
        path.write_bytes(good)


def flip_checkpoint(saved: Saved, i: int, rng: random.Random) -> str:
    if i == 0 and any(load_it(saved, kind) for kind in ("whole", "sharded", "bundle")):
        raise Failure("what was not damaged does not load")
    return damaged_checkpoint(saved, rng, flip)


def make_datasets(folder: Path) -> list[tuple[Path, str]]:
    from gato.episodes.store import find_datasets

    return [(path, content(path)) for path in find_datasets([make_data(folder)])]


def content(path: Path) -> str:
    """Everything that can be read of a dataset."""
    from gato.episodes.manifest import sha256_of
    from gato.episodes.store import Dataset

    dataset = Dataset.open(path)
    said = [json.dumps([dataset.task, dataset.spec.to_json(), dataset.returns.tolist()])]
    for episode in dataset:
        said.append(json.dumps(episode.info, sort_keys=True))
        for leaves in (episode.observations, episode.actions, {"reward": episode.rewards}):
            for name in sorted(leaves):
                value = leaves[name]
                said.append(name + (repr(value) if isinstance(value, list) else sha256_of(np.ascontiguousarray(value))))
    return sha256_of("\n".join(said).encode())


def damaged_dataset(datasets: list[tuple[Path, str]], rng: random.Random, harm: Any) -> str:
    from gato.episodes.repair import verify

    folder, good = rng.choice(datasets)
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    before = path.read_bytes()
    path.write_bytes(harm(before, rng))
    try:
        read = content(folder)
        if read != good:
            raise Failure(f"{path.name} was read, and what was read is different")
        report = verify(folder)
        if report.ok:
            raise Failure(f"{path.name}: neither reading nor verify saw it")
        return "found by verify, read right"
    except DataError as error:
        return f"named when read: {error.code}"
    finally:
        path.write_bytes(before)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def truncate(place: tuple[Saved, list], i: int, rng: random.Random) -> str:
    return damaged_checkpoint(place[0], rng, cut) if i % 2 else damaged_dataset(place[1], rng, cut)


# -- pickles ----------------------------------------------------------------------------------------------------------


class Evil:
    """Pickled, it is a call; whoever unpickles it makes a folder, the witness."""

    def __init__(self, function: Any, arguments: tuple):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def payloads(witness: str) -> dict[str, bytes]:
    """Ten ways to run code from a pickle."""
    import functools
    import importlib
    import subprocess

    import torch

    line = f"__import__('os').mkdir({witness!r})"
    saved, inner = io.BytesIO(), io.BytesIO()
    torch.save(Evil(os.mkdir, (witness,)), saved)
    torch.save({"weights": Evil(eval, (line,))}, inner, _use_new_zipfile_serialization=False)
    array = io.BytesIO()
    np.save(array, np.array([Evil(os.mkdir, (witness,))], dtype=object), allow_pickle=True)
    zipped = io.BytesIO()
    np.savez(zipped, a=np.array([Evil(os.mkdir, (witness,))], dtype=object))
    from torch.distributed.checkpoint.metadata import Metadata

    hidden = Metadata({"model/x": Evil(os.mkdir, (witness,))})  # type: ignore[dict-item]
    return {
        "call": pickle.dumps(Evil(os.mkdir, (witness,))),
        "system": pickle.dumps(Evil(os.system, (f"mkdir {witness}",)), 2),
        "eval": pickle.dumps(Evil(eval, (line,))),
        "exec": pickle.dumps(Evil(exec, (line,)), 0),
        "popen": pickle.dumps(Evil(subprocess.check_call, (["mkdir", witness],))),
        "getattr": pickle.dumps(Evil(functools.partial(importlib.import_module("os").mkdir), (witness,))),
        "inside what is allowed": pickle.dumps(hidden),
        "torch.save": saved.getvalue(),
        "torch.save, old": inner.getvalue(),
        "npy": array.getvalue(),
        "npz": zipped.getvalue(),
        "dotted": b"\x80\x04\x8c\x13torch.serialization\x8c\x0aos.mkdir\x00\x93.".replace(b"\x0aos.mkdir\x00", b"\x08os.mkdir")
        .replace(b"\x93.", b"\x93\x8c" + bytes([len(witness)]) + witness.encode() + b"\x85R."),
    }  # fmt: skip


def reseal(folder: Path, path: Path, data: bytes) -> None:
    """Put a file into a folder and its right hash into the manifest, as whoever prepared the folder would."""
    from gato.episodes.manifest import sha256_of, write_manifest

    path.write_bytes(data)
    record = json.loads((folder / "MANIFEST.json").read_text())
    record["files"][path.relative_to(folder).as_posix()] = {"bytes": len(data), "sha256": sha256_of(data)}
    write_manifest(folder, record["kind"], record["files"], record["facts"])


def offer_pickle(place: tuple[Saved, list], i: int, rng: random.Random) -> str:
    """One of the pickles in place of one of the files that something loads, its hash in the manifest put right."""
    from gato.corpora.layouts import Preparation, episodes, make_reader
    from gato.tokens.text import TextTokenizer

    saved, datasets = place
    room = emptied(saved.bundle.parent.parent / "room")
    witness = room / "witness"
    kinds = payloads(str(witness))
    name, data = list(kinds.items())[i % len(kinds)]
    entries = ["whole", "sharded table", "sharded data", "bundle", "dataset", "tokenizer", "tar", "json", "parquet"]
    entry = entries[i // len(kinds) % len(entries)] if i < len(kinds) * len(entries) else rng.choice(entries)
    try:
        if entry in ("whole", "sharded table", "sharded data"):
            kind = entry.split()[0]
            shutil.copytree(getattr(saved, kind), room / "run")
            folder = next((room / "run" / "checkpoints").glob("step-*"))
            files = {"whole": "optimizer.safetensors", "sharded table": "shards/.metadata", "sharded data": "shards/__0_0.distcp"}  # fmt: skip
            reseal(folder, folder / files[entry], data)
            mine = Saved(room / "run", room / "run", saved.bundle, saved.recipe, [])
            code = load_it(mine, kind)
            if not code:
                raise Failure(f"{name} as {entry} was loaded")
        elif entry == "bundle":
            shutil.copytree(saved.bundle, room / "bundle")
            file = rng.choice(["model.safetensors", "tasks.json", "config.json", "tokenizer.model", "card.json"])
            reseal(room / "bundle", room / "bundle" / file, data)
            code = load_it(Saved(room, room, room / "bundle", saved.recipe, []), "bundle")
            if not code:
                raise Failure(f"{name} as {file} was loaded")
        elif entry == "dataset":
            shutil.copytree(rng.choice(datasets)[0], room / "data")
            file = rng.choice(
                sorted(p for p in (room / "data").rglob("*") if p.is_file() and p.name != "MANIFEST.json")
            )
            reseal(room / "data", file, data)
            try:
                content(room / "data")
                raise Failure(f"{name} as {file.name} was read")
            except GatoError as error:
                code = error.code
        elif entry == "tokenizer":
            (room / "tokenizer.model").write_bytes(data)
            try:
                TextTokenizer.load(room / "tokenizer.model")
                raise Failure(f"{name} was loaded as a tokenizer")
            except GatoError as error:
                code = error.code
        else:
            code = _read_corpus(entry, room, data, Preparation(size=(32, 48), split="all"), make_reader, episodes)
    finally:
        executed = witness.exists()
    if executed:
        raise Failure(f"{name} as {entry} was executed")
    return f"{entry}: {code}"


def _read_corpus(entry: str, room: Path, data: bytes, how: Any, make_reader: Any, episodes: Any) -> str:
    layout, file = {"tar": ("laion", "00000.tar"), "json": ("pile", "train/00.jsonl"), "parquet": ("fineweb", "sample/10BT/000.parquet")}[entry]  # fmt: skip
    path = room / "corpus" / file
    path.parent.mkdir(parents=True)
    if entry == "tar":
        with tarfile.open(path, "w") as archive:
            for suffix in ("pkl", "pyd", "pth", "npy", "jpg", "txt", "json"):
                info = tarfile.TarInfo(f"000000000.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        path.write_bytes(data)
    try:
        read = list(episodes(layout, make_reader(layout, room / "corpus", how), how))
    except GatoError as error:
        return error.code
    if read:
        raise Failure(f"a pickle in {file} became {len(read)} episodes")
    return "skipped"


# -- archives that point elsewhere ------------------------------------------------------------------------------------


def offer_archive(folder: Path, i: int, rng: random.Random) -> str:
    """A tar or an index with names that lead outside. Nothing outside may be written, and nothing of it may be read."""
    from make_samples import jpeg, make_coco

    from gato.corpora.layouts import Preparation, import_corpus

    room = emptied(folder / "room")
    secret = room / "outside" / "secret.jpg"
    secret.parent.mkdir()
    secret.write_bytes(jpeg(0))
    corpus = room / "corpus"
    up = "../" * rng.randint(1, 6)
    names = {
        "up": f"{up}outside/planted", "absolute": str(room / "outside" / "planted"), "hidden up": f"a/../{up}outside/planted",
        "backslash": "..\\..\\outside\\planted", "nul": f"{up}outside/planted\0x", "device": "planted", "link": "planted",
        "hard link": "planted",
    }  # fmt: skip
    way = list(names)[i % len(names)]
    before = digest_of(room / "outside")
    how = Preparation(size=(32, 48), split="all")
    if i % 2 or way in ("device", "link", "hard link"):
        corpus.mkdir()
        with tarfile.open(corpus / "00000.tar", "w") as archive:
            for suffix, data in (("jpg", jpeg(1)), ("txt", b"planted"), ("json", b'{"caption": "planted", "status": "success"}')):  # fmt: skip
                info = tarfile.TarInfo(f"{names[way]}.{suffix}")
                if way in ("link", "hard link"):
                    info.type = tarfile.SYMTYPE if way == "link" else tarfile.LNKTYPE
                    info.linkname = str(secret)
                    archive.addfile(info)
                elif way == "device":
                    info.type = tarfile.CHRTYPE
                    archive.addfile(info)
                else:
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        layout = "laion"
    else:
        make_coco(corpus)
        index = next(corpus.rglob("captions_train2014.json"))
        record = json.loads(index.read_text())
        target = {
            "up": f"{'../' * 9}{secret}",
            "absolute": str(secret),
            "hidden up": f"x/../../../outside/{secret.name}",
        }
        for image in record["images"]:
            image["file_name"] = target.get(way, names[way])
        index.write_text(json.dumps(record))
        layout = "coco"
    try:
        found = list(import_corpus(layout, corpus, room / "data", how))[-1]
        added, said = found.episodes, "skipped and counted"
        if not found.skipped and layout == "coco":
            raise Failure(f"{way}: nothing was complained about")
    except GatoError as error:
        added, said = 0, error.code
    if digest_of(room / "outside") != before:
        raise Failure(f"{way}: something outside was changed")
    if added and layout == "coco":
        raise Failure(f"{way}: {added} episodes of a picture outside")
    loose = {p.name for p in room.iterdir()} - {"outside", "corpus", "data"}
    if loose or list(folder.parent.glob("planted*")):
        raise Failure(f"{way}: {loose} was written")
    return f"{layout}, {way}: {said}"


def _both(folder: Path) -> tuple[Saved, list]:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    return save_all(folder / "a"), make_datasets(folder / "b")


def _folder(folder: Path) -> Path:
    sys.setrecursionlimit(5000)
    return folder


FIGURES = [
    Figure("flips-checkpoint", 2000, save_all, flip_checkpoint, "one bit of a checkpoint or bundle: a named error, nothing loaded"),
    Figure("flips-dataset", 2000, make_datasets, lambda d, i, rng: damaged_dataset(d, rng, flip), "one bit of a dataset: a named error, or read right and found by verify"),
    Figure("truncations", 200, _both, truncate, "a file cut anywhere: a named error"),
    Figure("pickles", 108, _both, offer_pickle, "a malicious pickle in place of a file: a named error, never run"),
    Figure("archives", 40, _folder, offer_archive, "names that lead outside of a corpus: nothing written or read there"),
]  # fmt: skip
