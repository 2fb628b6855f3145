"""DeepMind Lab: what is listed without the package, and how its levels would be found and named.

The package cannot be had from a registry, so what runs inside it is not tested here; the folder is a real one, of real files
laid out as the package lays them out.
"""

from __future__ import annotations

import sys

import pytest

from gato.errors import SimulatorMissingError
from gato.worlds import dm_lab, find

LEVELS = ("lt_chasm", "contributed/dmlab30/rooms_watermaze", "contributed/psychlab/arm", "tests/maze_navigation")
HELPERS = ("factories/explore/factory", "common/inventory", "contributed/dmlab30/_helper")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder with the layout of the package on the path."""
    root = tmp_path / "deepmind_lab"
    for name in LEVELS + HELPERS:
        script = root / "baselab" / "game_scripts" / "levels" / f"{name}.lua"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("return {}\n")
    (root / "__init__.py").write_text("raise ImportError('only the layout, not the program')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield root
    sys.modules.pop("deepmind_lab", None)


def test_without_the_package_one_id_says_so():
    if dm_lab.level_folder() is not None:
        pytest.skip("DeepMind Lab is installed")
    (task,) = dm_lab.tasks()
    assert task.id == "dm-lab/not-installed" and not task.installed and task.make_expert is None
    assert find(task.id).id == task.id
    with pytest.raises(SimulatorMissingError, match="deepmind_lab") as caught:
        task.make()
    assert "build it" in caught.value.fix


def test_with_the_package_every_level_is_listed_without_importing_it(package):
    tasks = {task.id: task for task in dm_lab.tasks()}
    assert sorted(tasks) == [
        "dm-lab/contributed.dmlab30.rooms-watermaze",
        "dm-lab/contributed.psychlab.arm",
        "dm-lab/lt-chasm",
    ]
    assert all(task.installed for task in tasks.values())
    assert tasks["dm-lab/lt-chasm"].meta["level"] == "lt_chasm"
    with pytest.raises(ImportError, match="only the layout"):
        tasks["dm-lab/lt-chasm"].make()
