"""Experts at work, told: illustrated pages and short clips of whole episodes, in words computed from what was done.

    pages/walkthroughs    "Go to the red ball." [picture] "The agent turns left." [picture] … "The agent is there."
    clips/experts         four frames of 48×48 pixels, and "the agent turns left, goes forward twice and …"

BabyAI levels of one small room, played by minigrid's own bot, and Sokoban, by the solver. The room decides the split, by the
rule of `rooms`, so that no page shows a room that is held out elsewhere.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from gato.corpora import SPLITS, Split, check_split, clip, clip_spec, page, page_spec
from gato.episodes import Episode
from gato.scenes.grid import Thing
from gato.scenes.rooms import PIXELS, Board, draw, level_board, room_board
from gato.worlds import babyai, find, sokoban

PAGES, CLIPS = "pages/walkthroughs", "clips/experts"
# Missions that leave every thing where it is: a room that changed on the way might be one that is held out elsewhere.
LEVELS = ("babyai/go-to-local-s5n2", "babyai/go-to-local-s6n2", "babyai/go-to-local-s6n3", "babyai/go-to-local-s6n4")
SOKOBAN_SHARE = 0.3
MOST_PICTURES = 5  # of a page
FRAMES, FRAME = 4, 48  # of a clip; pixels a side
PAGE_SPEC, CLIP_SPEC = page_spec(PIXELS, PIXELS), clip_spec(FRAMES, FRAME, FRAME)
DEEDS = {"left": "turns left", "right": "turns right", "forward": "goes forward"}
TIMES = ("", "", " twice", *(f" {n} times" for n in ("three", "four", "five", "six", "seven", "eight", "nine", "ten")))


class Walk(NamedTuple):
    """An episode of an expert: the mission, every board it saw, and what it did between them, in words."""

    mission: str
    who: str
    boards: list[Board]
    deeds: list[str]  # one fewer than boards
    end: str


def walk(split: Split, index: int, seed: int = 0) -> Walk:
    """Walk `index` of a split: solved, and at most 30 steps long."""
    rng = np.random.default_rng([seed, 23, SPLITS.index(check_split(split)), index])
    pushes = rng.random() < SOKOBAN_SHARE
    while True:
        task = LEVELS[int(rng.integers(len(LEVELS)))]
        number = int(rng.integers(2**31))
        made = _push_walk(rng, split) if pushes else _room_walk(task, number, split)
        if made is not None:
            return made


@functools.cache
def _world(task: str) -> babyai.BabyAI:
    return find(task).make().unwrapped  # type: ignore[return-value]


def _room_walk(task: str, number: int, split: Split) -> Walk | None:
    env = _world(task)
    observation, info = env.reset(seed=number)
    first = _board(env.simulator)
    if first.split != split:
        return None
    expert = babyai.BabyAIExpert(env)
    boards, deeds = [first], []
    for _ in range(30):
        action = babyai.ACTIONS[expert(observation, info)]
        observation, _, ended, truncated, info = env.step(babyai.ACTIONS.index(action))
        deeds.append(DEEDS.get(action, action))
        boards.append(_board(env.simulator))
        if ended or truncated:
            break
    if not info["success"] or not deeds:
        return None
    return Walk(env.simulator.mission, "agent", boards, deeds, "")


def _board(simulator: Any) -> Board:
    """The true state of minigrid's environment."""
    grid = simulator.grid
    things = []
    for row, column in itertools.product(range(grid.height), range(grid.width)):
        cell = grid.get(column, row)
        if cell is not None and cell.type != "wall":
            things.append(Thing(column, row, cell.color, cell.type))
    x, y = map(int, simulator.agent_pos)
    return room_board(grid.width, grid.height, things, (x, y), int(simulator.agent_dir))


def _push_walk(rng: np.random.Generator, split: Split) -> Walk | None:
    rows, columns = (int(n) for n in rng.integers(5, 8, size=2))
    level = sokoban.make_level(rng, rows, columns, 1, 2, 12)
    room, at = level.room, level.start
    if level_board(room, at).split != split:
        return None
    assert level.moves is not None
    boards, deeds = [level_board(room, at)], []
    while at.boxes != room.targets:
        action = next(a for a in range(4) if level.moves.get(room.move(at, a)) == level.moves[at] - 1)
        after = room.move(at, action)
        word = sokoban.ACTIONS[action]
        deeds.append(f"pushes the box {word}" if after.boxes != at.boxes else f"goes {word}")
        at = after
        boards.append(level_board(room, at))
    return Walk("push the box onto the target", "player", boards, deeds, "the box is on the target")


def runs(deeds: list[str]) -> list[tuple[str, int]]:
    """(in words, how many steps) of equal deeds after one another: [("goes forward twice", 2), …]."""
    out = []
    for deed, group in itertools.groupby(deeds):
        steps = len(list(group))
        out.append((deed + (TIMES[steps] if steps < len(TIMES) else f" {steps} times"), steps))
    return out


def told(walk: Walk) -> str:
    """What happened, in one sentence."""
    *first, last = [words for words, _ in runs(walk.deeds)]
    said = f"{', '.join(first)} and {last}" if first else last
    end = f"; {walk.end}" if walk.end else f": {walk.mission}, done"
    return f"the {walk.who} {said}{end}"


def page_episode(split: Split, index: int, seed: int = 0) -> Episode:
    """Walkthrough `index` as a page of at most five pictures of 80×80 pixels."""
    made = walk(split, index, seed)
    parts: list[str | np.ndarray] = [f"{made.mission[0].upper()}{made.mission[1:]}.", draw(made.boards[0])]
    steps = runs(made.deeds)
    groups = np.array_split(np.arange(len(steps)), min(len(steps), MOST_PICTURES - 1))
    at = 0
    for group in groups:
        words = [steps[i][0] for i in group]
        at += sum(steps[i][1] for i in group)
        parts += [f"The {made.who} {', then '.join(words)}.", draw(made.boards[at])]
    parts.append("Done.")
    done = page(
        PAGES,
        parts,
        (PIXELS, PIXELS),
        {"seed": seed, "source": f"the {made.who}'s expert", "split": split},
        between=" ",
    )
    assert done is not None
    return done


def clip_episode(split: Split, index: int, seed: int = 0) -> Episode:
    """Walkthrough `index` as a clip: its first and last picture, and two from between, and what happened."""
    made = walk(split, index, seed)
    chosen = np.linspace(0, len(made.boards) - 1, FRAMES).round().astype(int)
    frames = np.stack([draw(made.boards[i], FRAME) for i in chosen])
    return clip(CLIPS, frames, told(made), {"seed": seed, "source": f"the {made.who}'s expert", "split": split})
