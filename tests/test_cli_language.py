"""Captions, answers and talk as commands: folders, jobs that go on, conversations line by line."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from gato import cli
from gato.corpora import caption_spec, clip_spec, question_spec
from gato.corpora.dialogues import TALK_SPEC
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.worlds import find


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """An untrained bundle that knows all of it, and pictures."""
    root = tmp_path_factory.mktemp("talk")
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    specs = {
        "captions/rooms": caption_spec(32, 32), "questions/rooms": question_spec(32, 32), "clips/experts": clip_spec(4, 16, 16),
        "dialogues/scenes": question_spec(32, 32), "dialogues/program": TALK_SPEC,
    }  # fmt: skip
    cards = {task: TaskCard(spec, 1) for task, spec in specs.items()}
    Bundle(config, Gato(config).eval(), tokenizer, cards, {}, {"recipe": {}}).save(root / "bundle")
    (root / "pictures").mkdir()
    for i in range(5):
        Image.fromarray(np.full((40, 40, 3), 40 * i, np.uint8)).save(root / "pictures" / f"{i}.png")
    return root


def gato(capsys, *words):
    """(exit code, stdout, stderr) of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*map(str, words)])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_folder_of_pictures_is_captioned_once(folder, capsys, tmp_path):
    out = tmp_path / "captions.jsonl"
    words = ["caption", folder / "bundle", folder / "pictures", "--out", out, "--max-tokens", 4, "--batch", 2]
    code, said, _ = gato(capsys, *words)
    assert code == 0 and "5 done, 0 were there" in said
    assert [r["image"][-5:] for r in records(out)] == [f"{i}.png" for i in range(5)]
    whole = out.read_text()
    out.write_text("".join(whole.splitlines(keepends=True)[:3]))
    code, said, _ = gato(capsys, *words)
    assert "2 done, 3 were there" in said and out.read_text() == whole


def test_a_bad_picture_is_told_with_exit_code_3(folder, capsys, tmp_path):
    (tmp_path / "jobs.jsonl").write_text(
        f'{{"image": "{folder / "pictures" / "1.png"}"}}\n{{"image": "bad.png"}}\n{{"image": "gone.png"}}\n'
    )
    (tmp_path / "bad.png").write_bytes(b"no picture")
    code, said, err = gato(capsys, "caption", folder / "bundle", tmp_path / "jobs.jsonl", "--max-tokens", 4)
    assert code == 3 and said.count("\n") == 1 and "bad.png" in err and "gone.png" in err


def test_a_bundle_without_the_skill_is_told_once(folder, tokenizer, capsys, tmp_path):
    """Before the first picture is read, as one error of usage."""
    from gato.policy import load

    agent = load(folder / "bundle")
    agent.bundle.tasks = {"dummy/count": TaskCard(find("dummy/count").spec, 1)}
    agent.bundle.save(tmp_path / "bundle")
    (tmp_path / "jobs.jsonl").write_text('{"text": "hello"}\n{"text": "you"}\n')
    for words in (
        ["caption", tmp_path / "bundle", folder / "pictures"],
        ["answer", tmp_path / "bundle", folder / "pictures", "what is red?"],
        ["chat", tmp_path / "bundle", "--jobs", tmp_path / "jobs.jsonl"],
    ):
        code, said, err = gato(capsys, *words)
        assert code == 2 and not said and err.count("unknown-name") == 1 and "was not trained on" in err


def test_a_folder_can_be_one_clip(folder, capsys):
    code, said, _ = gato(
        capsys, "caption", folder / "bundle", folder / "pictures", "--clips", "--json", "--max-tokens", 4
    )
    assert code == 0 and [r["image"] for r in json.loads(said)] == [str(folder / "pictures")]


