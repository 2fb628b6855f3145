"""Files become durable folders: atomic writes, SHA-256 manifests, locks, and disk errors with names.

A folder (dataset, checkpoint, bundle) exists only through its `MANIFEST.json`, which is written last and lists every
other file with its size and SHA-256, and itself with a hash of its own:

    {"schema": 1, "kind": "dataset", "files": {"meta.json": {"bytes": …, "sha256": …}, …}, "facts": {…}, "self": …}

Every write goes beside its target, is fsynced, renamed over it, and the folder fsynced: a power cut or a kill at any
point leaves the old file or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gato.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMissingError,
    DataError,
    DatasetCorruptError,
    DatasetMissingError,
    DiskFullError,
    GatoError,
    OutputExistsError,
    ResourceError,
)

MANIFEST = "MANIFEST.json"
SCHEMA = 1  # of the manifest itself; older ones are read for ever, newer ones are a named error
LOCK = ".lock"
TEMPORARY = ".tmp-"  # part of the name of everything that is not committed yet

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not grow further",
}
_DENIED = {errno.EROFS: "the file system is read-only", errno.EACCES: "no permission", errno.EPERM: "not permitted"}


def missing_error(kind: str) -> type[GatoError]:
    return DatasetMissingError if kind in ("dataset", "tokens") else CheckpointMissingError


def corrupt_error(kind: str) -> type[GatoError]:
    return DatasetCorruptError if kind in ("dataset", "tokens") else CheckpointCorruptError


@contextlib.contextmanager
def naming_disk_errors(path: Path | str, num_bytes: int | None = None) -> Iterator[None]:
    """OSErrors of a full, read-only or forbidden disk become DiskFullError or ResourceError naming `path`."""
    try:
        yield
    except OSError as error:
        reason = _FULL.get(error.errno or 0)
        if reason:
            need = f"{num_bytes:,} bytes needed" if num_bytes is not None else "more bytes needed"
            with contextlib.suppress(OSError):
                need += f", {shutil.disk_usage(_existing(Path(path))).free:,} free"
            raise DiskFullError(
                f"{reason}: {need}",
                where=str(path),
                fix="free some space (or choose another folder) and run the same command again",
            ) from error
        reason = _DENIED.get(error.errno or 0)
        if reason:
            raise ResourceError(
                f"cannot write: {reason}", where=str(path), fix="choose a folder you may write to"
            ) from error
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise OutputExistsError(
                "a file stands where a folder is needed", where=str(path), fix="choose another folder"
            ) from error
        raise ResourceError(
            f"cannot write: {error.strerror or error}", where=str(path), fix="check the disk"
        ) from error


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


# -- files ------------------------------------------------------------------------------------------------------------


def sha256_of(data: Any) -> str:
    """Hex digest of bytes (or anything with a buffer)."""
    return hashlib.sha256(memoryview(data)).hexdigest()


def sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make renames and removals inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """`mkdir -p`, with named errors; every folder made is durable."""
    with naming_disk_errors(folder):
        made = [f for f in (folder, *folder.parents) if not f.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for new in made:
            fsync_folder(new.parent)


def write_file_atomically(path: Path | str, data: Any) -> dict[str, Any]:
    """Write bytes beside `path`, fsync, rename over it, fsync the folder. Returns its manifest entry.

    On any failure what was there before stays, and nothing is left beside it. Raises DiskFullError or ResourceError.
    """
    path, view = Path(path), memoryview(data).cast("B")
    beside = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
    with naming_disk_errors(path, view.nbytes):
        try:
            with open(beside, "xb") as file:
                file.write(view)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        fsync_folder(path.parent)
    return {"bytes": view.nbytes, "sha256": sha256_of(view)}


# -- manifests --------------------------------------------------------------------------------------------------------


def render_manifest(kind: str, files: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest. Canonical, so that every byte of the file is covered by its own hash."""
    record = {"schema": SCHEMA, "kind": kind, "files": files, "facts": facts}
    return _dump({**record, "self": sha256_of(_dump(record))})


