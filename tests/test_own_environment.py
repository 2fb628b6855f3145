"""The README's ten lines run as they stand, and what they train can balance a pole."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_example_learns_to_balance(tmp_path):
    ran = subprocess.run(
        [sys.executable, "examples/own_environment.py", str(tmp_path / "own")],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    said = re.fullmatch(r"return (\d+) of 500\n", ran.stdout)
    assert said, ran.stdout
    assert int(said[1]) >= 150  # at random a pole stands for some twenty steps, pushed to one side for ten
    assert (tmp_path / "own/train/bundle/MANIFEST.json").exists()


def test_the_low_level_example():
    """79 M parameters; 2 × (20 patches, a value, the separator, an action) tokens; 0.1 is bin 632 by hand."""
    ran = subprocess.run(
        [sys.executable, "examples/low_level.py"],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "78.8 M parameters, 46 tokens" in ran.stdout and "hidden states: (46, 768)" in ran.stdout
    assert "ids after the patches: [32632, 33024, 3]" in ran.stdout
