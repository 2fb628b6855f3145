"""Looking inside a bundle: where it looks, what it takes for alike, and what a prompt changes. A picture each, and a page.

    python benchmarks/inside.py attention BUNDLE --data DIR      attention of the first layer over pictures (section 6)
    python benchmarks/inside.py tsne BUNDLE --data DIR           embeddings of tasks, coloured by domain (section 6)
    python benchmarks/inside.py prompts BUNDLE [--tasks GLOB]    own prompt, another task's, none; needs a bundle with prompts
    python benchmarks/inside.py names BUNDLE [--tasks GLOB]      own name, another task's, nobody's; needs one with task tokens
    python benchmarks/inside.py page                             docs/inside.md from what the others have written

--data is a folder of demonstrations of the bundle's tasks. Pictures go to --out (docs/images/inside-*.png), numbers to
results/inside.json; what one command measured stays there when another runs. `prompts` and `names` write as they go: killed, the
same command goes on behind the tasks that it has.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.episodes import Dataset, Episode, TaskSpec, find_datasets
from gato.errors import GatoError, UsageError
from gato.evaluation.charts import percent
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.scores import expert_normalised, write_results, write_whole
from gato.model import Gato
from gato.model.bundle import Bundle
from gato.policy import Agent, load
from gato.policy.look import attention
from gato.rollouts.pool import WorkerPool
from gato.sequences import Batch, Segment, TokenStore, collate
from gato.tokens.patches import grid
from gato.tokens.timestep import IMAGE, MARKS, SEPARATOR, TEXT
from gato.worlds import find, select

ROOT = Path(__file__).parents[1]
RESULTS, PAGE, IMAGES = ROOT / "results/inside.json", ROOT / "docs/inside.md", ROOT / "docs/images"
COLOURS = ("#0d6e8c", "#c9622b", "#5b8c2a", "#8c3f7a", "#b58a00", "#3a4fa3", "#a83232", "#2f8f7f", "#7a5c3e", "#666666",
           "#d07fb0", "#69a2d6", "#9bb84a", "#e0a05a", "#4b3f72", "#94b0a8")  # fmt: skip
PROMPTS = ("own prompt", "another task's prompt", "no prompt")
NAMES = ("own name", "another task's name", "a name that no task has")


def of_bundle(bundle: Bundle, path: Path) -> dict[str, Any]:
    """Which network the numbers are of."""
    recipe = bundle.card.get("recipe") or {}
    return {
        "recipe": recipe.get("name", ""), "parameters": bundle.model.num_parameters, "tokens": bundle.trained("tokens"),
        "blocks": bundle.config.num_transformer_blocks, "task_token": bundle.config.task_token,
    }  # fmt: skip


def known(bundle: Bundle, data: Sequence[Path]) -> dict[str, Dataset]:
    """The datasets there that the bundle was made for. Raises UsageError where there is none."""
    found = {d.task: d for d in map(Dataset.open, find_datasets(list(data)))}
    mine = {t: found[t] for t in bundle.tasks if t in found and found[t].spec == bundle.tasks[t].spec and len(found[t])}
    if not mine:
        raise UsageError(
            "no demonstrations of this bundle's tasks",
            where=", ".join(map(str, data)),
            fix="gato collect TASK --out DIR",
        )
    return mine


# -- where it looks ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Gaze:
    """`picture` uint8 (H, W, 3); `weights` (heads, rows, columns) of attention over its patches; `share`: what the
    picture gets of all attention, the mean of the heads; `even`: what it would get if all tokens were looked at alike."""

    task: str
    picture: np.ndarray
    weights: np.ndarray
    share: float
    even: float

    @property
    def sharpest(self) -> int:
        """The head that looks at the fewest patches: the one with the least entropy over them."""
        p = self.weights.reshape(len(self.weights), -1)
        p = p / p.sum(1, keepdims=True)
        return int(np.argmin(-(p * np.log(p + 1e-12)).sum(1)))


def image_of(spec: Mapping[str, Any]) -> str | None:
    """The leaf that is a picture, where there is just one (pages, whose pictures come and go, are left out)."""
    images = [path for path, leaf in spec.items() if leaf.kind == "image"]
    return images[0] if len(images) == 1 and MARKS not in spec else None


def gaze(bundle: Bundle, task: str, episode: Episode, at: int, layer: int = 0) -> Gaze:
    """Over the picture of one timestep: attention of the separator, from which the action is predicted, or, of a corpus,
    of the words, on average. Of a stack of frames the one that is looked at most."""
    card = bundle.tasks[task]
    one = {k: v[at : at + 1] for k, v in episode.observations.items()}
    tokens = bundle.codec(task).encode_observations(one, 1)
    rows = np.flatnonzero(tokens.kinds == (SEPARATOR if card.spec.action else TEXT)).tolist()
    seen = attention(bundle, tokens, rows, layer)
    where = np.flatnonzero(tokens.kinds == IMAGE)
    even = float(np.mean([(where <= row).sum() / (row + 1) for row in rows]))
    path = image_of(card.spec.observation)
    assert path is not None
    frames = np.asarray(one[path])[0]
    frames = frames.reshape(-1, *frames.shape[-3:])
    weights = seen[:, where].reshape(len(seen), len(frames), *grid(*frames.shape[1:3]))
    frame = int(weights.mean(0).sum((1, 2)).argmax())
    picture = np.broadcast_to(frames[frame], (*frames.shape[1:3], max(3, frames.shape[-1])))[..., :3]
    return Gaze(task, picture, weights[:, frame], float(seen[:, where].sum(1).mean()), even)


def look(bundle: Bundle, datasets: Mapping[str, Dataset], domains: int, layer: int, seed: int) -> list[Gaze]:
    """One timestep of one task of each of so many domains that have pictures; control first. Raises UsageError."""
    seeing = [t for t in datasets if image_of(bundle.tasks[t].spec.observation)]
    if not seeing:
        raise UsageError(
            "none of these tasks is seen as a picture", fix="--data with Atari, Procgen, MiniWorld or captions"
        )
    seeing.sort(key=lambda t: not bundle.tasks[t].spec.action)
    rng = np.random.default_rng(seed)
    chosen = {}
    for task in seeing:
        chosen.setdefault(task.split("/", 1)[0], task)
    found = []
    for task in list(chosen.values())[:domains]:
        episode = datasets[task][int(rng.integers(len(datasets[task])))]
        found.append(gaze(bundle, task, episode, len(episode) // 2, layer))
    return found


def spotlight(picture: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The picture, each patch as bright as it is looked at; the brightest as it is. uint8 (H, W, 3)."""
    (height, width), (rows, columns) = picture.shape[:2], weights.shape
    y, x = np.arange(height) * rows // height, np.arange(width) * columns // width
    light = (weights / max(float(weights.max()), 1e-9))[y[:, None], x[None]]
    return (picture * (0.12 + 0.88 * light[..., None])).astype(np.uint8)