def _dump(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_manifest(folder: Path, kind: str, files: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """The commit point: after this rename the listed files are the folder."""
    write_file_atomically(folder / MANIFEST, render_manifest(kind, files, facts))


def read_manifest(folder: Path | str, kind: str) -> dict[str, Any]:
    """{"schema", "kind", "files", "facts"} of a folder, itself verified (not yet the files).

    Raises DatasetMissingError or CheckpointMissingError without a manifest, …CorruptError for a damaged one.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a name with a null byte in it
        what = "no such folder" if not folder.exists() else f"not a {kind}: there is no {MANIFEST}"
        raise missing_error(kind)(what, where=str(folder), fix=_where_to_look(kind)) from None
    except OSError as error:
        raise corrupt_error(kind)(
            f"cannot be read: {error.strerror}", where=str(path), fix=_remedy(kind, folder)
        ) from error
    corrupt = corrupt_error(kind)("the manifest is truncated or changed", where=str(path), fix=_remedy(kind, folder))
    try:
        record = json.loads(data)
        own = record.pop("self")
        intact = own == sha256_of(_dump(record)) and data == _dump({**record, "self": own})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise corrupt from None
    if not intact:
        raise corrupt
    if record["schema"] > SCHEMA:
        base = DataError if kind == "dataset" else CheckpointError
        raise base(
            f"written by a newer version (schema {record['schema']}, this one reads {SCHEMA})",
            where=str(path),
            fix="upgrade gato-agent",
        )
    if record["kind"] != kind:
        raise missing_error(kind)(
            f"this is a {record['kind']}, not a {kind}", where=str(folder), fix=_where_to_look(kind)
        )
    return record


def verify_file(
    folder: Path, name: str, entry: Mapping[str, Any], error: type[GatoError], kind: str | None = None
) -> None:
    """Size, then SHA-256. Raises `error` naming the file that is missing, truncated or changed."""
    path = folder / name
    kind = kind or ("dataset" if issubclass(error, DataError) else "checkpoint")
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            what = "truncated" if size < entry["bytes"] else "too long"
            raise error(
                f"{what}: {size:,} bytes, expected {entry['bytes']:,}", where=str(path), fix=_remedy(kind, folder)
            )
        if sha256_of_file(path) != entry["sha256"]:
            raise error("changed since it was written (SHA-256 differs)", where=str(path), fix=_remedy(kind, folder))
    except FileNotFoundError:
        raise error("the file is missing", where=str(path), fix=_remedy(kind, folder)) from None
    except OSError as failure:
        raise error(f"cannot be read: {failure.strerror}", where=str(path), fix=_remedy(kind, folder)) from failure


def verify_manifest(
    folder: Path | str, error: type[GatoError] = CheckpointCorruptError, kind: str | None = None
) -> dict[str, Any]:
    """Check every file the manifest lists; returns the manifest. Raises `error` naming the first bad file.

    `kind` is what the folder must be; without it, `dataset` or `checkpoint` after the class of `error`.
    """
    folder = Path(folder)
    record = read_manifest(folder, kind or ("dataset" if issubclass(error, DataError) else "checkpoint"))
    for name, entry in record["files"].items():
        verify_file(folder, name, entry, error, kind)
    return record


def _remedy(kind: str, folder: Path) -> str:
    if kind == "dataset":
        named = shlex.quote(str(folder))
        return f"gato data verify {named} shows the extent; restore the file, or gato data repair {named} --out DIR keeps what is whole"
    if kind == "tokens":
        return f"rm -r {folder}: it is made again from the dataset"
    return "restore it from a copy, or resume from an earlier checkpoint"


def _where_to_look(kind: str) -> str:
    return (
        "gato data ls PATH lists the datasets below a folder"
        if kind == "dataset"
        else "name a folder that holds a MANIFEST.json"
    )


# -- folders ----------------------------------------------------------------------------------------------------------


def temporary_beside(final: Path) -> Path:
    """A fresh folder beside `final`, for `commit_folder`."""
    folder = final.with_name(f"{final.name}{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
    make_folder(folder)
    return folder


def commit_folder(temporary: Path | str, final: Path | str, facts: Mapping[str, Any], kind: str = "checkpoint") -> Path:
    """Make everything in `temporary` durable under the name `final`, the manifest written last.

    Raises OutputExistsError if `final` exists and is not empty, DiskFullError or ResourceError from the disk; then
    `temporary` is still there and `final` is not.
    """
    temporary, final = Path(temporary), Path(final)
    files: dict[str, Any] = {}
    for path in sorted(p for p in temporary.rglob("*") if p.is_file() and p != temporary / MANIFEST):
        with naming_disk_errors(path), open(path, "rb+") as file:
            os.fsync(file.fileno())
        files[path.relative_to(temporary).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    for folder in sorted((p for p in temporary.rglob("*") if p.is_dir()), reverse=True):
        fsync_folder(folder)
    write_manifest(temporary, kind, files, facts)
    try:
        os.rename(temporary, final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise OutputExistsError(
                "something else is there already", where=str(final), fix="choose another folder"
            ) from error
        with naming_disk_errors(final):
            raise
    fsync_folder(final.parent)
    return final


def remove_leftovers(folder: Path, beside: str = "*") -> int:
    """Delete what killed writers left beside their targets in `folder` (hold its lock). Returns how many."""
    left = [p for p in folder.glob(f"{beside}{TEMPORARY}*")]
    for path in left:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return len(left)


@contextlib.contextmanager
def lock_folder(folder: Path | str) -> Iterator[None]:
    """Only one process writes into a folder. Raises OutputExistsError naming the process that does.

    The kernel drops the lock when its holder dies, however it dies.
    """
    folder = Path(folder)
    make_folder(folder)
    with _locked(folder / LOCK, folder):
        yield


@contextlib.contextmanager
def lock_file(path: Path | str) -> Iterator[None]:
    """The same for a file that is written anew again and again, beside others in its folder."""
    path = Path(path)
    make_folder(path.parent)
    with _locked(path.with_name(path.name + LOCK), path):
        remove_leftovers(path.parent, beside=path.name)
        yield


@contextlib.contextmanager
def _locked(path: Path, where: Path) -> Iterator[None]:
    descriptor = _take_lock(path, where)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before the lock is dropped: whoever waits sees that its file is gone
        os.close(descriptor)


def _take_lock(path: Path, where: Path) -> int:
    while True:
        with naming_disk_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace") or "unknown"
            os.close(descriptor)
            raise OutputExistsError(
                f"process {holder} is writing here",
                where=str(where),
                fix=f"wait for process {holder} to end, or choose another folder",
            ) from None
        except FileNotFoundError:  # the last holder removed it between our open and our look
            pass
        except OSError as error:
            os.close(descriptor)
            with naming_disk_errors(path):
                raise error
        os.close(descriptor)
