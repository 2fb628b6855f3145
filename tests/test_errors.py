"""Every error has a code of its own, an exit status of its family, and an entry in the documentation."""

import ast
import copy
import importlib
import re
from pathlib import Path

import pytest

from gato.errors import GatoError, known_instead, nearest

ROOT = Path(__file__).parents[1]
FAMILIES = {"usage": 2, "data": 3, "checkpoint": 4, "world": 5, "resources": 6}


def _family(cls):
    return [cls, *(c for sub in cls.__subclasses__() for c in _family(sub))]


def _everywhere():
    """Every GatoError of the package, also those that a room defines for itself: its file is found by reading."""
    for file in sorted((ROOT / "src/gato").rglob("*.py")):
        bases = {
            ast.unparse(b)
            for n in ast.walk(ast.parse(file.read_text()))
            if isinstance(n, ast.ClassDef)
            for b in n.bases
        }
        if any(b.endswith("Error") for b in bases):
            importlib.import_module(".".join(file.relative_to(ROOT / "src").with_suffix("").parts))
    return [cls for cls in _family(GatoError) if cls.__module__.split(".")[0] == "gato"]


ERRORS = _everywhere()


def _documented():
    """{code: (exit status, words)} as docs/errors.md has it."""
    found = {}
    for part in re.split(r"^## ", (ROOT / "docs/errors.md").read_text(), flags=re.M)[1:]:
        status = int(re.match(r"Exit status (\d)", part).group(1))
        for code, words in re.findall(r"^### `([a-z-]+)`\n(.*?)(?=^###|\Z)", part, flags=re.M | re.S):
            assert code not in found, f"{code} is documented twice"
            found[code] = status, words
    return found


def test_codes_are_unique_and_every_class_has_its_own():
    codes = [cls.__dict__.get("code") for cls in ERRORS]
    assert None not in codes, f"{ERRORS[codes.index(None)].__name__} borrows its code"
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_every_error_is_documented_under_its_exit_status():
    documented = _documented()
    assert {cls.code: cls.exit_code for cls in ERRORS} == {code: status for code, (status, _) in documented.items()}
    for code, (_, words) in documented.items():
        assert code == "gato" or ("**Cause.**" in words and "**Remedy.**" in words), code


def test_exit_status_follows_the_family():
    for cls in ERRORS:
        families = [FAMILIES[c.code] for c in cls.__mro__ if getattr(c, "code", None) in FAMILIES]
        assert families == ([] if cls is GatoError else [cls.exit_code]), cls.__name__


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.code)
def test_an_error_says_what_where_and_what_next_also_after_a_copy(cls):
    error = cls("it broke", where="babyai/go-to-local seed 7", fix="gato doctor")
    assert str(error) == f"{cls.code}: it broke [babyai/go-to-local seed 7]\n  next: gato doctor"
    again = copy.copy(error)  # the same protocol that carries it out of a worker process
    assert type(again) is cls and str(again) == str(error) and again.fix == "gato doctor"
    assert isinstance(error, ValueError)
    assert str(cls("it broke")) == f"{cls.code}: it broke"


def test_nearest():
    assert nearest("babyai/goto-local", ["babyai/go-to-local", "sokoban/tiny"]) == "did you mean babyai/go-to-local?"
    assert nearest("xyz", ["babyai/go-to-local"]) == ""


def test_of_hundreds_of_names_a_few_are_said_and_how_many_there_are():
    known = [f"sokoban/{i}" for i in range(1200)]
    assert known_instead("sokoban/77x", known).startswith("did you mean sokoban/77")
    assert known_instead("xyz", known) == "say sokoban/0, sokoban/1, sokoban/2; it knows 1,200"
