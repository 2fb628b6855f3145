"""Sokoban: the rules, the pictures, the levels, and a solver checked against a plain search."""

import time
from collections import deque

import numpy as np
import pytest

from gato.errors import ExpertError
from gato.rollouts.loop import ExpertPolicy, LocalSlot, Noise, RandomPolicy, Unit, rollout
from gato.testing import check_expert
from gato.worlds import find
from gato.worlds.sokoban import (
    BOX,
    BOX_ON_TARGET,
    FLOOR,
    LEVELS,
    PLAYER,
    PLAYER_ON_TARGET,
    TARGET,
    TILE,
    TILES,
    WALL,
    Position,
    Room,
    Sokoban,
    cells,
    distances,
    draw,
    make_expert,
    make_level,
    solve,
    walk,
)  # fmt: skip

UP, DOWN, LEFT, RIGHT = range(4)
SYMBOLS = "# .$*@+"  # in the order of the tiles: wall, floor, target, box, box on target, player, player on target


def parse(text: str) -> tuple[Room, Position]:
    rows = text.split("\n")
    flat = "".join(rows)

    def mask(symbols):
        return sum(1 << i for i, symbol in enumerate(flat) if symbol in symbols)

    room = Room(len(rows), len(rows[0]), mask(" .$*@+"), mask(".*+"))
    return room, Position(mask("$*"), next(i for i, symbol in enumerate(flat) if symbol in "@+"))


def read(image: np.ndarray) -> str:
    """The level as text, from the picture alone. Fails where a patch is not exactly one of the tiles."""
    rows, cols = image.shape[0] // TILE, image.shape[1] // TILE
    patches = image.reshape(rows, TILE, cols, TILE, 3).swapaxes(1, 2)
    kinds = (patches[:, :, None] == TILES).all(axis=(3, 4, 5))
    assert (kinds.sum(axis=2) == 1).all()
    return "\n".join("".join(SYMBOLS[kind] for kind in row) for row in kinds.argmax(axis=2))


def play(room: Room, at: Position, actions: str) -> Position:
    for letter in actions:
        at = room.move(at, "UDLR".index(letter))
    return at


CORRIDOR = "#######\n#@$ . #\n#    ##\n#######"


def test_moving_pushing_and_being_blocked():
    room, start = parse(CORRIDOR)
    assert read(draw(room, start)) == CORRIDOR
    assert read(draw(room, play(room, start, "R"))) == "#######\n# @$. #\n#    ##\n#######"
    assert read(draw(room, play(room, start, "RR"))) == "#######\n#  @* #\n#    ##\n#######"
    assert read(draw(room, play(room, start, "RRR"))) == "#######\n#   +$#\n#    ##\n#######"
    assert play(room, start, "RRRR") == play(room, start, "RRR"), "a box at a wall stays"
    assert play(room, start, "UL") == start, "so does the player"
    two, blocked = parse("#######\n#@$$..#\n#######")
    assert play(two, blocked, "R") == blocked, "two boxes are too heavy"


def test_rewards_and_ends():
    env = Sokoban(4, 7, 1, 1, 10)
    env.reset(seed=0)

    def place(text):
        env.room, env.position = parse(text)
        env._steps = 0

    place(CORRIDOR)
    assert env.step(RIGHT)[1:] == (-0.1, False, False, {"success": False})
    assert env.step(RIGHT)[1:] == (pytest.approx(1 + 10 - 0.1), True, False, {"success": True})
    place("#######\n#@$.$.#\n#    ##\n#######")
    assert env.step(RIGHT)[1:4] == (pytest.approx(0.9), False, False), "one of two"
    assert env.step(LEFT)[1] == pytest.approx(-0.1)
    place("#######\n#@*   #\n#    ##\n#######")
    assert env.step(RIGHT)[1] == pytest.approx(-1.1), "pushed off"
    place(CORRIDOR)
    ends = [env.step(UP)[2:4] for _ in range(10)]
    assert ends == [(False, False)] * 9 + [(False, True)]


def test_the_tiles_are_easily_told_apart():
    means = TILES.reshape(7, -1, 3).astype(float).mean(axis=1)
    for a in range(7):
        for b in range(a):
            assert np.abs(TILES[a].astype(int) - TILES[b]).mean() > 8, (a, b)
            assert np.abs(means[a] - means[b]).max() > 8, (a, b)
    assert {WALL, FLOOR, TARGET, BOX, BOX_ON_TARGET, PLAYER, PLAYER_ON_TARGET} == set(range(7))


def search(room: Room, start: Position) -> dict[str, int] | None:
    """Fewest moves and fewest pushes to the solution, by searching forwards through single moves."""
    found = {}
    for what in ("moves", "pushes"):
        cost, queue = {start: 0}, deque([start])
        while queue:
            at = queue.popleft()
            if at.boxes == room.targets:
                found[what] = cost[at]
                break
            for action in range(4):
                then = room.move(at, action)
                price = 1 if what == "moves" else int(then.boxes != at.boxes)
                if then not in cost or cost[at] + price < cost[then]:
                    cost[then] = cost[at] + price
                    (queue.append if price else queue.appendleft)(then)
        else:
            return None
    return found


