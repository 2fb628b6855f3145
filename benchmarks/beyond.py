"""Beyond the paper: can the agent pass its expert, learn from nothing, and do as well as it is asked to? (docs/beyond.md)

    python benchmarks/beyond.py --state STATE                        # about three hours of one core; goes on where it stopped
    python benchmarks/beyond.py --state STATE --only expert nothing  # a part
    python benchmarks/beyond.py --state STATE --report               # results/beyond.json, the figures, the page
    python benchmarks/beyond.py --page                               # docs/beyond.md alone, from what is in results/

expert     rounds of `gato improve` from demonstrations of a weak expert: the task's own, or the first rule one would write; what
           is kept are the timesteps that went better than others like them, and, for some tasks beside it, whole episodes
nothing    the same rounds from random play
returns    demonstrations by a player who in some episodes does what the expert does and in others anything: trained on all of
           them, on those that pass the return filter, on all with the rank of their return beside (`return_ranks`), and, as what
           could be had at most, on as many of the expert's alone; the same steps each, three seeds

plan       the same mixed demonstrations, windows of four timesteps, and a network that also foretells what it will see and what
           that brings: played at once, with continuations tried in its imagination, and with as many tried in the true simulator

Every task has a network of its own, the demo's, trained from scratch. Scores are of evaluation seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gato.demo import tokenizer_in
from gato.episodes.manifest import write_file_atomically
from gato.episodes.store import Dataset, dataset_folder
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.improve import draw, improve, own_recipe
from gato.evaluation.scores import write_whole
from gato.policy import load
from gato.policy.planning import Planning
from gato.rollouts.collect import collect
from gato.rollouts.pool import WorkerPool
from gato.training.start import start_run
from gato.worlds import Task, find

ROOT = Path(__file__).parents[1]
NETWORK = [
    "steps=600",
    "seconds=null",
    "slots=4",
    'weights={"*": 1}',
    'window_timesteps={"*": 1}',
    "model.vocabulary_size=1024",
]
PARTS = ("expert", "nothing", "returns", "plan")
SEEDS, JUDGED = 3, 50


# -- players ----------------------------------------------------------------------------------------------------------


def towards_its_fall(env: Any, seed: int) -> Callable[..., int]:
    """Cart-pole by the first rule one would write: push to the side that the pole leans to. It sways more and more."""
    return lambda observation, info: int(observation[2] > 0)


def with_one_force(env: Any, seed: int) -> Callable[..., np.ndarray]:
    """MuJoCo's inverted pendulum: a third of the force, to the side that it leans to."""
    return lambda observation, info: np.array([1.0 if observation[1] > 0 else -1.0], np.float32)


def with_its_spin(env: Any, seed: int) -> Callable[..., np.ndarray]:
    """Pendulum: push as hard as one can the way that it turns. It gets up, and goes on turning."""
    return lambda observation, info: np.array([2.0 if observation[2] > 0 else -2.0], np.float32)


def straight_on(env: Any, seed: int) -> Callable[..., int]:
    """A grid world: go on until something is in the way, then turn left. It meets what it looks for by chance."""

    def act(observation: Any, info: Any) -> int:
        ahead = env.simulator.grid.get(*env.simulator.front_pos)
        return 2 if ahead is None or ahead.can_overlap() else 0

    return act


def now_and_then(task: Task) -> Callable[[Any, int], Callable[..., Any]]:
    """The task's expert in some episodes, chance in others, mostly a mixture; the skill follows from the episode's seed."""

    def begin(env: Any, seed: int) -> Callable[..., Any]:
        rng = np.random.default_rng([seed, 0xBE])
        skill = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0])
        assert task.make_expert is not None
        expert, space = task.make_expert(env, seed), env.action_space
        space.seed(int(rng.integers(2**31)))
        return lambda observation, info: expert(observation, info) if rng.random() < skill else space.sample()

    return begin


