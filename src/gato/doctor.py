"""What is installed, and whether it works."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from typing import Any

PACKAGES = ("gato-agent", "torch", "numpy", "gymnasium", "pyarrow", "sentencepiece")


def sizes() -> dict[str, dict[str, int]]:
    """Parameters of every named size, counted on the meta device: {"gato-79m": {"parameters": n}, …}."""
    import torch

    from gato.model import SIZES, Gato

    found = {}
    for name, make in SIZES.items():
        with torch.device("meta"):
            found[name] = {"parameters": Gato(make()).num_parameters}
    return found


def examine() -> dict[str, Any]:
    """One line per fact: versions, simulators (or the pip line that installs them), a rendered frame, a tiny training."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    found["device"] = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    )
    found["bf16 products"] = (
        "yes" if torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no: float32 is used"
    )
    from gato.model import native
    from gato.worlds import screen

    for what, (compiled, told) in {"passes in C": native.load(), "screens in C": screen.load()}.items():
        found[what] = told if compiled is not None else f"no: {told}"
    found |= _simulators()
    found["rendering"] = _render()
    found["training"] = _train()
    found["generalist"] = _generalist()
    return found


def _generalist() -> str:
    from gato.errors import CheckpointMissingError
    from gato.policy.shipped import shipped

    try:
        return str(shipped())
    except CheckpointMissingError as error:
        return f"{error.what}; {error.fix}"


def _simulators() -> dict[str, str]:
    from gato.worlds import registry

    found: dict[str, str] = {}
    for task in registry().values():
        if task.domain in found:
            continue
        if not task.requires:
            found[task.domain] = "built in"
        elif task.installed:
            found[task.domain] = ", ".join(f"{m} {_version(m)}" for m in task.requires)
        else:
            found[task.domain] = f"not installed: {task.pip_line}"
    return found


def _version(module: str) -> str:
    for distribution in importlib.metadata.packages_distributions().get(module.split(".")[0], ()):
        return importlib.metadata.version(distribution)
    return "?"


def _render() -> str:
    from gato.errors import GatoError
    from gato.worlds import find

    task = find("dm-control-suite/cartpole-swingup")
    if not task.installed:
        return f"not tried: {task.pip_line}"
    try:
        env = task.make(render=True)
        env.reset(seed=0)
        frame = env.render()
        env.close()
        return f"a MuJoCo frame of {frame.shape[1]}×{frame.shape[0]} pixels, headless"  # type: ignore[union-attr]
    except GatoError as error:
        return f"{error.what}; {error.fix}"


def _train() -> str:
    import torch

    from gato.model import Gato, GatoConfig
    from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
    from gato.sequences import Mixture, TokenStore
    from gato.tokens import TimestepCodec
    from gato.training.loss import token_losses
    from gato.worlds import find

    task, config = find("sokoban/7x7-1-box"), GatoConfig.tiny()
    slot = LocalSlot()
    episodes = list(rollout([Unit(task.id, seed) for seed in range(4)], [slot], ExpertPolicy()))
    slot.close()
    codec = TimestepCodec(task.spec, config.vocabulary, None, task=task.id)
    mixture = Mixture([TokenStore.build(task.id, codec, episodes)], {"*": 1.0}, 1, 512, 256)
    model = Gato(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    began, losses = time.perf_counter(), []
    for step in range(2):
        batch = mixture.batch(step)
        loss = token_losses(model(batch), batch.targets, batch.kinds, config.vocabulary.continuous).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return f"two steps of {model.num_parameters:,} parameters in {time.perf_counter() - began:.1f} s, loss {losses[0]:.2f} → {losses[1]:.2f}"
