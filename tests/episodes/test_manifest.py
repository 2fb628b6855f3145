"""Atomic writes, manifests and locks."""

import os
import subprocess
import sys

import pytest

from gato.episodes.manifest import (
    LOCK,
    MANIFEST,
    commit_folder,
    lock_folder,
    read_manifest,
    temporary_beside,
    verify_manifest,
    write_file_atomically,
)
from gato.errors import (
    CheckpointCorruptError,
    CheckpointMissingError,
    DatasetMissingError,
    OutputExistsError,
    ResourceError,
)


def make(folder, **files):
    beside = temporary_beside(folder)
    for name, text in files.items():
        path = beside / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return commit_folder(beside, folder, {"step": 3})


def test_commit_and_verify(tmp_path):
    folder = make(tmp_path / "c", weights="w" * 100, inner__state="s")
    record = verify_manifest(folder)
    assert set(record["files"]) == {"weights", "inner/state"} and record["facts"] == {"step": 3}
    assert sorted(os.listdir(tmp_path)) == ["c"]


def test_a_dataset_inside_a_bundle_is_covered_whole(tmp_path):
    folder = make(tmp_path / "c", **{f"inner__{MANIFEST}": "{}"})
    assert f"inner/{MANIFEST}" in verify_manifest(folder)["files"]


def test_a_commit_never_replaces(tmp_path):
    folder = make(tmp_path / "c", weights="one")
    with pytest.raises(OutputExistsError):
        make(folder, weights="two")
    assert (folder / "weights").read_text() == "one"


def test_any_bit_of_a_small_folder(tmp_path):
    folder = make(tmp_path / "c", a="x")
    for name in ("a", MANIFEST):
        path = folder / name
        sound = path.read_bytes()
        for bit in range(0, len(sound) * 8, 7):
            data = bytearray(sound)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            with pytest.raises(CheckpointCorruptError) as caught:
                verify_manifest(folder)
            assert caught.value.where == str(path)
        path.write_bytes(sound)
    verify_manifest(folder)


def test_kinds_and_newer_versions(tmp_path):
    folder = make(tmp_path / "c", a="x")
    with pytest.raises(DatasetMissingError, match="checkpoint, not a dataset"):
        read_manifest(folder, "dataset")
    with pytest.raises(CheckpointMissingError, match="no such folder"):
        read_manifest(tmp_path / "nothing", "checkpoint")
    (tmp_path / "bare").mkdir()
    with pytest.raises(CheckpointMissingError, match="no such folder"):
        read_manifest(tmp_path / "no\0name", "checkpoint")
    with pytest.raises(CheckpointMissingError, match=MANIFEST):
        read_manifest(tmp_path / "bare", "checkpoint")


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "f"
    write_file_atomically(path, b"old")
    code = (
        "import resource, sys; from gato.episodes.manifest import write_file_atomically\n"
        "from gato.errors import DiskFullError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_file_atomically(sys.argv[1], bytes(5000))\n"
        "except DiskFullError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "5,000 bytes needed" in run.stdout and str(path) in run.stdout
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputExistsError), lock_folder(tmp_path / "f"):
        pass
    with pytest.raises((OutputExistsError, ResourceError)), lock_folder(tmp_path / "f" / "below"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="no permission"):
        write_file_atomically(tmp_path / "f", b"x")


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    code = (
        "import sys, time; from gato.episodes.manifest import lock_folder\n"
        "with lock_folder(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(OutputExistsError, match=f"process {holder.pid}"), lock_folder(tmp_path):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with lock_folder(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()