WEAK: dict[str, Any] = {  # task: who demonstrates
    "classic-control/cartpole-v1": towards_its_fall,
    "classic-control/pendulum-v1": with_its_spin,
    "gym-mujoco/inverted-pendulum-v5": with_one_force,
    "babyai/go-to-red-ball-grey": straight_on,
    "box2d/lunar-lander-v3": "expert",
    "vizdoom/rocket-basic": "expert",
}
NOTHING = ("classic-control/cartpole-v1", "babyai/go-to-red-ball-grey", "classic-control/pendulum-v1", "vizdoom/basic")
BOTH = ("classic-control/cartpole-v1", "classic-control/pendulum-v1")  # ways of keeping compared
PLAN = {
    "classic-control/pendulum-v1": 20,
    "dm-control-suite/point-mass-easy": 8,
    "dm-control-suite/cartpole-swingup": 8,
}  # episodes
RETURNS = ("classic-control/cartpole-v1", "babyai/go-to-red-ball-grey", "meta-world/reach")


# -- experiments ------------------------------------------------------------------------------------------------------


def rounds(state: Path, task: Task, policy: Any, tokenizer: Path, demonstrations: int, count: int) -> None:
    collect([task], demonstrations, state / "data", workers=0, policy=policy)
    start = load(_trained([], state / "data" / task.id, state / "train" / task.id, tokenizer)).bundle
    dataset = Dataset.open(dataset_folder(state / "data", task.id))
    for by, explore in (("steps", 0.3), ("episodes", 0.0)) if task.id in BOTH else (("steps", 0.3),):
        improve(
            start, task, dataset, own_recipe(start, by), state / by / task.id, rounds=count, episodes=100, by=by,  # type: ignore[arg-type]
            explore=explore, judged=JUDGED, workers=0,
        )  # fmt: skip


def _trained(words: list[str], data: Path, run: Path, tokenizer: Path) -> Path:
    """The run's bundle; one that was interrupted begins again, since it is a minute's work."""
    if not (run / "bundle").exists():
        shutil.rmtree(run, ignore_errors=True)
        start_run("demo", [*NETWORK, *words], [data], run, tokenizer, "cpu", processes=1)
    return run / "bundle"


def conditioned(state: Path, task: Task, tokenizer: Path) -> dict[str, Any]:
    collect([task], 200, state / "mixed", workers=0, policy=now_and_then(task))
    collect([task], 200, state / "pure", workers=0, policy="expert")
    kinds = {
        "all": (state / "mixed", []), "filtered": (state / "mixed", ["return_filter=0.8"]),
        "ranks": (state / "mixed", ["return_ranks=8"]), "expert": (state / "pure", []),
    }  # fmt: skip
    returns = Dataset.open(dataset_folder(state / "mixed", task.id)).returns
    found: dict[str, Any] = {
        "task": task.id,
        "demonstrations": {"episodes": len(returns), "mean": float(returns.mean())},
    }
    for kind, (data, words) in kinds.items():
        found[kind] = [_score(state, task, kind, data, words, seed, tokenizer) for seed in range(SEEDS)]
    found["ranks, asked for the worst"] = [
        _score(state, task, "ranks", state / "mixed", kinds["ranks"][1], seed, tokenizer, return_rank=0)
        for seed in range(SEEDS)
    ]
    print(json.dumps(found), flush=True)
    return found


def _score(
    state: Path, task: Task, kind: str, data: Path, words: list[str], seed: int, tokenizer: Path, **acting: Any
) -> float:
    run = state / "runs" / f"{task.id.replace('/', '--')}-{kind}-{seed}"
    file = run / f"score{''.join(f'-{k}-{v}' for k, v in acting.items())}.json"
    if not file.exists():
        agent = load(_trained([f"seed={seed}", *words], data / task.id, run, tokenizer))
        agent.bundle.acting |= acting
        with WorkerPool(0) as pool:
            scores, _ = evaluate_task(agent, task, JUDGED, pool)
        write_file_atomically(file, json.dumps(scores.episodes).encode())
    return float(np.mean(json.loads(file.read_text())))


