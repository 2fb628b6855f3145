"""Thirty ways in which programs of this kind went wrong, and the test that would say so here.

Those that are caught elsewhere:

     1  a value of exactly +1 becomes the first id of the next block     tokens/test_values.py:test_blocks_do_not_touch
     2  decoding gives the lower edge of a bin                           tokens/test_values.py:test_every_bin_is_its_own_centre
     3  an id of another block decodes to something plausible            tokens/test_timestep.py:test_ids_of_other_blocks_are_no_action
     4  actions are companded                                            tokens/test_timestep.py:test_the_counting_world_by_hand
     5  the separator shares its id with a value                         tokens/test_values.py:test_the_separator_is_no_value
     7  the last timestep of an episode is dropped                       sequences/test_token_store.py:test_the_last_step_is_seen_as_often_as_the_middle
     8  no causal mask                                                   model/test_transformer.py:test_nothing_later_and_no_neighbour_is_seen
    10  new tokens of a truncated cache get one and the same position    model/test_cache.py:test_late_in_a_long_episode_it_is_as_exact
    14  the interval of a patch is closed, index 128                     tokens/test_patches.py:test_sampling_is_half_open
    15  the mean of the interval is one short                            tokens/test_golden.py:test_the_twenty_patches_of_the_worked_example
    16  feed-forward reads the tensor from before attention              model/test_transformer.py:test_the_whole_network_against_a_plain_one
    17  GELU where GEGLU is meant                                        model/test_transformer.py:test_the_whole_network_against_a_plain_one
    19  a prompt from the very episode it precedes                       sequences/test_token_store.py:test_prompts_come_from_another_successful_episode
    20  checkpoints of weights alone: a resumed run is another run       training/test_resume.py:test_stopped_by_a_signal_and_resumed_is_the_same_run
    21  a checkpoint that its own loader refuses                         training/test_resume.py:test_all_of_the_state_comes_back
    22  100 % where the expert is no better than random                  evaluation/test_scores.py:test_an_expert_no_better_than_random_is_listed_and_not_scored
    29  a table that looks right while the mask is off by one            sequences/test_token_store.py:test_every_target_is_predicted_by_the_row_before_it

The others are below, in order. `test_this_list_is_whole` reads this text.
"""

import ast
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import gato
from gato.cli import Evaluate
from gato.episodes import Episode, Spec, TaskSpec
from gato.errors import CheckpointMissingError, GatoError
from gato.evaluation.report import write_report
from gato.evaluation.scores import TaskScores, results, write_results
from gato.model import Gato, GatoConfig, RingCache, native
from gato.model.bundle import Bundle, TaskCard
from gato.model.decoder import Decoder
from gato.policy import Agent
from gato.policy.batch import _Choice
from gato.sequences import Mixture, Segment, TokenStore, collate
from gato.sequences.batch import Batch
from gato.tokens import TimestepCodec, Vocabulary
from gato.tokens.values import from_bins, mu_law_inverse
from gato.training import load_recipe
from gato.training.loss import token_losses
from gato.worlds import find

TESTS = Path(__file__).parent
V = Vocabulary(1024)
SMALL = GatoConfig.tiny().replace(
    layer_width=32, num_attention_heads=2, key_value_size=16, feedforward_hidden_size=64, num_transformer_blocks=1
)
BUTTON = Spec("discrete", (), "int64", (0.0,), (9.0,))


def test_this_list_is_whole():
    named = {int(n): place for n, place in re.findall(r"^ +(\d+)  .* (\S+\.py:test_\w+)$", __doc__, re.MULTILINE)}
    for place in named.values():
        file, _, test = place.partition(":")
        assert test in {f.name for f in ast.parse((TESTS / file).read_text()).body if isinstance(f, ast.FunctionDef)}
    here = [f for f in ast.parse(Path(__file__).read_text()).body if isinstance(f, ast.FunctionDef)]
    numbers = [int(n) for f in here for n in re.findall(r"^Defects? (\d+)", ast.get_docstring(f) or "")]
    assert numbers == sorted(numbers) and sorted([*named, *numbers]) == list(range(1, 31))


