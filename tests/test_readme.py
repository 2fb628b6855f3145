"""What the documentation says exists: code, verbs, fields, files, numbers."""

import dataclasses
import json
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from gato.model import GatoConfig
from gato.training import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_after(mark: str) -> str:
    return re.search(rf"<!-- {mark} -->\n```python\n(.*?)```", README, re.DOTALL)[1]


def test_the_ten_lines_are_those_of_the_example():
    example = (ROOT / "examples/own_environment.py").read_text()
    core = re.search(r"    # -- ten lines\n(.*?)    # -- as said\n", example, re.DOTALL)[1]
    assert textwrap.dedent(core) == code_after("ten lines")
    assert len([line for line in core.splitlines() if line.strip()]) == 10
    assert code_after("expert") in example


def links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} → {link}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles}, link


def verbs() -> list[str]:
    """Every `gato VERB` (and `gato VERB VERB`) that a page names as code, but for what it says is not there yet."""
    found = set()
    for page in PAGES:
        text = page.read_text().split("## Not there yet")[0]
        code = re.findall(r"```bash\n(.*?)```", text, re.DOTALL) + re.findall(r"`(gato [^`]*)`", text)
        for line in "\n".join(code).splitlines():
            if said := re.match(r"(?:PYTHONPATH=\. )?gato ((?:data|tokenizer) [a-z]+|[a-z]+)", line):
                found.add(said[1])
    return sorted(found)


def test_the_commands_exist():
    unwritten = {"data repair", "VERB"}
    asked = [verb for verb in verbs() if verb not in unwritten]
    assert len(asked) > 10
    for verb in asked:
        program = f"from gato.cli import main; main({[*verb.split(), '--help']})"
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert ran.returncode == 0, f"gato {verb}: {ran.stderr}"


def test_every_verb_is_in_the_readme():
    from gato.cli import VERBS

    for verb in VERBS:
        assert f"`gato {verb}" in README, verb


def test_the_make_targets_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for target in re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_the_table_of_worlds_counts_right():
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)/\*` \| (\d+) \|", README, re.MULTILINE))
    line = [
        sys.executable,
        "-m",
        "gato",
        "tasks",
        "--json",
    ]  # by itself, since other tests register worlds in this process
    listed = json.loads(subprocess.run(line, check=True, capture_output=True, text=True, timeout=120).stdout)
    counted = dict(Counter(task["domain"] for task in listed))
    del counted["dummy"]  # a test world
    assert {domain: int(number) for domain, number in rows.items()} == counted


def test_the_switches_of_the_deviations_exist():
    text = (ROOT / "docs/deviations.md").read_text()
    recipe, config = ({f.name for f in dataclasses.fields(c)} for c in (Recipe, GatoConfig))
    for name in re.findall(r"`model\.(\w+)`", text):
        assert name in config, name
    demo = text.split("## Different from the paper, in the demo")[1].split("## Worlds")[0]
    for line in demo.splitlines():
        cells = line.split(" | ")
        if len(cells) == 5 and "of `collect`" not in cells[2]:
            for name in re.findall(r"`(\w+)`", cells[2]):
                assert name in recipe, name
