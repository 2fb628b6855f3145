"""The layout of a timestep, checked by hand on the counting world, and actions there and back."""

import numpy as np
import pytest
from gymnasium import spaces

from gato.corpora import asked, asked_of, clip, clip_spec, page, page_spec, question_spec, questions_spec
from gato.episodes import Episode, Spec, TaskSpec, check_values, specs_from_space
from gato.errors import SpecError
from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.tokens import KINDS, TimestepCodec, Vocabulary
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


def test_the_counting_world_by_hand(counting):
    """Every token of every timestep, from the count alone: nothing shifted, nothing dropped, the last one included."""
    _, episode, codec = counting
    tokens = codec.encode(episode)
    starts = tokens.starts()
    first = int(episode.observations["image"][0, 0, 0, 0])
    assert len(starts) - 1 == len(episode) == len(episode.rewards)
    bin_of = lambda y: V.continuous + min(1023, max(0, int((y + 1) / 2 * 1024)))  # noqa: E731
    for t in range(len(episode)):
        count = first + t
        ramp = np.float32(count / 64 - 1)
        text = codec.text.encode(f"step {count}").tolist()
        observation = [
            *[count >> i & 1 for i in reversed(range(8))], count // 100, count // 10 % 10, count % 10,  # binary, digits
            *[0] * 4, count % 16,  # image (its rows have no id), level
            *[bin_of(float(mu_law(v))) for v in (ramp, -ramp, np.float32((count / 64 - 1) ** 2))],  # nested/ramp
            count % 3, *[bin_of(float(mu_law(v))) for v in (10 * count, -10 * count)], *text,  # sign, unbounded, text
        ]  # fmt: skip
        action = [count % 16, bin_of(ramp), bin_of(-ramp)]
        rows = slice(starts[t], starts[t + 1])
        assert tokens.ids[rows].tolist() == [*observation, V.separator, *action]
        n = len(observation)
        assert tokens.positions[rows].tolist() == [*range(n + 1), *[ACTION_POSITION] * 3]
        assert tokens.targets[rows].tolist() == [False] * (n - len(text)) + [True] * len(text) + [False] + [True] * 3
        patches = tokens.table.rows[tokens.patches[rows][tokens.kinds[rows] == IMAGE]]
        assert patches.shape == (4, 768) and (patches == count).all()
        seen = codec.encode_observation({k: v[t] for k, v in episode.observations.items()})
        assert seen.ids.tolist() == [*observation, V.separator]
        assert np.array_equal(seen.positions, tokens.positions[rows][: n + 1])
        assert np.array_equal(seen.boxes, tokens.boxes[rows][: n + 1])


def test_many_observations_are_each_one(counting):
    """Texts of different lengths side by side, as eight environments in one batch deliver them."""
    _, episode, codec = counting
    texts = ["a", "", "a much longer instruction than the others", "step 5"]
    leaves = {k: v[:4] for k, v in episode.observations.items()} | {"text": texts}
    together = codec.encode_observations(leaves, 4)
    starts = together.starts()
    assert len(set(np.diff(starts))) == 4
    for i in range(4):
        alone = codec.encode_observation({k: v[i] for k, v in leaves.items()})
        rows = slice(starts[i], starts[i + 1])
        assert np.array_equal(alone.ids, together.ids[rows])
        assert np.array_equal(alone.positions, together.positions[rows])
        assert np.array_equal(
            alone.table.rows[alone.patches[:15][-4:]], together.table.rows[together.patches[rows][11:15]]
        )