def planned(state: Path, task: Task, tokenizer: Path, episodes: int) -> dict[str, Any]:
    """Scores of one network that plays at once, and that looks ahead, in imagination and in the simulator."""
    collect([task], 200, state / "mixed", workers=0, policy=now_and_then(task), max_steps=200)
    words = ["steps=900", "reward_shown=true", "observation_loss=0.5", 'window_timesteps={"*": 4}']
    agent = load(_trained(words, state / "mixed" / task.id, state / "train" / task.id, tokenizer))
    found: dict[str, Any] = {"task": task.id}
    planning = Planning(16, steps=8, follow=1, drawn=8, imagined=True)
    for kind, ahead in (("plain", None), ("imagined", planning), ("simulator", replace(planning, imagined=False))):
        file = state / "scores" / f"{task.id.replace('/', '--')}-{kind}.json"
        if not file.exists():
            with WorkerPool(0) as pool:
                scores, _ = evaluate_task(agent, task, episodes, pool, planning=ahead)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file_atomically(file, json.dumps(scores.episodes).encode())
        found[kind] = json.loads(file.read_text())
        print(f"{task.id} {kind}: {np.mean(found[kind]):.4g}", flush=True)
    return found


# -- report -----------------------------------------------------------------------------------------------------------


def report(state: Path) -> dict[str, Any]:
    """results/beyond.json, with what this state has in place of what it said before, and docs/images/beyond-*.png."""
    found: dict[str, Any] = {}
    record = ROOT / "results/beyond.json"
    before = json.loads(record.read_text()) if record.exists() else {}
    for part in ("expert", "nothing"):
        files = [f for by in ("steps", "episodes") for f in sorted((state / part / by).rglob("improve.json"))]
        found[part] = [
            r for r in (json.loads(f.read_text()) for f in files) if len(r["rounds"]) > 2
        ]  # others have hardly begun
        if found[part]:
            found[part] = _beside(before.get(part, []), found[part])
            draw(found[part], ROOT / f"docs/images/beyond-{part}.png")
    found["returns"] = [json.loads(f.read_text()) for f in sorted((state / "returns").glob("*.json"))]
    found["plan"] = [json.loads(f.read_text()) for f in sorted((state / "plan").glob("*.json"))]
    found = {part: _beside(before.get(part, []), records) for part, records in found.items()}
    write_whole(record, json.dumps(found, indent=1) + "\n")
    return found


