"""Token tables in files: the same tokens as in memory, made once, verified, and opened by nothing but a draw."""

import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest

from gato.corpora import TEXT_SPEC, asked_of, questions_spec
from gato.episodes import Episode
from gato.episodes.store import Dataset, find_datasets
from gato.episodes.writer import DatasetWriter
from gato.errors import DatasetCorruptError, EpisodeError
from gato.rollouts.collect import collect
from gato.sequences import Mixture, ShelvedStore, TokenStore, collate, shelf
from gato.sequences.shelf import choose
from gato.tokens import TimestepCodec, Vocabulary
from gato.tokens.timestep import IMAGE
from gato.worlds import find

V = Vocabulary(1024)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelved")
    collect([find("dummy/count")], 12, folder, workers=0, progress=False)
    words = np.array(["return", "key", "value", "list", "of", "the"])
    rng = np.random.default_rng(0)
    with DatasetWriter(folder / "text" / "words", "text/words", TEXT_SPEC) as writer:
        for n in (5, 200, 40, 900, 3):
            text = " ".join(rng.choice(words, n))
            writer.add(Episode("text/words", {"text": [text]}, {}, np.zeros(1, np.float32)))
    return folder


def stores(data, tokenizer, where=None, **switches):
    """Of dummy/count and text/words: shelved in `where`, or in memory."""
    out = []
    for path in find_datasets([data]):
        dataset = Dataset.open(path)
        codec = TimestepCodec(dataset.spec, V, tokenizer, task=dataset.task, **switches)
        out.append(
            TokenStore.build(dataset.task, codec, dataset) if where is None else ShelvedStore(dataset, codec, where)
        )
    return out


def mixture(stores, **changes):
    fields = {
        "weights": {"*": 1.0},
        "slots": 3,
        "slot_tokens": 512,
        "window_tokens": 256,
        "prompt_share": 0.3,
        "seed": 5,
    }
    return Mixture(stores, **{**fields, **changes})


def same(a, b):
    assert a.groups == b.groups and a.num_tokens == b.num_tokens
    for name in (
        "ids",
        "positions",
        "image_rows",
        "image_index",
        "image_places",
        "patches",
        "queries",
        "targets",
        "kinds",
    ):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("most", (2**20, 3))
def test_the_table_in_files_is_the_table_in_memory(data, tokenizer, tmp_path, monkeypatch, most):
    monkeypatch.setattr(shelf, "TABLE_PATCHES", most)  # 3: the patches of a dataset do not fit into memory
    monkeypatch.setattr("gato.sequences.store.CHUNK_STEPS", 32)
    for held, filed in zip(stores(data, tokenizer), stores(data, tokenizer, tmp_path), strict=True):
        table = filed.table
        for name in ("starts", "episodes", "prompts"):
            assert np.array_equal(getattr(held, name), getattr(table, name)), name
        for name in ("ids", "kinds", "positions", "targets", "boxes"):
            assert np.array_equal(getattr(held.tokens, name), getattr(filed.tokens, name)), name
        image = held.tokens.patches >= 0
        assert np.array_equal(image, filed.tokens.patches >= 0)
        assert np.array_equal(
            held.tokens.table.rows[held.tokens.patches[image]], filed.tokens.table.rows[filed.tokens.patches[image]]
        )
        assert (filed.num_episodes, filed.num_timesteps, filed.num_tokens) == (
            held.num_episodes, held.num_timesteps, held.num_tokens,
        )  # fmt: skip
        if held.example is not None:
            assert np.array_equal(held.example.rewards, filed.example.rewards)


def test_nothing_is_opened_before_it_is_drawn_from(data, tokenizer, tmp_path):
    some = stores(data, tokenizer, tmp_path)
    mix = mixture(some, weights={"dummy": 1.0, "text": 0.0})
    assert not list(tmp_path.iterdir())  # the mixture is ready, and no token has been made
    assert 0 < some[0].target_share < 1
    mix.batch(0)
    made = [s.task for s in some if s.folder.exists()]
    assert made == ["dummy/count"]


def test_what_is_drawn_does_not_depend_on_which_tables_are_there(data, tokenizer, tmp_path):
    before = stores(data, tokenizer, tmp_path)
    for store in before:
        store.make()
    first = [mixture(before).batch(s) for s in range(4)]
    anew = stores(data, tokenizer, tmp_path / "other")
    for s, batch in enumerate(first):
        same(batch, mixture(anew).batch(s))
    copy = pickle.loads(pickle.dumps(mixture(before)))  # as a worker process gets it: paths, not tokens
    assert "table" not in copy.stores[0].__dict__
    same(first[2], copy.batch(2))


