"""How long an agent takes to decide: against recomputing the window, against its own floor, and against two peers.

    python benchmarks/act_speed.py [--bundle DIR] [--peers DIR] [--rounds 7]      writes results/act_speed.json

Random weights of 8 layers × 768 × 24 heads (rope; `--position xl` for the paper's), a window full at 1,024 tokens.
Task A: 17 values, 6 actions. Task B: a 64×80 image, 1 action. Everything is measured in turn, round after
round in one run, and what is compared is compared within a round: a ratio is the median over rounds.

recompute     the whole window anew for every action token, float32, logits at the last token only
ours          one pass per action token against the cache; "guess": the last action read along and verified; "one pass":
              a network whose action inputs are blank gives all six at once
floor         of each pass the larger of its bytes (weights, cache) over the memory bandwidth measured in this run and its
              multiplications over the float32 rate of a large product; summed over the passes of a decision. Both rates are
              medians over the rounds, as the times are: what a shared machine gives changes from minute to minute
agreement     with `--bundle`, a trained bundle (`gato demo` makes one): greedy decisions of each precision against
              float32 in the bundle's own worlds, both shown the same observations and the same past. Whole actions count.
fastest       the fastest precision with an agreement of 99 % or more

The peers, as they ship, on task A: GIA is the cached agent of huggingface/jat before its commit 42f2e8a (the same tokens,
7 passes a decision, a cache of 924), here with our sizes; JAT is its successor at the head of the repository in its own
shape (12 layers × 768, 256 keys, one pass, values in and out). They are fetched by

    git clone https://github.com/huggingface/jat PEERS/jat
    git clone PEERS/jat PEERS/gia && git -C PEERS/gia checkout 42f2e8a^
    pip install --no-deps --target PEERS/site transformers==4.36.1 "tokenizers<0.19" "huggingface_hub<1" safetensors regex \\
        tqdm filelock datasets==3.6.0 "dill<0.3.9" "multiprocess<0.70.17" accelerate opencv-python-headless

and run in processes of their own with this interpreter's torch. Two things are put in place for them, neither of which a
decision on values touches: a one-word tokenizer, since theirs are on a hub, and for JAT an empty torchvision.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

WINDOW = 1024
SHOWN = ("p50_ms", "p99_ms", "floor_ms", "over_floor")


# -- ours -------------------------------------------------------------------------------------------------------------


def specs() -> dict[str, Any]:
    from gato.episodes import Spec, TaskSpec

    infinite = (-np.inf,), (np.inf,)
    return {
        "A": TaskSpec(
            {"observation": Spec("continuous", (17,), "float32", *infinite)},
            {"action": Spec("continuous", (6,), "float32", (-1.0,), (1.0,))},
        ),
        "B": TaskSpec(
            {"image": Spec("image", (64, 80, 3), "uint8", (0.0,), (255.0,))},
            {"action": Spec("discrete", (), "int64", (0.0,), (17.0,))},
        ),
    }


def make_bundles(position: str) -> tuple[Any, Any]:
    """The same weights twice: actions one after another, and in one pass."""
    from gato.model import Gato, GatoConfig
    from gato.model.bundle import Bundle, TaskCard

    torch.manual_seed(0)
    config = GatoConfig.small().replace(position=position, stochastic_depth=0.0)
    model = Gato(config).eval()
    out = []
    for parallel in (False, True):
        its = config.replace(parallel_actions=parallel)
        other = Gato(its).eval()
        other.load_state_dict(model.state_dict(), assign=True)
        cards = {task: TaskCard(spec) for task, spec in specs().items()}
        out.append(Bundle(its, other, None, cards, {"discrete": "greedy", "continuous": "greedy"}))  # type: ignore[arg-type]
    return out[0], out[1]


def observation(task: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if task == "A":
        return {"observation": rng.normal(size=17).astype(np.float32)}
    return {"image": rng.integers(0, 256, (64, 80, 3)).astype(np.uint8)}


FULL: dict[tuple[str, int], Any] = {}


class Ours:
    """A batch policy whose windows are full."""

    def __init__(self, bundle: Any, task: str, slots: int = 1, **acting: Any):
        from gato.policy import AgentPolicy

        self.task, self.slots, self.precision = task, slots, acting.get("precision", "float32")
        self.policy = AgentPolicy(bundle, task, slots, acting=acting)
        if (task, slots) not in FULL:  # one of a shape is enough: a window that has been full for long stays full
            cache = FULL[task, slots] = self.policy._cache
            for kept in (cache.keys, cache.values):
                kept[:] = torch.randn(kept[:, :1].shape)
            cache.count[:] = 3 * cache._size
            cache.position[:, :-1] = 2 * cache._size + torch.arange(cache._size)
            cache.time[:, :-1] = 0
        self.policy._cache = FULL[task, slots]
        self.rng = np.random.default_rng(0)

    def __call__(self) -> None:
        self.policy.act({i: observation(self.task, self.rng) for i in range(self.slots)})

    def passes(self) -> list[tuple[int, int]]:
        """(new tokens, wanted ones) of each pass of a plain decision."""
        codec = self.policy._part[0].codec
        num, seen = codec.action_tokens, codec.fixed_tokens - codec.action_tokens
        if self.policy._parallel:
            return [(1 + seen + num - 1, num)]
        return [(1 + seen, 1)] + [(1, 1)] * (num - 1)


class OnePass:
    """A single pass of one token, or of a timestep's observation, against a full window."""

    def __init__(self, ours: Ours, first: bool):
        from gato.policy.batch import pack

        self._decoder = ours.policy._bundle.decoder(ours.precision)
        self._cache, self.widths = ours.policy._cache, ours.passes()[0 if first else 1]
        n = self.widths[0]
        rows = [ours.policy._action_rows(np.full(n, 32500), 0)]
        self._batch, self._valid, self._times = pack(rows, None)  # type: ignore[arg-type]
        self._slots, self._n = torch.zeros(1, dtype=torch.long), torch.tensor([n])

    def __call__(self) -> None:
        wanted = self._n[:, None] - 1
        self._decoder(self._batch, self._slots, self._valid, self._times, self._cache, wanted)
        self._cache.forget(self._slots, self._n)


