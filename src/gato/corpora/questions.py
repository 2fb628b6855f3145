"""Questions about images in the layouts of VQAv2 and OK-VQA become Episodes.

    v2_OpenEnded_mscoco_train2014_questions.json   {"questions": [{"question_id", "image_id", "question"}, …]}
    v2_mscoco_train2014_annotations.json           {"annotations": [{"question_id", "answers": [{"answer"}, … ten], …}, …]}
    train2014/COCO_train2014_000000000009.jpg

OK-VQA's files have the same layout and the same names without `v2_`. The target is the most common answer; all ten are
kept in `info["answers"]`, since the official score counts how many of them agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gato.corpora import asked, question_spec, split_of
from gato.corpora.images import check_size, read_image
from gato.corpora.pairs import JsonTable, find_image, image_folders
from gato.corpora.reading import SKIP_FIX, Place, Reader, check_unicode, find_files, naming_read_errors
from gato.episodes import Episode
from gato.errors import DataError, UnknownNameError

QUESTIONS = "OpenEnded_mscoco_{}_questions.json"
ANSWERS = "mscoco_{}_annotations.json"


class Questions(Reader):
    """One Episode per question, in the order of the questions file; an image's questions are all in one split.

    `path` is a questions file, or a folder with one or several; each needs its annotations beside it (the test sets have
    none, and cannot be learned from).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int],
        images: Path | None = None,
        task: str = "questions/vqa",
        **options: Any,
    ):
        super().__init__(find_files(Path(path), [f"*{QUESTIONS.format('*')}"], "questions"), **options)
        self.size, self.task, self._images = check_size(size), task, images
        self.spec = question_spec(*size)
        self._answers = [_answers_of(file) for file in self.files]

    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        file, beside = self.files[n], self._answers[n]
        limit = self.max_record_bytes
        with naming_read_errors(file), file.open("rb") as asking, beside.open("rb") as answering:
            questions, told = JsonTable.scan(file, {"questions": "question_id"}, limit)
            answers, also = JsonTable.scan(beside, {"annotations": "question_id"}, limit)
            subset = str(told.get("data_subtype") or also.get("data_subtype") or _subset(file))
            folders = image_folders(self._images, file, subset)
            for number in range(begin.at, len(questions["questions"])):
                after, where = Place(n, number + 1, 0, number + 1), f"{file} question {number}"
                try:
                    question = questions["questions"].record(asking, number)
                    answer = answers["annotations"].find(answering, question["question_id"])
                    if answer is None:
                        what = f"question_id {question['question_id']} has no answers"
                        raise DataError(what, where=where, fix=SKIP_FIX)
                    yield after, (question, answer, subset, folders, where)
                except DataError as error:
                    yield after, error

    def _episode(self, n: int, record: Any) -> Episode | None:
        question, annotation, subset, folders, where = record
        try:
            name = f"COCO_{subset}_{int(question['image_id']):012d}.jpg"
            answers = [str(a["answer"]) for a in annotation["answers"]]
            text = question["question"].strip()
            target = most_common(answers)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DataError(f"not a question with answers: {error!r}", where=where, fix=SKIP_FIX) from error
        if self.split is not None and split_of(name) != self.split:
            return None
        check_unicode(text + "".join(answers), where)
        info = {
            "document": name, "split": split_of(name), "question_id": question["question_id"], "answers": answers,
            "question_type": annotation.get("question_type"), "answer_type": annotation.get("answer_type"),
        }  # fmt: skip
        return asked(self.task, read_image(find_image(folders, [name], where), self.size, where), text, target, info)


def most_common(answers: Sequence[str]) -> str:
    """The answer that most people gave; of several, the one given first. Raises ValueError where there is none."""
    if not answers:
        raise ValueError("no answers")
    return Counter(answers).most_common(1)[0][0]


def _subset(file: Path) -> str:
    return file.name.removesuffix("_questions.json").rpartition("_")[2]


def _answers_of(file: Path) -> Path:
    """The annotations that belong to a questions file: the same name, another word."""
    head, _, _ = file.name.partition("OpenEnded_")
    beside = file.with_name(head + ANSWERS.format(_subset(file)))
    if not beside.is_file():
        raise UnknownNameError(
            f"no annotations {beside.name}",
            where=str(file),
            fix="unpack them beside the questions; test sets have none",
        )
    return beside