def test_shares_follow_from_outlines_as_from_tokens(data, tokenizer, tmp_path):
    held, filed = (mixture(s, prompt_share=0.0) for s in (stores(data, tokenizer), stores(data, tokenizer, tmp_path)))
    for mix in (held, filed):
        tokens = np.zeros(2)
        for s in range(150):
            for i in range(3):
                for segment in mix.slot(s, i):
                    tokens[segment.store] += len(segment)
        assert abs(tokens[0] / tokens.sum() - 0.5) < 0.04


@pytest.mark.parametrize("most", (1, None))
def test_questions_about_one_picture_have_their_share(data, tokenizer, tmp_path, most):
    """Their windows go back to the picture, and are longer for it than their timesteps: the outline knows."""
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "q", "questions/many", questions_spec(32, 32)) as writer:
        for n in rng.integers(4, 12, 80):
            said = [(f"which key is number {i}", "the red one") for i in range(n)]
            writer.add(asked_of("questions/many", rng.integers(256, size=(32, 32, 3), dtype=np.uint8), said))
    dataset = Dataset.open(tmp_path / "q")
    codec = TimestepCodec(dataset.spec, V, tokenizer, task=dataset.task)
    some = [stores(data, tokenizer, tmp_path / "s")[0], ShelvedStore(dataset, codec, tmp_path / "s")]
    mix = mixture(some, prompt_share=0.0, window_timesteps={"*": most})
    assert not (tmp_path / "s").exists()
    tokens = np.zeros(2)
    for s in range(150):
        for i in range(3):
            for segment in mix.slot(s, i):
                tokens[segment.store] += len(segment)
                if segment.store == 1:
                    assert some[1].tokens.kinds[segment.spans[0][0]] == IMAGE
    assert tokens / tokens.sum() == pytest.approx([0.5, 0.5], abs=0.03)
    held = TokenStore.build(dataset.task, codec, dataset)
    draws = [s.window(np.random.default_rng(7), 96, most) for s in (held, some[1]) for _ in range(40)]
    assert draws[:40] == draws[40:]


def test_a_table_belongs_to_one_content_one_codec_and_one_filter(data, tokenizer, tmp_path):
    (one, _), (other, _) = stores(data, tokenizer, tmp_path), stores(data, tokenizer, tmp_path, linear=True)
    names = {one.folder, other.folder, ShelvedStore(one.dataset, one.codec, tmp_path, keep=0.8).folder}
    copy = tmp_path / "copy"
    collect([find("dummy/count")], 3, copy, workers=0, progress=False)
    few = ShelvedStore(Dataset.open(find_datasets([copy])[0]), one.codec, tmp_path)
    collect([find("dummy/count")], 4, copy, workers=0, progress=False)
    more = ShelvedStore(Dataset.open(find_datasets([copy])[0]), one.codec, tmp_path)
    assert len(names | {few.folder, more.folder}) == 5
    assert more.table.num_episodes == 4


def test_the_filter_keeps_what_did_well(data, tokenizer, tmp_path):
    whole = stores(data, tokenizer, tmp_path)[0]
    kept = ShelvedStore(whole.dataset, whole.codec, tmp_path, keep=1.0)
    assert 0 < kept.num_episodes <= whole.num_episodes
    assert kept.table.num_timesteps == kept.num_timesteps == int(whole.dataset.lengths[kept.chosen].sum())
    segment_of = kept.window(np.random.default_rng(0), 64)
    assert segment_of[1] <= len(kept.tokens)


def test_episodes_set_aside_are_never_trained_on(data, tokenizer, tmp_path):
    """Every episode is on one side, and stays there when others join the dataset."""
    whole = stores(data, tokenizer, tmp_path)[0]
    sides = [ShelvedStore(whole.dataset, whole.codec, tmp_path, held_out=0.4, validation=v) for v in (False, True)]
    assert sorted(np.concatenate([s.chosen for s in sides]).tolist()) == list(range(12))
    assert 0 < sides[1].num_episodes < sides[0].num_episodes and sides[0].folder != sides[1].folder
    assert sum(s.table.num_timesteps for s in sides) == whole.num_timesteps
    first = tmp_path / "first"
    collect([find("dummy/count")], 5, first, workers=0, progress=False)
    few = ShelvedStore(Dataset.open(find_datasets([first])[0]), whole.codec, tmp_path, held_out=0.4, validation=True)
    assert few.chosen.tolist() == [i for i in sides[1].chosen if i < 5]
    with pytest.raises(EpisodeError):
        ShelvedStore(whole.dataset, whole.codec, tmp_path, held_out=0.0, validation=True)


