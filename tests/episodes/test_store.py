"""Datasets: what goes in comes out, and nothing damaged is ever read."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gato.cli import main
from gato.episodes import Episode, Spec, TaskSpec
from gato.episodes import writer as writing
from gato.episodes.columns import _row_groups, encode_chunk
from gato.episodes.manifest import MANIFEST, commit_folder
from gato.episodes.repair import repair, verify
from gato.episodes.store import Dataset, find_datasets, read_spec
from gato.episodes.table import beside_the_paper, table
from gato.episodes.writer import DatasetWriter
from gato.errors import DataError, DatasetCorruptError, DatasetMissingError, EpisodeError, OutputExistsError

INFINITE = ((-np.inf,), (np.inf,))
SPECS = {
    "text": Spec("text", (), "str"),
    "frame": Spec("image", (16, 20, 3), "uint8", (0.0,), (255.0,)),
    "cells": Spec("discrete", (3, 2), "int64", (0.0,), (9.0,)),
    "button": Spec("discrete", (), "int64", (-2.0,), (5.0,)),
    "bits": Spec("discrete", (4,), "int8", (0.0,), (1.0,)),
    "flags": Spec("discrete", (3,), "bool", (0.0,), (1.0,)),
    "byte": Spec("discrete", (2,), "uint8", (0.0,), (255.0,)),
    "single": Spec("continuous", (5,), "float32", *INFINITE),
    "double": Spec("continuous", (2, 2), "float64", *INFINITE),
    "half": Spec("continuous", (1,), "float16", *INFINITE),
    "scalar": Spec("continuous", (), "float32", *INFINITE),
    "empty": Spec("continuous", (0,), "float32"),
}
EVERYTHING = TaskSpec(
    dict(sorted(SPECS.items())),
    {"push": SPECS["button"], "stick": Spec("continuous", (2,), "float32", (-1.0,), (1.0,))},
)
SMALL = TaskSpec(
    {"x": Spec("continuous", (17,), "float32", *INFINITE)}, {"a": Spec("continuous", (6,), "float32", (-1.0,), (1.0,))}
)


def values(spec: Spec, steps: int, rng: np.random.Generator):
    if spec.kind == "text":
        return ["".join(chr(c) for c in rng.integers(32, 0x3000, rng.integers(0, 12))) for _ in range(steps)]
    shape = (steps, *spec.shape)
    if spec.kind == "continuous":
        return (rng.uniform(-1, 1, shape)).astype(spec.dtype)
    return rng.integers(int(spec.low[0]), int(spec.high[0]) + 1, shape).astype(spec.dtype)


def make_episode(spec: TaskSpec, steps: int, seed: int, executed: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    sides = [{path: values(s, steps, rng) for path, s in side.items()} for side in (spec.observation, spec.action)]
    other = {path: values(s, steps, rng) for path, s in spec.action.items()} if executed else None
    info = {"seed": seed, "source": "test", "success": bool(seed % 2), "note": "ü"}
    return Episode("test/task", *sides, rng.normal(size=steps).astype(np.float32), other, info).check(spec)


def assert_same(a: Episode, b: Episode) -> None:
    assert a.task == b.task and a.info == b.info
    assert (a.executed is None) == (b.executed is None)
    np.testing.assert_array_equal(a.rewards, b.rewards)
    for side in ("observations", "actions", "executed"):
        left, right = getattr(a, side) or {}, getattr(b, side) or {}
        assert list(left) == list(right)
        for path in left:
            assert type(left[path]) is type(right[path]), path
            if isinstance(left[path], list):
                assert left[path] == right[path]
            else:
                assert left[path].dtype == right[path].dtype and left[path].shape == right[path].shape, path
                np.testing.assert_array_equal(left[path], right[path])


def write(folder: Path, episodes: list[Episode], spec: TaskSpec = EVERYTHING, close: bool = True) -> Path:
    writer = DatasetWriter(folder, "test/task", spec, {"source": "test"})
    for episode in episodes:
        writer.add(episode)
    writer.close(compact=close)
    return folder


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.one_of(st.integers(1, 9), st.integers(60, 70), st.integers(120, 200)), min_size=1, max_size=6),
    noisy=st.lists(st.booleans(), min_size=6, max_size=6),
    compact=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_every_modality_round_trips(tmp_path, lengths, noisy, compact, seed):
    episodes = [make_episode(EVERYTHING, n, seed + i, noisy[i]) for i, n in enumerate(lengths)]
    folder = write(tmp_path / str(time.time_ns()), episodes, close=compact)
    dataset = Dataset.open(folder)
    assert dataset.spec == EVERYTHING and dataset.task == "test/task"
    assert dataset.lengths.tolist() == lengths and [e.seed for e in dataset.index] == [
        seed + i for i in range(len(lengths))
    ]
    for i, episode in enumerate(episodes):
        assert_same(dataset[i], episode)
    backwards = dataset.episodes(range(len(dataset))[::-1])
    for got, expected in zip(backwards, episodes[::-1], strict=True):
        assert_same(got, expected)
    assert verify(folder).ok and verify(folder).episodes == len(lengths)


def test_arrays_are_the_readers_own(tmp_path):
    dataset = Dataset.open(write(tmp_path / "d", [make_episode(EVERYTHING, 5, 0), make_episode(EVERYTHING, 5, 1)]))
    first = dataset[0]
    for leaf in first.observations.values():
        if isinstance(leaf, np.ndarray):
            leaf += leaf.dtype.type(1)
    assert_same(dataset[0], make_episode(EVERYTHING, 5, 0))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 300), st.integers(0, 300))
def test_a_window_is_a_slice(long_dataset, start, stop):
    whole, window = long_dataset[1], long_dataset.window(1, start, stop)
    cut = slice(start, min(stop, len(whole)))
    np.testing.assert_array_equal(window.rewards, whole.rewards[cut])
    np.testing.assert_array_equal(window.observations["x"], whole.observations["x"][cut])
    np.testing.assert_array_equal(window.actions["a"], whole.actions["a"][cut])


@pytest.fixture(scope="module")
def long_dataset(tmp_path_factory):
    episodes = [make_episode(SMALL, n, n) for n in (70, 250, 3)]
    return Dataset.open(write(tmp_path_factory.mktemp("long") / "d", episodes, SMALL))


def test_a_window_reads_one_or_two_row_groups(long_dataset):
    [part] = long_dataset.parts.values()
    part.open()
    read, asked = part.file.read_row_groups, []

    class Counting:
        def read_row_groups(self, groups, **options):
            asked.append(len(groups))
            return read(groups, **options)

    file, part.file = part.file, Counting()
    try:
        for start in range(0, 200, 7):
            long_dataset.window(1, start, start + 50)
    finally:
        part.file = file
    assert set(asked) <= {1, 2}


@given(st.lists(st.integers(1, 400), max_size=50), st.integers(1, 10**5))
def test_row_groups_never_split_a_short_episode(lengths, row_bytes):
    groups = list(_row_groups(lengths, row_bytes))
    assert sum(groups) == sum(lengths)
    edges = set(np.cumsum(groups).tolist()) | {0}
    start = 0
    for length in lengths:
        inside = [e for e in edges if start < e < start + length]
        if length <= 64:
            assert not inside
        else:  # a long one stands alone, in pieces of 64
            assert start in edges and start + length in edges
            assert sorted(inside) == list(range(start + 64, start + length, 64))
        start += length


def test_a_hundred_thousand_timesteps_read_quickly(tmp_path):
    episodes = [make_episode(SMALL, 1000, i) for i in range(100)]
    with DatasetWriter(tmp_path / "d", "test/task", SMALL) as writer:
        writer.add_chunk(encode_chunk(SMALL, episodes, range(100)), range(100))
    dataset = Dataset.open(tmp_path / "d")
    began = time.process_time()
    read = dataset.episodes()
    assert time.process_time() - began < 2
    assert sum(map(len, read)) == 100_000
    assert_same(read[57], episodes[57])


def test_topping_up_keeps_order_and_folds_small_shards(tmp_path):
    folder = tmp_path / "d"
    for start in (0, 4, 8):
        with DatasetWriter(folder, "test/task", SMALL) as writer:
            for i in range(start, start + 4):
                writer.add(make_episode(SMALL, 10 + i, i), number=11 - i)
    dataset = Dataset.open(folder)
    assert [e.number for e in dataset.index] == list(range(12))
    assert [e.seed for e in dataset.index] == list(range(12))[::-1]
    assert len(list((folder / "data").iterdir())) == 1 and not list((folder / "pending").iterdir())
    for i in range(12):
        assert_same(dataset[i], make_episode(SMALL, 21 - i, 11 - i))


def test_large_data_goes_into_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_BYTES", 60_000)
    episodes = [make_episode(EVERYTHING, 20, i) for i in range(12)]
    folder = write(tmp_path / "d", episodes)
    assert len(list((folder / "data").iterdir())) > 2
    for got, expected in zip(Dataset.open(folder), episodes, strict=True):
        assert_same(got, expected)
    assert verify(folder).ok


def test_an_open_dataset_follows_a_compaction(tmp_path):
    folder = tmp_path / "d"
    write(folder, [make_episode(SMALL, 30, i) for i in range(3)], SMALL, close=False)
    early = Dataset.open(folder)
    with DatasetWriter(folder, "test/task", SMALL) as writer:
        writer.add(make_episode(SMALL, 30, 3))
    for i in range(3):
        assert_same(early[i], make_episode(SMALL, 30, i))


@pytest.mark.parametrize("how", ["all at once", "one after another", "a few"])
def test_many_episodes_follow_a_compaction_together(tmp_path, how):
    """A small shard and files not yet folded, all of them gone when they are read."""
    folder = tmp_path / "d"
    write(folder, [make_episode(SMALL, 30, i) for i in range(2)], SMALL)
    write(folder, [make_episode(SMALL, 20 + i, i) for i in range(2, 6)], SMALL, close=False)
    early = Dataset.open(folder)
    assert len({e.file for e in early.index}) == 5
    with DatasetWriter(folder, "test/task", SMALL) as writer:
        writer.add(make_episode(SMALL, 30, 6))
    asked = [5, 0, 3] if how == "a few" else list(range(6))
    read = list(early) if how == "one after another" else early.episodes(asked)
    for i, episode in zip(asked, read, strict=True):
        assert_same(episode, make_episode(SMALL, 30 if i < 2 else 20 + i, i))
    for i in range(6):
        assert_same(early[i], make_episode(SMALL, 30 if i < 2 else 20 + i, i))


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A dataset with four shards and one pending file."""
    folder = tmp_path_factory.mktemp("sound") / "d"
    before = writing.SHARD_BYTES
    writing.SHARD_BYTES = 10_000  # each batch stays a shard of its own
    try:
        write(folder, [make_episode(EVERYTHING, 20, i) for i in range(2)])
        write(folder, [make_episode(EVERYTHING, 20, i) for i in range(2)])
    finally:
        writing.SHARD_BYTES = before
    return write(folder, [make_episode(EVERYTHING, 20, 4)], close=False)


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def read_all(folder: Path) -> list[Episode]:
    return Dataset.open(folder).episodes()


