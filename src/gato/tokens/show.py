"""Show the sequence: the tokens of one timestep as a table and as a picture, from the very arrays that are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gato.tokens.timestep import (
    ACTION_POSITION,
    CONTINUOUS,
    DISCRETE,
    IMAGE,
    KINDS,
    NO_POSITION,
    SEPARATOR,
    TEXT,
    TimestepCodec,
    Tokens,
)

COLOURS = {TEXT: "#4c78a8", IMAGE: "#9e9e9e", DISCRETE: "#f58518", CONTINUOUS: "#54a24b", SEPARATOR: "#222222"}


def describe(codec: TimestepCodec, tokens: Tokens, step: int) -> str:
    """One line per token: row, kind, id, meaning, local position, target mark."""
    lines = [f"{'row':>6}  {'kind':10}  {'id':>6}  {'meaning':22}  {'position':>8}  target"]
    starts = tokens.starts()
    for row in range(int(starts[step]), int(starts[step + 1])):
        position = {NO_POSITION: "none", ACTION_POSITION: "action"}.get(
            int(tokens.positions[row]), str(tokens.positions[row])
        )
        shown = "–" if tokens.kinds[row] == IMAGE else str(tokens.ids[row])
        mark = "●" if tokens.targets[row] else ""
        lines.append(
            f"{row:>6}  {KINDS[tokens.kinds[row]]:10}  {shown:>6}  {meaning(codec, tokens, row):22}  {position:>8}  {mark}"
        )
    return "\n".join(lines)


def meaning(codec: TimestepCodec, tokens: Tokens, row: int) -> str:
    """What a token stands for: a piece of text, a patch's place, a value."""
    kind, token = int(tokens.kinds[row]), int(tokens.ids[row])
    if kind == TEXT:
        return repr(codec.text.pieces([token])[0]) if codec.text else ""
    if kind == IMAGE:
        r0, r1, c0, c1 = tokens.boxes[row]
        return f"rows {r0}–{r1} columns {c0}–{c1}"
    if kind == SEPARATOR:
        return "|"
    if kind == DISCRETE:
        return str(int(codec.vocabulary.decode_discrete(np.array(token))))
    y = float(codec.vocabulary.decode_continuous(np.array(token)))
    if tokens.positions[row] == ACTION_POSITION or tokens.targets[row]:
        return f"{y:+.4f} of the bounds"
    from gato.tokens.values import mu_law_inverse

    return f"{float(mu_law_inverse(np.array(y))):+.4g}"


def draw(codec: TimestepCodec, tokens: Tokens, step: int, path: Path, columns: int = 16, cell: int = 64) -> None:
    """A PNG of the timestep: one cell per token in reading order, coloured by kind, patches as they are, targets ringed."""
    starts = tokens.starts()
    rows = range(int(starts[step]), int(starts[step + 1]))
    height = -(-len(rows) // columns)
    picture = Image.new("RGB", (columns * cell, height * cell + 28), "white")
    pen = ImageDraw.Draw(picture)
    for i, row in enumerate(rows):
        x, y, kind = i % columns * cell, i // columns * cell, int(tokens.kinds[row])
        if kind == IMAGE:
            patch = tokens.table.rows[tokens.patches[row]].reshape(16, 16, 3)
            picture.paste(Image.fromarray(patch).resize((cell - 4, cell - 4), Image.Resampling.NEAREST), (x + 2, y + 2))
        else:
            pen.rectangle((x + 2, y + 2, x + cell - 3, y + cell - 3), fill=COLOURS[kind])
            label = meaning(codec, tokens, row).strip("'").split(" of ")[0]
            pen.text((x + 6, y + 10), label[:9], fill="white")
            pen.text((x + 6, y + 30), str(tokens.ids[row]), fill="white")
        if tokens.targets[row]:
            pen.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), outline="#d62728", width=3)
    x = 4
    for kind, colour in COLOURS.items():
        pen.rectangle((x, height * cell + 8, x + 12, height * cell + 20), fill=colour)
        pen.text((x + 16, height * cell + 8), KINDS[kind], fill="black")
        x += 100
    pen.text((x, height * cell + 8), "red frame: target", fill="#d62728")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
