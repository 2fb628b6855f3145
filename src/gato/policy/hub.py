"""A bundle on the Hugging Face Hub, and back: only ever because somebody asked for just that.

    agent.push_to_hub("org/name")                     # private, unless private=False
    agent = gato.load("hf://org/name@v1")             # branch, tag or commit; main if none is named

What goes up is the bundle as it is saved, and a model card written from what the bundle says of itself. What comes down is
what its manifest lists, of the kinds that a bundle has (safetensors, JSON, SentencePiece, Parquet), and it is checked
against that manifest before anything of it is read. `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and the cache are the
library's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from gato.episodes.manifest import MANIFEST, read_manifest
from gato.errors import CheckpointCorruptError, CheckpointMissingError, ResourceError, UsageError
from gato.model.bundle import Bundle
from gato.policy.card import model_card

SCHEME = "hf://"
KINDS = {".safetensors", ".json", ".model", ".parquet"}


def split_address(address: str) -> tuple[str, str | None]:
    """`hf://org/name@revision` → ("org/name", "revision" or None). Raises UsageError."""
    repository, _, revision = address.removeprefix(SCHEME).partition("@")
    _check_name(repository, address)
    return repository, revision or None


def _check_name(repository: str, said: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or ".." in repository or repository.endswith(".git"):
        raise UsageError(
            f"{said!r} is no place on the Hub", fix='"hf://ORGANISATION/NAME" or "hf://ORGANISATION/NAME@REVISION"'
        )


def fetch(address: str) -> Path:
    """Download a bundle, or find it in the cache; its folder, not verified yet.

    Raises UsageError (no such address), CheckpointMissingError (nothing there, or nothing that one may see), ResourceError
    (the Hub cannot be reached), CheckpointCorruptError (a manifest that names what no bundle holds).
    """
    repository, revision = split_address(address)
    hub = _library()
    with _naming_errors(address):  # our own pass through
        first = Path(hub.hf_hub_download(repository, MANIFEST, revision=revision))
        names = sorted(read_manifest(first.parent, "bundle")["files"])
        for name in names:
            place = PurePosixPath(name)
            if place.is_absolute() or ".." in place.parts or (place.suffix not in KINDS):
                raise CheckpointCorruptError(
                    f"its manifest lists {name!r}, which no bundle holds", where=address, fix="do not use it"
                )
        # The commit that the manifest is of, so that a push in between cannot mix two bundles.
        return Path(hub.snapshot_download(repository, revision=first.parent.name, allow_patterns=[MANIFEST, *names]))


def push(bundle: Bundle, repository: str, *, private: bool = True, message: str = "", token: str | None = None) -> str:
    """Upload a bundle and its card in one commit; returns the address of that commit. See `Agent.push_to_hub`."""
    _check_name(repository, repository)
    hub = _library()
    with tempfile.TemporaryDirectory() as beside:
        folder = bundle.save(Path(beside) / "bundle")
        (folder / "README.md").write_text(model_card(bundle, repository, address=f"{SCHEME}{repository}"))
        with _naming_errors(f"{SCHEME}{repository}"):
            api = hub.HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(
                folder_path=folder, repo_id=repository, commit_message=message or "A bundle of gato-agent",
                delete_patterns=["*.safetensors", "*.json", "*.model", "*.parquet"],  # of a bundle that was there before
            )  # fmt: skip
    return f"{SCHEME}{repository}@{done.oid}"


def _library() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError("the Hub's library is not installed", fix='pip install "huggingface-hub>=1.0"') from None
    return huggingface_hub


@contextlib.contextmanager
def _naming_errors(address: str) -> Iterator[None]:
    """What the library raises, as what it means."""
    from huggingface_hub import errors

    token = "hf auth login, or HF_TOKEN=…, with a token that may do this"
    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise UsageError("no token for the Hub", where=address, fix=token) from error
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise CheckpointMissingError(
            "no such repository, or none that you may see", where=address, fix=f"look at the name; or {token}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointMissingError(
            "no such revision", where=address, fix="name a branch, tag or commit of it"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ResourceError(
            "offline: HF_HUB_OFFLINE is set", where=address, fix="unset it, or load from a folder"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ResourceError(
            "the Hub cannot be reached, and it is not in the cache",
            where=address,
            fix="look at the network; or load from a folder",
        ) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointMissingError(
            f"not a bundle: there is no {MANIFEST}", where=address, fix="agent.push_to_hub makes one"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise UsageError(f"the Hub refused it ({status})", where=address, fix=token) from error
        raise ResourceError(f"the Hub answered {status}", where=address, fix="try again later") from error
    except Exception as error:  # of whichever HTTP library this version has
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore") and not isinstance(
            error, OSError
        ):
            raise
        raise ResourceError(
            f"the Hub cannot be reached: {type(error).__name__}",
            where=address,
            fix="look at the network and HF_ENDPOINT",
        ) from error
