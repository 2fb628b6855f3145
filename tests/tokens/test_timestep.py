"""The layout of a timestep, checked by hand on the counting world, and actions there and back."""

import numpy as np
import pytest

from gato.episodes import Episode, Spec, TaskSpec
from gato.errors import SpecError
from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.tokens import TimestepCodec, Vocabulary
from gato.tokens.timestep import ACTION_POSITION, CONTINUOUS, DISCRETE, IMAGE, NO_POSITION, SEPARATOR, TEXT
from gato.tokens.values import mu_law
from gato.worlds import find

V = Vocabulary(1024)


@pytest.fixture(scope="module")
def counting(tokenizer):
    task = find("dummy/count")
    episode = next(rollout([Unit(task.id, 7)], [LocalSlot()], ExpertPolicy()))
    return task, episode, TimestepCodec(task.spec, V, tokenizer, task=task.id)


def test_layout_by_hand():
    spec = TaskSpec(
        {
            "camera": Spec("image", (16, 32, 3), "uint8", (0.0,), (255.0,)),
            "joints": Spec("continuous", (2,), "float32", (-np.inf,), (np.inf,)),
            "switch": Spec("discrete", (), "int64", (3.0,), (6.0,)),
        },
        {
            "gripper": Spec("discrete", (), "int64", (0.0,), (1.0,)),
            "velocity": Spec("continuous", (2,), "float32", (-2.0,), (2.0,)),
        },
    )
    steps = 3
    episode = Episode(
        "t/t",
        {
            "camera": np.zeros((steps, 16, 32, 3), np.uint8),
            "joints": np.array([[0.1, -1], [0, 10], [256, 1e9]], np.float32),
            "switch": np.array([3, 4, 6]),
        },
        {"gripper": np.array([0, 1, 0]), "velocity": np.array([[-2, 2], [0, 1], [0.5, -1]], np.float32)},
        np.zeros(steps, np.float32),
    ).check(spec)
    codec = TimestepCodec(spec, V, None)
    tokens = codec.encode(episode)
    assert len(tokens) == steps * (2 + 2 + 1 + 1 + 3)  # L = T (k + m + n + 1 + A), the last step included
    assert tokens.starts().tolist() == [0, 9, 18, 27]
    assert tokens.kinds[:9].tolist() == [
        IMAGE,
        IMAGE,
        CONTINUOUS,
        CONTINUOUS,
        DISCRETE,
        SEPARATOR,
        DISCRETE,
        CONTINUOUS,
        CONTINUOUS,
    ]
    assert tokens.positions[:9].tolist() == [0, 1, 2, 3, 4, 5, ACTION_POSITION, ACTION_POSITION, ACTION_POSITION]
    assert tokens.targets[:9].tolist() == [False] * 6 + [True] * 3
    f = lambda x: 1024 + min(1023, int((float(mu_law(x)) + 1) / 2 * 1024))  # noqa: E731
    assert tokens.ids[2:5].tolist() == [f(np.float32(0.1)), f(-1), 0]
    assert tokens.ids[5] == 2048 == V.separator
    assert tokens.ids[6:9].tolist() == [0, 1024, 2047]  # -2 and +2 of [-2, 2]: both ends of the block
    assert tokens.ids[18 + 2 : 18 + 5].tolist() == [2047, 2047, 3]  # 256 and beyond saturate
    assert tokens.ids[18 + 7] == 1024 + int((0.25 + 1) / 2 * 1024)  # 0.5 of [-2, 2]: scaled, not companded
    assert (tokens.patches[:2] >= 0).all() and (tokens.patches[2:9] == -1).all()
    first = codec.encode_observation({k: v[0] for k, v in episode.observations.items()})
    assert np.array_equal(first.ids, tokens.ids[:6]) and np.array_equal(first.positions, tokens.positions[:6])


def test_actions_come_back(counting):
    _, episode, codec = counting
    tokens = codec.encode(episode)
    starts = tokens.starts()
    assert len(starts) - 1 == len(episode)
    legal = codec.legal()
    for t in range(len(episode)):
        ids = tokens.ids[starts[t + 1] - codec.action_tokens : starts[t + 1]]
        assert all(block.low <= i < block.high for i, block in zip(ids, legal, strict=True))
        back = codec.decode_action(ids)
        for path, spec in codec.spec.action.items():
            wanted = episode.actions[path][t]
            if spec.kind == "discrete":
                assert np.array_equal(back[path], wanted)
            else:
                low, high = spec.bounds()
                assert np.abs(back[path] - wanted).max() <= (high - low).max() / 1024 / 2 * 1.001
                assert (back[path] >= low.reshape(spec.shape)).all() and (back[path] <= high.reshape(spec.shape)).all()


def test_an_id_of_another_block_is_refused(counting):
    codec = counting[2]
    with pytest.raises(ValueError):
        codec.decode_action(np.full(codec.action_tokens, V.separator))


def test_keys_are_in_lexicographic_order(counting):
    task, episode, codec = counting
    assert list(task.spec.observation) == sorted(task.spec.observation)
    shuffled = Episode(task.id, dict(reversed(episode.observations.items())), episode.actions, episode.rewards)
    assert np.array_equal(codec.encode(shuffled).ids, codec.encode(episode).ids)


def test_documents(counting):
    text = counting[2].text
    spec = TaskSpec(
        {"image": Spec("image", (32, 32, 3), "uint8", (0.0,), (255.0,)), "text": Spec("text", (), "str")}, {}
    )
    codec = TimestepCodec(spec, V, text)
    tokens = codec.encode(
        Episode(
            "captions/x", {"image": np.zeros((1, 32, 32, 3), np.uint8), "text": ["step 5"]}, {}, np.zeros(1, np.float32)
        )
    )
    assert tokens.kinds[:4].tolist() == [IMAGE] * 4 and (tokens.kinds[4:] == TEXT).all()  # image first, no separator
    assert tokens.ids[-1] == text.eos_id and text.decode(tokens.ids[4:-1]) == "step 5"
    assert (tokens.positions == NO_POSITION).all()
    assert not tokens.targets[:4].any() and tokens.targets[4:].all()


def test_observations_longer_than_the_position_table():
    spec = TaskSpec(
        {"x": Spec("continuous", (512,), "float32", (-1.0,), (1.0,))},
        {"action": Spec("discrete", (), "int64", (0.0,), (1.0,))},
    )
    with pytest.raises(SpecError, match="512"):
        TimestepCodec(spec, V, None, task="big/one")
