"""Model card: a bundle and its scores become README.md, as model hubs read it: YAML between rules, then Markdown.

    text = model_card(bundle, "org/name", read_results(Path("results/generalist.json")))
    write_whole(Path("bundles/generalist/README.md"), text)

Everything in it comes from the bundle (its card holds the data it was trained on) and from results.json. What neither
says is not said: without results there are no scores, and a bundle that names no data gets no table of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gato.model.bundle import Bundle

LICENCE = "apache-2.0"
PAPER = "2205.06175"


def model_card(
    bundle: Bundle,
    name: str,
    results: Mapping[str, Any] | None = None,
    *,
    address: str | None = None,
    licence: str = LICENCE,
    limits: tuple[str, ...] = (),
) -> str:
    """README.md of a bundle. `name` heads it; `address` is what `gato.load` takes (`name` if not given, nothing for the package's own); `results` is a
    results.json, whole or of some of the tasks; `limits` are added to those that hold for every bundle."""
    scores = _scores(results)
    parts = [
        _front(bundle, name, results, licence),
        f"# {name}",
        _what(bundle),
        _use(bundle, name if address is None else address),
    ]
    parts += [f"## Scores\n\n{scores}"] if scores else []
    parts += [f"## Trained on\n\n{_data(bundle)}", f"## The network\n\n{_network(bundle)}"]
    parts += [f"## Tasks\n\n{_tasks(bundle)}", f"## Limits\n\n{_limits(bundle, results, limits)}"]
    parts += [
        f"## Licence\n\n{licence}, of the weights and of `gato-agent`. The simulators and corpora have licences of their own.\n\n"
        "The weights are safetensors; `MANIFEST.json` holds the SHA-256 of every file but this one, and loading checks it."
    ]
    return "\n\n".join(parts) + "\n"


def by_domain(bundle: Bundle) -> dict[str, dict[str, int]]:
    """{domain: {"tasks", "episodes", "timesteps", "tokens"}} of what it was trained on, as its card has it."""
    found: dict[str, dict[str, int]] = {}
    for entry in bundle.card.get("data") or []:
        sums = found.setdefault(entry["task"].split("/", 1)[0], dict.fromkeys(COUNTED, 0))
        sums["tasks"] += 1
        for key in COUNTED[1:]:
            sums[key] += int(entry.get(key, 0))
    return dict(sorted(found.items()))


COUNTED = ("tasks", "episodes", "timesteps", "tokens")


def _front(bundle: Bundle, name: str, results: Mapping[str, Any] | None, licence: str) -> str:
    """The YAML. Strings go in as JSON, which YAML contains, so that no name can break out of its line."""
    tags = ["gato", "imitation-learning", "generalist-agent", *by_domain(bundle)]
    lines = [
        "---", f"license: {json.dumps(licence)}", "library_name: gato-agent", "pipeline_tag: reinforcement-learning",
        f"tags: {json.dumps(list(dict.fromkeys(tags)))}",
    ]  # fmt: skip
    found = (results or {}).get("aggregates", {})
    if found.get("tasks"):
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
        overall = {"all domains": found["mean_of_domain_means"], **found["domains"]}
        for domain, value in overall.items():
            lines += [
                "  - task: {type: reinforcement-learning}",
                f"    dataset: {{name: {json.dumps(domain)}, type: {json.dumps(domain.replace(' ', '-'))}}}",
                "    metrics:",
                f"    - {{type: expert_normalised_score, name: percent of expert, value: {value:.1f}}}",
            ]
    return "\n".join([*lines, "---"])


def _what(bundle: Bundle) -> str:
    acts = [task for task, card in bundle.tasks.items() if card.spec.action]
    corpora = [task for task, card in bundle.tasks.items() if not card.spec.action]
    domains = {task.split("/", 1)[0] for task in acts}
    said = f"One transformer, trained by imitation, that acts in {_number(len(acts), 'task')} of {_number(len(domains), 'domain')}"
    said += (
        f" and was trained on {_number(len(corpora), 'corpus', 'corpora')} of language and pictures" if corpora else ""
    )
    return (
        f"{said}: after Gato ([Reed et al. 2022](https://arxiv.org/abs/{PAPER})), an independent implementation, "
        "saved by `gato-agent`."
    )


def _use(bundle: Bundle, address: str) -> str:
    acts = [task for task, card in bundle.tasks.items() if card.spec.action]
    lines = ["import gato", f"agent = gato.load({json.dumps(address) if address else ''})"]
    lines += [f"action = agent.session({json.dumps(acts[0])}, seed=0).act(observation)"] if acts else []
    return "```python\n" + "\n".join(lines) + "\n```"


def _scores(results: Mapping[str, Any] | None) -> str:
    found = (results or {}).get("aggregates", {})
    if results is None or not found.get("tasks"):
        return ""
    low, high = found["intervals"]["mean_of_domain_means"]
    rows = []
    for domain, value in found["domains"].items():
        mine = [t["expert_normalised"] for t in results["tasks"] if t["domain"] == domain]
        scored = [value for value in mine if value is not None]
        at = sum(v >= 50 - 1e-9 for v in scored)
        a, b = found["intervals"]["domains"][domain]
        rows.append([f"`{domain}`", str(len(scored)), f"{value:.1f}", f"{a:.1f} to {b:.1f}", str(at)])
    progress = results.get("progress") or {}
    part = ""
    if progress.get("evaluated", 0) < progress.get("known", 0):
        part = f" Only {progress['evaluated']} of its {progress['known']} control tasks have been evaluated."
    episodes = sorted({t["episodes"] for t in results["tasks"]})
    return (
        f"**{found['mean_of_domain_means']:.1f} % of expert**, mean of domain means (95 % interval {low:.1f} to {high:.1f}, over "
        f"episodes), {' or '.join(map(str, episodes))} episodes a task from seeds that no training used; "
        f"{found['tasks_at_50']} of {found['tasks']} tasks at half of their expert or more. 0 % is random play, 100 % the "
        f"task's expert.{part}\n\n"
        + _table(["domain", "tasks", "% of expert", "95 % interval", "tasks at 50 % or more"], rows)
    )


def _data(bundle: Bundle) -> str:
    domains = by_domain(bundle)
    if not domains:
        return "The bundle does not say."
    rows = [[f"`{domain}`", *(f"{sums[key]:,}" for key in COUNTED)] for domain, sums in domains.items()]
    total = [f"**{sum(sums[key] for sums in domains.values()):,}**" for key in COUNTED]
    return _table(["domain", *COUNTED], [*rows, ["**all**", *total]])


def _network(bundle: Bundle) -> str:
    card, config = bundle.card, bundle.config
    recipe = card.get("recipe") or {}
    steps, tokens, seconds = (bundle.trained(what) for what in ("steps", "tokens", "seconds"))
    facts = [
        ("parameters", f"{bundle.model.num_parameters:,}"),
        ("blocks, width, context", f"{config.num_transformer_blocks}, {config.layer_width}, {config.token_sequence_length} tokens"),
        ("recipe", str(recipe.get("name", "")) if isinstance(recipe, Mapping) else str(recipe)),
        ("training steps", f"{steps:,}" if steps else ""),
        ("tokens seen in training", f"{tokens:,}" if tokens else ""),
        ("hours of training", f"{seconds / 3600:.2f}" if seconds else ""),
        ("acts by", ", ".join(f"{k} {v}" for k, v in bundle.acting.items())),
    ]  # fmt: skip
    return _table(["", ""], [[name, value] for name, value in facts if value])


def _tasks(bundle: Bundle) -> str:
    rows = []
    for task, known in bundle.tasks.items():
        sides = (known.spec.observation, known.spec.action)
        said = (", ".join(f"{path}: {spec}" for path, spec in side.items()) or "–" for side in sides)
        rows.append([f"`{task}`", *(text.replace("|", "\\|") for text in said)])
    inside = _table(["task", "observations", "actions"], rows)
    return f"<details><summary>{_number(len(rows), 'task')}</summary>\n\n{inside}\n\n</details>"


def _limits(bundle: Bundle, results: Mapping[str, Any] | None, more: tuple[str, ...]) -> str:
    lines = [
        "It imitates: it is no better than its demonstrations, and where it gets that they did not cover, it may do anything.",
        "It acts in simulators, on the tasks it was trained on and from observations of just those forms. Do not let it "
        "move a real machine.",
        "Its words are those of a small network trained on little text: fluent at best, not true.",
    ]
    if all(card.spec.action for card in bundle.tasks.values()):
        lines.pop()
    unscored = (results or {}).get("aggregates", {}).get("unscored")
    if unscored:
        lines.append(
            f"{_number(len(unscored), 'task')} played without a percentage, since no reference for them was measured."
        )
    return "\n".join(f"* {line}" for line in [*lines, *more])


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
