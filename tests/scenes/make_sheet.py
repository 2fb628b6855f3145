"""One picture of the generated corpora, for the documentation and for one's own eyes.

python tests/scenes/make_sheet.py docs/images/corpora.png
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gato.scenes import episodes

CELL, TEXT, WIDE = 160, 72, 6  # pixels of a picture and of the words under it; pictures a row


def card(picture: np.ndarray, words: str) -> Image.Image:
    out = Image.new("RGB", (CELL + 12, CELL + TEXT), "white")
    out.paste(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.NEAREST), (6, 4))
    ImageDraw.Draw(out).text(
        (8, CELL + 8), "\n".join(textwrap.wrap(words, 29)[:4]), "black", ImageFont.load_default(11)
    )
    return out


def row(cards: list[Image.Image]) -> Image.Image:
    out = Image.new("RGB", (WIDE * (CELL + 12), CELL + TEXT), "white")
    for i, one in enumerate(cards):
        out.paste(one, (i * (CELL + 12), 0))
    return out


def first(name: str, *wanted: int) -> list:
    found = list(episodes(name, "train", max(wanted) + 1))
    return [found[i].observations for i in wanted]


def rows() -> list[Image.Image]:
    captions = [card(o["image"][0], o["text"][0]) for o in first("captions/rooms", 0, 2, 8, 7, 12, 17)]
    questions = [
        card(o["image"][0], f"{o['question'][0][3:-3]}{o['reply'][0]}") for o in first("questions/rooms", *range(6))
    ]
    (told,) = first("dialogues/scenes", 1)
    lines = card(told["image"][0], "")
    said = (told["question"][0] + told["reply"][0]).replace("\n", " / ")
    words, font = "\n".join(textwrap.wrap(said, 34)[:5]), ImageFont.load_default(9)
    ImageDraw.Draw(lines).text((8, CELL + 6), words, "black", font)
    (page,) = first("pages/walkthroughs", 4)
    texts = [f"{page['text'][0]} [picture] {page['text'][1]}", *page["text"][2:]]
    walked = [card(image, text) for image, text in zip(page["image"][1:], texts, strict=True)]
    (clip,) = first("clips/experts", 5)
    frames = [card(frame, clip["text"][0] if i == 0 else f"frame {i + 1}") for i, frame in enumerate(clip["clip"][0])]
    return [row(captions), row(questions), row([*walked[:5], lines]), row(frames)]


def main() -> None:
    made = rows()
    sheet = Image.new("RGB", (made[0].width, sum(r.height for r in made)), "white")
    top = 0
    for each in made:
        sheet.paste(each, (0, top))
        top += each.height
    sheet.quantize(64).save(Path(sys.argv[1]), optimize=True)


if __name__ == "__main__":
    main()
