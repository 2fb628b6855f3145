"""A pass in C is the same pass; where it cannot be compiled, the library does it."""

from __future__ import annotations

import shutil
import threading

import pytest
import torch

from gato.model import Gato, GatoConfig, native, transformer
from gato.model.cache import RingCache
from gato.model.decoder import Decoder
from gato.sequences.batch import Batch

pytestmark = pytest.mark.skipif(native.load()[0] is None, reason=native.load()[1])


def network(position: str, width: int = 64, heads: int = 4, gated: int = 96) -> Gato:
    torch.manual_seed(0)
    model = Gato(
        GatoConfig.tiny().replace(
            num_transformer_blocks=3, layer_width=width, num_attention_heads=heads, key_value_size=width // heads,
            feedforward_hidden_size=gated, vocabulary_size=1024, token_sequence_length=512, position=position,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("_bias"):
                p.normal_(std=0.3)
    return model


def batch_of(ids: torch.Tensor) -> Batch:
    """(R, n) ids, plain tokens all."""
    none = torch.zeros(0, dtype=torch.long)
    return Batch(
        ids.flatten(), torch.full((ids.numel(),), -1), None, none, none, none.view(0, 2), torch.zeros(0, 768, dtype=torch.uint8),
        ((*ids.shape, 0),), none, none, none, none, ids.numel(),
    )  # fmt: skip


def fed(decoder: Decoder, ids: list[int], cache: RingCache, times: list[int], slot: int = 0) -> torch.Tensor:
    """Hidden states (N, D), the tokens one after another."""
    one, out = torch.ones(1, 1, dtype=torch.bool), []
    for token, time in zip(ids, times, strict=True):
        at = torch.tensor([[time]])
        out.append(decoder(batch_of(torch.tensor([[token]])), torch.tensor([slot]), one, at, cache)[0])
    return torch.cat(out)


def library(model: Gato, precision: str) -> Decoder:
    """Without the C."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "load", lambda: (None, "not wanted"))
        return Decoder(model, precision)


def both(model: Gato, precision: str) -> tuple[Decoder, Decoder]:
    """The network with the C, and without."""
    ours, plain = Decoder(model, precision), library(model, precision)
    assert ours._native is not None and plain._native is None
    return ours, plain


@pytest.mark.parametrize("precision, near", [("float32", 1e-5), ("float16", 1e-4)])
@pytest.mark.parametrize("position", ["rope", "learned", "xl"])
@pytest.mark.parametrize("width, heads, gated", [(64, 4, 96), (48, 2, 160), (80, 1, 32), (40, 2, 72)])
def test_lone_tokens_are_the_same_pass(precision, near, position, width, heads, gated):
    """Widths that are whole panels and not; the ring goes round, a band and timesteps limit it."""
    model = network(position, width, heads, gated)
    ids = torch.randint(0, 300, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    for window, limit in ((64, None), (9, None), (64, 2)):
        got, wanted = (
            fed(decoder, ids, cache, [t // 7 for t in range(60)], slot=1)
            for decoder, cache in (
                (d, RingCache(model.config, 3, window, limit, most_new=4)) for d in both(model, precision)
            )
        )
        assert (got - wanted).abs().max() <= near * wanted.abs().max()


@pytest.mark.parametrize("precision, near", [("float32", 1e-5), ("float16", 1e-4)])
@pytest.mark.parametrize("position", ["rope", "learned", "xl"])
@pytest.mark.parametrize("width, heads, gated", [(64, 4, 96), (40, 2, 72)])
@pytest.mark.parametrize("last", [None, 1, 3])
def test_rows_of_many_tokens_are_the_same_pass(precision, near, position, width, heads, gated, last):
    """Three rows of one to thirty tokens in slots out of order, one of them idle at times, until their rings have gone round."""
    model = network(position, width, heads, gated)
    decoders = both(model, precision)
    for window, limit in ((64, None), (20, None), (64, 2)):
        caches = [RingCache(model.config, 4, window, limit, most_new=31) for _ in decoders]
        draw, slots = torch.Generator().manual_seed(2), torch.tensor([2, 0, 3])
        for step in range(12):
            lengths = torch.randint(1, 31, (3,), generator=draw)
            lengths[step % 3] = 0 if step % 2 else 1
            n = int(lengths.max())
            ids, valid = torch.randint(0, 300, (3, n), generator=draw), torch.arange(n) < lengths[:, None]
            times = torch.full((3, n), step) + (torch.arange(n) > n // 2)
            wanted = None if last is None else (lengths[:, None] - last + torch.arange(last)).clamp(min=0)
            got, told = (
                decoder(batch_of(ids), slots, valid, times, cache, wanted)
                for decoder, cache in zip(decoders, caches, strict=True)
            )
            there = valid if wanted is None else wanted < lengths[:, None]
            assert got.shape == told.shape and there.any()
            assert (got - told)[there].abs().max() <= near * told[there].abs().max()
        for name in ("count", "position", "time"):
            torch.testing.assert_close(*(getattr(cache, name) for cache in caches), rtol=0, atol=0)
        for name in ("keys", "values"):  # the last entry is a bin for padding
            a, b = (getattr(cache, name)[..., :-1, :] for cache in caches)
            assert (a - b).abs().max() <= near * b.abs().max() and not a[:, 1].any()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_row_does_not_feel_its_neighbours(precision):
    """To the last bit, alone too: each output is added up in the order of its inputs, whatever is beside it."""
    model = network("rope")
    decoder, draw = Decoder(model, precision), torch.Generator().manual_seed(3)
    lengths = [1, 19, 3, 30, 7]
    rows = [torch.randint(0, 300, (1, n), generator=draw) for n in lengths]

    def act(which: list[int]) -> list[torch.Tensor]:
        cache, out = RingCache(model.config, 5, 64, most_new=32), []
        for _ in range(4):
            n = max(lengths[i] for i in which)
            ids = torch.cat([torch.nn.functional.pad(rows[i], (0, n - lengths[i])) for i in which])
            valid = torch.arange(n) < torch.tensor([lengths[i] for i in which])[:, None]
            hidden = decoder(batch_of(ids), torch.tensor(which), valid, torch.zeros(ids.shape, dtype=torch.long), cache)
            out += [hidden[k, : lengths[i]] for k, i in enumerate(which)]
        return out

    together = act([0, 1, 2, 3, 4])
    for i in range(5):
        for alone, beside in zip(act([i]), together[i::5], strict=True):
            assert torch.equal(alone, beside)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(act([0, 1, 2, 3, 4]), together, strict=True))
    finally:
        torch.set_num_threads(before)


def test_a_pass_of_nothing():
    model = network("rope")
    cache, none = RingCache(model.config, 2, 64), torch.zeros(2, 3, dtype=torch.long)
    hidden = Decoder(model)(batch_of(none), torch.tensor([0, 1]), none.bool(), none, cache)
    assert hidden.shape == (2, 3, 64) and not hidden.any() and not cache.count.any()


def test_logits():
    model = network("rope")
    hidden = torch.randn(2, 3, 64)
    for ours, plain in (both(model, "float32"), both(model, "float16")):
        for low, high in ((0, None), (3, 20), (1024, 2048)):
            got, wanted = (decoder.logits(hidden, low, high) for decoder in (ours, plain))
            assert got.shape == wanted.shape
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
            assert torch.equal(ours.logits(hidden[1, 2], low, high), got[1, 2])


def test_what_it_does_not_know_goes_the_librarys_way():
    assert Decoder(network("rope"), "bf16")._native is None
    assert Decoder(network("rope").double())._native is None


def test_many_threads_at_once():
    """Sessions of several threads share a decoder, and C runs without the interpreter's lock."""
    model = network("rope")
    decoder = Decoder(model)
    ids = list(range(100, 160))
    alone = fed(decoder, ids, RingCache(model.config, 1, 64), [0] * 60)
    wrong = []

    def act() -> None:
        with torch.inference_mode():
            for _ in range(5):
                if not torch.equal(fed(decoder, ids, RingCache(model.config, 1, 64), [0] * 60), alone):
                    wrong.append(1)

    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("how", ["no compiler", "a compiler that fails", "no place", "switched off"])
def test_without_it_there_is_a_reason(how, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if how == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif how == "a compiler that fails":
        monkeypatch.setenv("CC", shutil.which("false") or "false")
    elif how == "no place":
        (tmp_path / "gato").write_text("a file where the folder should be")
    else:
        monkeypatch.setenv("GATO_NATIVE", "0")
    library, why = native.load.__wrapped__()
    assert library is None and why
    monkeypatch.setattr(native, "load", lambda: (None, why))
    assert Decoder(network("rope"))._native is None
    assert not list(tmp_path.rglob("*.so"))


def test_it_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library, where = native.load.__wrapped__()
    assert library is not None and where.startswith(str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.load.__wrapped__()[1] == where
    assert len(list((tmp_path / "gato").iterdir())) == 1


# -- attention of a training batch --------------------------------------------------------------------------------------------


GROUPS = (
    (3, 57, 55),
    (2, 1, 0),
    (1, 700, 30),
    (4, 33, 5),
    (1, 130, 0),
    (2, 16, 15),
    (5, 14, 0),
)  # one is the library's


def attended(
    position: str, dtype: torch.dtype, last: bool, in_c: bool, threads: int = 1, groups=GROUPS, heads: int = 4
):
    """One block's attention: its output, and the gradients of its input and its matrices."""
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    block = network(position, 32 * heads, heads).blocks[0].attention.to(wide)
    x = torch.randn(sum(n * length for n, length, _ in groups), 32 * heads).to(wide).requires_grad_()
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        if not in_c:
            patch.setattr(native, "load", lambda: (None, "not wanted"))
        torch.set_num_threads(threads)
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                assert native.Attention.fits(block._project(x)) == (in_c and dtype != torch.float64)
                out = block(x, groups, last)
            (out.to(wide) * torch.randn_like(out, dtype=torch.float32).to(wide)).sum().backward()
        finally:
            torch.set_num_threads(before)
    return [out.detach(), x.grad, *(p.grad for p in block.parameters() if p.grad is not None)]


@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
def test_attention_there_and_back(position, last, dtype, close):
    """Against the library's in float64."""
    ours, exact = (attended(position, d, last, d == dtype) for d in (dtype, torch.float64))
    assert len(ours) == len(exact) == 6
    for a, b in zip(ours, exact, strict=True):
        assert a.shape == b.shape and (a.double() - b).abs().max() < close * b.abs().max()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_segment_does_not_feel_its_company(threads):
    """To the last bit: alone, behind others, or with padding behind it, whatever its first query; with the gradients."""
    torch.manual_seed(1)
    qkv, grad = torch.randn(41, 3, 2, 32), torch.randn(41, 2, 32)
    turn = transformer._turn_to(64, 32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)

    def both_ways(qkv: torch.Tensor, grad: torch.Tensor, groups, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        qkv = qkv.clone().requires_grad_()
        out = native.Attention.apply(qkv, groups, last, turn)
        out.backward(grad)
        return out.detach(), qkv.grad

    try:
        alone = both_ways(qkv, grad, ((1, 41, 0),), False)
        other = torch.randn(41, 3, 2, 32)
        beside = both_ways(torch.cat([other, qkv]), torch.cat([torch.randn(41, 2, 32), grad]), ((2, 41, 0),), False)
        padded = both_ways(torch.cat([qkv, other[:3]]), torch.cat([grad, torch.zeros(3, 2, 32)]), ((1, 44, 0),), False)
        late = grad.clone()
        late[:17] = 0
        begun, whole = both_ways(qkv, grad[17:], ((1, 41, 17),), True), both_ways(qkv, late, ((1, 41, 0),), False)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(alone, beside, strict=True):
        assert torch.equal(a, b[41:])
    for a, b in zip(alone, padded, strict=True):
        assert torch.equal(a, b[:41])
    assert torch.equal(begun[0], whole[0][17:]) and torch.equal(begun[1], whole[1])


def test_heads_that_are_no_whole_vectors_go_the_librarys_way():
    assert native.Attention.fits(torch.zeros(1, 3, 2, 16)) and not native.Attention.fits(torch.zeros(1, 3, 2, 24))
    assert not native.Attention.fits(torch.zeros(1, 3, 2, 32, dtype=torch.float64))


def test_scores_that_are_far_apart_and_weights_that_vanish():
    """A softmax whose highest score is hundreds above the others, and rows of equal scores."""
    qkv = torch.randn(40, 3, 2, 16) * 60
    qkv[:, 0, 1] = 0
    out = native.Attention.apply(qkv, ((1, 40, 0),), False, None)
    q, k, v = qkv.double().permute(1, 2, 0, 3)
    exact = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    assert torch.isfinite(out).all() and (out.transpose(0, 1) - exact).abs().max() < 1e-3


def test_a_key_that_is_no_number_shows():
    """From its own query on, as with the library; a query before it does not see it."""
    qkv = torch.randn(40, 3, 2, 16)
    qkv[20, 1] = torch.nan
    out = native.Attention.apply(qkv, ((1, 40, 0),), False, None)
    assert torch.isfinite(out[:20]).all() and out[20:].isnan().all()
    model = network("rope")
    decoder, cache = Decoder(model), RingCache(model.config, 1, 64)
    fed(decoder, [3, 4, 5], cache, [0, 0, 0])
    cache.keys[:, 0, 1] = torch.nan
    assert fed(decoder, [6], cache, [0]).isnan().all()
