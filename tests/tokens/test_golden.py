"""Golden values from elsewhere: a calculator of arbitrary precision, long doubles, a pencil. Never the code under test."""

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gato.episodes import Episode, Spec, TaskSpec
from gato.episodes.spec import flatten, specs_from_space
from gato.model import Gato, GatoConfig
from gato.sequences import Segment, TokenStore, collate
from gato.tokens import TimestepCodec, Vocabulary, patches
from gato.tokens.timestep import CONTINUOUS, DISCRETE, SEPARATOR
from gato.tokens.values import from_bins, mu_law, mu_law_inverse, to_bins

V = Vocabulary(32000)

# x, F(x) = ln(100 x + 1) / ln(25601), bins of +x and -x: by `bc -l` with thirty digits
GOLDEN = [
    (1e-9, 0.00000000985184092, 512, 511),
    (0.0001, 0.00098029081599518, 512, 511),
    (0.001, 0.00938980776737509, 516, 507),
    (0.01, 0.06828776100641235, 546, 477),
    (0.1, 0.23623683959152999, 632, 391),
    (0.5, 0.38735722607926634, 710, 313),
    (1.0, 0.45467435446430497, 744, 279),
    (2.0, 0.52247318933493372, 779, 244),
    (3.141592653589793, 0.56678413244918953, 802, 221),
    (10.0, 0.68063956466022982, 860, 163),
    (25.6, 0.77318759611658224, 907, 116),
    (100.0, 0.90739797864547608, 976, 47),
    (180.0, 0.96530141047882299, 1006, 17),
    (255.0, 0.99961442393678825, 1023, 0),
    (255.9, 0.99996151022995371, 1023, 0),
]


@pytest.mark.parametrize("x, y, above, below", GOLDEN)
def test_mu_law(x, y, above, below):
    assert float(mu_law(x)) == pytest.approx(y, rel=1e-14)
    assert float(mu_law(-x)) == -float(mu_law(x))


@pytest.mark.parametrize(
    "y, x",
    [
        (0.0009765625, 0.0000996177843567760), (0.25, 0.1164923416533518909), (0.5, 1.590031249694830179),
        (0.75, 20.22916994924380475), (0.9990234375, 253.4748401852711825), (1.0, 256.0),
    ],
)  # fmt: skip
def test_inverse(y, x):
    assert float(mu_law_inverse(y)) == pytest.approx(x, rel=1e-13)
    assert float(mu_law_inverse(-y)) == -float(mu_law_inverse(y))


def test_ids_of_numbers():
    """Observations as they come: companded, binned, shifted behind the text."""
    ids = lambda *x: V.encode_continuous(mu_law(np.array(x))).tolist()  # noqa: E731
    for x, _, above, below in GOLDEN:
        assert ids(x, -x) == [32000 + above, 32000 + below], x
    assert ids(0.0, -0.0, 5e-324, 1e-310) == [32512] * 4  # ±0 and denormals: the bin above the middle
    assert ids(256.0, 256.0001, 1e4, 3e38, np.inf) == [33023] * 5
    assert ids(-256.0, -256.0001, -1e4, -3e38, -np.inf) == [32000] * 5
    # Of actions, which are not companded: y in [-1, 1] falls into floor((y + 1) · 512), the last bin closed.
    y = np.array([-1, -0.999, -0.75, -0.002, -0.001, 0, 0.001, 0.002, 0.5, 0.998, 0.999, 1])
    assert (V.encode_continuous(y) - 32000).tolist() == [0, 0, 128, 510, 511, 512, 512, 513, 768, 1022, 1023, 1023]


def test_near_zero_observations_are_finer_than_actions():
    """F'(0) = 100 / ln(25601) = 9.85: a bin of 1/512 is 0.0002 of an observation, 0.002 of an action."""
    wide = lambda encode: min(x for x in np.arange(1, 400) * 1e-5 if encode(x) > 512)  # noqa: E731
    assert wide(lambda x: int(to_bins(mu_law(x)))) == pytest.approx(0.0002, abs=1.1e-5)
    assert wide(lambda x: int(to_bins(x))) == pytest.approx(0.00196, abs=1.1e-5)