def test_the_sound_one_reads(sound):
    assert len(read_all(sound)) == 5 and verify(sound).ok
    names = files_of(sound)
    assert {n.split("/")[0] for n in names} == {MANIFEST, "meta.json", "data", "index", "pending"} and len(names) >= 6


def test_any_flipped_bit_is_named(sound, tmp_path):
    rng = np.random.default_rng(0)
    for name in files_of(sound):
        folder = tmp_path / "copy"
        size = (sound / name).stat().st_size
        for bit in [0, size * 8 - 1, *rng.integers(0, size * 8, 4).tolist()]:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(sound, folder)
            data = bytearray((folder / name).read_bytes())
            data[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(data)
            with pytest.raises(DatasetCorruptError) as caught:
                read_all(folder)
            assert caught.value.where == str(folder / name), f"{name} bit {bit}"
            if name != MANIFEST:
                assert any(name in problem for problem in verify(folder).problems)


def test_any_truncation_is_named(sound, tmp_path):
    for name in files_of(sound):
        size = (sound / name).stat().st_size
        for length in {0, 1, size // 3, size - 1}:
            folder = tmp_path / f"{name.replace('/', '-')}-{length}"
            shutil.copytree(sound, folder)
            os.truncate(folder / name, length)
            with pytest.raises(DatasetCorruptError) as caught:
                read_all(folder)
            assert caught.value.where == str(folder / name)


def test_any_missing_file_is_named(sound, tmp_path):
    for name in files_of(sound):
        if name.startswith("pending/"):
            continue  # it was never part of the manifest: an episode of it is gone, nothing else is wrong
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(sound, folder)
        (folder / name).unlink()
        with pytest.raises(DataError) as caught:
            read_all(folder)
        if name == MANIFEST:
            assert isinstance(caught.value, DatasetMissingError)
        else:
            assert isinstance(caught.value, DatasetCorruptError) and caught.value.where == str(folder / name)


def test_swapped_shards_are_named(sound, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(sound, folder)
    first, second = sorted((folder / "data").iterdir())[:2]
    first.rename(folder / "x"), second.rename(first), (folder / "x").rename(second)
    with pytest.raises(DatasetCorruptError):
        read_all(folder)
    assert len(verify(folder).problems) == 2


def test_verify_counts_what_is_left(sound, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(sound, folder)
    damaged = sorted((folder / "data").iterdir())[0]
    os.truncate(damaged, 100)
    assert verify(sound, contents=False).ok and verify(sound, contents=False).timesteps == 100
    for report in (verify(folder), verify(folder, contents=False)):
        assert not report.ok and str(damaged) in report.problems[0] and report.episodes == 4


def test_repair_keeps_what_is_whole(sound, tmp_path):
    """A page changed in one shard, another shard's index gone: the rest comes back bit for bit, the damaged is untouched."""
    folder = tmp_path / "d"
    shutil.copytree(sound, folder)
    whole = Dataset.open(sound)
    shards = sorted((folder / "data").iterdir())
    data = bytearray(shards[0].read_bytes())
    column = pq.ParquetFile(shards[0]).metadata.row_group(0).column(0)
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 255
    shards[0].write_bytes(data)
    (folder / "index" / shards[-1].name).unlink()
    damaged = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    done = repair(folder, tmp_path / "new")
    new = Dataset.open(tmp_path / "new")
    assert verify(new.folder).ok and len(new) == done.kept and done.lost and done.unlisted
    assert done.kept + len(done.lost) == len(whole) and set(done.lost) == set(new.failed)
    assert all(str(shards[0]) in why for why in done.lost.values())
    numbered = {entry.number: episode for entry, episode in zip(whole.index, whole, strict=True)}
    for entry, episode in zip(new.index, new, strict=True):
        old = numbered[entry.number]
        assert episode.rewards.tobytes() == old.rewards.tobytes()
        for leaves, others in ((episode.observations, old.observations), (episode.actions, old.actions)):
            for path, values in leaves.items():
                assert values == others[path] if isinstance(values, list) else np.array_equal(values, others[path])
        assert episode.info.get("index_lost") or episode.info == old.info
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == damaged
    with pytest.raises(OutputExistsError):
        repair(folder, tmp_path / "new")
    (folder / "meta.json").write_text("{}")
    with pytest.raises(DatasetCorruptError):
        repair(folder, tmp_path / "other")


# -- crashes of the writer --------------------------------------------------------------------------------------------


def write_until_killed(folder: Path, changes: int) -> tuple[bool, set[int]]:
    """Write episodes 0, 1, 2 in a child that is killed by its next change to the disk after so many.

    Returns whether it got through, and which episodes it was told are durable.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:

        def dying(real):
            def call(*args, **options):
                nonlocal changes
                changes -= 1
                if changes < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            return call

        os.replace, os.fsync = dying(os.replace), dying(os.fsync)
        Path.unlink = dying(Path.unlink)
        code = 1
        try:
            with DatasetWriter(folder, "test/task", SMALL) as writer:
                for i in range(3):
                    if i not in writer.numbers:
                        writer.add(make_episode(SMALL, 20, i), i)
                        os.write(writing, bytes([i]))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as file:
        durable = set(file.read())
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status), durable


def test_a_kill_at_any_point_loses_and_doubles_nothing(tmp_path):
    """Die after 0, 1, 2, … changes to the disk (create, add, compact, clean), until a writer gets through."""
    through, changes = False, 0
    while not through:
        folder = tmp_path / str(changes)
        through, durable = write_until_killed(folder, changes)
        for more in (changes + 3, 10_000, 10_000):  # killed once more, a little further on, and then not at all
            if (folder / MANIFEST).exists():
                dataset = Dataset.open(folder)
                assert durable <= {e.number for e in dataset.index}
                for entry, episode in zip(dataset.index, dataset, strict=True):
                    assert_same(episode, make_episode(SMALL, 20, entry.number))
            else:
                assert not durable
            durable |= write_until_killed(folder, more)[1]
        assert len(Dataset.open(folder)) == 3 and verify(folder).ok
        assert not [n for n in files_of(folder) if ".tmp-" in n or n.startswith("pending/") or n == ".lock"]
        changes += 1
    assert changes > 30


# -- the folder -------------------------------------------------------------------------------------------------------


def test_another_task_or_spec_in_the_folder(tmp_path):
    folder = write(tmp_path / "d", [make_episode(SMALL, 5, 0)], SMALL)
    before = {n: (folder / n).read_bytes() for n in files_of(folder)}
    for args in [("test/other", SMALL), ("test/task", EVERYTHING), ("test/task", SMALL, {"source": "random"})]:
        with pytest.raises(OutputExistsError, match="holds"):
            DatasetWriter(folder, *args)
    assert before == {n: (folder / n).read_bytes() for n in files_of(folder)}


def test_a_folder_with_other_things(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(OutputExistsError, match=r"thesis\.tex"):
        DatasetWriter(tmp_path, "test/task", SMALL)
    assert files_of(tmp_path) == ["thesis.tex"]


def test_two_writers(tmp_path):
    with DatasetWriter(tmp_path / "d", "test/task", SMALL), pytest.raises(OutputExistsError, match=str(os.getpid())):
        DatasetWriter(tmp_path / "d", "test/task", SMALL)
    DatasetWriter(tmp_path / "d", "test/task", SMALL).close()


def test_an_episode_that_does_not_fit_is_refused_whole(tmp_path):
    with DatasetWriter(tmp_path / "d", "test/task", SMALL) as writer:
        bad = make_episode(SMALL, 9, 0)
        bad.observations["x"][4, 2] = np.nan
        with pytest.raises(EpisodeError, match="step 4"):
            writer.add(bad)
        writer.add(make_episode(SMALL, 9, 1))
    assert [e.seed for e in Dataset.open(tmp_path / "d").index] == [1]


def test_finding_and_listing(tmp_path):
    write(tmp_path / "lab" / "one", [make_episode(SMALL, 5, 0), make_episode(SMALL, 5, 1)], SMALL)
    write(tmp_path / "lab" / "two", [make_episode(SMALL, 7, 3)], SMALL)
    assert find_datasets([tmp_path]) == [tmp_path / "lab" / "one", tmp_path / "lab" / "two"]
    rows = table(tmp_path, tokens=lambda dataset: 24 * dataset.num_timesteps)
    assert [r["timesteps"] for r in rows] == [10, 7] and rows[0]["tokens"] == 240 and rows[0]["success"] == 0.5
    with pytest.raises(DatasetMissingError, match="lab"):
        find_datasets(tmp_path / "lap")
    (tmp_path / "experts.py").write_text("")
    with pytest.raises(DatasetMissingError, match="not a folder") as error:
        find_datasets(tmp_path / "experts.py")
    assert "experts" not in error.value.fix
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetMissingError, match="no dataset here"):
        find_datasets(tmp_path / "empty")
    write(tmp_path / "made" / "prompts" / "one", [make_episode(SMALL, 5, 0)], SMALL)
    commit_folder(tmp_path / "made", tmp_path / "lab" / "bundle", {}, kind="bundle")
    assert len(find_datasets([tmp_path])) == 2  # a bundle's prompts are its own
    assert find_datasets([tmp_path / "lab" / "bundle" / "prompts"]) == [tmp_path / "lab/bundle/prompts/one"]


def test_what_cannot_be_counted_hides_nothing(tmp_path, capsys):
    """A damaged dataset, and one whose grey pictures are 7,056 values each, beside a sound one."""
    grey = TaskSpec({"screen": Spec("discrete", (84, 84), "uint8", (0.0,), (255.0,))}, SMALL.action)
    write(tmp_path / "my lab" / "grey", [make_episode(grey, 5, 0)], grey)
    write(tmp_path / "my lab" / "sound", [make_episode(SMALL, 5, 1)], SMALL)
    write(tmp_path / "my lab" / "torn", [make_episode(SMALL, 5, 2)], SMALL)
    [index] = (tmp_path / "my lab" / "torn" / "index").iterdir()
    index.write_bytes(index.read_bytes()[:-9])
    for more in ((), ("--paper",)):
        with pytest.raises(SystemExit, match="0"):
            main(["data", "ls", str(tmp_path), *more])
        out, err = capsys.readouterr()
        assert "an observation of 7056 tokens" in err and "(84, 84, 1)" in err and "dataset-corrupt" in err
        assert "120" in out or more  # the sound one: 5 timesteps of 17 values, a separator and 6 values
    rows = {r["folder"].name: r for r in table(tmp_path)}
    assert f"gato data verify '{tmp_path}/my lab/torn'" in rows["torn"]["problem"]  # a line to be pasted into a shell
    assert rows["sound"]["timesteps"] == rows["grey"]["timesteps"] == 5 and not rows["grey"]["problem"]
    assert rows["torn"]["problem"] and rows["torn"]["task"] == "my lab/torn" and rows["torn"]["mean_return"] is None


def test_beside_the_paper():
    """Sums by domain; the paper's domains first, also those we have nothing of."""
    rows = [
        {"domain": "babyai", "task": "babyai/a", "episodes": 3, "tokens": 10},
        {"domain": "babyai", "task": "babyai/b", "episodes": 4, "tokens": None},
        {"domain": "mine", "task": "mine/c", "episodes": 1, "tokens": 2},
    ]
    found = beside_the_paper(rows, {"procgen": (16, 1.6e6, 4.46e9, 5.34), "babyai": (46, 4.61e6, 22.8e9, 9.06)})
    assert [(r["domain"], r["tasks"], r["episodes"], r["tokens"], r["paper_tasks"]) for r in found] == [
        ("procgen", 0, 0, 0, 16), ("babyai", 2, 7, 10, 46), ("mine", 1, 1, 2, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("meta", ["{}", "[]", '{"schema": 1, "task": "own/task"}'])
def test_hashes_that_hold_of_what_is_no_dataset(tmp_path, meta):
    (tmp_path / "making").mkdir()
    (tmp_path / "making" / "meta.json").write_text(meta)
    folder = commit_folder(tmp_path / "making", tmp_path / "made", {}, kind="dataset")
    for read in (Dataset.open, read_spec):
        with pytest.raises(DatasetCorruptError, match="without schema, task or spec"):
            read(folder)
