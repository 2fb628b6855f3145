"""Datasets: `gato data ls`, `show`, `verify`, `repair`, `import`, `generate`, `export`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from gato.cli.checks import check_some, check_suffix, check_within, print_table
from gato.errors import UsageError


@dataclass
class DataLs:
    """Your own Table 1: tasks, episodes, timesteps, tokens, share of the tokens."""

    paths: Positional[tuple[Path, ...]]
    paper: bool = False
    """By domain, beside the paper's tasks, episodes, tokens and sample weights."""
    json: bool = False

    def run(self) -> None:
        check_some(self.paths, "a dataset folder", "gato data ls DIR")
        from gato.episodes.table import beside_the_paper, table

        rows = table(list(self.paths), tokens=_count_tokens)
        for row in rows:
            if row["problem"]:
                print(f"{row['task']}: {row['problem']} [{row['folder']}]", file=sys.stderr)
        total = sum(r["tokens"] or 0 for r in rows) or 1
        for row in rows:
            row["sample_weight"] = (row["tokens"] or 0) / total
        if self.paper:
            from gato.recipes.paper import TABLE_1

            rows = beside_the_paper(rows, TABLE_1)
        if self.json:
            print(json.dumps(rows, indent=1, default=str))
            return
        from rich.table import Column, Table

        if self.paper:
            from gato.evaluation.charts import short

            names = ("tasks", "episodes", "tokens")
            shown = Table(Column("ours / the paper's", no_wrap=True), *names, "weight")
            for r in rows:
                pairs = [f"{short(r[name])} / {short(r[f'paper_{name}'])}" for name in names]
                shown.add_row(r["domain"], *pairs, f"{r['paper_weight']:.2f} %")
            print_table(shown)
            return
        numbers = ("episodes", "timesteps", "tokens", "share", "return")
        shown = Table(
            Column("task", overflow="fold"), *(Column(name, justify="right", no_wrap=True) for name in numbers)
        )
        for r in rows:
            mean = r.get("mean_return")
            shown.add_row(
                r["task"], *(f"{r[name]:,}" if r[name] else "–" for name in ("episodes", "timesteps", "tokens")),
                f"{r['sample_weight']:.1%}", f"{mean:.3g}" if mean is not None else "–",
            )  # fmt: skip
        print_table(shown)