def network(position="rope", **changes) -> Gato:
    torch.manual_seed(0)
    model = Gato(SMALL.replace(position=position, **changes)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("blocks.") and p.ndim == 2 and not name.endswith("_bias"):
                p.mul_(1.5)  # attention that is not flat
    return model


def words(*rows) -> Batch:
    """Segments of ids of one length, without local positions; every token but the first of a segment is predicted."""
    ids, none = torch.tensor(rows), torch.zeros(0, dtype=torch.long)
    count, length = ids.shape
    at = torch.arange(count * length).view(count, length)[:, :-1].reshape(-1)
    flat = ids.reshape(-1)
    return Batch(
        flat, torch.full_like(flat, -1), None, none, none, none.view(0, 2), torch.zeros(0, 768, dtype=torch.uint8),
        ((count, length, 0),), at, flat[at + 1], torch.zeros_like(at), torch.zeros(len(at), dtype=torch.uint8), len(flat),
    )  # fmt: skip


def button_store(task: str, x: np.ndarray, a: np.ndarray, episodes: int = 1) -> TokenStore:
    """Episodes that see x (T, n), each value below 1,024, and press a (T,)."""
    spec = TaskSpec({"x": Spec("discrete", x.shape[1:], "int64", (0.0,), (1023.0,))}, {"action": BUTTON})
    episode = Episode(task, {"x": x}, {"action": a}, np.zeros(len(a), np.float32))
    return TokenStore.build(task, TimestepCodec(spec, V, None, task=task), [episode] * episodes)


# -- in the order of their numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("separate", [False, True])
def test_no_id_marks_a_patch(separate):
    """Defect 6: a magic value in the stream of ids means "a patch". Here every id there is stands beside a true patch,
    and each is embedded by its own row of the table, the one of the patch's row too."""
    v = Vocabulary(1024, separate)
    spec = TaskSpec(
        {
            "image": Spec("image", (16, 16, 3), "uint8", (0.0,), (255.0,)),
            "number": Spec("continuous", (1024,), "float64", (-np.inf,), (np.inf,)),
            "value": Spec("discrete", (1024,), "int64", (0.0,), (1023.0,)),
        },
        {"action": BUTTON},
    )
    leaves = {
        "image": np.full((1, 16, 16, 3), 200, np.uint8),
        "number": mu_law_inverse(from_bins(np.arange(1024)))[None],
        "value": np.arange(1024)[None],
    }
    episode = Episode("t/t", leaves, {"action": np.array([0])}, np.zeros(1, np.float32))
    store = TokenStore.build("t/t", TimestepCodec(spec, v, None, max_positions=2100), [episode])
    batch = collate([Segment(0, ((0, len(store.tokens)),))], [store])
    text = set(range(1024)) if separate else set()  # where values have ids of their own, text ids do not occur here
    assert set(batch.ids[1:].tolist()) | text == set(range(v.size))
    assert batch.image_rows.tolist() == [0] and len(batch.patches) == 1
    torch.manual_seed(0)
    model = Gato(SMALL.replace(separate_discrete=separate, local_position_encoding_size=2100, smooth_bin_rows=False))
    with torch.no_grad():
        x = model.embed(batch, model.embed.vocabulary())
        local = model.embed.local[torch.where(batch.positions < -1, 2100, batch.positions)]
        assert torch.allclose(x[1:], model.embed.table[batch.ids[1:]] + local[1:], atol=1e-6)


@pytest.mark.parametrize("position", ["rope", "xl", "learned"])
def test_order_is_more_than_the_mask(position):
    """Defect 9: nothing but the causal mask says what came first. In a single block the last token would then see its
    past as a bag: exchanging two earlier tokens would change nothing."""
    model = network(position)
    with torch.no_grad():
        one, other = (model.hidden_states(words([*past, 5, 6]))[-1] for past in ([1, 2, 3], [2, 1, 3]))
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("parallel", [False, True])
def test_no_pass_for_the_last_action_token(tokenizer, parallel):
    """Defect 11: one more pass only to bring the last action token into the cache. Here it goes with the next observation:
    A passes for A tokens, or one for all; and each token goes through the network once."""
    bundle = bundle_of(tokenizer, {"t/t": (("x", 5), ("action", 3))}, parallel_actions=parallel)
    fed = []
    bundle.model.embed.register_forward_hook(lambda module, given, out: fed.append(len(out)))
    policy = Agent(bundle).policy("t/t", 1)
    policy.reset(0, 0)
    for t in range(4):
        before = len(fed)
        policy.act({0: {"x": np.full(5, t)}})
        assert len(fed) - before == (1 if parallel else 3)
    assert sum(fed) == 4 * (5 + 1 + 3) - 1


@pytest.mark.parametrize("position", ["rope", "xl"])
def test_what_is_cached_is_not_projected_again(position, monkeypatch):
    """Defect 12: the cache holds hidden states, and a thousand of them are projected anew for every token. Here products
    with weights are those of the new token alone, however long the memory is. (What is done in C cannot be counted.)"""
    monkeypatch.setattr(native, "load", lambda: (None, "counted"))
    model, config = network(position, smooth_bin_rows=False), SMALL
    d, f = config.layer_width, config.feedforward_hidden_size
    packed = {torch.ops.mkldnn._linear_pointwise: lambda x, w, *_, **__: 2 * math.prod(x) * w[0]}
    for window in (32, 256):
        cache = RingCache(model.config, 1, window, most_new=8)
        for ids in ([1, 2, 3, 4, 5, 6, 7, 8], [9]):
            kept = cache.keys.clone()
            with FlopCounterMode(display=False, custom_mapping=packed) as counter:
                valid = torch.ones(1, len(ids), dtype=torch.bool)
                Decoder(model)(words(ids), torch.tensor([0]), valid, torch.zeros(1, len(ids), dtype=torch.long), cache)
        counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
        products = 2 * (4 * d * d + d * f + f // 2 * d)  # of one token
        with_weights = ("aten.mm", "aten.addmm", "mkldnn._linear_pointwise")
        assert sum(n for op, n in counted.items() if op in with_weights) == products
        changed = (cache.keys != kept).any(-1).any(0).any(0).any(0)
        assert changed.nonzero().flatten().tolist() == [8]  # one entry written, none touched


def test_logits_only_where_there_are_targets():
    """Defect 13: logits over the whole vocabulary at every position. A larger vocabulary costs M targets' products here,
    not N tokens'."""
    store = button_store("t/t", np.arange(60).reshape(3, 20), np.array([1, 2, 3]))
    batch = collate([Segment(0, ((0, len(store.tokens)),))] * 2, [store])
    flops = []
    for vocabulary in (1024, 2048):
        model = network(vocabulary_size=vocabulary, smooth_bin_rows=False)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits = model(batch)
        assert logits.shape == (len(batch.targets), vocabulary + 1025) and len(batch.targets) == 6 < len(batch.ids) / 20
        flops.append(counter.get_total_flops())
    assert flops[1] - flops[0] == 2 * len(batch.targets) * SMALL.layer_width * 1024


def test_choices_are_drawn_among_legal_ids_only(tokenizer):
    """Defect 18: an id drawn from the whole vocabulary, then clipped, so that the ends of the range are chosen most. Nearly
    all of the probability is put on other ids here; what is chosen follows the legal ones among themselves."""
    bundle = bundle_of(tokenizer, {"t/t": (("x", 1), ("action", 1))}, values=4)
    policy = Agent(bundle).policy("t/t", 1, watch_mass=True, discrete="sample")
    logits = torch.full((4000, bundle.config.vocabulary.size), 3.0)
    logits[:, :4] = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    policy._logits = lambda a, hidden: logits[:, :4]
    bundle.model.logits = lambda hidden: logits
    choice = _Choice(policy, [0] * 4000, {})
    choice.take(0, torch.zeros(4000, bundle.config.layer_width))
    shares = np.bincount(choice.ids[:, 0], minlength=5) / 4000
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.0], abs=0.04)
    assert policy.legal_mass < 1e-4  # and how little of it was meant is said


