"""Telling: captions, replies and texts of corpora become scores, those that the package makes and those that people bring.

    tell(agent, held_out(agent), media)["corpora"]   {"captions/scenes": {"exact_match": …, "bleu": …, "cider": …, …},
                                                      "questions/rooms": {"accuracy": …, "by_type": …, …}, …}

What a corpus is follows from its leaves: images or clips with a text are captioned, questions (and dialogues) replied to,
and of texts the bits per byte are counted. Generated corpora have more to say, since their truth can be computed.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.corpora.text import PYTHON_DOCS, python_docs
from gato.episodes import Episode
from gato.episodes.store import Dataset, find_datasets
from gato.errors import UsageError
from gato.evaluation.language import (
    bits_per_byte,
    caption_scores,
    consensus_scores,
    prior,
    prior_of_others,
    trigram_bits_per_byte,
    vqa_scores,
)
from gato.policy import Agent
from gato.policy.sight import clip
from gato.scenes import CORPORA, episodes
from gato.scenes.grid import SCENES
from gato.scenes.questions import ROOM_QUESTIONS, ask
from gato.scenes.rooms import board
from gato.scenes.wording import ROOM_CAPTIONS, All, Place, Relation, is_true, read
from gato.sequences import Segment, TokenStore, collate
from gato.tokens.timestep import MARKS, QUESTION

PRIOR_QUESTIONS = 2_000  # of the training split, which the baselines learn from
BATCH = 50
SAMPLES = 8  # of each corpus, for the report
SAMPLE = "Return a list of the "  # a text to continue


@dataclass
class Shown:
    """One thing to say something about: the leaves before the text, the texts that would be right, and what is known of it."""

    leaves: dict[str, Any]
    right: list[str]
    info: dict[str, Any] = field(default_factory=dict)


def held_out(agent: Agent, count: int = 300) -> dict[str, list[Episode]]:
    """The held-out part of the generated corpora that the bundle was trained on: at most `count` episodes of each (of text all)."""
    return {
        name: list(python_docs("heldout")) if name == PYTHON_DOCS else list(episodes(name, "heldout", count))
        for name in CORPORA
        if name in agent.bundle.tasks and not name.startswith("pages/")
    }


def of_data(paths: Sequence[Path], most: int = 1_000) -> dict[str, list[Episode]]:
    """At most `most` episodes of each corpus below the folders, which may hold several datasets of it. Raises UsageError where
    there is none."""
    found: dict[str, list[Episode]] = {}
    for folder in find_datasets(list(paths)):
        dataset = Dataset.open(folder)
        if not dataset.spec.action and _kind(set(dataset.spec.observation)) and len(dataset):
            mine = found.setdefault(dataset.task, [])
            mine += dataset.episodes(range(min(len(dataset), most - len(mine))))
    if not found:
        where = ", ".join(map(str, paths))
        raise UsageError(
            "no captions, questions or texts there", where=where, fix="gato data import LAYOUT PATH --out DIR"
        )
    return found


def tell(
    agent: Agent, own: Mapping[str, Sequence[Episode]], media: Path, data: Mapping[str, Sequence[Episode]] | None = None
) -> dict[str, Any]:
    """What the report shows of language: the figures of the generated corpora under names of their own, the scores of all corpora
    ("corpora", and "data" where there is any), and samples with their pictures in `media`."""
    scores, samples = _scored(agent, own, media)
    found: dict[str, Any] = {**_headline(scores), "corpora": scores}
    if data:
        found["data"], more = _scored(agent, data, media)
        samples += more
    if agent._knows({"text"}):
        samples.append({"prompt": SAMPLE, "continuation": agent.complete(SAMPLE, max_tokens=80)})
    return {**found, "samples": samples}


def _scored(
    agent: Agent, corpora: Mapping[str, Sequence[Episode]], media: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    scores: dict[str, Any] = {}
    samples: list[dict[str, Any]] = []
    for task, found in corpora.items():
        kind = _kind(set(found[0].observations))
        if kind == "text":
            scores[task] = text_scores(agent, task, found)
        elif kind:
            shown = _shown(found, kind)
            said = _say(agent, task, shown, kind)
            scores[task] = (caption_figures if kind == "caption" else reply_figures)(task, shown, said)
            samples += _samples(task, shown, said, media)
    return scores, samples


def _headline(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    scenes, rooms = scores.get(SCENES, {}), scores.get(ROOM_CAPTIONS, {})
    asked, text = scores.get(ROOM_QUESTIONS, {}), scores.get(PYTHON_DOCS, {})
    out = {
        "caption_exact": scenes.get("exact_match"),
        "captions": scenes.get("captions"),
        "caption_exact_one_thing": scenes.get("exact_by_things", {}).get("1"),
        "caption_true": rooms.get("true"),
        "vqa_accuracy": asked.get("accuracy"),
        "vqa_answer_prior": asked.get("answer_prior"),
        "vqa_question_prior": asked.get("question_prior"),
        "vqa_chance": asked.get("chance"),
        "bits_per_byte": text.get("bits_per_byte"),
        "trigram_bits_per_byte": text.get("trigram_bits_per_byte"),
    }
    return {key: value for key, value in out.items() if value is not None}


# -- what a corpus shows ----------------------------------------------------------------------------------------------


def _kind(leaves: set[str]) -> str:
    if leaves in ({"image", "text"}, {"clip", "text"}):
        return "caption"
    if {QUESTION, "reply"} <= leaves <= {"image", MARKS, QUESTION, "reply"}:
        return "reply"
    return "text" if leaves == {"text"} else ""


def _shown(found: Sequence[Episode], kind: str) -> list[Shown]:
    """Every timestep for itself; captions of one picture together (MS-COCO has five of each)."""
    out: dict[str, Shown] = {}
    for number, episode in enumerate(found):
        leaves = episode.observations
        for t in range(len(episode)):
            info = {
                k: v[t] if isinstance(v, list) and len(v) == len(episode) > 1 else v for k, v in episode.info.items()
            }
            own = {k: v[t] for k, v in leaves.items() if k not in ("text", "reply", MARKS)}
            right = str(leaves["text" if kind == "caption" else "reply"][t]).strip()
            picture = own.get("image", own.get("clip"))
            key = f"{number} {t}"
            if kind == "caption" and picture is not None and not info.get("source"):
                key = hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()
            out.setdefault(key, Shown(own, [], info)).right.append(right)
    return list(out.values())


def _say(agent: Agent, task: str, shown: Sequence[Shown], kind: str) -> list[str]:
    """What the agent says of each, greedily. A corpus that the bundle was not trained on is met as the nearest that it was."""
    leaves = set(shown[0].leaves) | ({"text"} if kind == "caption" else {"question", "reply"})
    known = task if task in agent.bundle.tasks else agent._task_with(task.split("/")[0], leaves)
    codec = agent.bundle.codec(known)
    out: list[str] = []
    for i in range(0, len(shown), BATCH):
        part = shown[i : i + BATCH]
        batch: dict[str, Any] = {}
        for path in part[0].leaves:
            values: Any = [each.leaves[path] for each in part]
            if path == "image":
                values = agent._pictures(known, values)
            elif path == "clip":
                frames, height, width, _ = agent.bundle.tasks[known].spec.observation["clip"].shape
                values = np.stack([clip(value, frames, height, width) for value in values])
            batch[path] = values
        batch["text" if kind == "caption" else "reply"] = [""] * len(part)
        tokens = codec.encode_observations(batch, len(part))
        out += [text.strip() for text in agent._generate(codec, tokens, 48, 0.0)]
    return out


def _samples(task: str, shown: Sequence[Shown], said: Sequence[str], media: Path) -> list[dict[str, Any]]:
    from gato.evaluation.animation import picture

    media.mkdir(parents=True, exist_ok=True)
    out = []
    for i, (each, text) in enumerate(zip(shown[:SAMPLES], said, strict=False)):
        sample: dict[str, Any] = {"predicted": text, "true": each.right[0]}
        if "question" in each.leaves:
            sample["question"] = str(each.leaves["question"])
        seen = each.leaves.get("image", each.leaves.get("clip"))
        if seen is None:
            continue
        name = f"{task.replace('/', '--')}-{i}.png"
        frames = seen if seen.ndim == 4 else seen[None]
        (media / name).write_bytes(picture(np.concatenate(list(frames), axis=1)))
        out.append({"image": name, **sample})
    return out


# -- figures ----------------------------------------------------------------------------------------------------------


def caption_figures(task: str, shown: Sequence[Shown], said: Sequence[str]) -> dict[str, Any]:
    """Exact matches (with any of the right captions), BLEU, CIDEr; of our scenes by number of things, and truth."""
    best = [text if text in each.right else each.right[0] for text, each in zip(said, shown, strict=True)]
    out = caption_scores(list(zip(said, best, strict=True)))
    try:
        out |= consensus_scores(said, [each.right for each in shown])
    except UsageError as error:
        out["not_measured"] = f"BLEU and CIDEr: {error.fix}"
    hits = [text == right for text, right in zip(said, best, strict=True)]
    if task == SCENES:
        out["exact_by_things"] = _by([str(things_in(each.right[0])) for each in shown], hits)
    if task == ROOM_CAPTIONS:
        boards = [board(e.info["split"], e.info["index"], e.info["seed"]) for e in shown]
        true = [is_true(text, seen) for text, seen in zip(said, boards, strict=True)]
        out |= {"true": float(np.mean(true)), "true_by_view": _by([seen.view for seen in boards], true)}
        others = [is_true(text, seen) for text, seen in zip(said, boards[1:] + boards[:1], strict=True)]
        out["true_of_another"] = float(np.mean(others))  # what the same captions are worth without the picture
    return out


def things_in(caption: str) -> int | None:
    """How many things a canonical caption of `captions/scenes` names."""
    match read(caption):
        case [Place()]:
            return 1
        case [Relation()]:
            return 2
        case [All(names)]:
            return len(names)
    return None


def reply_figures(task: str, shown: Sequence[Shown], said: Sequence[str]) -> dict[str, Any]:
    """The VQA rule, by type, beside the two baselines that see no picture. Of our questions the baselines learn from the training
    split; of others, for each question, from all the others that are asked."""
    answers = [each.info.get("answers") or each.right for each in shown]
    types = [str(each.info["question_type"]) if each.info.get("question_type") else "" for each in shown]
    known = types if all(types) else None
    out = vqa_scores(said, answers, known)
    texts = [str(each.leaves["question"]) for each in shown]
    if task == ROOM_QUESTIONS:
        out["chance"] = float(np.mean([1 / each.info["options"] for each in shown]))
    for name, at, keys in (("answer_prior", 0, types), ("question_prior", 1, texts)):
        if task == ROOM_QUESTIONS:
            guess = prior((record[at], record[2]) for record in _training_questions())
            guesses = [guess(key) for key in keys]
        else:
            guesses = prior_of_others([(key, each.right[0]) for key, each in zip(keys, shown, strict=True)])
        found = vqa_scores(guesses, answers, known)
        out[name] = found["accuracy"]
        if known:
            out[f"{name}_by_type"] = found["by_type"]
    return out


@functools.cache
def _training_questions() -> list[tuple[str, str, str]]:
    """(type, question, reply)"""
    made = (ask("train", index) for index in range(PRIOR_QUESTIONS))
    return [(a.question.type, f"Q: {a.question.text} A:", a.reply) for a in made]


def text_scores(agent: Agent, task: str, documents: Sequence[Episode]) -> dict[str, Any]:
    """Bits per byte, read in windows as long as those of training; of our documents a trigram's too."""
    window = agent.bundle.window(documents=True)
    texts = [str(e.observations["text"][0]) for e in documents]
    out = {"bits_per_byte": bits_per_byte(text_bits(agent, documents, window), texts), "documents": len(texts)}
    if task == PYTHON_DOCS:
        train = [e.observations["text"][0] for e in python_docs("train")]
        out["trigram_bits_per_byte"] = trigram_bits_per_byte(train, texts, agent.bundle.tokenizer)
    return out


