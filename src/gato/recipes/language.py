"""Language beside control: one small network captions, answers, talks and acts.

    gato data generate captions/scenes captions/rooms questions/rooms dialogues/scenes dialogues/program \
        clips/experts pages/walkthroughs text/python-docs --out data
    gato train language --data data --out runs/language

The demo's network and optimiser; what differs was found by small trials (docs/log.md). A step is two slots of 1,024 tokens, a
third of the demo's: of the same tokens, more and smaller steps teach pictures faster. Patches go through the residual stem: a
matrix alone learned captions far more slowly. Two fifths of the tokens are questions, of which each has but one or two targets.
"""

from gato.recipes.demo import recipe as demo

CONTROL = {
    "babyai/go-to-local": 0.09,
    "sokoban/7x7-1-box": 0.06,
    "meta-world": 0.07,
    "dm-control-suite": 0.08,
}
LANGUAGE = {
    "captions/scenes": 0.10,
    "captions/rooms": 0.05,
    "questions": 0.42,
    "dialogues": 0.05,
    "clips": 0.015,
    "pages": 0.015,
    "text": 0.05,
}
DOCUMENTS = ("captions", "questions", "dialogues", "clips", "pages", "text")

recipe = demo.replace(
    name="language",
    seconds=480,
    weights={**CONTROL, **LANGUAGE},
    slots=2,
    window_timesteps={"*": 1, **dict.fromkeys(DOCUMENTS)},
)