def _beside(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of now, and those of before whose task (and way) is not among them."""
    return list({(r["task"], r.get("protocol", {}).get("by")): r for r in (*before, *now)}.values())


def page(found: Mapping[str, Any]) -> str:
    """docs/beyond.md, from this record and, where it is there, results/in_context.json."""
    parts = [PAGE_TOP, _passing(found["expert"], "expert"), NOTHING_TOP, _passing(found["nothing"], "nothing")]
    parts += [_conditioning(found["returns"]), _looking_ahead(found["plan"])]
    beside = ROOT / "results/in_context.json"
    if beside.exists():
        parts.append(_in_context(json.loads(beside.read_text())))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


PAGE_TOP = """
# Beyond the paper

<!-- written by benchmarks/beyond.py --page: change it there -->

The paper imitates, at once and from one prompt. Its readers ask for more; here is each question with its switch and what it
gave, on networks of the demo's size without its larger vocabulary (0.8 million parameters). Scores are of evaluation seeds, intervals 95 %.

```bash
python benchmarks/beyond.py --state STATE                  # the first three, and planning: about three hours of one core
python benchmarks/in_context.py --data DATA --state STATE  # the last: about an hour and a half of two cores
```

## Can it pass its expert?

`gato improve BUNDLE --tasks TASK --data DIR --out DIR --by steps --explore 0.3`: rounds of acting, keeping what went best and
training on it. A timestep of the round is kept if, of the 16 timesteps of other episodes that were most like it, no more than a
fifth went better: what followed, discounted, as a mean over the 16 most alike in what was seen *and* done, since one episode is
mostly luck. So every round is its own critic, and no second network is trained. `--by episodes` keeps whole episodes by their
return instead.
"""

NOTHING_TOP = """
## Can it learn from nothing?

The same rounds; what the network imitates first is random play.
"""


def _passing(records: list[dict[str, Any]], part: str) -> str:
    if not records:
        return ""
    rows = [
        "| task | kept | demonstrations | imitating them | after (rounds) | its interval | over its teacher |",
        "|" + " --- |" * 7,
    ]
    for record in records:
        last = record["rounds"][-1]
        half = 1.96 * last["std"] / last["episodes"] ** 0.5
        over = last["over_expert"] if part == "expert" else None
        rows.append(
            f"| `{record['task']}` | {record['protocol']['by']} | {_number(record['demonstrations']['mean'])} | "
            f"{_number(record['rounds'][0]['score'])} | **{_number(last['score'])}** ({last['round']}) | "
            f"{_number(last['score'] - half)} to {_number(last['score'] + half)} | "
            + (f"{over[0]:+.4g} ({over[1]:+.4g} to {over[2]:+.4g}) |" if over else "– |")
        )
    better = {
        by: [r["task"] for r in records if r["protocol"]["by"] == by and _gained(r, part)]
        for by in ("steps", "episodes")
    }
    of = {by: sum(r["protocol"]["by"] == by for r in records) for by in better}
    than = "its teacher" if part == "expert" else "the first imitation"
    counts = [
        f"on {len(better[by])} of {of[by]} tasks by {'timesteps' if by == 'steps' else 'whole episodes'}"
        for by in of
        if of[by]
    ]
    answer = f"Significantly better than {than} {', '.join(counts)}."
    teacher = (
        " *Over its teacher*: the difference to the measured score of who demonstrated (Welch): the first rule one would write "
        "(`benchmarks/beyond.py`), or, of Box2D and ViZDoom, the registered expert."
        if part == "expert"
        else ""
    )
    return (
        answer
        + "\n\n"
        + "\n".join(rows)
        + (
            f"\n\nMean returns of {records[0]['rounds'][-1]['episodes']} evaluation episodes, 100 played each round; one training "
            f"each, and none that has had fewer than two rounds so far.{teacher}\n\n![Score after each round](images/beyond-{part}.png)"
        )
    )


def _gained(record: Mapping[str, Any], part: str) -> bool:
    """Beyond doubt: the interval over the teacher, or over the first imitation, is above nothing."""
    first, last = record["rounds"][0], record["rounds"][-1]
    if part == "expert":
        return bool(last["over_expert"] and last["over_expert"][1] > 0)
    error = (first["std"] ** 2 / first["episodes"] + last["std"] ** 2 / last["episodes"]) ** 0.5
    return bool(last["score"] - first["score"] > 1.96 * error)


def _conditioning(records: list[dict[str, Any]]) -> str:
    if not records:
        return ""
    kinds = [k for k, v in records[0].items() if isinstance(v, list)]
    rows = ["| task | demonstrations | " + " | ".join(kinds) + " |", "|" + " --- |" * (2 + len(kinds))]
    for record in records:
        cells = [f"{_number(np.mean(record[k]))} ± {_number(np.std(record[k], ddof=1))}" for k in kinds]
        rows.append(f"| `{record['task']}` | {_number(record['demonstrations']['mean'])} | " + " | ".join(cells) + " |")
    return (
        "## Does it help to say how good a demonstration was?\n\nTwo hundred demonstrations of a player who in some episodes does "
        "what the expert does and in others anything. Trained on *all*; on those that pass the return filter (*filtered*: 80 % of "
        "the expert's return); on all, each timestep told the rank of its episode's return (*ranks*: `return_ranks=8`), and asked "
        "for the best; and on as many of the *expert*'s alone. The same number of steps each.\n\n"
        + "Over training on all of them: "
        + "; ".join(
            f"`{r['task']}` {_number(np.mean(r['ranks']) - np.mean(r['all']))} by ranks, "
            f"{_number(np.mean(r['filtered']) - np.mean(r['all']))} by the filter"
            for r in records
        )
        + ".\n\n"
        + "\n".join(rows)
        + f"\n\nMean return over {SEEDS} trainings of {JUDGED} episodes each, and the standard deviation between trainings."
    )


def _half(values: np.ndarray) -> float:
    """The half width of the mean's interval: 95 %, Student's."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def _looking_ahead(records: list[dict[str, Any]]) -> str:
    if not records:
        return ""
    rows = [
        "| task | episodes | at once | in its imagination | in the true simulator |",
        "| --- | --- | --- | --- | --- |",
    ]
    better = dict.fromkeys(("imagined", "simulator"), 0)
    for record in records:
        scores = {kind: np.array(record[kind]) for kind in ("plain", *better)}
        for kind in better:  # on the same seeds
            gain = scores[kind] - scores["plain"]
            better[kind] += bool(gain.mean() > _half(gain))
        cells = [f"{_number(v.mean())} ± {_number(_half(v))}" for v in scores.values()]
        rows.append(f"| `{record['task']}` | {len(record['plain'])} | " + " | ".join(cells) + " |")
    return (
        "## Can it plan?\n\nThe same mixed demonstrations, windows of four timesteps, and a network that also foretells what it will "
        "see and what that brings (`observation_loss=0.5 reward_shown=true`). `--plan 16` tries sixteen continuations of eight steps "
        "on saved states of the world and does the first action of the best; `--plan 16 --imagined` tries them on what the network "
        "foretells, so no simulator is asked.\n\n"
        f"Significantly better than acting at once on {better['simulator']} of {len(records)} tasks in the true simulator, on "
        f"{better['imagined']} in its imagination.\n\n"
        + "\n".join(rows)
        + "\n\nMean return and the half width of its interval; one training each. What is foretold is right one step ahead, but not "
        "exact enough to tell good continuations from better ones: [log](log.md). The gain of planning on the true simulator for a trained "
        "demo is there too, and in `results/planning.json`."
    )


def _in_context(found: dict[str, Any]) -> str:
    kinds = [("blind", "1"), ("prompt", "1"), *((k, n) for n in ("1", "5", "20") for k in ("retrieve", "similar"))]
    rows = [
        "| task, held out | " + " | ".join(f"{k} {n}" if k != "blind" else k for k, n in kinds) + " |",
        "|" + " --- |" * (1 + len(kinds)),
    ]
    means: dict[tuple[str, str], list[float]] = {}
    for entry in found["tasks"]:
        if "wrong" in entry["scores"] or not set(entry["scores"]) - {"bare", "prompt", "wrong"}:
            continue
        cells = []
        for kind, count in kinds:
            percent = entry["scores"].get(kind, {}).get(count, {}).get("percent")
            cells.append("–" if percent is None else f"{percent:.0f}")
            if percent is not None:
                means.setdefault((kind, count), []).append(percent)
        rows.append(f"| `{entry['task']}`{' *' if entry['new_shapes'] else ''} | " + " | ".join(cells) + " |")
    rows.append("| mean | " + " | ".join(f"**{np.mean(means[k]):.0f}**" if k in means else "–" for k in kinds) + " |")
    told = [
        f"| `{e['task']}` | " + " | ".join(f"{e['scores'][k]['1']['percent']:.0f}" if k in e["scores"] else "–" for k in ("prompt", "wrong", "bare")) + " |"
        for e in found["tasks"] if "wrong" in e["scores"]
    ]  # fmt: skip
    mean = {k: f"{np.mean(v):.0f}" for k, v in means.items()}
    answer = (
        f"With twenty demonstrations of a task that it never saw (of `go-to-local`, other sizes were among the learned ones), the network that reads the likest of them plays at "
        f"{mean['similar', '20']} % of the expert on average, with one at {mean['similar', '1']}; begun with the paper's prompt at "
        f"{mean['prompt', '1']}, with nothing to read at {mean['blind', '1']}. Replaying the likest, which learns nothing, gives "
        f"{mean['retrieve', '20']} with twenty and {mean['retrieve', '1']} with one. What fine-tuning on the same demonstrations would "
        "give has not been measured beside it."
    )
    nets = found["protocol"]["networks"]
    sizes = "; ".join(
        f"*{k}*: {n['tokens'] / 1e6:.1f} M tokens in {n['seconds'] / 60:.0f} minutes" for k, n in nets.items()
    )
    return (
        "## Does a better chosen context replace fine-tuning?\n\nTwo networks learned from the same tasks, none of them among these. "
        f"*similar* reads each timestep behind the {found['protocol']['similar_timesteps']} demonstrated ones that are most like it, "
        "in training and in acting (`similar_timesteps`, `--shown DIR`), as [REGENT](https://arxiv.org/abs/2412.04759) found to pay; "
        "*blind* is the same network with nothing to read; *prompt* is the paper's way, one demonstration where an episode begins; "
        "*retrieve* replays the action of the likest timestep and learns nothing. The number is of demonstrations of the new task.\n\n"
        + answer
        + "\n\n"
        + "\n".join(rows)
        + f"\n\nPercent of expert, {found['protocol']['episodes']} episodes; * observations or actions of a shape that no learned task "
        f"has. {sizes}.\n\n![By demonstrations in sight](images/in-context.png)"
        + (
            "\n\n### What the prompt changes\n\nTasks that *prompt* did learn, begun with their own demonstration, with another task's of "
            "the same shapes, with none.\n\n| task | its own | another's | none |\n| --- | --- | --- | --- |\n"
            + "\n".join(told)
            if told
            else ""
        )
    )


def _number(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def say(found: Mapping[str, Any]) -> None:
    for part in ("expert", "nothing"):
        for record in found[part]:
            first, last = record["rounds"][0], record["rounds"][-1]
            over = last["over_expert"]
            beside = f"; over its expert {over[0]:+.3g} ({over[1]:+.3g} to {over[2]:+.3g})" if over else ""
            by = record["protocol"]["by"]
            print(
                f"{part}: {record['task']} by {by}: {first['score']:.4g} → {last['score']:.4g} after {last['round']} rounds{beside}"
            )
    for record in found["returns"]:
        print(
            f"returns: {record['task']}: "
            + ", ".join(f"{k} {np.mean(v):.4g}" for k, v in record.items() if isinstance(v, list))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, help="a folder outside the checkout")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokenizer", type=Path, help="any SentencePiece model of 1,024 pieces; made if not given")
    parser.add_argument("--report", action="store_true", help="only write what is there")
    parser.add_argument("--page", action="store_true", help="only write the page, from results/")
    args = parser.parse_args()
    if args.page:
        write_whole(ROOT / "docs/beyond.md", page(json.loads((ROOT / "results/beyond.json").read_text())))
        return
    if args.state is None:
        parser.error("--state is needed")
    args.state.mkdir(parents=True, exist_ok=True)
    if not args.report:
        tokenizer = args.tokenizer or tokenizer_in(args.state, 1024)
        if "expert" in args.only:
            for name, policy in WEAK.items():
                rounds(args.state / "expert", find(name), policy, tokenizer, 60, args.rounds)
        if "nothing" in args.only:
            for name in NOTHING:
                rounds(args.state / "nothing", find(name), "random", tokenizer, 100, args.rounds)
        for name in RETURNS if "returns" in args.only else ():
            record = conditioned(args.state / "returns" / "state", find(name), tokenizer)
            write_whole(args.state / "returns" / f"{name.replace('/', '--')}.json", json.dumps(record))
        for name in PLAN if "plan" in args.only else ():
            record = planned(args.state / "plan" / "state", find(name), tokenizer, PLAN[name])
            write_whole(args.state / "plan" / f"{name.replace('/', '--')}.json", json.dumps(record))
    found = report(args.state)
    write_whole(ROOT / "docs/beyond.md", page(found))
    say(found)


if __name__ == "__main__":
    main()
