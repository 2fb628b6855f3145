"""MuJoCo models as descriptions: heard as they are compiled, changed, compiled again, and their numbers poured over.

    with heard() as described:              # any dm_control code that compiles a model
        simulator = suite.load("walker", "walk")
    spec = described.spec()                 # a fresh mujoco.MjSpec of that very model
    spec.geom("torso").density *= 1.2
    pour(compiled(spec), into=model)        # the numbers of the changed body, in the model that is in use

`pour` makes a change of physics without a new environment: a model whose elements are the same keeps its buffers, its
data and everything that points into them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Description:
    """The MJCF text of a model and the files it includes or uses."""

    xml: str = ""
    assets: Mapping[str, bytes] = field(default_factory=dict)

    def spec(self) -> Any:
        """A new `mujoco.MjSpec`. Its textures are shrunk to nothing: drawing them takes most of a compilation."""
        import mujoco

        included = {name.removeprefix("./"): text for name, text in self.assets.items()}
        spec = mujoco.MjSpec.from_string(self.xml, include=included, assets=dict(self.assets))
        for texture in spec.textures:
            if texture.builtin:
                texture.width, texture.height = 1, 6 if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX else 1
        return spec


@contextlib.contextmanager
def heard() -> Iterator[Description]:
    """The description of the last model that dm_control compiles inside the block (it keeps none itself)."""
    from dm_control.mujoco import Physics

    described, compile_text = Description(), Physics.__dict__["from_xml_string"]

    def listen(cls: type, xml_string: str | bytes, assets: Mapping[str, bytes] | None = None) -> Any:
        described.xml = xml_string.decode() if isinstance(xml_string, bytes) else xml_string
        described.assets = assets or {}
        return compile_text.__func__(cls, xml_string, assets=assets)

    Physics.from_xml_string = classmethod(listen)
    try:
        yield described
    finally:
        Physics.from_xml_string = compile_text


def pour(source: Any, into: Any) -> None:
    """Copy every number of one MjModel into another: arrays of the same shapes, except names, textures and materials."""
    for part in ("", "opt", "stat"):
        from_part, to_part = (getattr(model, part) if part else model for model in (source, into))
        for name in dir(from_part):
            if name.startswith(("_", "name", "tex", "mat_")):
                continue
            value, old = getattr(from_part, name), getattr(to_part, name)
            if isinstance(value, np.ndarray) and value.shape == old.shape:
                old[...] = value
            elif part and isinstance(value, (int, float)):
                setattr(to_part, name, value)


# -- probes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """What a planner wants to know of a future, as a sensor that it adds to its own copy of the model.

    `kind` is MuJoCo's name of the sensor in lower case (framepos, framezaxis, framelinvel, subtreelinvel, velocimeter,
    e_kinetic, …), `of` an element ("body torso" for its centre of mass, "xbody torso" for its frame, "geom …", "site …";
    none for the energies), and `seen_from` the element in whose frame it is told, the world's if empty.
    """

    kind: str
    of: str = ""
    seen_from: str = ""


def probed(spec: Any, probes: Mapping[str, Probe], like: Any) -> tuple[Any, dict[str, slice]]:
    """(an MjModel of `spec` with these sensors added and the other numbers of `like`, columns of each probe)."""
    import mujoco

    def element(text: str) -> tuple[Any, str]:
        kind, _, name = text.partition(" ")
        return getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}"), name

    for name, probe in probes.items():
        sensor = spec.add_sensor(name=f"probe {name}", type=getattr(mujoco.mjtSensor, f"mjSENS_{probe.kind.upper()}"))
        if probe.of:
            sensor.objtype, sensor.objname = element(probe.of)
        if probe.seen_from:
            sensor.reftype, sensor.refname = element(probe.seen_from)
    model = spec.compile()
    sensors = {name: model.sensor(f"probe {name}") for name in probes}
    columns = {name: slice(int(s.adr[0]), int(s.adr[0] + s.dim[0])) for name, s in sensors.items()}
    pour(like, model)
    return model, columns