def draw_attention(gazes: Sequence[Gaze], file: Path) -> None:
    """A column per domain: the picture, the mean of the heads over it, and the sharpest head."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.1 * len(gazes), 6.4), dpi=130, layout="constrained")
    axes = figure.subplots(3, len(gazes), squeeze=False)
    for column, g in enumerate(gazes):
        maps = (None, g.weights.mean(0), g.weights[g.sharpest])
        words = (
            g.task.replace("/", "/\n"),
            f"mean of the heads\n{percent(100 * g.share)} on the picture",
            f"head {g.sharpest}, the sharpest",
        )
        for row, (weights, said) in enumerate(zip(maps, words, strict=True)):
            ax = axes[row, column]
            ax.imshow(g.picture if weights is None else spotlight(g.picture, weights), interpolation="nearest")
            ax.set_title(said, fontsize=7)
            ax.set_axis_off()
    _save(figure, file)


# -- what it takes for alike ------------------------------------------------------------------------------------------


@torch.inference_mode()
def embed(model: Gato, batch: Batch, layer: int) -> torch.Tensor:
    """The residual stream behind so many blocks, (N, D); behind the last of them normed, as it predicts from it."""
    if layer == len(model.blocks):
        return model.hidden_states(batch)
    x = model.embed(batch, model.embed.vocabulary())
    for block in model.blocks[:layer]:
        x = block(x, batch.groups, last=False)
    return x


def points_of(
    bundle: Bundle, model: Gato, dataset: Dataset, points: int, windows: int, tokens: int, layer: int, seed: int
) -> np.ndarray:
    """(points, D): each the mean hidden state at the separators (of a corpus, at its words) of so many windows of its
    own episodes, drawn as in training and without a prompt. Fewer points where there are fewer episodes."""
    task = dataset.task
    rng = np.random.default_rng((seed, len(dataset)))
    numbers = rng.permutation(len(dataset))[: points * windows]
    kind = SEPARATOR if bundle.tasks[task].spec.action else TEXT
    room = bundle.config.token_sequence_length
    out = []
    for mine in np.array_split(numbers, points):
        if not len(mine):
            continue
        store = TokenStore.build(task, bundle.codec(task), dataset.episodes(sorted(mine.tolist())))
        steps = bundle.tasks[task].window_timesteps
        spans = [store.window(rng, min(tokens, room), steps, whole=room) for _ in range(windows)]
        spans.sort(key=lambda s: s[0] - s[1])  # the order in which a batch lays them out
        batch = collate([Segment(0, (s,)) for s in spans], [store], parallel_actions=bundle.config.parallel_actions)
        hidden, at, begin = embed(model, batch, layer), [], 0
        lengths = [length for n, length, _ in batch.groups for _ in range(n)]
        for (first, last), length in zip(spans, lengths, strict=True):
            at += (begin + np.flatnonzero(store.tokens.kinds[first:last] == kind)).tolist()
            begin += length
        if at:
            out.append(hidden[at].float().mean(0).cpu().numpy())
    return np.stack(out) if out else np.zeros((0, bundle.config.layer_width), np.float32)


def flat(x: np.ndarray, seed: int) -> np.ndarray:
    """PCA to at most 50 dimensions, then t-SNE to 2, as in the paper."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = PCA(min(50, *x.shape), random_state=seed).fit_transform(x)
    nearest = max(2.0, min(30.0, (len(x) - 1) / 3))
    return TSNE(2, perplexity=nearest, init="pca", random_state=seed).fit_transform(x)


