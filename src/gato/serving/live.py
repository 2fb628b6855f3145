"""A world played where one can watch: observation, tokens, decision, reward, step after step.

The world runs in a process of its own, under the same supervision as in evaluation: if it crashes it is started again
and brought back to where it was. What is sent of a step is what the network read and chose, not a reconstruction.
"""

from __future__ import annotations

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gato.episodes import check_same
from gato.episodes.episode import LAST_REWARD
from gato.errors import known_instead
from gato.policy import look
from gato.rollouts import Unit, episode_seed
from gato.rollouts.loop import Transition
from gato.rollouts.pool import WorkerPool
from gato.sequences.returns import world_spec
from gato.serving.filmed import as_file, filmed
from gato.serving.limits import Refused
from gato.serving.sessions import Sessions
from gato.tokens.patches import frames, grid
from gato.tokens.timestep import IMAGE
from gato.worlds import find

DEADLINE = 30.0  # seconds that one step of a world may take


class Live:
    """One task on one screen. `open` first, `close` last; in between `begin` an episode and `advance` it."""

    def __init__(self, sessions: Sessions, task: str, acting: dict[str, Any]):
        """Raises Refused: 404 for a task that the agent does not know, 422 where its simulator is not installed."""
        agent = sessions.agent
        if task not in agent.tasks:
            raise Refused(
                404,
                "unknown-task",
                f"this agent does not know {task[:100]!r}",
                "task",
                known_instead(task[:100], agent.tasks),
            )
        self.task = find(task)
        if not self.task.installed:
            raise Refused(
                422, "simulator-missing", f"the simulator of {task} is not installed", "task", self.task.pip_line
            )
        self._sessions, self._acting, self._bundle = sessions, acting, agent.bundle
        self._codec, self._spec = agent.bundle.codec(task), agent.bundle.tasks[task].spec
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="world")
        self._pool: WorkerPool | None = None
        self.done, self._closed = True, False

    async def open(self) -> Live:
        self._policy = await self._sessions.run(lambda: self._sessions.agent.policy(self.task.id, 1, **self._acting))
        await self._in_world(self._start)
        return self

    def _start(self) -> None:
        check_same(world_spec(self._spec), self.task.spec, self.task.id)
        filmed(self.task.id)
        self._pool = WorkerPool(1, deadline=DEADLINE)
        self._slot = self._pool.slots(1)[0]

    async def close(self) -> None:
        """Also of a world that is just being opened: behind that, since both happen in its thread."""
        if not self._closed:
            self._closed = True
            await self._in_world(self._end)
            self._thread.shutdown(wait=False)

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.close()

    async def _in_world(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def facts(self) -> dict[str, Any]:
        """What is known of the task beforehand."""
        references = self.task.references
        return {
            "type": "task", "task": self.task.id, "score": self.task.score, "max_steps": self.task.max_steps,
            "expert": references["expert"].mean if "expert" in references else None,
            "random": references["random"].mean if "random" in references else None,
            "expert_name": self.task.expert_name, "acting": {**self._bundle.acting, **self._acting},
            "actions": list(self.task.meta.get("actions", ())),
            "sees": {path: str(spec) for path, spec in self._spec.observation.items()},
            "does": {path: str(spec) for path, spec in self._spec.action.items()},
        }  # fmt: skip

    async def change(self, **acting: Any) -> None:
        self._acting |= acting
        await self._sessions.run(lambda: self._policy.change(**acting))

    # -- playing ------------------------------------------------------------------------------------------------------

    async def begin(self, episode: int) -> dict[str, Any]:
        """Episode number `episode` of the evaluation's: the same start for the same number, whoever asks."""
        seed = episode_seed(self.task.id, episode, "evaluation")
        self._now: Transition = await self._in_world(self._reset, Unit(filmed(self.task.id).id, seed))
        await self._sessions.run(self._policy.reset, 0, seed)
        self.step, self.total, self.done = 0, 0.0, False
        return {"type": "begin", "episode": episode, "seed": seed, **self._picture()}

    def _reset(self, unit: Unit) -> Transition:
        self._slot.reset(unit)
        return self._slot.receive()

    def _move(self, action: dict[str, np.ndarray]) -> Transition:
        self._slot.step(action)
        return self._slot.receive()

    async def advance(self) -> dict[str, Any]:
        """One decision and its outcome. Only between `begin` and `done`."""
        assert not self.done, "begin first"
        shown, action = await self._sessions.run(self._decide)
        self._now = await self._in_world(self._move, action)
        self.step += 1
        self.total += float(self._now.reward)
        self.done = self._now.terminated or self._now.truncated
        success = self._now.info.get("success")
        return {
            "type": "step", "step": self.step, "reward": float(self._now.reward), "return": self.total, "done": self.done,
            "success": success, **shown, **self._picture(),
        }  # fmt: skip

    def _picture(self) -> dict[str, Any]:
        return {"frame": _address(self._now.info["frame"])}

    def _decide(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """In the acting thread."""
        leaves = self._policy.seen(0, self._now.observation, {LAST_REWARD: self._now.reward})
        action = self._policy.act({0: leaves})[0]
        tokens = look.timestep(self._codec, self.task.id, leaves, action)
        gaze = look.first_layer_attention(self._bundle, tokens)
        names = look.labels(self._codec, tokens)
        rows = [[int(tokens.kinds[r]), names[r], int(tokens.ids[r])] for r in range(len(tokens))]
        shown = {
            "tokens": rows,
            "gaze": np.round(gaze.astype(np.float64), 4).tolist(),
            "choices": look.choices(self._policy.probabilities(0), self._spec.action, action),
            "seen": [self._seen(path, leaves[path], gaze, tokens.kinds) for path in self._images()[:1]],
        }
        return shown, action

    def _images(self) -> list[str]:
        return [path for path, spec in self._spec.observation.items() if spec.kind == "image"]

    def _seen(self, path: str, pixels: Any, gaze: np.ndarray, kinds: np.ndarray) -> dict[str, Any]:
        """The first image of the observation, and for each of its patches how much of the gaze fell on it."""
        shown = frames(pixels[None] if pixels.ndim == 3 else pixels)[0]
        rows, columns = grid(*shown.shape[:2])
        patches = gaze[:, np.flatnonzero(kinds == IMAGE)[: rows * columns]]
        return {
            "path": path, "image": _address(as_file(np.ascontiguousarray(shown))), "rows": rows, "columns": columns,
            "patches": np.round(patches.astype(np.float64), 4).tolist(),
        }  # fmt: skip


def _address(file: bytes) -> str:
    """A picture file as a data: address; "" for none."""
    kind = "png" if file.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}" if file else ""
