"""Frames of a MuJoCo model without a screen: no shadows, reflections or antialiasing, which cost ten times the rest,
unless asked for.

The OpenGL context is made here and not by `mujoco.Renderer`, since that one settles on a library when mujoco is first
imported, which may have happened anywhere, and for a machine with a screen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from gato.errors import WorldError

NO_GL = "apt-get install -y libegl1 libgl1   (or MUJOCO_GL=osmesa with libosmesa6)"


class Camera:
    """One view of one model. `height` and `width` in pixels; `index` of the model's own cameras (the first if any).
    `plain` leaves out shadows, reflections and antialiasing.

    `free` stands somewhere of its own instead: `lookat` (metres), `distance`, `azimuth` and `elevation` (degrees).
    `hulls` draws meshes as their convex hulls, for models with hundreds of thousands of triangles.
    Raises WorldError with the apt line where there is no OpenGL.
    """

    def __init__(
        self, model: Any, height: int, width: int, index: int = 0, where: str = "", *, plain: bool = True, hulls: bool = False,
        free: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        import mujoco

        self._mujoco, self.model, self._viewport = mujoco, model, mujoco.MjrRect(0, 0, width, height)
        self._view = mujoco.MjvCamera()
        if free is not None:
            mujoco.mjv_defaultFreeCamera(model, self._view)
            self._view.lookat[:] = free["lookat"]
            self._view.distance, self._view.azimuth = free["distance"], free["azimuth"]
            self._view.elevation = free["elevation"]
        elif model.ncam:
            self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, index
        else:
            mujoco.mjv_defaultFreeCamera(model, self._view)
        self._option = mujoco.MjvOption()
        self._option.flags[mujoco.mjtVisFlag.mjVIS_CONVEXHULL] = hulls
        self._scene = mujoco.MjvScene(model, maxgeom=5000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = not plain
        quality = model.vis.quality  # read when a context is made; the model may have other cameras, with another look
        its_own = quality.offsamples, quality.shadowsize
        try:
            if plain:
                quality.offsamples, quality.shadowsize = 0, 0
            self._gl = _gl_context(width, height)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # whatever a GL library (or its absence) comes up with
            raise WorldError(
                f"no picture: OpenGL without a display does not work here ({type(error).__name__}: {error})",
                where=where,
                fix=NO_GL,
            ) from error
        finally:
            quality.offsamples, quality.shadowsize = its_own
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)

    def upload_terrain(self) -> None:
        """After the model's height fields have changed."""
        self._gl.make_current()
        for field in range(self.model.nhfield):
            self._mujoco.mjr_uploadHField(self.model, self._context, field)

    def picture(self, data: Any) -> np.ndarray:
        """uint8 (height, width, 3) of an MjData."""
        mujoco, everything = self._mujoco, self._mujoco.mjtCatBit.mjCAT_ALL
        self._gl.make_current()  # other environments of this process have contexts of their own
        mujoco.mjv_updateScene(self.model, data, self._option, None, self._view, everything, self._scene)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        pixels = np.empty((self._viewport.height, self._viewport.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._viewport, self._context)
        return pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _gl_context(width: int, height: int) -> Any:
    """EGL on Linux unless MUJOCO_GL names another; elsewhere MuJoCo's own choice."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if sys.platform == "linux" and chosen in ("", "egl"):
        from mujoco.egl import GLContext
    elif sys.platform == "linux" and chosen == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        from mujoco.gl_context import GLContext
    return GLContext(width, height)
