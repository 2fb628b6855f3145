"""Recordings in the layouts of Minari, LeRobot v3 and JAT: there, back, and damaged in every way that was thought of."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gato import cli
from gato.episodes import Dataset, find_datasets
from gato.episodes.exchange import Choices, detect, export_minari, import_recordings, open_recordings
from gato.episodes.record import write_episode
from gato.episodes.repair import verify
from gato.errors import DataError, DatasetMissingError, OutputExistsError, SpecError, UnknownNameError, UsageError
from gato.rollouts import CLEAN, Noise
from gato.rollouts.collect import collect
from gato.worlds import find

sys.path.insert(0, str(Path(__file__).parent))
from make_recordings import BRIGHT, STEPS, balance, make_jat, make_lerobot, make_minari, steer

pytest.importorskip("minari")
pytest.importorskip("h5py")
pytest.importorskip("av")
pytest.importorskip("datasets")


def imported(*arguments, **options):
    *_, done = import_recordings(*arguments, **options)
    return done


def same(a, b):
    """Bit for bit, types included."""
    for name in ("observations", "actions", "executed"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        for path in one or {}:
            if isinstance(one[path], list):
                assert one[path] == other[path]
            else:
                assert one[path].dtype == other[path].dtype and one[path].tobytes() == other[path].tobytes(), path
    assert a.rewards.tobytes() == b.rewards.tobytes()


# -- Minari -----------------------------------------------------------------------------------------------------------


def test_ours_to_minari_and_back_is_the_same_bit_for_bit(tmp_path, monkeypatch):
    """Every modality, nested leaves, text, images; with targets that differ from what was executed."""
    collect([find("dummy/count")], 6, tmp_path / "own", 0, noise=[CLEAN, Noise(0.3)], progress=False)
    own = Dataset(tmp_path / "own/dummy/count")
    folder = export_minari(own.folder, tmp_path / "minari")
    assert detect(folder) == "minari"
    back = Dataset(imported("minari", folder, tmp_path / "back").folder)
    assert (back.task, back.spec, len(back)) == (own.task, own.spec, 6)
    assert {e.executed is None for e in own} == {True, False}
    for a, b in zip(own, back, strict=True):
        same(a, b)
        assert a.info == b.info
    # And Minari itself reads it, as what it is: the actions are those that were executed.
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    theirs = minari.load_dataset("dummy/count-v0")
    assert theirs.total_steps == own.num_timesteps
    for a, b in zip(own, theirs, strict=True):
        assert np.array_equal(b.actions["stick"], (a.executed or a.actions)["stick"])
        assert np.array_equal(b.observations["image"][:-1], a.observations["image"])
        assert b.observations["text"] == [*a.observations["text"], a.observations["text"][-1]]
        assert bool(b.terminations[-1]) == a.info["terminated"] and not b.terminations[:-1].any()
        assert b.terminations[-1] or b.truncations[-1]
    with pytest.raises(OutputExistsError):
        export_minari(own.folder, tmp_path / "minari")
    with pytest.raises(UsageError, match="no name"):
        export_minari(own.folder, tmp_path / "other", "a name with spaces")
    assert not (tmp_path / "other").exists()


def test_somebody_elses_minari_becomes_a_task_of_ours(tmp_path):
    path = make_minari(tmp_path)
    world = find("gym/CartPole-v1")
    done = imported("minari", path, tmp_path / "data", task=world.id, spec=world.spec)
    dataset = Dataset(done.folder)
    assert (dataset.task, dataset.spec, len(dataset)) == (world.id, world.spec, 4)
    for seed, episode in enumerate(dataset):
        raw = balance(seed)
        assert np.array_equal(episode.observations["observation"], raw["observations"][:-1])
        assert np.array_equal(episode.actions["action"], raw["actions"]) and episode.executed is None
        assert episode.info["seed"] == seed and episode.info["terminated"] == bool(raw["terminations"][-1])
    assert Dataset(imported("minari", path, tmp_path / "data").folder).task == "minari/cartpole-thumb-v0"
    with pytest.raises(SpecError, match="none of the recorded observations"):
        imported("minari", path, tmp_path / "other", task="dummy/count", spec=find("dummy/count").spec)
    with pytest.raises(DataError, match="no info 'bot'"):
        imported("minari", path, tmp_path / "other", Choices(target="bot"))


def test_minari_that_names_an_environment_in_place_of_spaces_is_not_run(tmp_path):
    path = make_minari(tmp_path)
    file = path / "data" / "metadata.json"
    record = json.loads(file.read_text())
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    record["env_spec"] = json.dumps({**json.loads(record["env_spec"]), "entry_point": "evil:Env"})
    file.write_text(json.dumps({k: v for k, v in record.items() if not k.endswith("_space")}))
    with pytest.raises(DataError, match="does not say its observation space"):
        imported("minari", path, tmp_path / "data")
    assert not ran.exists()


def test_export_into_a_relative_folder(tmp_path, monkeypatch):
    write_episode(tmp_path / "own", np.zeros((5, 2)), np.zeros((5, 1)), np.ones(5), task="lab/robot")
    monkeypatch.chdir(tmp_path)
    folder = export_minari("own", Path("minari"))
    assert folder == tmp_path / "minari/lab/robot-v0" and len(Dataset(imported("minari", folder, "back").folder)) == 1


def test_facts_that_nobody_said_do_not_come_back_from_minari(tmp_path):
    own = tmp_path / "own"
    for info in ({}, {"terminated": True}, {"terminated": False}, {"truncated": True, "success": False, "note": None}):
        write_episode(own, np.zeros((5, 2)), np.zeros((5, 1)), np.ones(5), task="lab/robot", info=info)
    back = imported("minari", export_minari(own, tmp_path / "minari"), tmp_path / "back").folder
    assert [e.info for e in Dataset(back)] == [e.info for e in Dataset(own)]


def test_a_text_that_minari_cannot_hold(tmp_path):
    for said in ("fine", "a\0b"):
        seen = {"goal": [said] * 5}
        write_episode(tmp_path / "own", seen, np.zeros((5, 1)), np.ones(5), task="lab/robot")
    with pytest.raises(DataError, match=r"null character in the text goal.*episode 1"):
        export_minari(tmp_path / "own", tmp_path / "minari")
    assert not (tmp_path / "minari").exists()


def test_minari_actions_without_bounds_get_those_of_the_data(tmp_path):
    from gymnasium.spaces import Box
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    path = tmp_path / "reach-v0"
    (path / "data").mkdir(parents=True)
    endless = Box(-np.inf, np.inf, (2,))
    storage = MinariStorage.new(path / "data", endless, endless, data_format="hdf5")
    storage.update_metadata({"dataset_id": "reach-v0"})
    actions = np.stack([np.linspace(5, 10, 6), np.linspace(-3, -2, 6)], 1).astype(np.float32)
    actions[1, 0] = np.nan  # its episode is left out, and says nothing of the bounds
    for i, values in enumerate((actions, actions[2:])):
        ends = np.arange(len(values)) == len(values) - 1
        seen, rewards = np.zeros((len(values) + 1, 2), np.float32), np.ones(len(values))
        storage.update_episodes(
            [
                EpisodeBuffer(
                    id=i, observations=seen, actions=values, rewards=rewards, terminations=ends, truncations=~ends
                )
            ]
        )
    done = imported("minari", path, tmp_path / "data", on_bad="skip")
    assert done.episodes == 1
    np.testing.assert_allclose(Dataset(done.folder).spec.action["action"].bounds(), [[5, -3], [10, -2]])


# -- LeRobot ----------------------------------------------------------------------------------------------------------


def test_lerobot_frames_are_found_by_their_time(tmp_path):
    """Every frame, of the film and of the table, is as bright as its step is late, in every episode of both files."""
    path = make_lerobot(tmp_path, episodes=5)
    assert detect(path) == "lerobot"
    dataset = Dataset(imported("lerobot", path, tmp_path / "data", task="lab/steer").folder)
    assert [str(s) for s in dataset.spec.observation.values()] == ["image 48×64×3", "image 16×16×3", "continuous 4"]
    assert len(dataset) == 5 and verify(dataset.folder).ok
    for number, episode in enumerate(dataset):
        states, actions, rewards = steer(number)
        assert np.array_equal(episode.observations["state"], states)
        assert np.array_equal(episode.actions["action"], actions) and np.array_equal(episode.rewards, rewards)
        bright = BRIGHT * np.arange(1, STEPS + 1)
        assert np.abs(episode.observations["images/top"].mean((1, 2, 3)) - bright).max() < 2
        assert np.array_equal(episode.observations["images/wrist"][:, 0, 0, 0], bright)
        assert episode.info["terminated"] and episode.info["instruction"] == "Push the dot to its goal."
        assert episode.success == bool((rewards > -0.05).any())


def test_lerobot_instructions_sizes_and_bounds(tmp_path):
    path = make_lerobot(tmp_path, tasks=("Push it.", "Pull it."))
    choices = Choices(size=(32, 32), action_bounds=(-2, 2))
    dataset = Dataset(imported("lerobot", path, tmp_path / "data", choices, limit=3).folder)
    assert len(dataset) == 3 and [e.observations["instruction"][0] for e in dataset] == [
        "Push it.",
        "Pull it.",
        "Push it.",
    ]
    assert dataset[0].observations["images/top"].shape == (STEPS, 32, 32, 3)
    assert dataset.spec.action["action"].low == (-2.0,) and dataset.task == "lerobot/helm"
    with pytest.raises(OutputExistsError):  # one dataset keeps to one way of reading
        imported("lerobot", path, tmp_path / "data", Choices(action_bounds=(-2, 2)))
    assert imported("lerobot", path, tmp_path / "data", choices).added == 1


def test_a_split_of_what_has_none(tmp_path):
    path = make_lerobot(tmp_path, episodes=9)
    parts = [
        imported("lerobot", path, tmp_path / name, Choices(split=name)).folder for name in ("train", "heldout", "all")
    ]
    train, rest, whole = ({e.number for e in Dataset(folder).index} for folder in parts)
    assert train and rest and not train & rest and train | rest == whole == set(range(9))


# -- JAT --------------------------------------------------------------------------------------------------------------


def test_jat(tmp_path):
    paths = make_jat(tmp_path)
    for path in paths.values():
        assert detect(path) == "jat"
        imported("jat", path, tmp_path / "data")
    walk = Dataset(tmp_path / "data/jat/mujoco-steer")
    for number, episode in enumerate(walk):
        states, actions, rewards = steer(number, 8 + number)
        assert np.array_equal(episode.observations["continuous"], states)
        assert np.array_equal(episode.actions["action"], 3 * actions) and np.array_equal(episode.rewards, rewards)
    low, high = walk.spec.action["action"].bounds()
    rest = Dataset(imported("jat", paths["mujoco-steer"], tmp_path / "test", Choices(split="heldout")).folder)
    reached = np.concatenate([e.actions["action"] for e in (*walk, *rest)])
    assert np.array_equal(low, reached.min(0)) and np.array_equal(high, reached.max(0))
    assert (len(walk), len(rest)) == (3, 1) and walk.spec == rest.spec
    assert len(open_recordings("jat", paths["mujoco-steer"], Choices(split="all"))) == 4
    rooms = Dataset(tmp_path / "data/jat/babyai-steer")
    assert rooms[1].observations["text"][0] == "go to the b" and rooms.spec.observation["discrete"].size == 6
    games = Dataset(tmp_path / "data/jat/atari-steer")
    assert np.array_equal(games[0].observations["image"][:, 0, 0], np.repeat(10 * np.arange(8)[:, None], 4, 1))
    assert np.array_equal(games[2].actions["action"], np.arange(10))


# -- damage -----------------------------------------------------------------------------------------------------------


def _shorten(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _edit_table(file, change):
    pq.write_table(change(pq.read_table(file)), file)


def _film(root):
    return root / "videos/observation.images.top/chunk-000/file-001.mp4"


def _replace(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


def _late(table):
    times = table["timestamp"].to_pylist()
    return _replace(table, "timestamp", [t + 0.03 if i == STEPS + 4 else t for i, t in enumerate(times)])


def _without_a_row(table):
    return pa.concat_tables([table.slice(0, 5), table.slice(6)])


DATA = "data/chunk-000/file-001.parquet"
LEROBOT_DAMAGE = {  # what is done, what the message says, where it points, which episodes are lost
    "no film": (lambda r: _film(r).unlink(), "film is missing", "file-001.mp4 episode 2", [2, 3]),
    "half a film": (lambda r: _shorten(_film(r)), "", "file-001.mp4 episode 2", [2, 3]),
    "a frame that is not there": (lambda r: _edit_table(r / DATA, _late), "no frame is shown at", "file-001.mp4 episode 3", [3]),
    "no table": (lambda r: (r / DATA).unlink(), "file is missing", "file-001.parquet", [2, 3]),
    "half a table": (lambda r: _shorten(r / DATA), "not a readable Parquet", "file-001.parquet", [2, 3]),
    "a row too few": (lambda r: _edit_table(r / DATA, _without_a_row), "11 frames, the list", "row 0 episode 2", [2]),
    "rows in disorder": (
        lambda r: _edit_table(r / DATA, lambda t: _replace(t, "frame_index", [*t["frame_index"].to_pylist()[:-1], 3])),
        "frame 3 where 11 belongs", "row 23 episode 3", [3],
    ),
    "no number": (
        lambda r: _edit_table(r / DATA, lambda t: _replace(t, "observation.state", [[np.nan] * 4, *t["observation.state"].to_pylist()[1:]])),
        "NaN", "file-001.parquet episode 2", [2],
    ),
    "no image": (
        lambda r: _edit_table(r / DATA, lambda t: _replace(t, "observation.images.wrist", [{"bytes": b"\x89PNG", "path": None}, *t["observation.images.wrist"].to_pylist()[1:]])),
        "image cannot be decoded", "observation.images.wrist frame 0", [2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEROBOT_DAMAGE)
def test_damaged_lerobot_is_named_and_the_rest_can_be_had(tmp_path, name):
    damage, what, where, lost = LEROBOT_DAMAGE[name]
    path = make_lerobot(tmp_path)
    damage(path)
    with pytest.raises(DataError) as raised:
        imported("lerobot", path, tmp_path / "data")
    assert what in raised.value.what and where in raised.value.where
    with pytest.raises(DatasetMissingError):  # what is half imported is no dataset
        find_datasets(tmp_path / "data")
    done = imported("lerobot", path, tmp_path / "data", on_bad="skip")
    dataset = Dataset(done.folder)
    assert done.skipped == len(lost) and sorted(dataset.failed) == lost
    assert [e.number for e in dataset.index] == [n for n in range(4) if n not in lost]
    assert all(where.split(" episode")[0] in dataset.failed[n] for n in lost[:1])


def test_lerobot_of_another_version_or_without_its_head(tmp_path):
    path = make_lerobot(tmp_path)
    file = path / "meta" / "info.json"
    whole = file.read_text()
    for text, what in (
        (whole.replace('"v3.0"', '"v2.1"'), "v2.1; v3 is read here"), (whole[:100], "cannot be read"),
        (whole.replace('"fps"', '"fqs"'), "it lacks 'fps'"), (whole.replace('"action"', '"acting"'), "no feature is an action"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(DataError, match=what):
            imported("lerobot", path, tmp_path / "data")
    file.write_text(whole)
    for name, what in (
        ("meta/tasks.parquet", "missing"),
        ("meta/episodes/chunk-000/file-000.parquet", "no episodes are listed"),
    ):
        (path / name).rename(tmp_path / "aside")
        with pytest.raises(DataError, match=what):
            imported("lerobot", path, tmp_path / "data")
        (tmp_path / "aside").rename(path / name)
    assert not (tmp_path / "data").exists()


def _edit_info(root, change):
    file = root / "meta/info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))


def _without(root, column):
    for file in (root / "data").rglob("*.parquet"):
        _edit_table(file, lambda t: t.drop_columns(column))


LEROBOT_NONSENSE = {  # what is done, what the message says, where it points
    "no action": (lambda r: _without(r, "action"), "no column action", "file-000.parquet"),
    "no state": (lambda r: _without(r, "observation.state"), "no column observation.state", "file-000.parquet"),
    "no time": (lambda r: _without(r, "timestamp"), "no column timestamp", "file-000.parquet"),
    "no number": (lambda r: _without(r, "episode_index"), "no column episode_index", "file-000.parquet"),
    "no type": (lambda r: _edit_info(r, lambda i: i["features"]["action"].pop("dtype")), "feature action of dtype None", "info.json"),
    "no shape": (lambda r: _edit_info(r, lambda i: i["features"]["action"].pop("shape")), "and shape None", "info.json"),
    "another shape": (lambda r: _edit_info(r, lambda i: i["features"]["action"].update(shape=[7])), "no action of shape (7,)", "file-000.parquet"),
    "no feature": (lambda r: _edit_info(r, lambda i: i["features"].update(action=3)), "feature action", "info.json"),
    "a type that is none": (
        lambda r: _edit_info(r, lambda i: i["features"]["observation.state"].update(dtype="floaty")),
        "type floaty cannot become tokens", "observation.state",
    ),
    "a path that is none": (lambda r: _edit_info(r, lambda i: i.update(data_path="data/{foo}.parquet")), "KeyError: 'foo'", "info.json"),
    "a film's path that is none": (lambda r: _edit_info(r, lambda i: i.update(video_path="{0}.mp4")), "IndexError", "info.json"),
    "a list without lengths": (
        lambda r: _edit_table(r / "meta/episodes/chunk-000/file-000.parquet", lambda t: t.drop_columns("length")),
        "no column length", "file-000.parquet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEROBOT_NONSENSE)
def test_lerobot_that_makes_no_sense_is_named(tmp_path, name):
    damage, what, where = LEROBOT_NONSENSE[name]
    path = make_lerobot(tmp_path)
    damage(path)
    with pytest.raises(DataError) as raised:
        imported("lerobot", path, tmp_path / "data")
    assert what in raised.value.what and where in raised.value.where
    with pytest.raises(DataError):
        imported("lerobot", path, tmp_path / "data", on_bad="skip")
    assert not [*(tmp_path / "data").glob("*/*")]  # nothing is left of what held nothing


def test_a_lerobot_episode_of_no_frames_is_left_out(tmp_path):
    path = make_lerobot(tmp_path)
    listed = path / "meta/episodes/chunk-000/file-000.parquet"
    _edit_table(path / DATA, lambda t: t.slice(0, STEPS))
    _edit_table(listed, lambda t: _replace(t, "length", [STEPS, STEPS, STEPS, 0]))
    with pytest.raises(DataError, match=r"no frames.*episode 3"):
        imported("lerobot", path, tmp_path / "data")
    assert imported("lerobot", path, tmp_path / "data", on_bad="skip").skipped == 1


def test_what_was_left_out_is_tried_again(tmp_path):
    path = make_lerobot(tmp_path)
    whole = Dataset(imported("lerobot", path, tmp_path / "whole").folder)
    (path / DATA).rename(tmp_path / "aside")
    for added in (2, 0):
        done = imported("lerobot", path, tmp_path / "data", on_bad="skip")
        assert (done.episodes, done.added, done.skipped) == (2, added, 2)
    assert not [*(done.folder / "pending").iterdir()] and sorted(Dataset(done.folder).failed) == [2, 3]
    (tmp_path / "aside").rename(path / DATA)
    done = imported("lerobot", path, tmp_path / "data", on_bad="skip")
    assert (done.episodes, done.added, done.skipped) == (4, 2, 0) and Dataset(done.folder).failed == {}
    for a, b in zip(whole, Dataset(done.folder), strict=True):
        same(a, b)


def test_where_nothing_could_be_read_another_try_starts_anew(tmp_path):
    path = make_lerobot(tmp_path)
    (path / "videos").rename(tmp_path / "aside")
    for on_bad, what in (("skip", "not one episode"), ("error", "film is missing")):
        with pytest.raises(DataError, match=what):
            imported("lerobot", path, tmp_path / "data", on_bad=on_bad)
        assert not [*(tmp_path / "data").glob("*/*")]
    (tmp_path / "aside").rename(path / "videos")
    assert imported("lerobot", path, tmp_path / "data", on_bad="skip").episodes == 4


def test_damaged_jat_is_named_and_the_rest_can_be_had(tmp_path):
    path = make_jat(tmp_path)["mujoco-steer"]
    file = path / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    rewards = table["rewards"].to_pylist()
    rewards[1] = rewards[1][:-1]
    _edit_table(file, lambda t: _replace(t, "rewards", rewards))
    with pytest.raises(DataError, match="9 continuous_observations for 8 rewards") as raised:
        imported("jat", path, tmp_path / "data")
    assert raised.value.where == f"{file} row 1"
    done = imported("jat", path, tmp_path / "data", on_bad="skip")
    assert (done.episodes, done.skipped) == (2, 1)
    # A page that was changed on the way: its rows are lost, and named; those of other row groups are not.
    pq.write_table(table, file, row_group_size=2, write_page_checksum=True, compression="none", use_dictionary=False)
    data = bytearray(file.read_bytes())
    at = pq.ParquetFile(file).metadata.row_group(0).column(0).data_page_offset + 200
    data[at] ^= 255
    file.write_bytes(data)
    done = imported("jat", path, tmp_path / "torn", on_bad="skip")
    assert (done.episodes, done.skipped) == (1, 2) and "row group 0 cannot be decoded" in done.complaints[0]
    _shorten(file)
    with pytest.raises(DataError, match="not a readable Parquet"):
        imported("jat", path, tmp_path / "none")


JAT_GAPS = {  # what becomes of an episode's actions or observations, and what is said of it
    "a null": (lambda steps: [*steps[:-1], [None, *steps[-1][1:]]], "a value is missing"),
    "a timestep of null": (lambda steps: [None, *steps[1:]], "values in|a value is missing"),
    "a timestep too short": (lambda steps: [*steps[:-1], steps[-1][1:]], "values in"),
    "a timestep of nothing": (lambda steps: [[], *steps[1:]], "values in"),
    "infinity": (lambda steps: [*steps[:-1], [np.inf, *steps[-1][1:]]], "infinity"),
}


@pytest.mark.parametrize(
    "name, column",
    [
        *((name, f"continuous_{of}") for name in JAT_GAPS for of in ("actions", "observations")),
        *((name, "discrete_observations") for name in JAT_GAPS if name != "infinity"),
        ("a timestep of null", "discrete_actions"),
    ],
)
def test_a_gap_in_jat_costs_its_episode_alone(tmp_path, name, column):
    """Bounds, too, are those of the others, even where it is the first, from which the shapes are taken."""
    damage, what = JAT_GAPS[name]
    path = make_jat(tmp_path)["babyai-steer" if column.startswith("discrete") else "mujoco-steer"]
    (path / "test-00000-of-00001.parquet").unlink()
    whole = Dataset(imported("jat", path, tmp_path / "whole").folder)
    file = path / "train-00000-of-00001.parquet"
    rows = pq.read_table(file)[column].to_pylist()
    rows[0] = damage(rows[0])
    _edit_table(file, lambda t: _replace(t, column, rows))
    with pytest.raises(DataError, match=what) as raised:
        imported("jat", path, tmp_path / "data")
    assert raised.value.where.startswith(f"{file} row 0")
    done = imported("jat", path, tmp_path / "data", on_bad="skip")
    rest = Dataset(done.folder)
    assert (done.episodes, done.skipped) == (2, 1) and f"{file} row 0" in done.complaints[0]
    for a, b in zip(list(whole)[1:], rest, strict=True):
        same(a, b)
    if column == "continuous_actions":
        reached = np.concatenate([e.actions["action"] for e in rest])
        assert np.array_equal(rest.spec.action["action"].bounds(), [reached.min(0), reached.max(0)])


def test_damaged_minari_is_named_and_the_rest_can_be_had(tmp_path):
    import h5py

    path = make_minari(tmp_path)
    file = path / "data" / "main_data.hdf5"
    with h5py.File(file, "a") as opened:
        del opened["episode_1"]["rewards"]
        values = opened["episode_2"]["observations"][:-5]
        del opened["episode_2"]["observations"]
        opened["episode_2"]["observations"] = values
    with pytest.raises(DataError, match="rewards") as raised:
        imported("minari", path, tmp_path / "data")
    assert "episode_1" in raised.value.where
    done = imported("minari", path, tmp_path / "data", on_bad="skip")
    assert (done.episodes, done.skipped) == (
        2,
        2,
    ) and "26 observation in the observations for 30 rewards" in done.complaints[1]
    _shorten(file)
    with pytest.raises(DataError):
        imported("minari", path, tmp_path / "none")
    with pytest.raises(DataError, match="not one episode"):
        imported("minari", path, tmp_path / "none", on_bad="skip")
    with pytest.raises(DatasetMissingError):
        find_datasets(tmp_path / "none")


KILLED = """
import os, signal, sys
from gato.episodes import exchange
exchange.CHUNK_EPISODES = 1
for i, done in enumerate(exchange.import_recordings("lerobot", sys.argv[1], sys.argv[2])):
    if i == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_import_is_no_dataset_and_goes_on(tmp_path):
    path = make_lerobot(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), str(tmp_path / "data")], env=environment)
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(DatasetMissingError):
        find_datasets(tmp_path / "data")
    done = imported("lerobot", path, tmp_path / "data")
    assert (done.episodes, done.added) == (4, 2)
    whole = Dataset(imported("lerobot", path, tmp_path / "whole").folder)
    for a, b in zip(Dataset(done.folder), whole, strict=True):
        same(a, b)
        assert a.info == b.info
    assert imported("lerobot", path, tmp_path / "data").added == 0
    assert [f.name for f in (tmp_path / "data/lerobot").iterdir()] == ["helm"]