ENDS = {
    "bits": (Spec("discrete", (3,), "int8", (0.0,), (1.0,)), [0, 0, 0], [1, 1, 1]),
    "button": (Spec("discrete", (), "int64", (-2.0,), (5.0,)), -2, 5),
    "grid": (Spec("discrete", (2, 2), "int64", (0.0, 1.0, 2.0, 3.0), (9.0, 1.0, 1025.0, 4.0)), [[0, 1], [2, 3]], [[9, 1], [1025, 4]]),
    "throttle": (Spec("continuous", (), "float64", (0.0,), (1e6,)), 0.0, 1e6),
    "torque": (Spec("continuous", (2,), "float32", (-0.1, -3.0), (0.1, 7.0)), [-0.1, -3.0], [0.1, 7.0]),
}  # fmt: skip


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("names", [*([n] for n in ENDS), list(ENDS)])
def test_actions_at_both_ends(names, separate):
    spec = TaskSpec({"x": Spec("continuous", (1,), "float32", (-1.0,), (1.0,))}, {n: ENDS[n][0] for n in sorted(names)})
    codec = TimestepCodec(spec, Vocabulary(1024, separate), None)
    actions = {n: np.array([ENDS[n][1], ENDS[n][2]], ENDS[n][0].dtype) for n in names}
    episode = Episode("t/t", {"x": np.zeros((2, 1), np.float32)}, actions, np.zeros(2, np.float32)).check(spec)
    tokens = codec.encode(episode)
    assert len(tokens) == 2 * (2 + codec.action_tokens)
    for t, rows in enumerate((slice(2, 2 + codec.action_tokens), slice(-codec.action_tokens, None))):
        ids = tokens.ids[rows]
        assert all(block.low <= i < block.high for i, block in zip(ids, codec.legal(), strict=True))
        back = codec.decode_action(ids)
        assert list(back) == sorted(names)
        for n in names:
            leaf, wanted = ENDS[n][0], episode.actions[n][t]
            assert back[n].dtype == leaf.dtype and back[n].shape == leaf.shape
            low, high = (b.reshape(leaf.shape) for b in leaf.bounds())
            slack = 0 if leaf.kind == "discrete" else (high - low) / 2048 * 1.001  # half a bin
            assert (np.abs(back[n].astype(float) - wanted) <= slack).all()
            assert (back[n] >= low.astype(leaf.dtype)).all() and (back[n] <= high.astype(leaf.dtype)).all()
    values = codec.decode_action(ids, [1.0] * codec.action_tokens)  # a mean over the bins may be the very end
    for n in names:
        if ENDS[n][0].kind == "continuous":
            assert np.array_equal(values[n], np.asarray(ENDS[n][2], ENDS[n][0].dtype))


def test_ids_of_other_blocks_are_no_action():
    spec = TaskSpec(
        {"x": Spec("continuous", (1,), "float32", (-1.0,), (1.0,))},
        {"a": Spec("discrete", (), "int64", (0.0,), (3.0,)), "b": Spec("continuous", (), "float32", (-1.0,), (1.0,))},
    )
    codec = TimestepCodec(spec, V, None)
    assert codec.decode_action([3, 1024])["a"] == 3
    for ids in ([4, 1024], [-1, 1024], [1024, 1024], [3, 1023], [3, V.separator], [3, 3]):
        with pytest.raises(ValueError):
            codec.decode_action(ids)


def test_a_text_that_does_not_fit_is_refused_when_it_comes(counting):
    codec = counting[2]
    observation = {k: v[0] for k, v in counting[1].observations.items()}
    with pytest.raises(SpecError, match="512"):
        codec.encode_observation(observation | {"text": "a b c d e f g h " * 100})
    codec.encode_observation(observation)  # and the next one is fine


def test_action_position_is_a_switch(counting):
    task, episode, codec = counting
    without = TimestepCodec(task.spec, V, codec.text, action_position=False).encode(episode)
    with_it = codec.encode(episode)
    differs = with_it.positions != without.positions
    assert (
        np.array_equal(differs, with_it.positions == ACTION_POSITION)
        and (without.positions[differs] == NO_POSITION).all()
    )


def test_textual_observations_are_targets_by_a_switch(counting):
    task, episode, codec = counting
    tokens = TimestepCodec(task.spec, V, codec.text, text_targets=False).encode(episode)
    assert np.array_equal(tokens.targets, tokens.positions == ACTION_POSITION)


def test_a_task_token_opens_every_timestep(counting):
    task, episode, codec = counting
    plain = codec.encode(episode)
    named_codec = TimestepCodec(task.spec, V, codec.text, task_index=7)
    named = named_codec.encode(episode)
    first = named.starts()[:-1]
    assert (named.ids[first] == V.encode_discrete(np.array(7))).all() and (named.kinds[first] == DISCRETE).all()
    assert (named.positions[first] == 0).all() and not named.targets[first].any()
    rest = np.setdiff1d(np.arange(len(named)), first)
    assert np.array_equal(named.ids[rest], plain.ids) and len(named) == len(plain) + len(episode)
    assert named_codec.fixed_tokens == codec.fixed_tokens + 1


