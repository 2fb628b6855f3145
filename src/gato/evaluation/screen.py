"""A moment of an episode as one picture: the world, the return beside the expert's, the choice, and the token stream.

    screen = Screen(task)
    frame = screen.draw(moment)      # uint8 (720, 1280, 3)

Tokens are coloured by kind as everywhere (`gato.tokens.show`), image tokens are their patches, and the tokens of the
action are ringed. The newest timestep is the lowest row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from gato.evaluation.watching import Moment
from gato.tokens.show import COLOURS
from gato.tokens.timestep import CONTINUOUS, IMAGE, KINDS, SEPARATOR, TEXT
from gato.worlds import Task

WIDTH, HEIGHT = 1280, 720
MARGIN, PICTURE = 32, 392  # pixels: around everything; the side of the world's picture
RIGHT = MARGIN + PICTURE + 40  # where the readings begin
STREAM = 500  # where the stream begins
CELL, GAP = 17, 2  # a token's height, and what is left between two
PAPER, PANEL, INK, SOFT, RULE = "#fdfdfb", "#f4f3ee", "#1d2024", "#62676f", "#dfddd5"
MARK, EXPERT, BAR = "#2d6f8e", "#b0703c", "#9fbecd"
REFERENCES = {"expert": EXPERT, "random": SOFT}


class Screen:
    """Draws the moments of one task, in their order: the stream is remembered. `note` is a word about the policy."""

    def __init__(self, task: Task, note: str = ""):
        self._task, self._note = task, note
        self._names = task.meta.get("actions", ())
        self._rows: list[tuple[int, Image.Image]] = []  # (step, its tokens), newest last
        self._episode = 0

    def draw(self, moment: Moment) -> np.ndarray:
        """uint8 (HEIGHT, WIDTH, 3)."""
        if moment.episode != self._episode:
            self._rows, self._episode = [], moment.episode
        if moment.tokens is not None:
            self._rows.append((moment.step, self._timestep(moment)))
            self._rows = self._rows[-20:]  # more never fit
        page = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
        pen = ImageDraw.Draw(page)
        self._title(pen, moment)
        self._world(page, pen, moment)
        self._reading(pen, moment)
        self._choices(pen, moment)
        self._stream(page, pen)
        return np.asarray(page)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _title(self, pen: ImageDraw.ImageDraw, moment: Moment) -> None:
        pen.text((MARGIN, 20), self._task.id, fill=INK, font=font(24))
        right = f"episode {moment.episode + 1}, step {moment.step}" + (f" · {self._note}" if self._note else "")
        pen.text((WIDTH - MARGIN, 34), right, fill=SOFT, font=font(15), anchor="rm")

    def _world(self, page: Image.Image, pen: ImageDraw.ImageDraw, moment: Moment) -> None:
        box = (MARGIN, 64, MARGIN + PICTURE, 64 + PICTURE)
        pen.rectangle(box, fill=PANEL)
        if moment.frame is None:
            pen.text((box[0] + PICTURE / 2, box[1] + PICTURE / 2), "no picture: no OpenGL here", fill=SOFT, font=font(15), anchor="mm")  # fmt: skip
            return
        frame = Image.fromarray(moment.frame)
        scale = PICTURE / max(frame.size)
        crisp = max(frame.size) <= 160 and any(s.kind == "image" for s in self._task.spec.observation.values())
        manner = Image.Resampling.NEAREST if crisp else Image.Resampling.LANCZOS
        frame = frame.resize((round(frame.width * scale), round(frame.height * scale)), manner)
        page.paste(frame, (box[0] + (PICTURE - frame.width) // 2, box[1] + (PICTURE - frame.height) // 2))

    def _reading(self, pen: ImageDraw.ImageDraw, moment: Moment) -> None:
        """The return, or whether it is solved, beside what expert and random play get."""
        references, by_success = self._task.references, self._task.score == "success"
        pen.text((RIGHT, 64), "Return", fill=SOFT, font=font(15))
        pen.text((RIGHT, 82), number(moment.total), fill=MARK, font=font(40))
        wide = pen.textlength(number(moment.total), font=font(40))
        if moment.done:
            ended = {True: "solved", False: "not solved", None: "the end"}[moment.success]
            pen.text((RIGHT + wide + 16, 116), ended, fill=INK, font=font(17), anchor="ls")
        words = [("episodes solved: ", SOFT)] if by_success and references else []
        words += [(f"{n} {number(references[n].mean)}   ", c) for n, c in REFERENCES.items() if n in references]
        x = float(RIGHT)
        for word, colour in words or [("no reference scores", SOFT)]:
            pen.text((x, 134), word, fill=colour, font=font(15))
            x += pen.textlength(word, font=font(15))
        if not by_success and {"expert", "random"} <= references.keys():
            self._scale(pen, moment.total, references["random"].mean, references["expert"].mean)

    def _scale(self, pen: ImageDraw.ImageDraw, total: float, random: float, expert: float) -> None:
        """A line from random play to the expert, and how far along it the return is."""
        left, right, y = RIGHT, WIDTH - MARGIN, 166
        most = max(expert - random, 1e-9) * 1.1
        pen.rectangle((left, y, right, y + 6), fill=PANEL)
        at = left + (right - left) * float(np.clip((total - random) / most, 0, 1))
        pen.rectangle((left, y, at, y + 6), fill=MARK)
        mark = left + (right - left) / 1.1
        pen.rectangle((mark - 1, y - 4, mark + 1, y + 10), fill=EXPERT)

    def _choices(self, pen: ImageDraw.ImageDraw, moment: Moment) -> None:
        """Each action token: what was chosen, and the probability of everything that might have been."""
        top, columns = 196, 1 if len(moment.choices) < 2 else 2
        pen.line((RIGHT, top, WIDTH - MARGIN, top), fill=RULE)
        pen.text((RIGHT, top + 10), "The action just taken", fill=SOFT, font=font(15))
        wide = (WIDTH - MARGIN - RIGHT - 32 * (columns - 1)) // columns
        rows = -(-len(moment.choices) // columns)
        high = min(230, (STREAM - 50 - top - 38) // max(rows, 1))
        for n, choice in enumerate(moment.choices):
            x, y = RIGHT + (wide + 32) * (n % columns), top + 38 + high * (n // columns)
            if choice["kind"] == "discrete":
                self._values(pen, choice, x, y, wide, high)
            else:
                self._histogram(pen, choice, x, y, wide, high)

    def _values(self, pen: ImageDraw.ImageDraw, choice: dict[str, Any], x: int, y: int, wide: int, high: int) -> None:
        """A bar for each of the likeliest values, in their order."""
        rows = max(1, (high - 8) // 22)
        bars, chosen = choice["bars"], choice["chosen"]
        kept = {v for v, _ in sorted(bars, key=lambda bar: (bar[0] != chosen, -bar[1]))[:rows]}
        for n, (value, p) in enumerate([bar for bar in bars if bar[0] in kept]):
            own, at = value == chosen, y + 22 * n
            name = str(self._names[value]) if 0 <= value < len(self._names) else f"{choice['name']} {value}"
            ink = INK if own else SOFT
            pen.text((x, at + 9), fitted(name, 96, 14), fill=ink, font=font(14), anchor="lm")
            pen.rectangle(
                (x + 104, at + 3, x + 104 + max(1, (wide - 164) * p), at + 15), fill=kind_colour(2) if own else BAR
            )
            pen.text((x + wide, at + 9), f"{100 * p:.0f} %", fill=ink, font=font(14), anchor="rm")

    def _histogram(
        self, pen: ImageDraw.ImageDraw, choice: dict[str, Any], x: int, y: int, wide: int, high: int
    ) -> None:
        """The probabilities over the range, and a mark at what was done."""
        bars, low, top = choice["bars"], choice["low"], choice["high"]
        pen.text((x, y), choice["name"], fill=SOFT, font=font(14))
        pen.text((x + wide, y), f"{choice['chosen']:+.3f}", fill=INK, font=font(14), anchor="ra")
        base, most = y + high - 16, max(p for _, p in bars)
        room = high - 16 - 24
        each = wide / len(bars)
        for n, (_, p) in enumerate(bars):
            pen.rectangle((x + n * each, base - max(1, room * p / most), x + (n + 1) * each - 2, base), fill=BAR)
        pen.line((x, base + 1, x + wide, base + 1), fill=RULE)
        at = x + wide * (choice["chosen"] - low) / max(top - low, 1e-9)
        pen.rectangle((at - 1.5, base - room, at + 1.5, base + 4), fill=kind_colour(CONTINUOUS))

    # -- the stream ---------------------------------------------------------------------------------------------------

    def _stream(self, page: Image.Image, pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((0, STREAM - 12, WIDTH, HEIGHT), fill=PANEL)
        pen.text((MARGIN, STREAM - 2), "The tokens", fill=INK, font=font(15))
        x = MARGIN + 100
        for kind, name in enumerate(KINDS):
            pen.rounded_rectangle((x, STREAM + 2, x + 11, STREAM + 13), 2, fill=kind_colour(kind))
            pen.text((x + 17, STREAM - 1), name, fill=SOFT, font=font(14))
            x += 36 + round(pen.textlength(name, font=font(14)))
        pen.rounded_rectangle((x, STREAM + 2, x + 11, STREAM + 13), 2, outline=MARK, width=2)
        pen.text((x + 17, STREAM - 1), "action", fill=SOFT, font=font(14))
        y = STREAM + 26
        room, shown = HEIGHT - 12 - y, 0
        for _, row in reversed(self._rows):
            if room - row.height < 0 and shown:
                break
            room, shown = room - row.height, shown + 1
        for step, row in self._rows[len(self._rows) - shown :]:
            pen.text((MARGIN + 26, y + 9), str(step), fill=SOFT, font=font(13), anchor="rm")
            page.paste(row, (MARGIN + 36, y))
            y += row.height

    def _timestep(self, moment: Moment) -> Image.Image:
        """The tokens of one timestep in reading order, wrapped."""
        tokens = moment.tokens
        assert tokens is not None
        wide, places = WIDTH - 2 * MARGIN - 36, []
        x = y = 0
        ends = int(np.flatnonzero(tokens.kinds == SEPARATOR)[0])
        for r, kind in enumerate(tokens.kinds.tolist()):
            label = "" if kind in (IMAGE, SEPARATOR) else _short(moment.labels[r], kind)
            width = (
                CELL if kind == IMAGE else 8 if kind == SEPARATOR else max(CELL, 8 + round(font(12).getlength(label)))
            )
            if x + width > wide:
                x, y = 0, y + CELL + GAP
            places.append((x, y, width, label))
            x += width + GAP
        row = Image.new("RGB", (wide, y + CELL + 6), PANEL)
        pen = ImageDraw.Draw(row)
        for r, (x, y, width, label) in enumerate(places):
            kind = int(tokens.kinds[r])
            if kind == IMAGE:
                patch = Image.fromarray(tokens.table.rows[tokens.patches[r]].reshape(16, 16, 3))
                row.paste(patch.resize((CELL, CELL), Image.Resampling.BILINEAR), (x, y))
                continue
            ring = {"outline": MARK, "width": 2} if r > ends else {}
            pen.rounded_rectangle((x, y, x + width - 1, y + CELL - 1), 3, fill=kind_colour(kind), **ring)  # type: ignore[arg-type]
            pen.text((x + width / 2, y + CELL / 2), label, fill="white", font=font(12), anchor="mm")
        return row


# -- words and numbers ------------------------------------------------------------------------------------------------

_fonts: dict[int, Any] = {}


def font(size: int) -> Any:
    """Pillow's own type, at a size in pixels."""
    if size not in _fonts:
        _fonts[size] = ImageFont.load_default(size)
    return _fonts[size]


def kind_colour(kind: int) -> tuple[int, ...]:
    return ImageColor.getrgb(COLOURS[kind])


def number(x: float) -> str:
    """Three digits or so."""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}"


def fitted(text: str, wide: int, size: int) -> str:
    """As much of a text as fits."""
    while text and font(size).getlength(text) > wide:
        text = text[:-1]
    return text


def _short(label: str, kind: int) -> str:
    """`+9.962e-05` → `0.00`; a piece of text without the mark of its word's beginning, which the type has no letter for."""
    if kind == CONTINUOUS:
        x = float(label)
        return number(0.0 if abs(x) < 0.005 else x)
    if kind == TEXT:
        return label.replace("\u2581", "").strip() or "\u00b7"
    return label