def test_the_headline_does_not_hide_failed_tasks(tmp_path):
    """Defect 23: the headline is an interquartile mean, for which four failures of twenty-four do not exist."""
    scored = [TaskScores(f"a/{k}", [1.0 if k < 20 else 0.0] * 5, random=0.0, expert=1.0) for k in range(24)]
    record = results({"seed": 0}, scored)
    assert record["aggregates"]["iqm"] == 100.0
    assert record["aggregates"]["mean_of_domain_means"] == pytest.approx(100 * 20 / 24)
    write_results(record, tmp_path / "results.json")
    title = re.search(r"<title>(.*?)</title>", write_report(tmp_path).read_text(), re.DOTALL)[1]
    assert "83.3" in title


def test_fifty_episodes_unless_asked_otherwise():
    """Defect 24: scores of two episodes by default."""
    assert Evaluate.episodes == 50


def test_nothing_is_fetched(tokenizer, tmp_path):
    """Defect 25: a constructor that fetches a tokenizer. Any use of the network ends this process, in a home of nothing."""
    (tmp_path / "t.model").write_bytes(tokenizer.to_bytes())
    program = """
import os, sys
def deny(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print(event, arguments, file=sys.stderr, flush=True)
        os._exit(9)
sys.addaudithook(deny)
import gato
from gato.model.bundle import Bundle, TaskCard
from gato.tokens.text import TextTokenizer
text = TextTokenizer.load(sys.argv[1])
config = gato.GatoConfig.tiny().replace(vocabulary_size=text.size)
card = TaskCard(gato.find("dummy/count").spec, 1)
bundle = Bundle(config, gato.Gato(config).eval(), text, {"dummy/count": card}, {"discrete": "sample", "continuous": "mean"})
observation, _ = gato.find("dummy/count").make().reset(seed=0)
print(gato.Agent(bundle).act(observation, task="dummy/count"))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "t.model")],
        capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0 and ran.stdout, ran.stderr


def test_tokenising_is_no_loop_over_numbers():
    """Defect 26: floats are tokenised one by one in Python. A hundred thousand at once take a twentieth of that."""
    spec = TaskSpec({"x": Spec("continuous", (50,), "float32", (-np.inf,), (np.inf,))}, {"action": BUTTON})
    codec = TimestepCodec(spec, V, None)
    x = np.random.default_rng(0).normal(0, 10, (2000, 50)).astype(np.float32)
    episode = Episode("t/t", {"x": x}, {"action": np.zeros(2000, np.int64)}, np.zeros(2000, np.float32))

    def one_by_one() -> list[int]:
        """The first thousand, with nothing that could be left out."""
        out = []
        for value in x[:20].ravel():
            y = np.sign(value) * np.log(np.abs(np.float64(value)) * 100 + 1) / np.log(25601)
            out.append(1024 + min(1023, int((max(-1.0, min(1.0, y)) + 1) * 512)))
        return out

    def seconds(work) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    assert codec.encode(episode).ids.reshape(2000, 52)[:20, :50].ravel().tolist() == one_by_one()
    whole, loop = (min(seconds(work) for _ in range(5)) for work in (lambda: codec.encode(episode), one_by_one))
    assert loop / 1000 > 20 * whole / x.size


def test_the_network_does_not_loop_over_samples():
    """Defect 27: a loop over samples inside the model, padded to the longest. Forty segments of one length are as many
    operations as four; short ones beside a long one are not padded to it."""
    store = button_store("t/t", np.arange(200).reshape(40, 5), np.zeros(40, np.int64))
    step = lambda a, b: Segment(0, ((int(store.starts[a]), int(store.starts[b])),))  # noqa: E731
    model, operations = network(), []
    for count in (4, 4, 40):
        batch = collate([step(k, k + 1) for k in range(count)], [store])
        with torch.no_grad(), Operations() as counted:
            model(batch)
        operations.append(counted.number)
    assert operations[1] == operations[2] > 10
    mixed = collate([step(0, 30), *(step(k, k + 1) for k in range(30))], [store])
    assert len(mixed.ids) == mixed.num_tokens == 60 * 7 and mixed.padding == 0


class Operations(TorchDispatchMode):
    """Counts what PyTorch is asked to do."""

    number = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.number += 1
        return function(*arguments, **(keywords or {}))


def test_a_prompt_tells_apart_what_looks_alike(tokenizer):
    """Defect 28: tasks that look alike collapse into one, since nothing tells them apart. Two tasks show the same and want
    different buttons: without prompts the loss stays at ln 2; with them it goes, and the agent presses each one's own."""
    x = np.full((6, 3), 5)
    stores = [button_store(task, x, np.full(6, want), episodes=4) for task, want in (("a/one", 2), ("b/two", 7))]
    losses, models = {}, {}
    for share in (0.0, 1.0):
        mixture = Mixture(stores, {"*": 1.0}, 4, 256, 64, {"*": 1}, prompt_share=share, prompt_loss=False)
        torch.manual_seed(0)
        models[share] = model = Gato(SMALL.replace(num_transformer_blocks=2)).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for step in range(60):
            batch = mixture.batch(step)
            loss = token_losses(model(batch), batch.targets, batch.kinds, V.continuous).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[share] = float(loss.detach())
    assert losses[0.0] > 0.6 and losses[1.0] < 0.1
    acting = {"discrete": "greedy", "continuous": "greedy"}
    cards = {s.task: TaskCard(s.codec.spec, None, s.example) for s in stores}
    agent = Agent(Bundle(models[1.0].config, models[1.0].eval(), tokenizer, cards, acting))
    assert [int(agent.session(s.task).act({"x": np.full(3, 5)})) for s in stores] == [2, 7]


