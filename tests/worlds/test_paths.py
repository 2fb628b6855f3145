"""Shortest ways on a grid."""

import numpy as np

from gato.worlds.paths import in_sight, walking_distance, waypoint

ROOM = np.array([list(row) for row in ("......", ".####.", ".#....", ".#.##.", "...#..")]) == "."


def goals(*cells):
    marks = np.zeros(ROOM.shape, bool)
    for cell in cells:
        marks[cell] = True
    return marks


def test_diagonal_steps_never_pass_a_corner():
    field = walking_distance(ROOM, goals((0, 0)))
    assert field[0, 5] == 5 and field[1, 0] == 1
    assert field[2, 2] == 8  # down the left side, around the lower end of the wall, and up
    assert np.isinf(field[1, 1]) and np.isinf(walking_distance(ROOM, goals())).all()


def test_a_goal_in_a_wall_is_reached_and_an_enclosed_cell_is_not():
    walls = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], bool)
    marks = np.zeros_like(walls)
    marks[1, 1] = True
    assert np.isinf(walking_distance(walls, marks)[0, 0])
    open_room = np.ones((3, 3), bool)
    open_room[1, 1] = False
    assert np.isclose(walking_distance(open_room, marks)[0, 1], 1.0)


def test_the_next_place_to_go_straight_to_is_in_sight_and_nearer():
    field = walking_distance(ROOM, goals((2, 2)))
    at = (0, 5)
    for _ in range(12):
        if at == (2, 2):
            break
        there = waypoint(ROOM, field, at)
        assert in_sight(ROOM, at, there) and field[there] < field[at]
        at = there
    assert at == (2, 2)


def test_walls_hide():
    assert in_sight(ROOM, (0, 0), (0, 5)) and not in_sight(ROOM, (0, 2), (2, 2))
