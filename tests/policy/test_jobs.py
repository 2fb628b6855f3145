"""Jobs: each is done once, whatever stops the run, and what cannot be read is told and tried again."""

import json

import pytest

from gato.errors import DataError, OutputExistsError
from gato.policy.jobs import read_jobs, run_jobs

JOBS = [{"image": f"{i}.png"} for i in range(7)]


def work(part):
    return [{"caption": f"about {job['image']}"} for job in part]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_is_there_is_not_done_again(tmp_path):
    out, asked = tmp_path / "out.jsonl", []

    def slow(part):
        asked.extend(part)
        if len(asked) > 4:
            raise KeyboardInterrupt
        return work(part)

    with pytest.raises(KeyboardInterrupt):
        run_jobs(JOBS, slow, out, size=2)
    assert len(lines(out)) == 4
    out.write_text(out.read_text() + '{"image": "4.png", "capt')  # killed in the middle of a line
    told = []
    outcome = run_jobs(JOBS, work, out, size=2, tell=told.append)
    assert (outcome.done, outcome.before) == (3, 4) and sum(told) == 7
    assert lines(out) == [{**job, **said} for job, said in zip(JOBS, work(JOBS), strict=True)]
    assert run_jobs(JOBS, work, out).done == 0


def test_a_bad_one_is_left_out_told_and_tried_again(tmp_path):
    out = tmp_path / "out.jsonl"

    def breaks(part):
        if any(job["image"] == "3.png" for job in part):
            raise DataError("not a readable image", where="3.png")
        return work(part)

    outcome = run_jobs(JOBS, breaks, out, size=4)
    assert outcome.done == 6 and len(outcome.problems) == 1 and "3.png" in outcome.problems[0]
    assert run_jobs(JOBS, work, out).done == 1
    assert sorted(r["image"] for r in lines(out)) == [f"{i}.png" for i in range(7)]


def test_another_output_is_refused(tmp_path):
    (tmp_path / "out.jsonl").write_text('{"image": "other.png", "caption": "x"}\n')
    with pytest.raises(OutputExistsError, match="other results"):
        run_jobs(JOBS, work, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").write_text("notes of mine\n")
    with pytest.raises(OutputExistsError, match="no output of ours"):
        run_jobs(JOBS, work, tmp_path / "out.jsonl")


def test_jobs_are_read_and_checked(tmp_path):
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"image": "a.png", "question": "what?"}\n\n{"image": "b.png"}\n')
    assert len(read_jobs(file, ["image"])) == 2
    with pytest.raises(DataError, match="line 3"):
        read_jobs(file, ["image", "question"])