def test_observations_are_targets_by_a_switch(counting):
    task, episode, codec = counting
    tokens = TimestepCodec(task.spec, V, codec.text, observation_targets=True).encode(episode)
    values = np.isin(tokens.kinds, (DISCRETE, CONTINUOUS))
    assert np.array_equal(tokens.targets, values | (tokens.kinds == TEXT))  # never a patch, never a separator


def test_linear_bins_by_hand():
    """Of [-10, 10]: 0 is the middle edge, 5 three quarters, and what lies beyond is clipped."""
    spec = TaskSpec(
        {"x": Spec("continuous", (4,), "float32", (-np.inf,), (np.inf,))},
        {"action": Spec("discrete", (), "int64", (0.0,), (1.0,))},
    )
    tokens = TimestepCodec(spec, V, None, linear=True).encode_observation(
        {"x": np.array([0.0, 5.0, -10.0, 99.0], np.float32)}
    )
    assert (tokens.ids[:4] - V.continuous).tolist() == [512, 768, 0, 1023]


def test_only_the_answer_is_a_target(counting):
    """`Q: … A:` reads on into the reply, which alone is predicted and ends; the switch adds the question (figure 2)."""
    text = counting[2].text
    episode = asked("questions/x", np.zeros((16, 16, 3), np.uint8), "what is red?", "the ball")
    spec = question_spec(16, 16)
    question, reply = text.encode("Q: what is red? A:").tolist(), [*text.encode(" the ball").tolist(), text.eos_id]
    tokens = TimestepCodec(spec, V, text).encode(episode)
    assert tokens.ids.tolist() == [0, *question, *reply]
    assert tokens.targets.tolist() == [False] * (1 + len(question)) + [True] * len(reply)
    both = TimestepCodec(spec, V, text, question_targets=True).encode(episode)
    assert both.targets.tolist() == [False] + [True] * (len(question) + len(reply))


# -- pages and clips --------------------------------------------------------------------------------------------------


def image(value):
    return np.full((32, 48, 3), value, np.uint8)


def test_several_questions_share_a_picture(counting):
    """It stands before the first alone. Encoded beside one another, each for itself, they are what a single question is."""
    text = counting[2].text
    picture = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)
    episode = asked_of("questions/x", picture, [("what is red?", "the ball"), ("is it?", "no"), ("how many?", "two")])
    codec = TimestepCodec(questions_spec(16, 32), V, text)
    tokens = codec.encode(episode)
    assert [(tokens.kinds[tokens.steps == t] == IMAGE).sum() for t in range(3)] == [2, 0, 0]
    assert [tokens.ids[tokens.steps == t][-1] for t in range(3)] == [text.eos_id] * 3
    said = text.encode(" no").tolist()
    assert tokens.targets[tokens.steps == 1].tolist() == [False] * len(text.encode("Q: is it? A:")) + [True] * (
        len(said) + 1
    )
    leaves = {path: leaf for path, leaf in episode.observations.items() if path != "marks"}
    beside = codec.encode_observations(leaves, 3)
    alone = TimestepCodec(question_spec(16, 32), V, text).encode(asked("questions/x", picture, "is it?", "no"))
    np.testing.assert_array_equal(beside.ids[beside.steps == 1], alone.ids)
    np.testing.assert_array_equal(beside.targets[beside.steps == 1], alone.targets)