def test_a_folder_of_the_same_name_hides_nothing(tokenizer, tmp_path, monkeypatch):
    """Defect 30: a folder that happens to be called like what is asked for is taken in its place."""
    monkeypatch.chdir(tmp_path)
    for name in ("paper", "tiny", "dummy/count", "gato", "runs/bundle", "empty"):
        Path(name).mkdir(parents=True)
    assert load_recipe("paper").name == "paper" and load_recipe("tiny").name == "tiny"
    assert find("dummy/count").id == "dummy/count"
    bundle = bundle_of(tokenizer, {"t/t": (("x", 1), ("action", 1))})
    bundle.save(Path("runs/train/bundle"))  # beside runs/bundle, which is empty
    assert gato.load("runs").tasks == ["t/t"]
    for name in ("empty", "paper"):
        with pytest.raises(CheckpointMissingError):
            gato.load(name)
    with pytest.raises(GatoError):  # and what is there is not written over
        bundle.save(Path("runs/train/bundle"))


def bundle_of(tokenizer, tasks, values=10, **changes) -> Bundle:
    """An untrained agent; {task: ((observation, numbers), (action, numbers))}, all discrete."""
    config = SMALL.replace(vocabulary_size=tokenizer.size, **changes)
    torch.manual_seed(0)
    cards = {}
    for task, ((seen, n), (done, a)) in tasks.items():
        leaf = lambda count: Spec("discrete", (count,), "int64", (0.0,), (values - 1.0,))  # noqa: E731
        cards[task] = TaskCard(TaskSpec({seen: leaf(n)}, {done: leaf(a)}))
    return Bundle(config, Gato(config).eval(), tokenizer, cards, {"discrete": "greedy", "continuous": "greedy"})
