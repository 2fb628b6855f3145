"""Golden values by hand, and round trips at both ends of every range."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gato.errors import RecipeError
from gato.tokens.values import Vocabulary, from_bins, mu_law, mu_law_inverse, scale_action, to_bins, unscale_action

V = Vocabulary(32000)


@pytest.mark.parametrize("x, y", [(0.1, 0.2362), (1, 0.4547), (10, 0.6806), (100, 0.9074), (256, 1.0), (0, 0.0)])
def test_mu_law_golden(x, y):
    """From F(x) = sgn(x) ln(100 |x| + 1) / ln(25601), worked with a pocket calculator."""
    assert mu_law(x) == pytest.approx(y, abs=5e-5)
    assert mu_law(-x) == -mu_law(x)


def test_bins_golden():
    assert to_bins(np.array([-1.0, 0.0, 1.0, -2.0, 5.0])).tolist() == [0, 512, 1023, 0, 1023]
    assert from_bins(np.array([0, 1023])).tolist() == [-1 + 1 / 1024, 1 - 1 / 1024]  # centres, not edges
    assert V.encode_continuous(np.array(0.0)) == 32512


def test_blocks_do_not_touch():
    assert V.encode_continuous(np.array(1.0)) == 33023 < V.separator == 33024  # +1.0 stays in its block
    assert V.encode_continuous(np.array(-1.0)) == 32000
    assert V.size == 33025
    apart = Vocabulary(32000, separate_discrete=True)
    assert apart.encode_discrete(np.array(0)) == 33025 and apart.size == 33025 + 1024
    assert V.encode_discrete(np.array(1023)) == 1023  # shared with text, as the paper says


def test_decoding_refuses_another_block():
    for token in (31999, 33024, 5):
        with pytest.raises(ValueError):
            V.decode_continuous(np.array([token]))


def test_round_trip_of_a_million_values():
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            rng.uniform(-1, 1, 500_000),
            rng.normal(0, 1e-6, 250_000),
            rng.choice([-1, 1], 250_000) * 10 ** rng.uniform(-12, 3, 250_000),
        ]
    )
    x = np.concatenate([x, [0.0, -0.0, 5e-324, -5e-324, 1.0, -1.0, 256.0, -256.0, 1e300, -1e300]])
    back = V.decode_continuous(V.encode_continuous(x))
    assert np.abs(back - np.clip(x, -1, 1)).max() <= 1 / 1024 + 1e-12  # half a bin
    ids = V.encode_continuous(mu_law(x))
    assert ids.min() >= 32000 and ids.max() <= 33023
    inside = np.abs(x) <= 256
    again = V.encode_continuous(mu_law(mu_law_inverse(V.decode_continuous(ids[inside]))))
    assert (again == ids[inside]).all()


@given(st.floats(-256, 256))
def test_mu_law_inverse(x):
    assert math.isclose(float(mu_law_inverse(mu_law(x))), x, rel_tol=1e-9, abs_tol=1e-12)


@settings(max_examples=60)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1))
def test_actions_are_scaled_from_their_bounds(low, span, share):
    high = low + span
    value = low + share * span
    y = scale_action(value, np.array(low), np.array(high))
    assert -1 - 1e-9 <= y <= 1 + 1e-9
    assert float(unscale_action(y, np.array(low), np.array(high))) == pytest.approx(
        value, abs=1e-9 * max(1, abs(low), span)
    )
    assert float(scale_action(0.5, np.array(-1.0), np.array(1.0))) == 0.5  # scaled, not companded


def test_small_vocabularies_are_refused():
    with pytest.raises(RecipeError):
        Vocabulary(1023)


@pytest.mark.filterwarnings("error")
def test_the_largest_floats_saturate_quietly():
    x = np.array([np.finfo(np.float64).max, -np.finfo(np.float64).max, np.finfo(np.float32).max])
    assert V.encode_continuous(mu_law(x)).tolist() == [33023, 32000, 33023]


def test_every_bin_is_its_own_centre():
    bins = np.arange(1024)
    assert np.array_equal(to_bins(from_bins(bins)), bins)
    edges = np.arange(1, 1024) / 512 - 1  # exact in binary
    assert np.array_equal(to_bins(edges), np.arange(1, 1024))  # an edge belongs to the bin above it
    assert np.array_equal(to_bins(edges - 1e-12), np.arange(1023))
    assert from_bins(bins).mean() == 0  # the centres are not half a bin low


@pytest.mark.parametrize("vocabulary", [Vocabulary(1024), Vocabulary(32000), Vocabulary(1024, separate_discrete=True)])
def test_the_separator_is_no_value(vocabulary):
    values = {*vocabulary.encode_discrete(np.arange(1024)).tolist()}
    numbers = {*vocabulary.encode_continuous(np.linspace(-1, 1, 5000)).tolist()}
    assert vocabulary.separator not in values | numbers and not values & numbers
    assert vocabulary.separator >= vocabulary.text  # nor a piece of text
    assert max(values | numbers | {vocabulary.separator}) == vocabulary.size - 1


def test_a_fixed_action_has_a_middle():
    """Bounds that leave no room (a joint that is locked) are no division by zero."""
    low = high = np.array([0.5])
    assert scale_action(np.array([0.5]), low, high).tolist() == [0.0]
    assert unscale_action(np.array([0.0]), low, high).tolist() == [0.5]