def test_answers(folder, capsys, tmp_path):
    bundle, pictures = folder / "bundle", folder / "pictures"
    code, said, _ = gato(capsys, "answer", bundle, pictures / "1.png", "what is red?", "--json")
    assert code == 0 and set(json.loads(said)) == {"question", "reply"}
    code, said, _ = gato(capsys, "answer", bundle, pictures, "what is red?", "--max-tokens", 3)
    assert code == 0 and len(said.splitlines()) >= 5
    (tmp_path / "q.jsonl").write_text(
        '{"image": "1.png", "question": "what?"}\n{"image": "2.png", "question": "who?"}\n'
    )
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes((pictures / name).read_bytes())
    code, said, _ = gato(capsys, "answer", bundle, tmp_path / "q.jsonl", "--out", tmp_path / "a.jsonl")
    assert code == 0 and [r["question"] for r in records(tmp_path / "a.jsonl")] == ["what?", "who?"]
    code, _, err = gato(capsys, "answer", bundle, pictures)
    assert code == 2 and "a question is needed" in err


def test_a_conversation_line_by_line(folder, capsys, monkeypatch):
    from gato.policy import load

    monkeypatch.setattr(
        "sys.stdin",
        io.StringIO(f"hello\n/image {folder / 'pictures' / '1.png'}\nwhat is red?\n/new\nhello\n/quit\nx\n"),
    )
    code, said, _ = gato(capsys, "chat", folder / "bundle", "--max-tokens", 6, "--seed", 2, "--system", "Be brief.")
    talk = load(folder / "bundle").conversation("Be brief.")
    first = "".join(talk.say("hello", 6, seed=2)).strip()
    talk.show(folder / "pictures" / "1.png")
    second = "".join(talk.say("what is red?", 6, seed=2)).strip()
    assert code == 0 and said.startswith(first) and second in said
    monkeypatch.setattr("sys.stdin", io.StringIO("/imagine x\n"))
    code, _, err = gato(capsys, "chat", folder / "bundle")
    assert code == 2 and "/image" in err


def test_chat_jobs(folder, capsys, tmp_path):
    (tmp_path / "jobs.jsonl").write_text(
        '{"text": "has gato play a flag --fps?"}\n{"text": "hi", "system": "Be brief."}\n'
    )
    words = [
        "chat",
        folder / "bundle",
        "--jobs",
        tmp_path / "jobs.jsonl",
        "--out",
        tmp_path / "out.jsonl",
        "--max-tokens",
        5,
    ]
    assert gato(capsys, *words)[0] == 0
    found = records(tmp_path / "out.jsonl")
    assert [set(r) for r in found] == [{"text", "reply"}, {"text", "system", "reply"}]
    assert gato(capsys, "chat", folder / "bundle", "hi", "--jobs", tmp_path / "jobs.jsonl")[0] == 2


def test_language_is_scored_on_ones_own_data(folder, capsys, tmp_path):
    pytest.importorskip("minigrid")
    assert gato(capsys, "data", "generate", "captions/rooms", "--episodes", 4, "--out", tmp_path / "data")[0] == 0
    words = [
        "evaluate",
        folder / "bundle",
        "--language",
        "--scenes",
        6,
        "--out",
        tmp_path / "eval",
        "--data",
        tmp_path / "data",
    ]
    code, _, err = gato(capsys, *words)
    assert code == 0, err
    found = json.loads((tmp_path / "eval" / "language.json").read_text())
    assert set(found["corpora"]) == {
        "captions/rooms",
        "questions/rooms",
        "clips/experts",
        "dialogues/scenes",
        "dialogues/program",
    }
    assert found["data"]["captions/rooms"]["captions"] == 4 and 0 <= found["vqa_accuracy"] <= 1
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["language"]["corpora"] == found["corpora"]
    assert (tmp_path / "eval" / "report.html").is_file()


def test_generate_lists_and_refuses(capsys, tmp_path):
    code, said, _ = gato(capsys, "data", "generate")
    assert code == 0 and "questions/rooms" in said.split()
    code, _, err = gato(capsys, "data", "generate", "captions/room", "--out", tmp_path)
    assert code == 2 and "captions/rooms" in err
