"""A slice of `faults.py`: one fault of every kind, and a world that never stops failing."""

import os

import pytest

faults = pytest.importorskip("faults")
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")


def test_faults_change_no_episode_and_leave_nothing(tmp_path):
    figure = faults.disturbed_runs(len(faults.KINDS), 1, tmp_path, worlds=faults.WORLDS[:1], deadline=1.0)
    assert figure["n"] == len(faults.KINDS) and not figure["failures"], figure


def test_worlds_that_fail_every_time_are_named(tmp_path):
    figure = faults.crash_loops(1, tmp_path, ("leaves-things",))
    assert figure["n"] == 2 and not figure["failures"], figure
