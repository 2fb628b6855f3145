"""Plain text becomes documents: files and folders of one's own, or the standard library's documentation.

text_files(["notes/"])    every .txt, .md, .rst below notes/, and every record of .jsonl, .parquet, … (see documents.py)
python_docs("train")      one document per module of the running Python's standard library
"""

from __future__ import annotations

import ast
import functools
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from gato.corpora import Split, check_split, document, split_of
from gato.corpora.documents import PART_BYTES, Documents
from gato.episodes import Episode
from gato.errors import DataError

PYTHON_DOCS = "text/python-docs"


# -- files of one's own -----------------------------------------------------------------------------------------------


def text_files(
    paths: Iterable[str | Path], task: str = "text/files", split: Split | None = None, max_bytes: int = PART_BYTES
) -> Iterator[Episode]:
    """Documents of files and folders, in name order; both splits where `split` is None. Empty documents are left out.

    Raises UnknownNameError for a path that is not there, DataError (file, line) for what is not UTF-8 or not JSON.
    """
    return iter(Documents(paths, task=task, split=split, part_bytes=max_bytes))


# -- the default corpus -----------------------------------------------------------------------------------------------

_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo"}
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_docs(split: Split) -> Iterator[Episode]:
    """The documentation strings of the standard library: about 2 MB of English, one document per module.

    Held-out documents are whole modules, and no documentation string is in both splits. The sources are parsed, never
    imported. Raises DataError where this Python came without its sources.
    """
    check_split(split)
    for name, text in _modules():
        if split_of(f"stdlib/{name}") == split:
            source = f"standard library of Python {sys.version_info.major}.{sys.version_info.minor}"
            yield document(PYTHON_DOCS, text, {"document": name, "split": split, "source": source})


@functools.cache
def _modules() -> tuple[tuple[str, str], ...]:
    """(module name, document) of every documented module, by name."""
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()  # a string that several modules repeat belongs to the first: no split sees the other's
    documents = []
    for name, file in sorted(_sources(root)):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue  # templates and deliberately broken files
        entries = []
        for title, text in _docstrings(tree, name):
            if text not in seen:
                entries.append(f"{title}\n\n{text}\n")
                seen.add(text)
        if entries:
            documents.append((name, "\n".join(entries)))
    if len(documents) < 50:
        raise DataError(
            "this Python came without the sources of its standard library", where=str(root),
            fix="name text of your own: gato tokenizer train FILES, text_files(…)",
        )  # fmt: skip
    return tuple(documents)


def _sources(root: Path) -> Iterator[tuple[str, Path]]:
    """(module name, file) of every module of the standard library."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        for file in (Path(folder, name) for name in files if name.endswith(".py")):
            parts = file.relative_to(root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """(title, text) of the module, its classes and their functions, in source order."""
    if text := ast.get_docstring(tree):
        yield f"module {module}", _printable(text)
    yield from _definitions(tree, module)


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition):
            name = f"{prefix}.{child.name}"
            if text := ast.get_docstring(child):
                yield _title(child, name), _printable(text)
            if isinstance(child, ast.ClassDef):
                yield from _definitions(child, name)
        elif isinstance(child, ast.If | ast.Try | ast.With):  # definitions for one platform, or behind an import
            yield from _definitions(child, prefix)


def _title(node: _Definition, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {name}({bases})" if bases else f"class {name}"
    return f"def {name}({ast.unparse(node.args)})"


def _printable(text: str) -> str:
    """As written, but for lone surrogates (in escapes such as "\\ud800"), which are not Unicode."""
    return text.strip().encode("utf-8", "replace").decode()