def _count_tokens(dataset: Any) -> int:
    """Tokens of a dataset; texts are counted as a token for every four bytes, as no tokenizer is fixed here."""
    from gato.tokens import TimestepCodec, Vocabulary

    codec = TimestepCodec(dataset.spec, Vocabulary(), None, task=dataset.task)
    texts = [path for path, spec in dataset.spec.observation.items() if spec.kind == "text"]
    total = codec.fixed_tokens * dataset.num_timesteps
    if texts:
        for episode in dataset:
            if not codec.acts and "marks" in episode.observations:  # a page's timesteps without an image
                total -= codec.fixed_tokens * int((episode.observations["marks"][:, 0] == 0).sum())
            total += sum(len(text.encode()) // 4 for path in texts for text in episode.observations[path])
    return total


@dataclass
class DataShow:
    """The tokens of one timestep, from the arrays that are trained on, and a picture of them."""

    path: Positional[Path]
    episode: int = 0
    step: int = 0
    tokenizer: Path | None = None
    """A tokenizer.model, needed where the task has texts."""
    picture: Path | None = None

    def run(self) -> None:
        if self.picture:
            check_suffix("--picture", self.picture, ".png", ".jpg", ".webp")
        from gato.episodes.store import Dataset
        from gato.tokens import TimestepCodec, Vocabulary
        from gato.tokens.show import describe, draw
        from gato.tokens.text import TextTokenizer

        dataset = Dataset.open(self.path)
        if not 0 <= self.episode < len(dataset):
            raise UsageError(
                f"no episode {self.episode}", where=str(self.path), fix=f"--episode 0 … {len(dataset) - 1}"
            )
        if self.tokenizer is None and any(s.kind == "text" for s in dataset.spec.observation.values()):
            raise UsageError(
                "this task has texts, and their tokens depend on the tokenizer",
                where=str(self.path),
                fix="--tokenizer RUN/tokenizer.model",
            )
        text = TextTokenizer.load(self.tokenizer) if self.tokenizer else None
        codec = TimestepCodec(dataset.spec, Vocabulary(text.size if text else 32000), text, task=dataset.task)
        episode = dataset[self.episode]
        if not 0 <= self.step < len(episode):
            raise UsageError(f"no step {self.step}", where=str(self.path), fix=f"--step 0 … {len(episode) - 1}")
        tokens = codec.encode(episode)
        print(f"{episode}\n")
        print(describe(codec, tokens, self.step))
        if self.picture:
            draw(codec, tokens, self.step, self.picture)
            print(f"picture: {self.picture}")


@dataclass
class DataVerify:
    """Every hash and every episode of the datasets; exit code 3 if anything is wrong."""

    paths: Positional[tuple[Path, ...]]
    contents: bool = True
    """--no-contents: the hashes alone (are the bytes those that were written?), several times as fast."""
    json: bool = False

    def run(self) -> None:
        check_some(self.paths, "a dataset folder", "gato data verify DIR")
        from gato.episodes.repair import verify
        from gato.episodes.store import find_datasets

        bad = 0
        for path in find_datasets(list(self.paths)):
            report = verify(path, self.contents)
            bad += not report.ok
            if self.json:
                print(
                    json.dumps(
                        {
                            "path": str(path),
                            "ok": report.ok,
                            "episodes": report.episodes,
                            "problems": [str(p) for p in report.problems],
                        }
                    )
                )
            else:
                print(
                    f"{'ok ' if report.ok else 'BAD'} {path}: {report.episodes:,} episodes, {report.timesteps:,} timesteps"
                )
                for problem in report.problems:
                    print(f"    {problem}")
        if bad:
            raise SystemExit(3)


@dataclass
class DataRepair:
    """What is still whole of a damaged dataset, as a new one; the old one is not touched."""

    dataset: Positional[Path]
    out: Path

    def run(self) -> None:
        from gato.episodes.repair import repair

        done = repair(self.dataset, self.out)
        print(f"{done.kept:,} episodes kept, {len(done.lost):,} lost → {self.out}")
        for number, reason in done.lost.items():
            print(f"    episode {number}: {reason}")
        if done.unlisted:
            print(f"    of {len(done.unlisted):,} the index was lost: their seeds and sources are not known")


@dataclass
class DataImport:
    """Recordings (Minari, LeRobot v3, JAT) or a corpus (The Pile, MS-COCO, LAION, VQAv2, OBELICS, films, …), as people
    distribute them, become a dataset to train on."""

    layout: Positional[str]
    """Of recordings: minari, lerobot, jat, or auto to look which; of corpora: text, pile, c4, fineweb, datasets, coco,
    conceptual-captions, webdataset, laion, datacomp, vqav2, ok-vqa, obelics, mmc4, bild or clips."""
    path: Positional[Path]
    out: Path
    task: str = ""
    """domain/name; the layout's own if not given."""
    images: Path | None = None
    """Where the images are, if not beside the files that speak of them."""
    size: tuple[int, int] | None = None
    """Height and width of images in pixels; as large as fits the window if not given."""
    pairs: int = 5
    """Image-text pairs in an episode."""
    frames: int = 8
    """Of a clip."""
    stride: int = 4
    """Film frames from one of a clip's to the next."""
    window_tokens: int = 1024
    split: str = ""
    """train, heldout or all; if not given, all of Minari's and LeRobot's, train of everything else."""
    column: str = "text"
    """Of objects and tables: where the text is."""
    on_bad: str = "error"
    """error, or skip: leave out what cannot be read, and count it."""
    max_record_bytes: int = 8_388_608
    limit: int | None = None
    """At most so many episodes."""
    world: bool = False
    """Recordings: the task is one of our worlds; take its names, types and bounds, so that an agent can act there."""
    action_bounds: tuple[float, float] | None = None
    """Recordings: of continuous actions; -1 and 1, or what the data reach, if not given."""
    target: str = "expert_action"
    """Minari: the info that holds what an expert would have done; without it the actions themselves are learned."""
    json: bool = False

    def run(self) -> None:
        if self.limit is not None:
            check_within("--limit", self.limit, 1)
        if self.on_bad not in ("error", "skip"):
            raise UsageError(f"--on-bad {self.on_bad}", fix="error or skip")
        from gato.episodes import exchange

        if self.layout in (*exchange.LAYOUTS, "auto"):
            self._shown(self._recordings(exchange.detect(self.path) if self.layout == "auto" else self.layout))
        else:
            self._shown(self._corpus())

    def _recordings(self, layout: str) -> Any:
        from gato.episodes.exchange import Choices, import_recordings

        spec = None
        if self.world:
            if not self.task:
                raise UsageError("--world needs the world's name", fix="--task DOMAIN/NAME; gato tasks lists them")
            from gato.worlds import find

            spec = find(self.task).spec
        choices = Choices(self.size, self.action_bounds, self.target, self.split)
        return import_recordings(
            layout, self.path, self.out, choices, task=self.task, spec=spec, limit=self.limit, on_bad=self.on_bad
        )

    def _corpus(self) -> Any:
        from gato.corpora.layouts import Preparation, find_layout, import_corpus

        if self.world or self.action_bounds is not None:
            raise UsageError("a corpus has no actions", where=self.layout, fix="leave out --world and --action-bounds")
        layout = find_layout(self.layout)
        how = Preparation(
            self.size, self.pairs, self.frames, self.stride, self.window_tokens, split=self.split or "train", column=self.column,
            on_bad=self.on_bad, max_record_bytes=self.max_record_bytes,  # type: ignore[arg-type]
        )  # fmt: skip
        if not self.json:
            print(f"{layout.name}: {how.cost(layout)}")
        return import_corpus(
            self.layout, self.path, self.out, how, task=self.task, images=self.images, limit=self.limit
        )

    def _shown(self, found: Any) -> None:
        for done in found:
            if not self.json and sys.stderr.isatty():
                print(f"\r{done.episodes:,} episodes, {done.skipped:,} skipped", end="", file=sys.stderr)
        if self.json:
            print(json.dumps({**vars(done), "folder": str(done.folder)}))
            return
        print(f"{done.task}: {done.episodes:,} episodes (+{done.added:,}), {done.skipped:,} skipped → {done.folder}")
        for complaint in done.complaints:
            print(f"  skipped: {complaint}", file=sys.stderr)


@dataclass
class DataGenerate:
    """Corpora made from our own worlds, true by construction: captions, questions, dialogues, pages, clips, and text."""

    corpora: Positional[tuple[str, ...]] = ()
    """Names, say captions/rooms questions/rooms; all are listed if none is given."""
    out: Path = Path("data")
    episodes: int = 20_000
    """Of each; one that is there is topped up. Text has as much as there is."""
    split: Literal["train", "heldout"] = "train"
    seed: int = 0
    blank: bool = False
    """Of questions/rooms: black pictures, for a network that learns the questions alone."""

    def run(self) -> None:
        check_within("--episodes", self.episodes, 1)
        check_within("--seed", self.seed, 0)
        from gato.scenes import CORPORA, generate

        if not self.corpora:
            print("\n".join(CORPORA))
            return
        for name in self.corpora:
            (folder,) = generate(
                self.out, [name], split=self.split, scenes=self.episodes, seed=self.seed, blank=self.blank
            )
            from gato.episodes.store import Dataset

            print(f"{name}: {len(Dataset.open(folder)):,} episodes → {folder}")


@dataclass
class DataExport:
    """A dataset in somebody else's layout."""

    dataset: Positional[Path]
    out: Path
    layout: Literal["minari"] = "minari"
    name: str = ""
    """Minari's name, NAMESPACE/NAME-v0; the task's own, and v0, if not given."""

    def run(self) -> None:
        from gato.episodes.exchange import export_minari

        shown = sys.stderr.isatty()
        folder = export_minari(
            self.dataset, self.out, self.name,
            lambda n: print(f"\r{n:,} episodes", end="", file=sys.stderr) if shown else None,
        )  # fmt: skip
        print(f"{folder}\nMINARI_DATASETS_PATH={self.out.resolve()} lets minari.load_dataset find it")