@pytest.mark.parametrize("name", ("tokens.bin", "patches.bin", "starts.bin", "MANIFEST.json"))
def test_a_flipped_bit_is_an_error_before_it_is_learned_from(data, tokenizer, tmp_path, name):
    folder = stores(data, tokenizer, tmp_path)[0].make()
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / name).write_bytes(content)
    with pytest.raises(DatasetCorruptError) as error:
        mixture(stores(data, tokenizer, tmp_path)).batch(0)
    assert str(folder) in str(error.value.fix) and str(folder / name) in str(error.value.where)


def _slowly(data, tokenizer, where):
    def waiting(*args, **kwargs):
        for piece in encode(*args, **kwargs):
            yield piece
            time.sleep(60)

    encode, shelf.encode = shelf.encode, waiting
    stores(data, tokenizer, where)[0].make()


def test_a_maker_that_is_killed_leaves_nothing_that_counts(data, tokenizer, tmp_path):
    maker = multiprocessing.get_context("fork").Process(target=_slowly, args=(data, tokenizer, tmp_path))
    maker.start()
    store = stores(data, tokenizer, tmp_path)[0]
    ends = time.monotonic() + 30
    while not list(tmp_path.glob("*.tmp-*")) and time.monotonic() < ends:
        time.sleep(0.01)
    assert list(tmp_path.glob("*.tmp-*")) and not store.folder.exists()
    os.kill(maker.pid, signal.SIGKILL)
    maker.join()
    assert len(store.tokens) == len(stores(data, tokenizer)[0].tokens)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_two_processes_make_a_table_once(data, tokenizer, tmp_path):
    context = multiprocessing.get_context("fork")
    makers = [context.Process(target=lambda: stores(data, tokenizer, tmp_path)[0].make()) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert [maker.exitcode for maker in makers] == [0, 0, 0]
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1


def test_an_empty_dataset_says_so(tokenizer, tmp_path):
    count = find("dummy/count")
    for task, spec, again in (
        ("text/none", TEXT_SPEC, "gato data import"),
        (count.id, count.spec, "gato collect dummy"),
    ):
        with DatasetWriter(tmp_path / task, task, spec):
            pass
        dataset, codec = Dataset.open(tmp_path / task), TimestepCodec(spec, V, tokenizer)
        for store in (lambda: ShelvedStore(dataset, codec, tmp_path), lambda: TokenStore.build(task, codec, dataset)):  # noqa: B023
            with pytest.raises(EpisodeError) as error:
                store()
            assert error.value.fix.startswith(again)


def test_what_took_the_last_episode_is_said(data, tokenizer, tmp_path):
    whole = stores(data, tokenizer, tmp_path)[0]
    with pytest.raises(
        EpisodeError, match=r"of 12 episodes none is left: validation_share=0.999 sets 12 aside"
    ) as error:
        ShelvedStore(whole.dataset, whole.codec, tmp_path, held_out=0.999)
    assert error.value.fix == "another validation_share, or more episodes"
    with pytest.raises(EpisodeError, match=r"return_filter=1.0 keeps \d+, validation_share=0.999 sets \d+ aside"):
        choose(whole.dataset, True, 1.0, 0.999)


def test_a_collated_window_is_what_was_played(data, tokenizer, tmp_path):
    """The dummy's image names its step: the tokens of a window agree with the episode they came from."""
    store = stores(data, tokenizer, tmp_path)[0]
    mix = mixture([store], prompt_share=0.0, window_timesteps={"*": 1})
    segment = mix.slot(0, 0)[0]
    t = int(np.searchsorted(store.table.starts, segment.spans[0][0]))
    e = int(np.searchsorted(store.table.episodes, t, side="right")) - 1
    episode = store.dataset[e]
    alone = store.codec.encode(episode)
    at = alone.starts()[t - int(store.table.episodes[e])]
    batch = collate([segment], [store])
    assert np.array_equal(batch.ids[: len(segment)], alone.ids[at : at + len(segment)])
