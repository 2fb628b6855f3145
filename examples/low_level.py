"""The network alone: 20 patches, a continuous value and a discrete one, twice over, become hidden states.

python examples/low_level.py            # 79 million random weights, about half a gigabyte of memory
"""

import numpy as np
import torch

import gato
from gato.episodes import Episode, Spec, TaskSpec
from gato.sequences import Segment, TokenStore, collate
from gato.tokens import TimestepCodec

config = gato.GatoConfig.small()
model = gato.Gato(config).eval()

# One timestep: an image of 64×80 pixels (4 × 5 patches), a number, the separator, and a button as the action.
spec = TaskSpec(
    observation={
        "image": Spec("image", (64, 80, 3), "uint8", (0.0,), (255.0,)),
        "speed": Spec("continuous", (1,), "float32", (-np.inf,), (np.inf,)),
    },
    action={"button": Spec("discrete", (), "int64", (0.0,), (17.0,))},
)
episode = Episode(
    "example/two-steps",
    {"image": np.zeros((2, 64, 80, 3), np.uint8), "speed": np.array([[0.1], [-3.0]], np.float32)},
    {"button": np.array([3, 7])},
    np.zeros(2, np.float32),
)
codec = TimestepCodec(spec, config.vocabulary, text=None, task=episode.task)
store = TokenStore.build(episode.task, codec, [episode])
batch = collate([Segment(store=0, spans=((0, len(store.tokens)),))], [store])

with torch.no_grad():
    hidden = model.hidden_states(batch)

print(f"{model.num_parameters / 1e6:.1f} M parameters, {len(batch.ids)} tokens in two timesteps")
print("rows and columns of the first five patches:", batch.image_places[:5].tolist())
print("local positions (-2: an action):", batch.positions[:23].tolist())
print("ids after the patches:", batch.ids[20:23].tolist())
print("hidden states:", tuple(hidden.shape))
