"""Language beside control: one small network captions, answers, talks and acts.

    gato data generate captions/scenes captions/rooms questions/rooms dialogues/scenes dialogues/program \
        clips/experts pages/walkthroughs text/python-docs --out data
    gato train src/gato/recipes/language.py --data data --out runs/language

The demo's network and optimiser; what differs was found by small trials (docs/log.md). A step is two slots of 1,024 tokens, a
third of the demo's: of the same tokens, more and smaller steps teach pictures faster. A third of the tokens are questions, of which
each has but one or two target tokens, and a tenth are captions.
"""

from gato.recipes.demo import recipe as demo

CONTROL = {
    "babyai/go-to-local": 0.10,
    "sokoban/7x7-1-box": 0.08,
    "meta-world": 0.08,
    "dm-control-suite": 0.09,
}
LANGUAGE = {
    "captions/scenes": 0.10,
    "captions/rooms": 0.06,
    "questions": 0.34,
    "dialogues": 0.05,
    "clips": 0.02,
    "pages": 0.02,
    "text": 0.06,
}
DOCUMENTS = ("captions", "questions", "dialogues", "clips", "pages", "text")

recipe = demo.replace(
    name="language",
    seconds=480,
    weights={**CONTROL, **LANGUAGE},
    slots=2,
    window_timesteps={"*": 1, **dict.fromkeys(DOCUMENTS)},
)
