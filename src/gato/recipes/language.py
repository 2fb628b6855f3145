"""Language beside control: one small network captions, answers, talks and acts.

    gato data generate captions/scenes captions/rooms questions/rooms dialogues/scenes dialogues/program \
        clips/experts pages/walkthroughs text/python-docs --out data
    gato train language --data data --out runs/language

The demo's network, optimiser and steps; what else was tried is in docs/log.md. Half of the tokens are questions, of which each has
but one or two targets. Two slots a step, which language alone learns from best, teach it hardly anything in this company.
"""

from gato.recipes.demo import recipe as demo

CONTROL = {
    "babyai/go-to-local": 0.06,
    "sokoban/7x7-1-box": 0.05,
    "meta-world": 0.05,
    "dm-control-suite": 0.05,
}
LANGUAGE = {
    "captions/scenes": 0.09,
    "captions/rooms": 0.07,
    "questions": 0.50,
    "dialogues": 0.05,
    "clips": 0.015,
    "pages": 0.015,
    "text": 0.05,
}
DOCUMENTS = ("captions", "questions", "dialogues", "clips", "pages", "text")

recipe = demo.replace(
    name="language",
    model={**demo.model, "vocabulary_size": 1024},  # as results/language.json was measured; so is what follows
    seconds=1200,
    weights={**CONTROL, **LANGUAGE},
    window_timesteps={"*": 1, **dict.fromkeys(DOCUMENTS)},
    continuous="mean",
)
