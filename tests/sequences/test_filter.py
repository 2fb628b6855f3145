"""The return filter: the expert's return by its definition, and what is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato.sequences.filter import expert_return, good_episodes


def test_by_hand():
    """30 episodes: windows of 3; the best three in a row are 9, 10, 11."""
    returns = np.array([1.0] * 20 + [9.0, 10.0, 11.0] + [2.0] * 7)
    assert expert_return(returns) == 10.0
    assert good_episodes(returns, 0.8).tolist() == [20, 21, 22]
    assert good_episodes(returns, 0.2).tolist() == [20, 21, 22, *range(23, 30)]


def test_the_order_of_collection_matters():
    """The same returns, the good ones apart: no window of three holds more than one of them."""
    returns = np.ones(30)
    returns[[2, 12, 22]] = 10.0
    assert expert_return(returns) == pytest.approx(4.0)


def test_windows_are_a_tenth_and_at_most_a_thousand():
    returns = np.zeros(20_000)
    returns[5000:6000] = 1.0  # a window of 2,000 would average one half
    assert expert_return(returns) == pytest.approx(1.0)
    assert expert_return(np.array([3.0, 5.0])) == 5.0  # fewer than ten episodes: one by one


def test_negative_returns_keep_the_expert():
    """80 % of -100 would be -80, which the expert itself does not reach."""
    assert good_episodes(np.array([-100.0, -119.0, -121.0, -300.0]), 0.8).tolist() == [0, 1]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_the_best_episode_is_always_kept(returns, share):
    kept = good_episodes(np.array(returns), share)
    assert int(np.argmax(returns)) in kept.tolist()
    assert len(good_episodes(np.array(returns), share / 2)) >= len(kept)


def test_no_episodes():
    with pytest.raises(ValueError, match="no episodes"):
        expert_return(np.zeros(0))