def random_positions(boxes: int, count: int, seed: int):
    """Positions drawn blindly, solvable or not."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        room = make_level(rng, 6, 6, boxes, 3, 50).room
        drawn = rng.choice(list(cells(room.floor)), boxes + 1, replace=False).tolist()
        yield room, Position(sum(1 << cell for cell in drawn[1:]), drawn[0])


@pytest.mark.parametrize(("boxes", "count"), [(1, 60), (2, 40)])
def test_solvers_agree_with_a_plain_search(boxes, count):
    lost = 0
    for room, at in random_positions(boxes, count, seed=boxes):
        expected, plan = search(room, at), solve(room, at)
        assert distances(room).get(at) == (expected and expected["moves"])
        assert (plan is None) == (expected is None)
        if plan is not None:
            assert len(plan) == expected["pushes"]
            assert walk(room, at, plan)[-1].boxes == room.targets
        lost += plan is None
    assert 0 < lost < count, "both kinds were met"


@pytest.mark.parametrize("name", LEVELS)
def test_the_expert_solves_levels_of_the_promised_length(name):
    rows, cols, boxes, min_moves, max_steps = LEVELS[name]
    task = find(f"sokoban/{name}")
    assert task.max_steps == max_steps
    starts = set()
    for e in rollout([Unit(task.id, seed) for seed in range(8)], [LocalSlot()], ExpertPolicy()):
        assert e.success and e.observations["observation"].shape[1:] == (TILE * rows, TILE * cols, 3)
        assert min_moves <= len(e) <= max_steps // 2
        assert e.total_return >= 10 - 0.1 * len(e)
        text = read(e.observations["observation"][0])
        assert text.count("$") + text.count("*") == text.count(".") + text.count("*") + text.count("+") == boxes
        assert text.count("@") + text.count("+") == 1
        starts.add(text)
    assert len(starts) == 8


def test_the_expert_takes_a_shortest_way_and_the_same_from_the_same_picture():
    task = find("sokoban/7x7-2-boxes")
    env = task.make().unwrapped
    chosen = {}
    for seed in range(30):
        observation, info = env.reset(seed=seed, options={"wide": True})
        moves, policy, done = env.level.moves[env.position], make_expert(env, seed), False
        for _ in range(moves):
            action = policy(observation, info)
            # An expert that has seen nothing before chooses the same.
            assert action == make_expert(env, 0)(observation, info)
            assert chosen.setdefault(read(observation), action) == action
            observation, _, done, _, info = env.step(action)
        assert done, f"seed {seed} took more than {moves} moves"


def test_rooms_have_walls_inside_and_are_connected():
    inner, longest = [], []
    for seed in range(100):
        level = make_level(np.random.default_rng(seed), 7, 7, 1, 6, 30)
        free = Position(0, level.start.player)
        assert level.room.reach(free) == level.room.floor
        inner.append(25 - level.room.floor.bit_count())
        longest.append(max(level.moves.values()))
    assert np.mean(inner) > 4 and np.mean(longest) > 8


def test_wide_starts_reach_further():
    for name in ("7x7-1-box", "10x10-3-boxes"):
        env = find(f"sokoban/{name}").make().unwrapped

        def lengths(wide, env=env):
            found = []
            for seed in range(12):
                env.reset(seed=seed, options={"wide": wide})
                found.append(len(walk(env.room, env.position, solve(env.room, env.position))) - 1)
            return found

        assert min(lengths(True)) < env.min_moves <= min(lengths(False))


@pytest.mark.parametrize("name", ["7x7-1-box", "10x10-3-boxes"])
def test_the_expert_finds_its_way_back_or_says_that_it_cannot(name):
    solved = lost = 0
    slot = LocalSlot()
    for seed in range(25):
        try:
            [episode] = rollout([Unit(f"sokoban/{name}", seed, Noise(0.25))], [slot], ExpertPolicy())
            solved += bool(episode.success)
        except ExpertError as error:
            assert f"seed {seed}" in error.where
            lost += 1
    assert solved >= 10 and lost >= 1


def test_a_dead_end_is_an_expert_error():
    env = Sokoban(4, 7, 1, 1, 10)
    observation, info = env.reset(seed=0)
    env.room, env.position = parse(CORRIDOR)
    env.level = type(env.level)(env.room, env.position, distances(env.room))
    policy = make_expert(env, 0)
    assert policy(observation, info) == RIGHT
    for _ in range(3):
        env.step(RIGHT)
    with pytest.raises(ExpertError):
        policy(observation, info)


def test_random_play_is_worse():
    random, expert = check_expert("sokoban/7x7-1-box", episodes=10)
    assert random < 0.6 and expert == 1.0


def test_levels_and_steps_are_quick():
    """Orders of magnitude only: milliseconds where the machine is at rest."""
    begun = time.perf_counter()
    units = [Unit("sokoban/7x7-1-box", seed) for seed in range(100)]
    steps = sum(len(e) for e in rollout(units, [LocalSlot()], RandomPolicy()))
    assert time.perf_counter() - begun < 100 * 0.02 + steps * 0.002
