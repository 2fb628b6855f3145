"""From a corpus on disk to batches and gradients: texts, five captioned images, questions, pages and clips at once."""

import numpy as np
import pytest
import torch
from make_samples import make_clips, make_coco, make_obelics, make_pile, make_vqav2

from gato.corpora.layouts import Preparation, import_corpus
from gato.model.transformer import Gato
from gato.sequences import Mixture
from gato.tokens.timestep import IMAGE, TEXT
from gato.training import Recipe, load_stores

HOW = Preparation(size=(32, 48), split="all", frames=3, stride=2)
MADE = {"pile": make_pile, "coco": make_coco, "vqav2": make_vqav2, "obelics": make_obelics, "clips": make_clips}
SMALL = {"layer_width": 32, "num_attention_heads": 1, "num_transformer_blocks": 1, "feedforward_hidden_size": 64}


@pytest.fixture(scope="module")
def stores(tmp_path_factory, tokenizer):
    root = tmp_path_factory.mktemp("corpora")
    for name, make in MADE.items():
        list(import_corpus(name, make(root / "raw" / name), root / "data", HOW))
    recipe = Recipe(model=SMALL)
    return load_stores([root / "data"], recipe.config(), tokenizer, recipe), recipe


def store_of(stores, domain):
    return next(s for s in stores if s.domain == domain)


def test_five_pairs_are_one_window_where_they_fit(stores):
    store = store_of(stores[0], "captions")
    rng = np.random.default_rng(0)
    whole = {tuple(store.window(rng, 1024)) for _ in range(200)}
    assert len(whole) == store.num_episodes == 5
    for begin, end in whole:
        kinds = store.tokens.kinds[begin:end]
        assert (kinds == IMAGE).sum() in (5 * 6, 4 * 6) and kinds[0] == IMAGE
        marks = store.tokens.ids[begin:end][kinds == TEXT] == store.codec.text.eos_id
        assert marks.sum() == (kinds == IMAGE).sum() // 6  # each caption ends
    longest = int(np.diff(store.starts).max())
    for _ in range(50):  # cropped: whole pairs, as many as fit
        begin, end = store.window(rng, 2 * longest)
        assert begin in store.starts and end in store.starts and end - begin <= 2 * longest


def test_of_questions_only_the_answer_is_a_target(stores):
    store = store_of(stores[0], "questions")
    text = store.codec.text
    said = text.decode(store.tokens.ids[store.tokens.targets])
    assert said.startswith(" red red green green") and "?" not in said and "Q:" not in said


def test_pages_begin_anywhere_and_end_once(stores):
    store = store_of(stores[0], "pages")
    ends = store.tokens.ids[store.tokens.kinds == TEXT] == store.codec.text.eos_id
    assert ends.sum() == store.num_episodes == 8
    rng = np.random.default_rng(0)
    kinds = {int(store.tokens.kinds[store.window(rng, 24)[0]]) for _ in range(100)}
    assert kinds == {TEXT, IMAGE}


def test_all_of_them_train_together(stores):
    stores, recipe = stores
    weights = {"text": 1.0, "captions": 1.0, "questions": 1.0, "pages": 1.0, "clips": 1.0}
    mixture = Mixture(stores, weights, 4, 256, 256, seed=1)
    batch = mixture.batch(0)
    assert set(batch.stores.tolist()) == set(range(5)) and batch.padding < 0.2
    torch.manual_seed(0)
    model = Gato(recipe.config())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(batch), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and losses[-1] < losses[0] - 0.5