def test_a_page_is_its_texts_and_images_in_order_with_one_end_mark(tokenizer):
    codec = TimestepCodec(page_spec(32, 48), Vocabulary(tokenizer.size), tokenizer)
    made = page("pages/x", ["first", image(1), "one", "two", image(2), image(3), "last"], (32, 48)).check(codec.spec)
    tokens = codec.encode(made)
    kinds = [KINDS[k] for k in tokens.kinds]
    runs = [k for i, k in enumerate(kinds) if not i or kinds[i - 1] != k]
    assert runs == ["text", "image", "text", "image", "text"] and kinds.count("image") == 3 * 6
    words = tokens.kinds == KINDS.index("text")
    assert tokenizer.decode(tokens.ids[words]) == "firstone\n\ntwolast"
    assert (tokens.ids[words] == tokenizer.eos_id).sum() == 1 and tokens.ids[-1] == tokenizer.eos_id
    np.testing.assert_array_equal(tokens.targets, words)
    assert (tokens.positions == NO_POSITION).all()
    assert tokens.starts().tolist()[-1] == len(tokens) and len(tokens.starts()) == len(made) + 1
    shown = tokens.table.rows[tokens.patches[~words]].reshape(3, 6, -1)
    assert [set(frame.ravel().tolist()) for frame in shown] == [{1}, {2}, {3}]
    np.testing.assert_array_equal(tokens.boxes[~words].reshape(3, 6, 4)[0], tokens.boxes[~words].reshape(3, 6, 4)[2])


def test_a_page_may_end_with_an_image_and_have_none(tokenizer):
    codec = TimestepCodec(page_spec(32, 48), Vocabulary(tokenizer.size), tokenizer)
    ends = codec.encode(page("pages/x", ["a", image(1)], (32, 48)))
    assert ends.ids[-1] == tokenizer.eos_id and len(ends) == len(tokenizer.encode("a")) + 6 + 1
    words = codec.encode(page("pages/x", ["a"], (32, 48)))
    assert set(words.kinds.tolist()) == {TEXT} and words.ids[-1] == tokenizer.eos_id
    assert page("pages/x", [], (32, 48)) is None


def test_a_clip_is_its_frames_in_order(tokenizer):
    codec = TimestepCodec(clip_spec(3, 32, 48), Vocabulary(tokenizer.size), tokenizer)
    assert codec.fixed_tokens == 3 * 6
    tokens = codec.encode(clip("clips/x", np.stack([image(v) for v in (7, 8, 9)]), "up").check(codec.spec))
    frames = tokens.table.rows[tokens.patches[:18]].reshape(3, -1)
    assert [set(frame.tolist()) for frame in frames] == [{7}, {8}, {9}]
    np.testing.assert_array_equal(tokens.boxes[:6], tokens.boxes[12:18])
    assert not tokens.targets[:18].any() and tokens.targets[18:].all()


def test_a_stack_of_frames_in_a_world_is_several_images():
    spec = TaskSpec(
        specs_from_space(spaces.Box(0, 255, (4, 32, 48, 3), np.uint8), "observation"),
        specs_from_space(spaces.Discrete(3), "action"),
    )
    assert spec.observation["observation"].kind == "image"
    codec = TimestepCodec(spec, Vocabulary(1024), None)
    tokens = codec.encode_observation({"observation": np.stack([image(v) for v in range(4)])})
    assert tokens.positions.tolist() == list(range(4 * 6 + 1))  # local positions go on through the frames


def test_a_stack_of_grey_frames_is_all_seen():
    for shape in ((4, 32, 48), (32, 48, 4)):
        box = spaces.Box(0, 255, shape, np.uint8)
        spec = TaskSpec(specs_from_space(box, "observation"), specs_from_space(spaces.Discrete(2), "action"))
        codec = TimestepCodec(spec, V, None)
        assert codec.fixed_tokens == 4 * 6 + 2
        frames = np.zeros(shape, np.uint8)
        newest = frames.copy()
        newest[(3,) if shape[0] == 4 else (..., 3)] = 200
        seen = [
            codec.encode_observation(check_values(spec.observation, {"observation": f}, "")) for f in (frames, newest)
        ]
        assert all(len(tokens) == 25 for tokens in seen)
        changed = [
            (seen[0].table.rows[seen[0].patches[i]] != seen[1].table.rows[seen[1].patches[i]]).any() for i in range(24)
        ]
        assert changed == [False] * 18 + [True] * 6


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64])
def test_whole_numbers_without_bounds_are_too_many(dtype):
    widest = np.iinfo(dtype)
    with pytest.raises(SpecError, match="possibilities"):
        specs_from_space(spaces.Box(widest.min, widest.max, (2,), dtype), "observation")