class Recompute:
    """One decision from the whole window, once for each of its action tokens."""

    def __init__(self, bundle: Any, task: str):
        from gato.episodes import Episode
        from gato.sequences import Segment, TokenStore, collate

        rng = np.random.default_rng(0)
        spec, codec = bundle.tasks[task].spec, bundle.codec(task)
        steps = -(-WINDOW // codec.fixed_tokens)
        rows = [observation(task, rng) for _ in range(steps)]
        actions = rng.uniform(-1, 1, (steps, 6)).astype(np.float32) if task == "A" else rng.integers(0, 18, steps)
        episode = Episode(
            task, {k: np.stack([r[k] for r in rows]) for k in rows[0]}, {"action": actions}, np.zeros(steps)
        )
        store = TokenStore.build(task, codec, [episode.check(spec)])
        batch = collate([Segment(0, ((0, WINDOW),))], [store])
        self._batch = dataclasses.replace(
            batch, groups=((1, WINDOW, WINDOW - 1),), queries=torch.zeros(1, dtype=torch.long)
        )
        self._model, self._tokens = bundle.model, codec.action_tokens

    def __call__(self) -> None:
        with torch.inference_mode():
            for _ in range(self._tokens):
                self._model(self._batch).argmax(-1)


# -- floors -----------------------------------------------------------------------------------------------------------

BYTES = {"float32": 4, "float16": 2, "bf16": 2, "int8": 1}


class Machine:
    """What the machine can do, measured again in every round."""

    def __init__(self) -> None:
        self._bytes: list[float] = []
        self._flops: list[float] = []
        self._memory = torch.ones(96 * 2**20)  # 400 MB, more than any cache
        self._a, self._b = torch.randn(1024, 768), torch.randn(3072, 768)

    def measure(self) -> None:
        for _ in range(3):
            self._bytes.append(self._memory.nbytes / seconds(self._memory.sum))
            product = seconds(lambda: F.linear(self._a, self._b))
            self._flops.append(2 * len(self._a) * self._b.numel() / product)

    @property
    def bytes_per_second(self) -> float:
        return statistics.median(self._bytes)

    @property
    def flops(self) -> float:
        return statistics.median(self._flops)

    def floor(self, config: Any, passes: list[tuple[int, int]], slots: int, precision: str, legal: int) -> float:
        """Seconds of a decision of `slots` environments."""
        d, layers, gated = config.layer_width, config.num_transformer_blocks, config.feedforward_hidden_size
        block = 4 * d * d + gated * d + gated // 2 * d
        keys_values = 2 * WINDOW * d * layers * slots * 4
        total = 0.0
        for n, wanted in passes:
            read = layers * block * BYTES[precision] + keys_values + legal * d * 4
            # the last block needs all keys and values, the rest of it only where something is predicted
            products = slots * (n * ((layers - 1) * block + 2 * d * d) + wanted * (block - 2 * d * d + legal * d))
            attention = slots * 2 * WINDOW * d * (n * (layers - 1) + wanted)
            total += max(read / self.bytes_per_second, 2 * (products + attention) / self.flops)
        return total


def seconds(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


# -- agreement --------------------------------------------------------------------------------------------------------


class Beside:
    """Float32 plays; the other precisions decide on the same observations after the same past."""

    name = "float32"

    def __init__(self, agent: Any, task: str, slots: int, precisions: list[str]):
        greedy = {"discrete": "greedy", "continuous": "greedy"}
        self._first = agent.policy(task, slots, **greedy)
        self._others = {p: agent.policy(task, slots, precision=p, **greedy) for p in precisions}
        self.same: dict[str, list[bool]] = {p: [] for p in precisions}

    def begin(self, index: int, unit: Any, slot: Any) -> None:
        for policy in (self._first, *self._others.values()):
            policy.begin(index, unit, slot)

    def act(self, observations: Any, infos: Any) -> Any:
        chosen = self._first.act(observations)
        for precision, policy in self._others.items():
            said = policy.act(observations)
            self.same[precision] += [all(np.array_equal(said[i][k], chosen[i][k]) for k in chosen[i]) for i in chosen]
            policy._last = list(self._first._last)
        return chosen


def agreement(folder: Path, precisions: list[str], steps: int) -> dict[str, Any]:
    """{precision: {agreed, decisions, by_task}} over every installed task of the bundle."""
    import gato
    from gato.policy.agent import installed
    from gato.rollouts import LocalSlot, Unit, episode_seed, rollout

    agent = gato.load(folder)
    out: dict[str, Any] = {p: {"agreed": 0, "decisions": 0, "by_task": {}} for p in precisions}
    for task in installed(agent):
        slots = 4
        units = [Unit(task, episode_seed(task, i, "evaluation"), max_steps=steps // slots) for i in range(slots)]
        beside = Beside(agent, task, slots, precisions)
        for _ in rollout(units, [LocalSlot() for _ in range(slots)], beside):
            pass
        for precision, same in beside.same.items():
            row = out[precision]
            row["agreed"] += sum(same)
            row["decisions"] += len(same)
            row["by_task"][task] = f"{sum(same)}/{len(same)}"
    for row in out.values():
        row["share"] = round(row["agreed"] / max(1, row["decisions"]), 5)
    return out


# -- peers ------------------------------------------------------------------------------------------------------------


class Peer:
    """A peer's agent in a process of its own, asked for one decision at a time; it times itself."""

    def __init__(self, name: str, folder: Path, threads: int):
        folder = folder.resolve()
        line = [sys.executable, "-W", "ignore", __file__, "--peer", name, "--threads", str(threads)]
        env = {**os.environ, "PYTHONPATH": f"{folder / 'site'}:{folder / name}", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        self.facts = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                return line
        raise SystemExit(
            f"the peer ended with {self._process.wait()}: is everything in --peers as the head of this file says?"
        )

    def decide(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._line())["seconds"]

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(30)


def be_peer(name: str, threads: int) -> None:
    """The other end of `Peer`: fills the window, then a decision for every line."""
    import types

    torch.set_num_threads(threads)
    from tokenizers import Tokenizer, models
    from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<unk>")
    rng = np.random.default_rng(0)
    if name == "gia":
        import gia.processing.processing as processing

        processing.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda *_, **__: tokenizer)
        from gia import GiaConfig, GiaModel
        from gia.eval.rl.gia_agent import GiaAgent

        model = GiaModel(GiaConfig(seq_len=WINDOW, hidden_size=768, num_layers=8, num_heads=24)).eval()
        agent = GiaAgent(model, processing.GiaProcessor(), "mujoco-halfcheetah", use_prompt=False, deterministic=True)
        agent.reset()
        fill = WINDOW // 24 + 1

        def decide() -> None:
            with torch.inference_mode():
                agent.get_action({"continuous_observations": rng.normal(size=(1, 17)).astype(np.float32)})

        def keys() -> int:
            return agent._past_key_values[0][0].shape[2]
    else:
        for module in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
            sys.modules[module] = types.ModuleType(module)
        sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
        inner = sys.modules["torchvision.transforms.functional"]
        sys.modules["torchvision.transforms"].functional = inner  # type: ignore[attr-defined]
        from gymnasium import spaces
        from jat.configuration_jat import JatConfig
        from jat.modeling_jat import JatModel
        from jat.processing_jat import JatProcessor

        config = JatConfig(
            max_position_embeddings=512, hidden_size=768, num_layers=12, attention_types=[[["global", "local"], 6]],
            num_heads=12, max_discrete_value=212,
        )  # fmt: skip
        model, processor = JatModel(config).eval(), JatProcessor(CLIPImageProcessor(), tokenizer)
        space = spaces.Box(-1, 1, (6,))
        model.reset_rl()
        fill = 256 // 2 + 2

        def decide() -> None:
            seen = rng.normal(size=17).astype(np.float32)
            model.get_next_action(
                processor, continuous_observation=seen, reward=0.5, action_space=space, context_window=256
            )

        def keys() -> int:
            return model._last_key_values[0][0].shape[2]

    for _ in range(fill):
        decide()
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "keys": keys(), "torch": torch.__version__}
    print(json.dumps({**facts, "transformers": importlib.metadata.version("transformers")}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": seconds(decide)}), flush=True)


# -- the run ----------------------------------------------------------------------------------------------------------


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--bundle", type=Path)
    words.add_argument("--peers", type=Path)
    words.add_argument("--position", choices=("rope", "xl"), default="rope")
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--decisions", type=int, default=12, help="of each quick contestant in a round")
    words.add_argument("--threads", type=int, default=2)
    words.add_argument("--tasks", nargs="+", choices="AB", default=["A", "B"], help="A at least")
    words.add_argument("--slots", nargs="+", type=int, default=[1, 8, 32], help="1 at least")
    words.add_argument("--agreement-steps", type=int, default=200, help="decisions per task and precision")
    words.add_argument("--out", type=Path, default=Path("results/act_speed.json"))
    words.add_argument("--peer", choices=("gia", "jat"), help=argparse.SUPPRESS)
    said = words.parse_args()
    if said.peer:
        return be_peer(said.peer, said.threads)
    began = time.perf_counter()
    torch.set_num_threads(1)  # a trained bundle is small, and threads have nothing to share
    agreed = agreement(said.bundle, ["float16", "bf16", "int8"], said.agreement_steps) if said.bundle else {}
    print({p: row["share"] for p, row in agreed.items()}, flush=True)
    torch.set_num_threads(said.threads)
    after, at_once = make_bundles(said.position)
    ours = {
        f"{task} {precision} × {slots}": Ours(after, task, slots, precision=precision)
        for task in said.tasks for precision in BYTES for slots in said.slots
        if slots == 1 or precision != "bf16"
    }  # fmt: skip
    ours |= {f"A {p} × 1, one pass": Ours(at_once, "A", precision=p) for p in ("float32", "float16", "int8")}
    ours["A float32 × 1, guess"] = Ours(after, "A", verify="last")
    passes = {
        "pass float32, 1 token": OnePass(ours["A float32 × 1"], False),
        "pass float16, 1 token": OnePass(ours["A float16 × 1"], False),
    }
    passes["pass float32, a timestep"] = OnePass(ours["A float32 × 1"], True)
    again = {f"{task} recompute float32": Recompute(after, task) for task in said.tasks}
    peers = {name: Peer(name, said.peers, said.threads) for name in ("gia", "jat")} if said.peers else {}
    machine = Machine()
    times: dict[str, list[list[float]]] = defaultdict(list)  # contestant → rounds → seconds of each decision

    def take(name: str, do: Callable[[], Any], count: int, timed: bool = False) -> None:
        times[name].append([do() if timed else seconds(do) for _ in range(count)])

    print(f"ready after {time.perf_counter() - began:.0f} s", flush=True)
    contestants: list[Callable[[], None]] = [*ours.values(), *passes.values(), *again.values()]
    for contestant in contestants:
        contestant()  # warm: packed weights, memory, kernels
    for n in range(said.rounds):
        machine.measure()
        for name, one in ours.items():
            take(name, one, max(1, said.decisions // {1: 1, 8: 4}.get(one.slots, 12)))
        for name, single in passes.items():
            take(name, single, 2 * said.decisions)
        for name, whole in again.items():
            take(name, whole, 1)
        for name, peer in peers.items():
            take(name, peer.decide, said.decisions, timed=True)
        print(f"round {n + 1} of {said.rounds}, {time.perf_counter() - began:.0f} s", flush=True)
    for peer in peers.values():
        peer.close()
    rows = {}
    for name, rounds in times.items():
        every = np.concatenate(rounds) * 1e3
        row: dict[str, Any] = {
            "decisions": len(every),
            "p50_ms": float(np.percentile(every, 50)),
            "p99_ms": float(np.percentile(every, 99)),
        }
        floor = None
        if name in ours:
            one = ours[name]
            legal = 1024 if one.task == "A" else 18
            floor = machine.floor(after.config, one.passes(), one.slots, one.precision, legal)
            row["steps_per_second"] = 1e3 * one.slots / row["p50_ms"]
            row["passes_per_decision"] = one.policy.passes * one.slots / one.policy.decisions
        elif name in passes:
            floor = machine.floor(after.config, [passes[name].widths], 1, name.split()[1].strip(","), 0)
        elif name in again:
            floor = (6 if name[0] == "A" else 1) * _whole(machine, after.config)
        if floor is not None:
            row |= {"floor_ms": 1e3 * floor, "over_floor": row["p50_ms"] / (1e3 * floor)}
        rows[name] = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
    eligible = ["float32", *(p for p, row in agreed.items() if row["share"] >= 0.99)]
    best = min(eligible, key=lambda p: rows[f"A {p} × 1"]["p50_ms"])

    def ratio(slow: str, quick: str, per_step: float = 1.0) -> float | None:
        if slow not in times or quick not in times:
            return None
        pairs = zip(times[slow], times[quick], strict=True)
        return round(per_step * statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs), 3)

    batched = [p for p in eligible if f"A {p} × 8" in times]
    batch_best = min(batched, key=lambda p: rows[f"A {p} × 8"]["p50_ms"]) if batched else best
    ratios = {
        "recompute_over_ours": ratio("A recompute float32", "A float32 × 1"),
        "recompute_over_fastest": ratio("A recompute float32", f"A {best} × 1"),
        "gia_over_ours": ratio("gia", "A float32 × 1"),
        "jat_over_ours": ratio("jat", "A float32 × 1, one pass"),
        "batch8_over_batch1": ratio(f"A {batch_best} × 1", f"A {batch_best} × 8", 8.0),
    }
    more = {
        **{f"recompute_over_{p}": ratio("A recompute float32", f"A {p} × 1") for p in BYTES},
        **{f"batch8_over_batch1_{t}_{p}": ratio(f"{t} {p} × 1", f"{t} {p} × 8", 8.0) for t in "AB" for p in BYTES},
        **{f"batch32_over_batch1_{t}_{p}": ratio(f"{t} {p} × 1", f"{t} {p} × 32", 32.0) for t in "AB" for p in BYTES},
        **{
            f"batch8_over_batch1_A_{p}_of_the_floors": round(
                8 * rows[f"A {p} × 1"]["floor_ms"] / rows[f"A {p} × 8"]["floor_ms"], 3
            )
            for p in BYTES if f"A {p} × 8" in rows
        },
        "recompute_over_ours_B": ratio("B recompute float32", "B float32 × 1"),
        "jat_over_ours_one_after_another": ratio("jat", "A float32 × 1"),
        "jat_over_ours_float16_one_pass": ratio("jat", "A float16 × 1, one pass"),
        "gia_over_ours_one_pass": ratio("gia", "A float32 × 1, one pass"),
        "float32_pass_over_floor": rows["pass float32, 1 token"]["over_floor"],
        "float32_timestep_pass_over_floor": rows["pass float32, a timestep"]["over_floor"],
    }  # fmt: skip
    record = {
        "protocol": " ".join((__doc__ or "").split("\n\n", 2)[2].split()),
        "ratios": ratios, "more_ratios": {k: v for k, v in more.items() if v is not None},
        "fastest_precision": best, "batch_precision": batch_best, "agreement": agreed, "rows": rows,
        "machine": {
            "processor": _processor(), "cores": os.cpu_count(), "threads": said.threads, "load_average": os.getloadavg(),
            "gigabytes_per_second": round(machine.bytes_per_second / 1e9, 2), "gigaflops": round(machine.flops / 1e9, 1),
        },
        "model": {
            "parameters": after.model.num_parameters, "layers": 8, "width": 768, "heads": 24, "position": said.position, "window": WINDOW,
        },
        "peers": {name: peer.facts for name, peer in peers.items()},
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "rounds": said.rounds, "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    said.out.parent.mkdir(parents=True, exist_ok=True)
    said.out.write_text(json.dumps(record, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name:28}" + "".join(f"{k} {row[k]:9.2f}   " for k in SHOWN if k in row))
    print(json.dumps({**ratios, **record["more_ratios"]}, indent=1))  # type: ignore[dict-item]


def _whole(machine: Machine, config: Any) -> float:
    """Seconds of one pass over the window: all blocks, causal attention, and of the last block what one token needs."""
    d, layers, gated = config.layer_width, config.num_transformer_blocks, config.feedforward_hidden_size
    block = 4 * d * d + gated * d + gated // 2 * d
    products = WINDOW * ((layers - 1) * block + 2 * d * d) + block
    return 2 * (products + (layers - 1) * WINDOW * WINDOW * d) / machine.flops


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
