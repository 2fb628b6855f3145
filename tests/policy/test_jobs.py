"""Jobs: each is done once, whatever stops the run, and what cannot be read is told and tried again."""

import json

import pytest

from gato.errors import DataError, OutputExistsError, UnknownNameError, UsageError
from gato.policy.jobs import read_jobs, run_jobs
from gato.policy.sight import picture

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


def test_jobs_that_are_alike_are_each_done(tmp_path):
    out, jobs = tmp_path / "out.jsonl", [JOBS[0], JOBS[1], JOBS[0], JOBS[0]]
    for held in range(5):
        out.write_text("".join(json.dumps({**job, "caption": "x"}) + "\n" for job in jobs[:held]))
        outcome = run_jobs(jobs, work, out, size=2)
        assert (outcome.done, outcome.before) == (4 - held, held) and [r["image"] for r in lines(out)] == [
            job["image"] for job in jobs
        ]


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
    good, bad = read_jobs(file, ["image", "question"])
    assert good["question"] == "what?" and "line 3" in str(bad) and "'question'" in str(bad)
    with pytest.raises(DataError, match="line 1"):  # not one of them can be done
        read_jobs(file, ["text"])


def test_what_is_advised_of_a_file_can_be_done(tmp_path):
    """No records are left out of jobs, and a picture that somebody shows is in no line."""
    with pytest.raises(UnknownNameError, match="no such file") as error:
        read_jobs(tmp_path / "none.jsonl", ["text"])
    assert error.value.fix == "check the path"
    (tmp_path / "code.py").write_text("import this")
    (tmp_path / "cut.gz").write_bytes(b"\x1f\x8b\x08")
    for read in (
        lambda: picture(tmp_path / "none.png", 16, 16), lambda: picture(tmp_path / "code.py", 16, 16),
        lambda: read_jobs(tmp_path / "cut.gz", ["text"]),
    ):  # fmt: skip
        with pytest.raises(DataError) as error:
            read()
        assert error.value.fix and not any(word in error.value.fix for word in ("line", "on_bad"))


def test_a_line_of_another_type_is_told_and_the_others_go_on(tmp_path):
    file, out = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl"
    lines_ = [
        '{"text": "a"}', '{"text": "b", "image": ["b.png"]}', "{", '{"text": "c", "system": 5}',
        '{"text": "d", "question": {}}', '{"text": 7}', '{"text": "e", "system": null}',
    ]  # fmt: skip
    file.write_text("\n".join(lines_))
    jobs, told = read_jobs(file, ["text"]), []
    outcome = run_jobs(jobs, lambda part: [{"reply": job["text"] + "!"} for job in part], out, size=2, tell=told.append)
    assert [r["reply"] for r in lines(out)] == ["a!", "e!"] and sum(told) == 7
    assert [f"line {n}" in problem for n, problem in zip(range(2, 7), outcome.problems, strict=True)] == [True] * 5


@pytest.mark.parametrize("place", ["", "file/out.jsonl", "n" * 300])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="nothing can be written there"):
        run_jobs(JOBS, lambda part: pytest.fail("it was done for nothing"), tmp_path / place)


def test_the_folder_of_an_output_is_made(tmp_path):
    out = tmp_path / "new" / "folder" / "out.jsonl"
    assert run_jobs(JOBS, work, out).done == 7 and len(lines(out)) == 7