def test_a_million_floats_of_every_size():
    """Evenly spaced bit patterns of float32: every exponent, denormals, both signs, ±0; and the same in float64. Against
    the formula in long doubles; only where that is within 1e-12 of an edge may the bins differ."""
    single = np.linspace(0, 2**32 - 1, 1_000_000).astype(np.uint64).astype(np.uint32).view(np.float32)
    double = np.linspace(0, 2**64 - 2**11, 100_000).astype(np.uint64).view(np.float64)
    special = np.array([0.0, -0.0, 5e-324, -5e-324, 1, -1, 256, -256, np.nextafter(256, 0), np.nextafter(256, 999)])
    for x in (single[np.isfinite(single)], double[np.isfinite(double)], special):
        wide = np.clip(x.astype(np.longdouble), -1e300, 1e300)
        y = np.sign(wide) * np.log(np.abs(wide) * 100 + 1) / np.log(np.longdouble(25601))
        for value, wanted in ((mu_law(x), y), (x, wide)):
            at = (np.clip(wanted, -1, 1) + 1) * 512
            bins = np.minimum(np.floor(at), 1023).astype(int)
            got = to_bins(value)
            off = got != bins
            assert (np.abs(at[off] - np.rint(at[off])) < 1e-12 * 512).all()
            assert got.min() >= 0 and got.max() <= 1023
            back = from_bins(got)
            assert np.abs(back - np.clip(wanted, -1, 1)).max() <= 1 / 1024 + 1e-12  # half a bin, never more
            assert np.array_equal(to_bins(back), got)  # and a second trip changes nothing
        ids = V.encode_continuous(mu_law(x))
        again = V.encode_continuous(mu_law(mu_law_inverse(V.decode_continuous(ids))))
        assert np.array_equal(again, ids)
    assert len(single) + len(double) > 10**6 and (np.abs(single[single != 0]) < 1e-38).sum() > 1000


@given(arrays(np.float64, st.integers(0, 60), elements=st.floats(allow_nan=False, width=64)))
def test_any_numbers(x):
    """In block, in order, odd but for where a bin ends, and back to within half a bin."""
    ids = V.encode_continuous(mu_law(x))
    assert ((ids >= 32000) & (ids < 33024)).all()
    order = np.argsort(x, kind="stable")
    assert (np.diff(ids[order]) >= 0).all()
    mirrored = V.encode_continuous(mu_law(-x))
    assert np.isin(ids - 32000 + mirrored - 32000, [1023, 1024]).all()
    inside = np.clip(x, -256, 256)
    assert np.all(np.abs(mu_law(mu_law_inverse(V.decode_continuous(ids))) - mu_law(inside)) <= 1 / 1024 + 1e-9)


@given(
    arrays(np.float32, st.integers(1, 40), elements=st.floats(-1, 1, width=32)),
    st.floats(-100, 100, width=32),
    st.floats(0.0078125, 1000, width=32),
)
def test_any_actions_come_back_within_half_a_bin(y, low, span):
    spec = Spec("continuous", y.shape, "float64", (float(low),), (float(low) + float(span),))
    task = TaskSpec({"x": Spec("discrete", (), "int64", (0.0,), (1.0,))}, {"a": spec})
    action = low + (y.astype(np.float64) + 1) / 2 * span
    codec = TimestepCodec(task, V, None)
    tokens = codec.encode(Episode("t/t", {"x": np.zeros(1, np.int64)}, {"a": action[None]}, np.zeros(1, np.float32)))
    back = codec.decode_action(tokens.ids[2:])["a"]
    assert (np.abs(back - action) <= span / 2048 * (1 + 1e-6) + 1e-9).all()


# -- patches ----------------------------------------------------------------------------------------------------------


def test_pixels_by_hand():
    """A picture of 32 × 48 whose pixel at row r, column c is 5 r + c: patch (i, j) begins with 80 i + 16 j."""
    r, c = np.indices((32, 48))
    image = np.stack([5 * r + c, 255 - 5 * r - c, r], axis=-1).astype(np.uint8)
    cut = patches.cut(image[None])[0]
    assert cut.shape == (6, 16, 16, 3)
    assert cut[:, 0, 0, 0].tolist() == [0, 16, 32, 80, 96, 112]
    assert cut[4, 2, 3].tolist() == [5 * 18 + 19, 255 - 5 * 18 - 19, 18]  # row 16 + 2, column 16 + 3
    assert cut[5, 15, 15].tolist() == [5 * 31 + 47, 255 - 5 * 31 - 47, 31]