def neighbours(x: np.ndarray, tasks: Sequence[str], predicts: Sequence[str]) -> dict[str, list[float] | None]:
    """Who is nearest to whom in the space itself, as [share of points, what chance would give]:

    `task`: the nearest point is of the same task; `domain`: the nearest of another task is of the same domain (where
    there is such a task); `kind`: the nearest of another domain predicts the same kind of thing (`predicts`, a point).
    """
    task, kinds = np.array(tasks), np.array(predicts)
    domain = np.array([t.split("/", 1)[0] for t in tasks])
    norms = np.square(x).sum(1)
    distance = norms[:, None] + norms[None] - 2 * x @ x.T
    alone = np.eye(len(x), dtype=bool)
    same = [labels[:, None] == labels[None] for labels in (task, domain, kinds)]
    among = {"task": (~alone, same[0]), "domain": (~same[0], same[1]), "kind": (~same[1], same[2])}
    found: dict[str, list[float] | None] = {}
    for name, (allowed, wanted) in among.items():
        has = (allowed & wanted).any(1)
        nearest = np.where(allowed, distance, np.inf).argmin(1)
        hits, chance = wanted[np.arange(len(x)), nearest], (allowed & wanted).sum(1) / np.maximum(allowed.sum(1), 1)
        found[name] = [float(hits[has].mean()), float(chance[has].mean())] if has.any() else None
    return found


def predicted(bundle: Bundle, task: str) -> str:
    """What kind of thing this task is about predicting: text, or which kinds of action."""
    return " and ".join(sorted({leaf.kind for leaf in bundle.tasks[task].spec.action.values()})) or "text"