def test_as_commands(tmp_path, capsys):
    def gato(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        return ended.value.code or 0, capsys.readouterr()

    path = make_minari(tmp_path / "theirs")
    assert gato("data", "import", "auto", path, "--out", tmp_path / "data", "--task", "lab/pole")[0] == 0
    code, said = gato("data", "export", tmp_path / "data/lab/pole", "--out", tmp_path / "out", "--name", "lab/pole-v3")
    assert code == 0 and detect(tmp_path / "out/lab/pole-v3") == "minari" and "MINARI_DATASETS_PATH" in said.out
    assert gato("data", "repair", tmp_path / "data/lab/pole", "--out", tmp_path / "again")[0] == 0
    assert len(Dataset(tmp_path / "again")) == 4
    code, said = gato("data", "import", "minari", path, "--out", tmp_path / "data", "--json")
    assert code == 0 and json.loads(said.out)["episodes"] == 4
    for words, exit_code, what in (
        (["minary", path], 2, "did you mean minari"), (["lerobot", path], 3, "info.json"), (["auto", tmp_path], 3, "known layout"),
        (["minari", path, "--world"], 2, "--task"), (["minari", path, "--on-bad", "skp"], 2, "error or skip"),
        (["pile", path, "--world", "--task", "a/b"], 2, "no actions"), (["minari", path, "--task", "nonsense"], 2, "DOMAIN/NAME"),
    ):  # fmt: skip
        code, said = gato("data", "import", *words, "--out", tmp_path / "none")
        assert code == exit_code and what in said.err, said.err
    assert not (tmp_path / "none").exists()


def test_what_is_in_no_layout(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, what in ((tmp_path / "empty", "no recordings"), (tmp_path / "emty", "no such file")):
        with pytest.raises(DataError, match=what):
            detect(path)
    with pytest.raises(UnknownNameError):
        open_recordings("rlds", tmp_path)
    with pytest.raises(UsageError, match="no task id"):
        imported("minari", make_minari(tmp_path), tmp_path / "data", task="nonsense")


def test_samples_are_made_in_a_folder_beside_one(tmp_path):
    maker = Path(__file__).with_name("make_recordings.py")
    subprocess.run([sys.executable, maker, "here"], cwd=tmp_path, check=True, capture_output=True)
    assert {p.name for p in (tmp_path / "here").iterdir()} >= {"minari", "lerobot", "jat"}