@pytest.mark.parametrize("kind", ["resnet", "linear"])
def test_pixels_reach_the_network_as_quarters(kind):
    """0 → -1/4, 255 → +1/4, 51 → (51 / 255 · 2 - 1) / 4 = -0.15: what the first layer is fed, or does with its input."""
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=32, num_attention_heads=2, key_value_size=16, patch_embedder=kind, num_transformer_blocks=1
    )
    embedder = Gato(config).embed.patch
    patch = torch.zeros(2, 768, dtype=torch.uint8)
    patch[0, :3] = torch.tensor([0, 51, 255], dtype=torch.uint8)  # one pixel's red, green and blue
    patch[1, -1] = 255
    if kind == "linear":
        with torch.no_grad():
            embedder.out.weight.zero_(), embedder.out.bias.zero_()
            embedder.out.weight[0, 0] = embedder.out.weight[1, 1] = embedder.out.weight[2, 2] = 1
            embedder.out.weight[3, 767] = 1
            found = embedder(patch)[:, :4].tolist()
        assert found[0] == pytest.approx([-0.25, -0.15, 0.25, -0.25]) and found[1][3] == 0.25
        return
    seen = []
    embedder.stem.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    embedder(patch)
    assert seen[0].shape == (2, 3, 16, 16)
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([-0.25, -0.15, 0.25])
    assert float(seen[0][1, 2, 15, 15]) == 0.25 and float(seen[0][1, 1, 15, 15]) == -0.25


def test_the_twenty_patches_of_the_worked_example():
    """80 wide, 64 high, by hand: 128 · (0, 1/4, 1/2, 3/4, 1) and 128 · (0, 1/5, …, 1) = 0, 25.6, 51.2, 76.8, 102.4, 128."""
    rows, columns = [0, 32, 64, 96, 128], [0, 26, 51, 77, 102, 128]
    boxes = [[rows[r], rows[r + 1], columns[c], columns[c + 1]] for r in range(4) for c in range(5)]
    assert patches.boxes(64, 80).tolist() == boxes
    means = [[r, c] for r in (16, 48, 80, 112) for c in (13, 38, 64, 90, 115)]
    assert patches.mean_index(patches.boxes(64, 80)).tolist() == means


def test_halves_go_to_even():
    """26 + 51 = 77 → 38.5 → 38, and 51 + 77 + … by hand; the top is 127, never 128."""
    pairs = {
        (26, 51): 38,
        (77, 102): 90,
        (0, 1): 0,
        (1, 2): 2,
        (2, 3): 2,
        (125, 126): 126,
        (127, 128): 127,
        (126, 128): 127,
    }
    for (low, high), mean in pairs.items():
        assert patches.mean_index(np.array([low, high, 0, 128])).tolist() == [mean, 64]
        assert patches.mean_index(np.array([0, 128, low, high])).tolist() == [64, mean]


# -- separators, order, nesting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, separate, separator, size", [
    (32000, False, 33024, 33025), (32000, True, 33024, 34049), (1024, False, 2048, 2049), (5000, True, 6024, 7049),
])  # fmt: skip
def test_separators(text, separate, separator, size):
    """One per timestep, right before the action, and of one id wherever the discrete values are."""
    v = Vocabulary(text, separate)
    assert (v.separator, v.size) == (separator, size)
    spec = TaskSpec(
        {"x": Spec("discrete", (2,), "int64", (0.0,), (1023.0,))},
        {"a": Spec("continuous", (2,), "float32", (-1.0,), (1.0,))},
    )
    x = np.array([[0, 1023], [5, 6], [1023, 0]])
    episode = Episode("t/t", {"x": x}, {"a": np.zeros((3, 2), np.float32)}, np.zeros(3, np.float32))
    tokens = TimestepCodec(spec, v, None).encode(episode)
    assert np.flatnonzero(tokens.ids == separator).tolist() == [2, 7, 12]
    assert np.flatnonzero(tokens.kinds == SEPARATOR).tolist() == [2, 7, 12]
    assert tokens.ids.reshape(3, 5)[:, 3:].tolist() == [[text + 512] * 2] * 3
    discrete = text + 1025 if separate else 0
    assert tokens.ids[:2].tolist() == [discrete, discrete + 1023]


