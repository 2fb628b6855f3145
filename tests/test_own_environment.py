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
