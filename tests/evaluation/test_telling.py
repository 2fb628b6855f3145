"""Scores of captions and replies: by hand, against sacrebleu and pycocoevalcap themselves, and on real corpora."""

import numpy as np
import pytest
import torch

from gato.corpora import TEXT_SPEC, asked, caption_spec, captioned, clip_spec, joined, question_spec
from gato.corpora.dialogues import TALK_SPEC
from gato.episodes import Episode
from gato.errors import DataError, UsageError
from gato.evaluation import telling
from gato.evaluation.language import consensus_scores, normal_answer, prior, prior_of_others, vqa_accuracy, vqa_scores
from gato.evaluation.telling import held_out, of_data, tell, things_in
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.scenes import generate


@pytest.mark.parametrize(
    ("said", "normal"),
    [
        ("Two, I think.", "2 i think"),
        ("The U.S.A.", "usa"),
        ("3.5", "3.5"),
        ("10,000", "10000"),
        ("dont know", "don't know"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("an  apple\tand\nthe pear!", "apple and pear"),
        ("none", "0"),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_vqa_does(said, normal):
    assert normal_answer(said) == normal


def test_the_vqa_rule():
    """Of ten humans k agree: worked out from the definition, every nine of the ten."""
    for k in range(11):
        humans = ["red"] * k + [f"other {i}" for i in range(10 - k)]
        subsets = [humans[:i] + humans[i + 1 :] for i in range(10)]
        expected = np.mean([min(s.count("red") / 3, 1) for s in subsets])
        assert vqa_accuracy("Red.", humans) == pytest.approx(expected)
    assert vqa_accuracy("red", ["red"] * 3 + ["blue"] * 7) == pytest.approx(0.9)
    assert vqa_accuracy("two", ["2"]) == 1.0 and vqa_accuracy("one", ["2"]) == 0.0
    with pytest.raises(DataError):
        vqa_accuracy("red", [])


def test_scores_by_type_and_the_priors():
    found = vqa_scores(["yes", "no", "red"], [["yes"], ["yes"], ["red"]], ["is", "is", "colour"])
    assert found == {"accuracy": pytest.approx(2 / 3), "questions": 3, "by_type": {"colour": 1.0, "is": 0.5}}
    guess = prior([("is", "yes"), ("is", "yes"), ("is", "no"), ("colour", "red")])
    assert (guess("is"), guess("colour"), guess("unheard")) == ("yes", "red", "yes")
    with pytest.raises(DataError):
        prior([])
    others = prior_of_others([("is", "yes"), ("is", "yes"), ("is", "no"), ("alone", "red"), ("alone too", "yes")])
    assert others == ["no", "no", "yes", "yes", "yes"]  # ties by name; a key of its own gets what is frequent of all


def test_bleu_and_cider():
    pytest.importorskip("pycocoevalcap")
    sacrebleu = pytest.importorskip("sacrebleu")
    references = [
        ["a red ball at the top left", "a red ball there"],
        ["two keys and a box"],
        ["a grey door in the middle"],
    ]
    right = consensus_scores([found[0] for found in references], references)
    assert right["bleu"] == pytest.approx(100) and right["cider"] > 5
    said = ["a red ball at the bottom left", "two keys and a ball", "a grey door at the top"]
    some, wrong = consensus_scores(said, references), consensus_scores(["x y z"] * 3, references)
    assert wrong["bleu"] < some["bleu"] < 100 and wrong["cider"] == 0 < some["cider"] < right["cider"]
    streams = [[r[0] for r in references], [r[1] if len(r) > 1 else None for r in references]]
    assert some["bleu"] == sacrebleu.corpus_bleu(said, streams).score
    with pytest.raises(DataError):
        consensus_scores([], [])


class Oracle(Agent):
    """Says what it is told to: so the scores of right and of wrong replies are known."""

    right = True

    def _generate(self, codec, tokens, max_tokens, temperature, seed=0):
        return [f" {self.book.pop(0)}" if self.right else " nonsense" for _ in tokens.starts()[1:]]


@pytest.fixture(scope="module")
def agent(tokenizer):
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    specs = {
        "captions/scenes": caption_spec(80, 80), "captions/rooms": caption_spec(80, 80), "questions/rooms": question_spec(80, 80),
        "dialogues/program": TALK_SPEC, "clips/experts": clip_spec(4, 48, 48),
    }  # fmt: skip
    cards = {task: TaskCard(spec, 1) for task, spec in specs.items()}
    return Oracle(Bundle(config, Gato(config).eval(), tokenizer, cards, {}, {}))


def test_right_replies_score_one_and_wrong_ones_nothing(agent, tmp_path, monkeypatch):
    pytest.importorskip("minigrid")
    monkeypatch.setattr(telling, "PRIOR_QUESTIONS", 500)
    corpora = held_out(agent, 16)
    assert set(corpora) == set(agent.bundle.tasks)
    book = [str(e.observations["text" if "text" in e.observations else "reply"][0]).strip() for found in corpora.values() for e in found]  # fmt: skip
    agent.right, agent.book = True, list(book)
    told = tell(agent, corpora, tmp_path)
    scores, samples = told["corpora"], told["samples"]
    assert scores["captions/scenes"]["exact_match"] == scores["captions/rooms"]["true"] == 1.0
    assert set(scores["captions/scenes"]["exact_by_things"]) == {"1", "2", "3"}
    asked_of = scores["questions/rooms"]
    assert asked_of["accuracy"] == 1.0 and set(asked_of["by_type"].values()) == {1.0}
    assert 0.2 < asked_of["chance"] < 0.45 and asked_of["question_prior"] < 0.7 and asked_of["answer_prior"] < 0.7
    assert scores["dialogues/program"]["accuracy"] == 1.0 and scores["clips/experts"]["exact_match"] == 1.0
    assert all((tmp_path / s["image"]).is_file() for s in samples) and len(samples) == 4 * 8
    assert told["caption_exact_one_thing"] == told["vqa_accuracy"] == told["caption_true"] == 1.0
    agent.right = False
    scores = tell(agent, corpora, tmp_path)["corpora"]
    assert scores["captions/rooms"]["true"] == scores["questions/rooms"]["accuracy"] == 0.0


def test_data_of_ones_own(agent, tmp_path):
    """Five captions of one picture are its references; ten humans answer; pairs joined into one episode count one by one."""
    from gato.episodes.columns import encode_chunk
    from gato.episodes.writer import DatasetWriter

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    captions = [
        captioned("captions/own", pictures[i // 2], f"caption {i}", {"document": str(i // 2)}) for i in range(6)
    ]
    humans = [["red"] * 10, ["2"] * 2 + ["3"] * 8]
    questions = joined([asked("questions/own", pictures[i], f"what {i}?", humans[i][0], {"answers": humans[i], "question_type": "what"}) for i in range(2)])  # fmt: skip
    for task, spec, episodes in (("captions/own", caption_spec(32, 32), captions), ("questions/own", question_spec(32, 32), [questions])):  # fmt: skip
        with DatasetWriter(tmp_path / task, task, spec, {"source": "test"}) as writer:
            writer.add_chunk(encode_chunk(spec, episodes, range(len(episodes))), range(len(episodes)))
    found = of_data([tmp_path])
    assert set(found) == {"captions/own", "questions/own"}
    agent.right, agent.book = True, ["caption 1", "caption 2", "wrong", "red", "two"]
    scores = tell(agent, {}, tmp_path / "media", found)["data"]
    assert scores["captions/own"]["captions"] == 3 and scores["captions/own"]["exact_match"] == pytest.approx(2 / 3)
    assert scores["questions/own"]["accuracy"] == pytest.approx((1 + vqa_accuracy("2", humans[1])) / 2)
    assert scores["questions/own"]["by_type"] == {"what": scores["questions/own"]["accuracy"]}
    with pytest.raises(UsageError, match="no captions"):
        of_data(generate(tmp_path / "pages", ["pages/walkthroughs"], scenes=1))


def test_several_datasets_of_one_corpus(tmp_path):
    from gato.episodes.writer import DatasetWriter

    for part in "ab":
        with DatasetWriter(tmp_path / part, "text/own", TEXT_SPEC, {"source": "test"}) as writer:
            for i in range(3):
                writer.add(Episode("text/own", {"text": [f"{part}{i}"]}, {}, np.zeros(1, np.float32)))
    for most, held in ((10, ["a0", "a1", "a2", "b0", "b1", "b2"]), (4, ["a0", "a1", "a2", "b0"]), (2, ["a0", "a1"])):
        assert [e.observations["text"][0] for e in of_data([tmp_path], most)["text/own"]] == held


def test_things_in_canonical_captions():
    assert things_in("a red ball at the top left") == 1
    assert things_in("a purple key left of a blue box") == 2
    assert things_in("a purple key, a red ball and a blue box") == 3
    assert things_in("something else") is None