def test_nested_keys():
    """Lexicographic on the path, at every depth, capitals before small letters, whatever order they were declared in."""
    box = lambda n: gymnasium.spaces.Discrete(n)  # noqa: E731
    space = gymnasium.spaces.Dict(
        {
            "zeta": box(10),
            "arm": gymnasium.spaces.Dict(
                {"wrist": box(10), "elbow": gymnasium.spaces.Dict({"b": box(10), "a": box(10)})}
            ),
            "Arm": box(10),
            "pair": gymnasium.spaces.Tuple((box(10), box(10))),
        }
    )
    by_hand = ["Arm", "arm/elbow/a", "arm/elbow/b", "arm/wrist", "pair/0", "pair/1", "zeta"]
    specs = specs_from_space(space, "observation")
    assert list(specs) == by_hand
    value = {"pair": (4, 5), "zeta": 6, "arm": {"wrist": 3, "elbow": {"b": 2, "a": 1}}, "Arm": 0}
    leaves = flatten(value, "observation")
    codec = TimestepCodec(TaskSpec(specs, {"action": Spec("discrete", (), "int64", (0.0,), (1.0,))}), V, None)
    assert codec.encode_observation(leaves).ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 33024]
    action = Spec("discrete", (), "int64", (0.0,), (9.0,))
    spec = TaskSpec({"x": action}, {k: action for k in sorted(["b/x", "a", "b/a"])})
    values = {"a": np.array([1]), "b/a": np.array([2]), "b/x": np.array([3])}
    tokens = TimestepCodec(spec, V, None).encode(Episode("t/t", {"x": np.array([7])}, values, np.zeros(1, np.float32)))
    assert tokens.ids.tolist() == [7, 33024, 1, 2, 3]


def test_tensors_are_row_major():
    spec = TaskSpec(
        {
            "m": Spec("discrete", (2, 3), "int64", (0.0,), (9.0,)),
            "t": Spec("continuous", (2, 2), "float32", (-np.inf,), (np.inf,)),
        },
        {"a": Spec("discrete", (2, 2), "int64", (0.0,), (9.0,))},
    )
    m = np.asfortranarray([[1, 2, 3], [4, 5, 6]])  # the order in memory does not matter
    observation = {"m": m, "t": np.array([[0.1, 1.0], [-0.1, 10.0]], np.float64)}
    tokens = TimestepCodec(spec, V, None).encode_observation(observation)
    assert tokens.ids.tolist() == [1, 2, 3, 4, 5, 6, 32632, 32744, 32391, 32860, 33024]
    assert tokens.kinds.tolist() == [DISCRETE] * 6 + [CONTINUOUS] * 4 + [SEPARATOR]
    leaves = {k: v[None] for k, v in observation.items()}
    episode = Episode("t/t", leaves, {"a": np.array([[[6, 7], [8, 9]]])}, np.zeros(1, np.float32))
    codec = TimestepCodec(spec, V, None)
    assert codec.encode(episode).ids[-4:].tolist() == [6, 7, 8, 9]
    assert codec.decode_action([6, 7, 8, 9])["a"].tolist() == [[6, 7], [8, 9]]


def test_rewards_are_no_tokens():
    """Other rewards, the same sequence and the same batch; the episode keeps them."""
    spec = TaskSpec(
        {"x": Spec("discrete", (), "int64", (0.0,), (9.0,))}, {"a": Spec("discrete", (), "int64", (0.0,), (9.0,))}
    )
    x = np.arange(5)
    episodes = [Episode("t/t", {"x": x}, {"a": x}, np.full(5, r, np.float32)) for r in (0.0, 7.0)]
    assert [e.total_return for e in episodes] == [0.0, 35.0]
    batches = []
    for episode in episodes:
        store = TokenStore.build("t/t", TimestepCodec(spec, V, None), [episode])
        batches.append(collate([Segment(0, ((0, 15),))], [store]))
    assert torch.equal(batches[0].ids, batches[1].ids) and len(batches[0].ids) == 15