def draw_tsne(panels: Mapping[str, np.ndarray], tasks: Sequence[str], file: Path) -> None:
    """A panel per network; a colour per domain; where tasks are few, each is named."""
    from matplotlib.figure import Figure

    domains = list(dict.fromkeys(t.split("/", 1)[0] for t in tasks))
    figure = Figure(figsize=(5.4 * len(panels), 5.6), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, x) in zip(axes, panels.items(), strict=True):
        for n, domain in enumerate(domains):
            mine = np.array([t.split("/", 1)[0] == domain for t in tasks])
            marker = "os^Dv"[n // len(COLOURS) % 5]
            ax.scatter(*x[mine].T, s=14, color=COLOURS[n % len(COLOURS)], marker=marker, label=domain, linewidths=0)
        if len(set(tasks)) <= 24:
            for task in dict.fromkeys(tasks):
                middle = x[[t == task for t in tasks]].mean(0)
                ax.annotate(task.split("/", 1)[-1], middle, fontsize=6, ha="center", alpha=0.8)
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xticks([])
        ax.set_yticks([])
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    _save(figure, file)


# -- what a prompt or a name changes ----------------------------------------------------------------------------------


def stranger(bundle: Bundle, task: str, prompted: bool) -> str | None:
    """Another task whose observations and actions have the same form: of them the one that is called most like it, so that the
    door that is to be opened gets the prompt of the door that is to be closed. None where there is none, or none with a prompt."""
    asked = form(bundle.tasks[task].spec)
    alike = [
        t
        for t, card in bundle.tasks.items()
        if t != task and form(card.spec) == asked and (card.prompt or not prompted)
    ]
    return max(alike, key=lambda t: SequenceMatcher(None, task, t).ratio(), default=None)


def form(spec: TaskSpec) -> list[tuple[str, str, tuple[int, ...]]]:
    """Names, kinds and shapes: what is seen and done, whatever its bounds are."""
    return [(name, leaf.kind, leaf.shape) for side in (spec.observation, spec.action) for name, leaf in side.items()]


def with_prompts(bundle: Bundle, task: str, other: str | None) -> dict[str, Bundle]:
    """The same network behind other prompts of one task. Raises UsageError for a bundle without prompts."""
    cards = bundle.tasks
    if cards[task].prompt is None:
        raise UsageError(
            "this bundle has no prompts, so there is nothing to take away or to swap",
            where=task, fix="train with --set prompt_share=0.25: its bundle keeps a demonstration of every task",
        )  # fmt: skip
    prompts = (cards[task].prompt, cards[other].prompt if other else None, None)
    return {
        kind: dataclasses.replace(
            bundle, tasks={**cards, task: dataclasses.replace(cards[task], prompt=prompt)}, prefixes={}
        )
        for kind, prompt in zip(PROMPTS, prompts, strict=True)
        if other or kind != PROMPTS[1]
    }


def with_names(bundle: Bundle, task: str, other: str | None) -> dict[str, Bundle]:
    """The same network, told that one task is another. A name is the task's number among the bundle's, so who is called
    otherwise stands at another place. Raises UsageError for a bundle whose tasks have no names."""
    if not bundle.config.task_token:
        raise UsageError("this bundle was trained without task tokens", fix="train with --set model.task_token=true")
    card, order = bundle.tasks[task], list(bundle.tasks)
    named = {NAMES[0]: bundle}
    if other:
        i, j = order.index(task), order.index(other)
        order[i], order[j] = order[j], order[i]
        named[NAMES[1]] = dataclasses.replace(bundle, tasks={t: bundle.tasks[t] for t in order}, prefixes={})
    others = {t: c for t, c in bundle.tasks.items() if t != task}
    named[NAMES[2]] = dataclasses.replace(bundle, tasks={**others, "nobody": card, task: card}, prefixes={})
    return named


WAYS = {"prompts": (PROMPTS, with_prompts), "names": (NAMES, with_names)}


def effects(way: str, bundle: Bundle, tasks: Sequence[str], episodes: int, workers: int) -> Iterator[dict[str, Any]]:
    """Each task played in three ways, on the same seeds. Raises UsageError for a bundle that cannot be asked in that way."""
    for name in tasks:
        task, other = find(name), stranger(bundle, name, way == "prompts")
        record: dict[str, Any] = {"task": name, "other": other, "scores": {}, "percent": {}}
        with WorkerPool(workers) as pool:
            for kind, asked in WAYS[way][1](bundle, name, other).items():
                scores, _ = evaluate_task(Agent(asked), task, episodes, pool)
                record["scores"][kind] = scores.score
                record["percent"][kind] = expert_normalised(scores.score, scores.random, scores.expert)
        print(f"{name}: {record['scores']}", flush=True)
        yield record


def draw_effects(found: Sequence[Mapping[str, Any]], kinds: Sequence[str], file: Path) -> None:
    """Bars in percent of expert, three a task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.8 + 0.55 * len(found)), dpi=130, layout="constrained")
    ax = figure.subplots()
    at = np.arange(len(found))[::-1]
    for n, kind in enumerate(kinds):
        values = [r["percent"].get(kind) for r in found]
        ax.barh(at + 0.25 * (1 - n), [np.nan if v is None else v for v in values], 0.22, color=COLOURS[n], label=kind)
    ax.set_yticks(at, [r["task"] for r in found], fontsize=7)
    ax.set_ylim(-0.6, len(found) - 0.4)
    ax.set_xlabel("% of expert")
    ax.legend(frameon=False, fontsize=7)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="png", metadata={"Software": None})


# -- the page ---------------------------------------------------------------------------------------------------------


def page(record: Mapping[str, Any]) -> str:
    """docs/inside.md. What has not been measured is left to its command."""
    parts = [
        "# Looking inside",
        "<!-- written by benchmarks/inside.py page: change it there -->\n\n"
        "Three looks at a trained network, one command each; `DIR` is a folder of demonstrations of its tasks.",
        _attention_words(record.get("attention")), _tsne_words(record.get("tsne")), _effect_words("prompts", record.get("prompts")),
        _effect_words("names", record.get("names")),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _network(facts: Mapping[str, Any]) -> str:
    tokens = f", trained on {facts['tokens']:,} tokens" if facts.get("tokens") else ""
    return f"The network: recipe `{facts['recipe']}`, {facts['parameters']:,} parameters, {facts['blocks']} blocks{tokens}."


def _command(words: str) -> str:
    return f"```bash\npython benchmarks/inside.py {words}\n```"


def _attention_words(found: Mapping[str, Any] | None) -> str:
    head = f"## Where it looks\n\n{_command('attention BUNDLE --data DIR')}"
    if found is None:
        return f"{head}\n\nNot measured yet."
    rows = "\n".join(
        f"| `{g['task']}` | {percent(100 * g['share'])} | {percent(100 * g['even'])} | {percent(100 * g['top_patch'])} |"
        for g in found["gazes"]
    )
    return (
        f"{head}\n\n![Attention over pictures of several domains](images/inside-attention.png)\n\n"
        f"Layer {found['layer'] + 1}; one timestep in the middle of a demonstration. On control tasks it is the attention of "
        "the separator, from which the action is predicted; on captions and questions that of the words, on average. On "
        "top the picture, below it the mean of the heads, at the bottom the head that looks at the fewest patches; the "
        "brightest patch of each map is its own maximum. The paper shows such maps in section 6; it cuts one timestep out "
        "of a whole window's attention, while here the timestep is read alone.\n\n"
        f"| task | attention on the picture | if all tokens were alike | on the brightest patch |\n| --- | --- | --- | --- |\n"
        f"{rows}\n\n{_network(found['bundle'])}"
    )


def _tsne_words(found: Mapping[str, Any] | None) -> str:
    head = f"## What it takes for alike\n\n{_command('tsne BUNDLE --data DIR')}"
    if found is None:
        return f"{head}\n\nNot measured yet."
    rows = "\n".join(
        f"| {name} | " + " | ".join(_and_chance(near[key]) for key in ("task", "domain", "kind")) + " |"
        for name, near in found["neighbours"].items()
    )
    named = (
        " It has a task token at the head of each timestep, so its input alone tells the tasks apart."
        if found["bundle"]["task_token"] else ""
    )  # fmt: skip
    return (
        f"{head}\n\n![t-SNE of task embeddings, coloured by domain](images/inside-tsne.png)\n\n"
        f"{found['tasks']} tasks, up to {found['points']} points each. A point is the mean hidden state behind block "
        f"{found['layer']} of {found['bundle']['blocks']} at the separators (of a corpus, at its words) of {found['windows']} "
        f"windows of at most {found['tokens']} tokens, drawn from demonstrations as in training, each point from episodes of "
        "its own; then PCA to 50 dimensions and t-SNE to two. There is no prompt before them: the paper's figure takes "
        "sub-sequences of 128 tokens of 11 tasks, averaged over all tokens, behind half of its blocks.\n\n"
        "Much of what clusters is the form of the input: how many tokens a timestep has, and of which kinds. So the same "
        f"network before training stands beside it.{named} In the space itself, before t-SNE:\n\n"
        "| network | the nearest point is of the same task | the nearest of another task, of the same domain "
        f"| the nearest of another domain predicts the same kind |\n| --- | --- | --- | --- |\n{rows}\n\n"
        "In brackets, what chance would give. A kind is discrete actions, continuous ones, both, or text."
        f"{_gathered(found['neighbours'])}\n\n"
        f"{_network(found['bundle'])}"
    )


def _gathered(neighbours: Mapping[str, Mapping[str, Sequence[float] | None]]) -> str:
    """What training did, where it is to be seen."""
    (task, kind), (task_before, kind_before) = ((n["task"], n["kind"]) for n in neighbours.values())
    if not (task and kind and task_before and kind_before and kind[0] > kind_before[0] and task[0] < task_before[0]):
        return ""
    return " Training gathers what is to be done alike, whatever it looks like, and lets go of which task it is."


def _and_chance(shares: Sequence[float] | None) -> str:
    return "–" if shares is None else f"{percent(100 * shares[0])} ({percent(100 * shares[1])})"


# A network whose tasks a prompt tells apart, and where the goal is: half an hour of one core.
PROMPTED = """\
for task in reach push pick-place {door,drawer,faucet,window}-{open,close}
do gato collect meta-world/$task --episodes 60 --coverage --out DIR; done
gato train demo --data DIR --out RUN --seconds 1500 --processes 1 \\
    --set 'weights={"*":1.0}' 'window_timesteps={}' prompt_share=0.25 window_tokens=1024 continuous=mean
"""
TOLD = {
    "prompts": "The same network plays the same episodes three times: behind its own task's prompt, behind another's whose "
    "observations and actions have the same form, and behind none. It needs a bundle that was trained with prompts "
    "(`prompt_share` above 0), and says so of any other.",
    "names": "Where a window is one timestep there is no room for a prompt, and a token at the head of each timestep names the task in "
    "its place. The same network plays the same episodes under the task's own name, under that of another task whose observations "
    "and actions have the same form, and under one that training never used.",
}


def _effect_words(way: str, found: Mapping[str, Any] | None) -> str:
    kinds = WAYS[way][0]
    head = f"## What the {way.removesuffix('s')} changes\n\n{_command(f'{way} BUNDLE --tasks GLOB')}"
    if found is None:
        return f"{head}\n\n{TOLD[way]} Not measured yet."
    cells = [
        f"| `{r['task']}` | " + " | ".join(percent(r["percent"].get(kind), 1) for kind in kinds)
        + f" | {'`' + r['other'] + '`' if r['other'] else '–'} |"
        for r in found["tasks"]
    ]  # fmt: skip
    made = f"\n\n```bash\n{PROMPTED}```" if way == "prompts" else ""
    return (
        f"{head}\n\n![Percent of expert by {way.removesuffix('s')}](images/inside-{way}.png)\n\n{TOLD[way]} {found['episodes']} "
        f"episodes a task; percent of expert.\n\n| task | {' | '.join(kinds)} | the other task |\n|" + " --- |" * (len(kinds) + 2)
        + "\n" + "\n".join([*cells, _means(found["tasks"], kinds)]) + f"\n\n{_worth(found['tasks'], kinds)}\n\n"
        f"{_network(found['bundle'])}{made}"
    )  # fmt: skip


def _worth(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> str:
    """How many tasks are played best by their own, and how many better in another way, where it is more than ten points."""
    whole = [[r["percent"].get(kind) for kind in kinds] for r in rows]
    whole = [w for w in whole if None not in w]
    better = sum(own > max(others) + 10 for own, *others in whole)
    worse = sum(own < max(others) - 10 for own, *others in whole)
    return (
        f"By more than ten points its own is the best of the three on {better} of {len(whole)} tasks, and behind the best on "
        f"{worse}."
    )


def _means(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> str:
    """The table's last line: of the tasks that have another, so that the columns compare."""
    whole = [r["percent"] for r in rows if all(r["percent"].get(kind) is not None for kind in kinds)]
    means = [percent(float(np.mean([w[kind] for w in whole])) if whole else None, 1) for kind in kinds]
    return f"| mean of {len(whole)} | {' | '.join(means)} | |"


# -- the command ------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace, earlier: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """What one command found, and its picture: once, or whenever another task is done. `earlier`: what the same command had found."""
    agent = load(args.bundle)
    bundle = agent.bundle
    facts = {"bundle": of_bundle(bundle, args.bundle)}
    if args.command in WAYS:
        facts["episodes"] = args.episodes
        found = [*earlier["tasks"]] if earlier and facts.items() <= earlier.items() else []
        asked = [t.id for t in select(args.tasks)] if args.tasks else agent.tasks
        left = [t for t in asked if t in bundle.tasks and t not in {r["task"] for r in found}]
        for record in effects(args.command, bundle, left, args.episodes, args.workers):
            found.append(record)
            draw_effects(found, WAYS[args.command][0], args.out / f"inside-{args.command}.png")
            yield {**facts, "tasks": found}
        return
    datasets = known(bundle, args.data)
    if args.command == "attention":
        if not 0 <= args.layer < bundle.config.num_transformer_blocks:
            raise UsageError(f"no layer {args.layer}", fix=f"0 to {bundle.config.num_transformer_blocks - 1}")
        gazes = look(bundle, datasets, args.domains, args.layer, args.seed)
        draw_attention(gazes, args.out / "inside-attention.png")
        told = [
            {"task": g.task, "share": g.share, "even": g.even, "top_patch": float(g.weights.mean(0).max())}
            for g in gazes
        ]
        yield {**facts, "layer": args.layer, "gazes": told}
        return
    blocks = bundle.config.num_transformer_blocks
    layer = blocks if args.behind is None else args.behind
    if not 0 <= layer <= blocks:
        raise UsageError(f"{layer} blocks of {blocks}", fix=f"--behind 0 to {blocks}")
    torch.manual_seed(args.seed)
    networks = {"trained": bundle.model, "before training": Gato(bundle.config).eval()}
    panels, near, tasks = {}, {}, []
    for name, model in networks.items():
        parts = {
            t: points_of(bundle, model, d, args.points, args.windows, args.tokens, layer, args.seed)
            for t, d in datasets.items()
        }
        tasks = [t for t, part in parts.items() for _ in part]
        if len(set(tasks)) < 3:
            raise UsageError("fewer than three tasks: there is nothing to compare", fix="--data with more of its tasks")
        x = np.concatenate([part for part in parts.values() if len(part)])
        near[name] = neighbours(x, tasks, [predicted(bundle, t) for t in tasks])
        panels[name] = flat(x, args.seed)
        print(f"{name}: {near[name]}", flush=True)
    draw_tsne(panels, tasks, args.out / "inside-tsne.png")
    yield {
        **facts, "tasks": len(set(tasks)), "points": args.points, "windows": args.windows, "tokens": args.tokens,
        "layer": layer, "neighbours": near,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("attention", "tsne", *WAYS, "page"))
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", default=[])
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domains", type=int, default=6, help="attention: of so many domains")
    parser.add_argument("--layer", type=int, default=0, help="attention: of this block, counted from 0")
    parser.add_argument("--behind", type=int, help="tsne: hidden states behind so many blocks; all if not given")
    parser.add_argument("--points", type=int, default=6, help="tsne: a task")
    parser.add_argument("--windows", type=int, default=16, help="tsne: a point")
    parser.add_argument("--tokens", type=int, default=128, help="tsne: a window, at most")
    parser.add_argument("--tasks", default="", help="prompts, names: globs, comma-separated")
    parser.add_argument("--episodes", type=int, default=20, help="prompts, names: a task and way")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    record = json.loads(args.results.read_text()) if args.results.is_file() else {}
    if args.command == "page":
        write_whole(args.page, page(record))
        print(f"page: {args.page}")
        return
    if args.bundle is None:
        parser.error("which bundle?")
    if args.command not in WAYS and not args.data:
        parser.error(f"{args.command} needs --data")
    try:
        for found in run(args, record.get(args.command)):
            write_results({**record, args.command: found}, args.results)
    except GatoError as error:
        sys.exit(str(error))
    print(f"results: {args.results}; python benchmarks/inside.py page writes the page")


if __name__ == "__main__":
    main()