@torch.inference_mode()
def text_bits(agent: Agent, documents: Sequence[Episode], window: int) -> float:
    """Bits that the network needs for whole documents: windows of `window` tokens, each scored on its second half (the
    first window on all of it), so that every token but a document's first is predicted once with context.

    A document's first token, which nothing predicts, is charged as uniform over the text vocabulary.
    """
    bundle, device = agent.bundle, str(next(agent.bundle.model.parameters()).device)
    task = agent._task_with("text", {"text"})
    store = TokenStore.build(task, bundle.codec(task), documents)
    bits = 0.0
    for e in range(store.num_episodes):
        first, last = int(store.starts[store.episodes[e]]), int(store.starts[store.episodes[e + 1]])
        bits += float(np.log2(bundle.config.vocabulary_size))
        segments, at = [], first
        while True:
            end = min(at + window, last)
            masked = 0 if at == first else window // 2
            segments.append(Segment(0, ((at, end),), masked))
            if end == last:
                break
            at += window - window // 2
        for i in range(0, len(segments), 16):
            batch = collate(segments[i : i + 16], [store]).to(device)
            log_p = torch.log_softmax(bundle.model(batch).float(), -1)
            bits -= float(log_p.gather(1, batch.targets[:, None]).sum()) / float(np.log(2))
    return bits


def _by(keys: Sequence[str], values: Sequence[bool]) -> dict[str, float]:
    found: dict[str, list[bool]] = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        found[key].append(value)
    return {key: float(np.mean(found[key])) for key in sorted(found)}
