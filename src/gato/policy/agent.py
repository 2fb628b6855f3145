"""Agent: a bundle that acts, captions and continues text. Session: one episode of one task."""

from __future__ import annotations

import contextlib
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gato.corpora.dialogues import DOMAIN as DIALOGUES
from gato.corpora.dialogues import Turn
from gato.episodes import Dataset
from gato.errors import ObservationError, RecipeError, UnknownNameError, UsageError
from gato.model.bundle import Bundle, TaskCard, make_codec
from gato.model.cache import RingCache
from gato.policy.acting import check_seed
from gato.policy.batch import AgentPolicy, _rows, feed, tempered
from gato.policy.imagining import ImaginingPolicy
from gato.policy.planning import Planning, PlanningPolicy
from gato.policy.shipped import bundle_in, on_hub, shipped
from gato.policy.shown import Shown
from gato.policy.sight import clip, is_clip, picture
from gato.sequences.returns import told_spec
from gato.tokens import TimestepCodec, Tokens
from gato.tokens.timestep import MARKS, QUESTION
from gato.worlds import find

if TYPE_CHECKING:
    from gato.policy.conversation import Conversation


# The ids of single bytes are also those of discrete values, so a network that takes a text for a world says bytes such as
# NUL. They are left out of what is read rather than never chosen: some come of two bytes, and what is chosen stays as likely.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def load(path: Path | str | None = None, device: str = "cpu") -> Agent:
    """The agent of a bundle folder, of a run that holds one, or of `hf://org/name@revision` on the Hugging Face Hub; the
    generalist that comes with the package if no path is given.

    Raises CheckpointMissingError and its siblings. Nothing is downloaded unless `path` begins with `hf://`.
    """
    if path is None:
        path = shipped()
    elif on_hub(path):
        from gato.policy.hub import SCHEME, fetch

        path = fetch(SCHEME + str(path).removeprefix("hf:").lstrip("/"))
    return Agent(Bundle.load(bundle_in(path) or Path(path), device))


