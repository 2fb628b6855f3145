"""A lone token in C is the same pass; where it cannot be compiled, the library does it."""

from __future__ import annotations

import shutil
import threading

import pytest
import torch

from gato.model import Gato, GatoConfig, native
from gato.model.cache import RingCache
from gato.model.decoder import Decoder
from gato.sequences.batch import Batch

pytestmark = pytest.mark.skipif(native.load()[0] is None, reason=native.load()[1])


def network(position: str, width: int = 64, heads: int = 4, gated: int = 96) -> Gato:
    torch.manual_seed(0)
    model = Gato(
        GatoConfig.tiny().replace(
            num_transformer_blocks=3, layer_width=width, num_attention_heads=heads, key_value_size=width // heads,
            feedforward_hidden_size=gated, vocabulary_size=1024, token_sequence_length=64, position=position,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("_bias"):
                p.normal_(std=0.3)
    return model


def fed(decoder: Decoder, ids: list[int], cache: RingCache, times: list[int], slot: int = 0) -> torch.Tensor:
    """Hidden states (N, D), the tokens one after another."""
    out, none = [], torch.zeros(0, dtype=torch.long)
    for token, time in zip(ids, times, strict=True):
        one = Batch(
            torch.tensor([token]), torch.tensor([-1]), None, none, none, none.view(0, 2),
            torch.zeros(0, 768, dtype=torch.uint8), ((1, 1, 0),), none, none, none, none, 1,
        )  # fmt: skip
        valid = torch.ones(1, 1, dtype=torch.bool)
        out.append(decoder(one, torch.tensor([slot]), valid, torch.tensor([[time]]), cache)[0])
    return torch.cat(out)


def both(model: Gato, precision: str) -> tuple[Decoder, Decoder]:
    """The network with the C, and without."""
    ours, plain = Decoder(model, precision), Decoder(model, precision)
    assert ours._lone is not None
    plain._lone = None
    return ours, plain


@pytest.mark.parametrize("precision, near", [("float32", 1e-5), ("float16", 1e-4)])
@pytest.mark.parametrize("position", ["rope", "learned", "xl"])
@pytest.mark.parametrize("width, heads, gated", [(64, 4, 96), (48, 2, 160), (80, 1, 32)])
def test_it_is_the_same_pass(precision, near, position, width, heads, gated):
    """Heads as wide as lanes and not, products of whole lanes by 64 and not; the ring goes round, a band and timesteps limit it."""
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


def test_the_rings_hold_the_same():
    model, rings = network("rope"), []
    for decoder in both(model, "float32"):
        rings.append(RingCache(model.config, 2, 10, most_new=3))
        fed(decoder, list(range(25)), rings[-1], [0] * 25, slot=1)
    for name in ("count", "position", "time"):
        torch.testing.assert_close(getattr(rings[0], name), getattr(rings[1], name), rtol=0, atol=0)
    for name in ("keys", "values"):  # the last entry is a bin for padding
        a, b = (getattr(ring, name)[..., :-1, :] for ring in rings)
        assert (a - b).abs().max() <= 1e-5 * b.abs().max() and not a[:, 0].any()


def test_logits_of_a_single_row():
    model = network("rope")
    hidden = torch.randn(1, 1, 64)
    for ours, plain in (both(model, "float32"), both(model, "float16")):
        for low, high in ((0, None), (3, 20), (1024, 2048)):
            got, wanted = (decoder.logits(hidden, low, high) for decoder in (ours, plain))
            assert got.shape == wanted.shape
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_what_it_does_not_know_goes_the_librarys_way():
    assert Decoder(network("rope"), "bf16")._lone is None
    assert Decoder(network("rope", 40, 1, 96))._lone is None


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
    assert Decoder(network("rope"))._lone is None
    assert not list(tmp_path.rglob("*.so"))


def test_it_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library, where = native.load.__wrapped__()
    assert library is not None and where.startswith(str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.load.__wrapped__()[1] == where
    assert len(list((tmp_path / "gato").iterdir())) == 1