class Session:
    """One slot of a batch: the context of one episode."""

    def __init__(self, agent: Agent, task: str, seed: int = 0, acting: Mapping[str, Any] | None = None):
        self._policy = AgentPolicy(agent.bundle, task, 1, acting=acting)
        self._task, self._seed = task, seed
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Begin a new episode. Raises UsageError for a seed below 0."""
        self._seed = check_seed(self._seed if seed is None else seed)
        self._policy.reset(0, self._seed)

    def act(self, observation: Any) -> Any:
        """The next action, in the form the environment takes. Raises ObservationError."""
        return nest(self._policy.act({0: observation})[0])


@dataclass
class Written:
    """How a text came about."""

    tokens: int = 0
    cut: bool = False  # it has no end of its own: no more tokens were allowed


class Agent:
    """Everything most people need: `session`, `act`, `caption`, `answer`, `chat`."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self.written = Written()  # of the texts written last, all of them together
        self._sessions: dict[str, Session] = {}

    @property
    def tasks(self) -> list[str]:
        """The control tasks it was trained on."""
        return [task for task, card in self.bundle.tasks.items() if card.spec.action]

    def __repr__(self) -> str:
        return f"Agent({self.bundle.model.num_parameters:,} parameters, {len(self.tasks)} control tasks)"

    def session(self, task: str, seed: int = 0, **acting: Any) -> Session:
        """A session of one of its tasks; `discrete=`, `continuous=`, `temperature=` override how the bundle acts."""
        return Session(self, task, seed, acting)

    def policy(self, task: str | Sequence[str], slots: int, *, watch_mass: bool = False, **acting: Any) -> AgentPolicy:
        """A batch policy for `gato.rollouts.rollout`, of one task or of several; `watch_mass` measures the probability put on legal ids."""
        return AgentPolicy(self.bundle, task, slots, acting=acting, watch_mass=watch_mass)

    def planner(self, task: str, slots: int, planning: Planning | None = None, **acting: Any) -> PlanningPolicy:
        """The same policy, which first tries things out on saved states of the world (local slots only), or in imagination."""
        planning = planning or Planning()
        return (ImaginingPolicy if planning.imagined else PlanningPolicy)(
            self.bundle, task, slots, planning, acting=acting
        )

    def shown(self, datasets: Sequence[Dataset], count: int | None = None) -> Agent:
        """The agent with these demonstrations in sight, one dataset per task: at each step it reads the `count` timesteps that
        are most like this one (as many as in training, if not said). Tasks that it was not trained on become its tasks.

        Raises RecipeError where the network was trained on no such sequences, or knows its tasks by tokens of their own.
        """
        recipe = self.bundle.card.get("recipe") or {}
        trained = int(recipe.get("similar_timesteps", 0))
        if not trained:
            raise RecipeError(
                "this network was not trained to read timesteps like the present one",
                fix="gato train RECIPE … --set similar_timesteps=8 prompt_share=0",
            )
        tasks = dict(self.bundle.tasks)
        for dataset in datasets:
            if dataset.task not in tasks and self.bundle.config.task_token:
                raise RecipeError("a network with task tokens has none for a new task", where=dataset.task,
                                  fix="train with model.task_token=false")  # fmt: skip
            told = told_spec(dataset.spec, recipe.get("return_ranks", 0), recipe.get("reward_shown", False))
            card = tasks.get(dataset.task) or TaskCard(told, 1)
            position = list(tasks).index(dataset.task) if dataset.task in tasks else len(tasks)
            codec = make_codec(self.bundle.config, self.bundle.tokenizer, card.spec, dataset.task, position)
            tasks[dataset.task] = replace(card, shown=Shown.of(dataset, codec, count or trained))
        return Agent(replace(self.bundle, tasks=tasks, prefixes={}))

    def act(self, observation: Any, task: str) -> Any:
        """One action of a session kept per task; `session` gives the control over when it begins."""
        if task not in self._sessions:
            self._sessions[task] = self.session(task)
        return self._sessions[task].act(observation)

    def push_to_hub(self, repository: str, *, private: bool = True, message: str = "", token: str | None = None) -> str:
        """Upload the bundle, with a card written from what it says of itself; returns `hf://org/name@commit`.

        `repository` is `org/name`; it is made, private unless told otherwise, if it is not there. Raises UsageError without
        a token that may do so, ResourceError where the Hub cannot be reached.
        """
        from gato.policy.hub import push

        return push(self.bundle, repository, private=private, message=message, token=token)

    # -- language and vision --------------------------------------------------------------------------------------------

    def caption(self, shown: Any, max_tokens: int = 48, temperature: float = 0.0, *, task: str = "") -> str:
        """What is in a picture (a path, a PIL image, or uint8 (height, width, 3)) or a clip (a film, a folder of frames, a
        list of pictures, or uint8 (frames, height, width, 3))."""
        return self.captions([shown], max_tokens, temperature, task=task)[0]

    def captions(
        self, shown: Sequence[Any], max_tokens: int = 48, temperature: float = 0.0, *, task: str = ""
    ) -> list[str]:
        """Captions of many pictures and clips at once; each is resized to the size the bundle was trained on.

        `task` is the corpus to caption as, where the bundle knows several. A clip is captioned by its last picture where
        the bundle knows no clips.
        """
        out = [""] * len(shown)
        clips = [i for i, each in enumerate(shown) if is_clip(each)] if self._knows({"clip", "text"}) else []
        if clips:
            own = self._task_with("clips", {"clip", "text"})
            frames, height, width, _ = self.bundle.tasks[own].spec.observation["clip"].shape
            stack = np.stack([clip(shown[i], frames, height, width) for i in clips])
            for i, said in zip(clips, self._tell(own, {"clip": stack}, max_tokens, temperature), strict=True):
                out[i] = said
        if stills := [i for i in range(len(shown)) if i not in set(clips)]:
            own = task or self._task_with("captions", {"image", "text"})
            pictures = self._pictures(own, [shown[i] for i in stills])
            for i, said in zip(stills, self._tell(own, {"image": pictures}, max_tokens, temperature), strict=True):
                out[i] = said
        return out

    def _tell(self, task: str, leaves: Mapping[str, np.ndarray], max_tokens: int, temperature: float) -> list[str]:
        (seen,) = leaves.values()
        codec = self.bundle.codec(task)
        if set(codec.spec.observation) != {*leaves, "text"}:
            raise UsageError(f"{task} has no captions", fix="a corpus of captions")
        tokens = codec.encode_observations({**leaves, "text": [""] * len(seen)}, len(seen))
        return self._generate(codec, tokens, max_tokens, temperature)

    def answer(self, shown: Any, question: str, max_tokens: int = 16, temperature: float = 0.0) -> str:
        """The reply to a question about a picture, or about the last picture of a clip."""
        return self.answers([shown], [question], max_tokens, temperature)[0]

    def answers(
        self, shown: Sequence[Any], questions: Sequence[str], max_tokens: int = 16, temperature: float = 0.0
    ) -> list[str]:
        """Replies to many questions, each about its own picture. Raises UsageError for more of one than of the other."""
        if len(shown) != len(questions):
            raise UsageError(f"{len(shown)} pictures and {len(questions)} questions", fix="a question for each picture")
        if not len(shown):
            return []
        task = self._task_with("questions", {"image", "question", "reply"})
        codec, frames = self.bundle.codec(task), self._pictures(task, shown)
        asked = {"image": frames, "question": [f"Q: {q} A:" for q in questions], "reply": [""] * len(frames)}
        tokens = codec.encode_observations(asked, len(frames))
        return [text.strip() for text in self._generate(codec, tokens, max_tokens, temperature)]

    def _knows(self, leaves: set[str]) -> list[str]:
        """The corpora that have just these leaves, and it may be the marks of several questions about one picture."""
        known = leaves | ({MARKS} if QUESTION in leaves else set())
        return [
            task for task, card in self.bundle.tasks.items()
            if not card.spec.action and leaves <= set(card.spec.observation) <= known
        ]  # fmt: skip

    def _task_with(self, name: str, leaves: set[str]) -> str:
        """The corpus that has just these leaves, one of the domain `name` before others. Raises UnknownNameError."""
        found = sorted(self._knows(leaves), key=lambda task: task.split("/")[0] != name)
        if not found:
            raise UnknownNameError(f"this bundle was not trained on {name}", fix=f"a recipe with a {name} dataset")
        return found[0]

    def _pictures(self, task: str, shown: Sequence[Any]) -> np.ndarray:
        spec = self.bundle.codec(task).spec
        if "image" not in spec.observation or spec.action:
            raise UsageError(f"{task} is not about pictures", fix="a corpus of captions or questions")
        height, width, _ = spec.observation["image"].shape
        return np.stack([picture(each, height, width) for each in shown])

    def look(self, shown: Any) -> np.ndarray:
        """What the agent would see of a picture or clip, uint8 (height, width, 3). Raises DataError for what cannot be read."""
        known = [
            task
            for task, card in self.bundle.tasks.items()
            if "image" in card.spec.observation and not card.spec.action
        ]
        height, width = self.bundle.tasks[known[0]].spec.observation["image"].shape[:2] if known else (80, 80)
        return picture(shown, height, width)

    def complete(self, text: str, max_tokens: int = 64, temperature: float = 0.7, seed: int = 0) -> str:
        """The continuation of a text, as of a document."""
        codec = self.bundle.codec(self._task_with("text", {"text"}))
        return self._generate(codec, codec.encode_observations({"text": [text]}, 1), max_tokens, temperature, seed)[0]

    def conversation(self, system: str = "", image: Any = None) -> Conversation:
        """A dialogue that remembers what was said."""
        from gato.policy.conversation import Conversation

        return Conversation(self, system, image)

    def chat(
        self,
        text: str,
        max_tokens: int = 64,
        temperature: float = 0.7,
        seed: int = 0,
        *,
        history: Sequence[Turn] = (),
        image: Any = None,
    ) -> str:
        """The reply to a text after what was said before it (`history`, a system prompt first), about a picture if one is
        shown. A bundle that knows no dialogues goes on with the text instead (and answers questions about a picture)."""
        said = "".join(self.chat_pieces(text, max_tokens, temperature, seed, history=history, image=image))
        return said.strip() if self._talks(image is not None) else said

    def chat_pieces(
        self,
        text: str,
        max_tokens: int = 64,
        temperature: float = 0.7,
        seed: int = 0,
        *,
        history: Sequence[Turn] = (),
        image: Any = None,
    ) -> Iterator[str]:
        """What `chat` says, piece by piece as the network finds it. A character of several tokens comes whole."""
        from gato.policy.conversation import encode, until_turn

        codec, tokens = encode(self, [*history, Turn("user", text)], image, max_tokens)
        pieces = self._pieces(codec, tokens, max_tokens, temperature, seed)
        yield from until_turn(pieces) if self._talks(image is not None) else pieces

    @property
    def captions_pictures(self) -> bool:
        """Whether it was trained on captions."""
        return bool(self._knows({"image", "text"}))

    @property
    def captions_clips(self) -> bool:
        """Whether it was trained on captions of clips."""
        return bool(self._knows({"clip", "text"}))

    @property
    def answers_questions(self) -> bool:
        """Whether it was trained on questions about pictures."""
        return bool(self._knows({"image", QUESTION, "reply"}))

    @property
    def talks(self) -> bool:
        """Whether it was trained on texts or dialogues."""
        return bool(self._knows({"text"}) or self._talks(False))

    @property
    def talks_about_pictures(self) -> bool:
        """Whether it was trained on dialogues about pictures."""
        return bool(self._talks(True))

    def _talks(self, shown: bool) -> list[str]:
        """The corpora of dialogues, about pictures or not."""
        leaves = {"image", "question", "reply"} if shown else {"question", "reply"}
        return [task for task in self._knows(leaves) if task.split("/")[0] == DIALOGUES]

    def _pieces(
        self, codec: TimestepCodec, tokens: Tokens, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[str]:
        said, ids = "", list[int]()
        for new in self._continue(codec, tokens, max_tokens, temperature, seed):
            ids.append(new[0])
            whole = self._text(ids).rstrip("\ufffd")  # half a character is one
            if len(whole) > len(said):
                yield whole[len(said) :]
                said = whole
        if len(rest := self._text(ids)) > len(said):
            yield rest[len(said) :]

    def _generate(
        self, codec: TimestepCodec, tokens: Tokens, max_tokens: int, temperature: float, seed: int = 0
    ) -> list[str]:
        """The continuation of each row."""
        out: list[list[int]] = [[] for _ in tokens.starts()[1:]]
        for new in self._continue(codec, tokens, max_tokens, temperature, seed):
            for r, token in new.items():
                out[r].append(token)
        return [self._text(ids) for ids in out]

    def _text(self, ids: Sequence[int]) -> str:
        return CONTROLS.sub("", self.bundle.tokenizer.decode(np.asarray(ids, np.int32)))

    @torch.inference_mode()
    def _continue(
        self, codec: TimestepCodec, tokens: Tokens, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[dict[int, int]]:
        """Continue each row (its end mark taken off) until an end mark of its own: {row: its next id}, pass after pass.

        Raises UsageError for a seed below 0 and a temperature that is no number."""
        if math.isnan(temperature):
            raise UsageError(f"temperature={temperature!r}", fix="a number; 0 for the likeliest")
        check_seed(seed)
        written = self.written = Written()
        starts = tokens.starts()
        count = len(starts) - 1
        window = self.bundle.config.token_sequence_length
        rows = [
            _rows(tokens, max(int(starts[r]), int(starts[r + 1]) - 1 - window), int(starts[r + 1]) - 1, time=0)
            for r in range(count)
        ]
        longest = max(len(row["ids"]) for row in rows)
        if not longest:
            raise ObservationError("nothing to continue", fix="give at least one character")
        rngs = _generators(rows, tokens, seed)
        cache = RingCache(
            self.bundle.config,
            count,
            window,
            most_new=max(longest, 1),
            device=next(self.bundle.model.parameters()).device,
        )
        slots = list(range(count))
        h = feed(self.bundle, cache, slots, rows, tokens.table, last=1)[:, 0]
        if self.bundle.config.position == "learned":
            # Its positions end where the context does; the last token is not fed.
            max_tokens = min(max_tokens, window - longest + 1)
        eos, size = self.bundle.tokenizer.eos_id, self.bundle.config.vocabulary_size
        alive = np.ones(count, bool)
        for said in range(1, max_tokens + 1):
            logits = self.bundle.model.logits(h)[:, :size].float()
            if temperature <= 0:
                ids = logits.argmax(-1).cpu().numpy()
            else:
                p = torch.softmax(tempered(logits, temperature), -1).cpu().numpy()
                cumulative = np.cumsum(p, axis=1)
                draws = np.array([[rng.random()] for rng in rngs])
                ids = np.minimum((cumulative <= draws * cumulative[:, -1:]).sum(1), size - 1)
            alive &= ids != eos
            if not alive.any():
                break
            written.tokens += int(alive.sum())
            yield {int(r): int(ids[r]) for r in np.flatnonzero(alive)}
            if said == max_tokens:
                written.cut = True
                break
            h = feed(self.bundle, cache, slots, [_text_row(int(i)) for i in ids], tokens.table)[:, 0]


def _generators(rows: Sequence[dict[str, np.ndarray]], tokens: Tokens, seed: int) -> list[np.random.Generator]:
    """One for each row, by what it shows: so what is drawn does not depend on the rows beside it, and of rows that are alike
    each draws its own."""
    count: dict[int, int] = {}
    out = []
    for row in rows:
        patches = tokens.table.rows[row["patches"][row["patches"] >= 0]]
        shown = zlib.crc32(patches.tobytes(), zlib.crc32(row["ids"].astype(np.int64).tobytes()))
        count[shown] = count.get(shown, 0) + 1
        out.append(np.random.default_rng((seed, shown, count[shown])))
    return out


def _text_row(token: int) -> dict[str, np.ndarray]:
    return {
        "ids": np.array([token]), "kinds": np.array([0]), "positions": np.array([-1]), "patches": np.array([-1]),
        "boxes": np.zeros((1, 4), np.uint8), "times": np.array([0]), "blank": np.array([False]),
    }  # fmt: skip


def nest(flat: Mapping[str, Any]) -> Any:
    """{path: leaf} → what an environment takes: the leaf itself if it is alone, else nested dicts; those whose names are 0, 1, …
    are tuples."""
    if set(flat) == {"action"}:
        value = flat["action"]
        return value.item() if value.shape == () else value
    out: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        inner = out
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = value.item() if value.shape == () else value
    return _with_tuples(out)


def _with_tuples(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inside = {name: _with_tuples(part) for name, part in value.items()}
    names = list(map(str, range(len(inside))))
    return tuple(inside[name] for name in names) if names and set(inside) == set(names) else inside


def installed(agent: Agent) -> list[str]:
    """Those of its tasks whose simulator is here."""
    nowhere = without_world(agent)
    return [task for task in agent.tasks if task not in nowhere and find(task).installed]


def without_world(agent: Any) -> list[str]:
    """Those of its tasks that can be played nowhere: recordings of somebody else's robot."""

    def known(task: str) -> bool:
        with contextlib.suppress(UnknownNameError):
            return bool(find(task))
        return False

    return [task for task in agent.tasks if not known(task)]
