"""RGB stacking: a Sawyer arm over a basket puts the red object onto the blue one, `rgb-stacking/…` (dm_robotics, MuJoCo).

    {"basket_front_left": uint8 (128, 128, 3), "basket_front_right": …, "gripper": float32 (1,), "joints": float32 (7,),
     "pinch": float32 (7,), "wrist": float32 (7,)}
        →  {"arm": float32 (4,) velocity x, y, z in m/s and yaw in rad/s, "gripper": 0 opens, 1 closes}

The cell is built from the packages' own models: Sawyer, Robotiq 2F-85, force sensor, basket with its cameras, and the
RGB objects. What surrounds them follows the published environment (google-deepmind/rgb_stacking, Apache-2.0): 20 Hz,
400 steps, ±0.07 m/s and ±1 rad/s within a box of 25×25×20 cm, a gripper that only opens or closes, objects dropped into
the basket in any orientation. The pixel tasks see what the paper's agent saw, two cameras and the arm, and nothing of
the objects; `…-state` sees the objects' poses instead of pictures.

The score is success: red has stood on blue for half a second, clear of robot and basket. The episode ends there, with
its one reward. What departs from the published environment is listed in docs/worlds/rgb-stacking.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from gato.errors import WorldError
from gato.worlds import Task
from gato.worlds.camera import Camera
from gato.worlds.dm_control import import_suite

DOMAIN = "rgb-stacking"
MAX_STEPS = 400
CONTROL_SECONDS, PHYSICS_SECONDS = 0.05, 0.002
SUBSTEPS = round(CONTROL_SECONDS / PHYSICS_SECONDS)
FRAME = 128  # pixels a side
CAMERAS = ("basket_front_left", "basket_front_right")
COLOURS = ("red", "green", "blue")  # the red object goes onto the blue one; green is in the way
FLOOR = 0.0498  # metres, the basket's
WORKSPACE = np.array([[0.475, -0.125, 0.0698], [0.725, 0.125, 0.2698]])  # metres, of the point between the fingers
MAX_VELOCITY = np.array([0.07, 0.07, 0.07, 1.0])  # m/s, rad/s
WRIST_LIMIT = np.pi / 2
HOLD = 10  # steps that a stack must stand

# The triplets of Lee et al. 2021: red, green, blue. All their objects are held out of the training set.
TRIPLETS = {
    "triplet-1": ("r3", "s0", "b2"),
    "triplet-2": ("r5", "g2", "b3"),
    "triplet-3": ("r6", "g3", "b5"),
    "triplet-4": ("s0", "g5", "b6"),
    "triplet-5": ("r2", "g6", "s0"),
}

# Train on the first, test on the second, the way the two benchmarks of Lee et al. ask it. In Skill Mastery the test
# objects are known, in Skill Generalization none of them was ever seen.
SPLITS = {
    "skill-mastery": ((f"{DOMAIN}/skill-mastery",), tuple(f"{DOMAIN}/{name}" for name in TRIPLETS)),
    "skill-generalization": ((f"{DOMAIN}/skill-generalization",), tuple(f"{DOMAIN}/{name}" for name in TRIPLETS)),
}

HOME = np.array([0.0, -0.5186, -0.5294, 1.2209, 0.4086, 1.0783, 0.0])  # rad, where the arm's elbow likes to be
GRIPPER = "robot/robotiq_fts300/robotiq_2f85"


def tasks() -> list[Task]:
    from gato.worlds.rgb_stacking_expert import Stacker

    objects = {**{name: "test" for name in TRIPLETS}, "skill-mastery": "test", "skill-generalization": "train"}
    variants = [(name, True) for name in objects] + [(name, False) for name in TRIPLETS]
    return [
        Task(
            id=f"{DOMAIN}/{name}{'' if pixels else '-state'}",
            make_env=functools.partial(RGBStacking, name, pixels=pixels),
            make_expert=Stacker,
            score="success",
            requires=("dm_robotics", "dm_control", "mujoco"),
            extra="robotics",
            max_steps=MAX_STEPS,
            expert_name="rehearsed script",
            same_world=f"{DOMAIN}/{name}-state" if pixels and name in TRIPLETS else "",
            notes="ends once the stack has stood for half a second; 2 ms physics; own resolved-rate control",
            meta={"objects": objects[name], "triplet": TRIPLETS.get(name), "slow": True},
        )
        for name, pixels in variants
    ]


# -- the cell ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The compiled model of one triplet, and where things are in it."""

    model: Any  # MjModel; shared by all environments of the triplet, never written to
    wrist: int  # sites
    pinch: int
    arm_act: np.ndarray
    objects: np.ndarray  # (3,) bodies: red, green, blue
    object_qpos: np.ndarray  # (3,) where their poses begin
    owner: np.ndarray  # of each geom: 0…2 an object, 3 the robot, 4 the basket or the ground
    driver: int  # qpos of the gripper's angle
    weights: np.ndarray  # (nbody, 6) what carries the robot's own weight

    def pose(self, data: Any, colour: int) -> np.ndarray:
        """float64 (7,): position in metres and quaternion of an object."""
        at = self.object_qpos[colour]
        return data.qpos[at : at + 7]


@functools.lru_cache(maxsize=8)
def cell(ids: tuple[str, str, str]) -> Cell:
    """Build and compile; seconds the first time in a process, well under one after that (meshes are cached)."""
    import_suite()  # settles dm_control on a GL library, or on none
    from dm_control import mjcf
    from dm_robotics.manipulation.props.rgb_objects import rgb_object
    from dm_robotics.manipulation.standard_cell import rgb_basket
    from dm_robotics.moma.models.arenas import empty
    from dm_robotics.moma.models.end_effectors.robot_hands import robotiq_2f85
    from dm_robotics.moma.models.end_effectors.wrist_sensors import robotiq_fts300
    from dm_robotics.moma.models.robots.robot_arms import sawyer, sawyer_constants

    arena, arm = empty.Arena(), sawyer.Sawyer(name="robot")
    place = arena.mjcf_model.worldbody.add("site", pos=(0.6, 0.0, FLOOR), rgba="0 0 0 0", size="0.01")
    arena.attach(rgb_basket.RGBBasket(), place)
    sensor = robotiq_fts300.RobotiqFTS300()
    sensor.attach(robotiq_2f85.Robotiq2F85())
    arm.attach(sensor)
    arena.attach(arm)
    for i, colour in enumerate(COLOURS):
        rgba = [float(i == j) for j in range(3)] + [1.0]
        arena.add_free_entity(rgb_object.RgbObjectProp(obj_id=ids[i], color=rgba, name=colour))
    model = mjcf.Physics.from_mjcf_model(arena.mjcf_model).model.ptr

    model.opt.timestep = PHYSICS_SECONDS
    # The actuators integrate velocities; the packages clip the integral after every physics step, MuJoCo can by itself.
    low, high = sawyer_constants.JOINT_LIMITS["min"], sawyer_constants.JOINT_LIMITS["max"]
    model.actuator_actlimited[:] = 1
    model.actuator_actrange[:7] = np.stack([low, high], axis=1)
    model.actuator_actrange[7] = 0.0, 255.0
    for camera in range(model.ncam):
        if model.camera(camera).name.startswith("base/"):
            model.cam_fovy[camera] = 30.0  # degrees, as published; the basket's own model has 35 for two of them

    import mujoco

    names = [model.body(i).name for i in range(model.nbody)]
    robot = np.array([name.startswith("robot/") for name in names])
    objects = np.array([names.index(f"{colour}/") for colour in COLOURS])
    owner_of_body = np.where(robot, 3, 4)
    owner_of_body[objects] = range(3)
    weights = np.zeros((model.nbody, 6))
    weights[robot, :3] = -model.opt.gravity * model.body_mass[robot, None]
    return Cell(
        model=model,
        wrist=mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, "robot/wrist_site"),
        pinch=mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, f"{GRIPPER}/pinch_site"),
        arm_act=np.arange(7),
        objects=objects,
        object_qpos=np.array([model.jnt_qposadr[model.body_jntadr[body]] for body in objects]),
        owner=owner_of_body[model.geom_bodyid],
        driver=int(model.joint(f"{GRIPPER}/right_driver_joint").qposadr[0]),
        weights=weights,
    )


# -- the arm: what an action does -------------------------------------------------------------------------------------


def joint_velocity(cell: Cell, data: Any, linear: np.ndarray, angular: np.ndarray) -> np.ndarray:
    """float64 (7,) rad/s that moves the wrist with a velocity, by damped least squares; spare motion goes home."""
    import mujoco

    jacobian = np.zeros((6, cell.model.nv))
    mujoco.mj_jacSite(cell.model, data, jacobian[:3], jacobian[3:], cell.wrist)
    jacobian = jacobian[:, :7]
    inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 1e-4 * np.eye(6))
    home = 0.5 * (HOME - data.qpos[:7])
    velocity = inverse @ np.concatenate([linear, angular]) + home - inverse @ (jacobian @ home)
    excess = np.abs(velocity / cell.model.actuator_ctrlrange[:7, 1]).max()
    return velocity / max(excess, 1.0)


def upright(cell: Cell, data: Any) -> np.ndarray:
    """Axis times angle (rad) that would turn the gripper to point straight down."""
    axis = np.cross(data.site_xmat[cell.wrist].reshape(3, 3)[:, 2], [0.0, 0.0, -1.0])
    sine = np.linalg.norm(axis)
    cosine = -data.site_xmat[cell.wrist].reshape(3, 3)[2, 2]
    return axis / max(sine, 1e-9) * np.arctan2(sine, cosine)


def advance(cell: Cell, data: Any, arm: np.ndarray, close: bool) -> None:
    """One control step of an MjData: the arm's velocity within the workspace, the gripper, and the physics."""
    import mujoco

    arm = np.clip(np.asarray(arm, np.float64), -MAX_VELOCITY, MAX_VELOCITY)
    # What would lead further out of the workspace, or wind the wrist further up, is left out. The last joint turns
    # against the yaw.
    state = np.append(data.site_xpos[cell.pinch], -data.qpos[6])
    low, high = np.append(WORKSPACE[0], -WRIST_LIMIT), np.append(WORKSPACE[1], WRIST_LIMIT)
    arm = np.where(((state <= low) & (arm < 0)) | ((state >= high) & (arm > 0)), 0.0, arm)
    angular = 0.8 * upright(cell, data) + [0.0, 0.0, arm[3]]
    data.ctrl[:7] = joint_velocity(cell, data, arm[:3], angular)
    data.ctrl[7] = 255.0 if close else -255.0
    mujoco.mj_step(cell.model, data, SUBSTEPS)
    mujoco.mj_forward(cell.model, data)  # poses and contacts of where it is now


def is_stacked(cell: Cell, data: Any) -> bool:
    """Red rests on blue alone: it touches blue and neither robot nor basket, over it by 2 cm, aside by 5 cm at most."""
    offset = data.xpos[cell.objects[0]] - data.xpos[cell.objects[2]]
    if offset[2] <= 0.02 or np.hypot(*offset[:2]) >= 0.05:
        return False
    met = set()
    for contact in data.contact:
        pair = {int(cell.owner[contact.geom1]), int(cell.owner[contact.geom2])}
        if 0 in pair and contact.dist <= 2e-4:
            met |= pair
    return 2 in met and not met & {3, 4}


class RGBStacking(gymnasium.Env):
    """One triplet, or a new one for every episode. For the expert: `cell` and `data` (MjModel and MjData).

    `reset(options={"wide": True})` begins with the hand anywhere in its workspace, clear of the objects, the gripper
    anywhere between open and closed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, objects: str, *, pixels: bool = True, render: bool = False):
        self._objects, self._pixels = objects, pixels
        self.cell: Cell = cell(TRIPLETS.get(objects, TRIPLETS["triplet-1"]))
        self.data: Any = None
        self.standing, self._steps = 0, 0  # steps that red has been on blue; steps of the episode
        self.ids = TRIPLETS.get(objects)
        self._cameras: list[Camera] = []
        self._drawn: Cell | None = None  # the model that the cameras were made for
        self.render_mode = "rgb_array" if render else None
        sizes = {"gripper": 1, "joints": 7, "pinch": 7, "wrist": 7}
        if not pixels:
            sizes |= {"joints_velocity": 7, **dict.fromkeys(COLOURS, 7)}
        spaces: dict[str, gymnasium.Space] = {
            key: gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32) for key, size in sizes.items()
        }
        if pixels:
            spaces |= {name: gymnasium.spaces.Box(0, 255, (FRAME, FRAME, 3), np.uint8) for name in CAMERAS}
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Dict(
            arm=gymnasium.spaces.Box(-MAX_VELOCITY.astype(np.float32), MAX_VELOCITY.astype(np.float32)),
            gripper=gymnasium.spaces.Discrete(2),
        )

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[dict, dict]:
        import mujoco

        super().reset(seed=seed)
        self.ids = self._draw_triplet()
        self.cell = cell(self.ids)
        if self.data is None or self.data.model is not self.cell.model:
            self.data = mujoco.MjData(self.cell.model)
        for _ in range(20):
            self._lay_out(bool((options or {}).get("wide")))
            if self._usable():
                break
        else:
            raise WorldError("no start found in 20 draws", where=f"{DOMAIN} {self._objects}, {self.ids}")
        self.standing, self._steps = 0, 0
        return self._observe(), self._info(False)

    def step(self, action: Mapping[str, Any]) -> tuple[dict, float, bool, bool, dict]:
        advance(self.cell, self.data, action["arm"], int(action["gripper"]) == 1)
        self._steps += 1
        self.standing = self.standing + 1 if is_stacked(self.cell, self.data) else 0
        success = self.standing >= HOLD
        truncated = not success and self._steps >= MAX_STEPS
        return self._observe(), float(success), success, truncated, self._info(success)

    def state_vector(self) -> np.ndarray:
        """Positions and velocities of arm and objects, what traces compare."""
        return np.concatenate([self.data.qpos, self.data.qvel], dtype=np.float64)

    def render(self) -> np.ndarray | None:
        """uint8 (128, 128, 3): what the left camera sees."""
        return self._pictures()[CAMERAS[0]] if self.render_mode else None

    def close(self) -> None:
        for camera in self._cameras:
            camera.close()
        self._cameras, self._drawn = [], None

    def _info(self, success: bool) -> dict[str, Any]:
        return {"success": success, "objects": self.ids}

    def _draw_triplet(self) -> tuple[str, str, str]:
        if self._objects in TRIPLETS:
            return TRIPLETS[self._objects]
        if self._objects == "skill-mastery":
            return list(TRIPLETS.values())[int(self.np_random.integers(len(TRIPLETS)))]
        train = training_objects()
        red, green, blue = (train[int(i)] for i in self.np_random.integers(len(train), size=3))
        return red, green, blue

    def _lay_out(self, wide: bool) -> None:
        """Arm and objects drawn, and the objects at rest."""
        import mujoco

        model, data, rng = self.cell.model, self.data, self.np_random
        mujoco.mj_resetData(model, data)
        data.xfrc_applied[:] = self.cell.weights
        target = rng.uniform([0.5, -0.14, 0.22, -np.pi / 4], [0.7, 0.14, 0.43, np.pi / 4])
        self._put_arm(target[:3], target[3])
        self._drop_objects()
        if wide:
            target = rng.uniform([*WORKSPACE[0] + 0.01, -np.pi / 2], [*WORKSPACE[1], np.pi / 2])
            objects = data.qpos[self.cell.object_qpos[0] :].copy()
            self._put_arm(target[:3], target[3])
            data.qpos[self.cell.object_qpos[0] :] = objects
            data.qvel[:] = 0.0
            for _ in range(int(rng.integers(30))):  # the gripper takes about that long to close
                advance(self.cell, data, np.zeros(4), True)
        data.time = 0.0

    def _put_arm(self, position: np.ndarray, yaw: float) -> None:
        """The arm at rest with the gripper there, pointing down: the same velocities as in a step, without physics."""
        import mujoco

        model, data = self.cell.model, self.data
        data.qpos[:7] = HOME
        for _ in range(100):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            turn = upright(self.cell, data) + [0.0, 0.0, yaw + data.qpos[6]]
            data.qpos[:7] += 0.3 * joint_velocity(self.cell, data, position - data.site_xpos[self.cell.pinch], turn)
        data.act[:7] = data.qpos[:7]
        data.act[7] = 0.0

    def _drop_objects(self) -> None:
        """Each somewhere over the basket, in any orientation, clear of the others; then let fall."""
        import mujoco

        model, data, rng = self.cell.model, self.data, self.np_random
        for at in self.cell.object_qpos:
            data.qpos[at : at + 7] = 0.0, 0.0, -5.0 - at, 1.0, 0.0, 0.0, 0.0  # out of the way, under the ground
        for colour, at in enumerate(self.cell.object_qpos):
            for _ in range(100):
                turn = rng.normal(size=4)
                data.qpos[at : at + 7] = *rng.uniform([0.5, -0.1, 0.12], [0.7, 0.1, 0.12]), *turn / np.linalg.norm(turn)
                mujoco.mj_forward(model, data)
                owners = self.cell.owner[data.contact.geom] if data.ncon else np.empty((0, 2))
                if not ((owners == colour).any(axis=1) & (owners < 4).all(axis=1)).any():
                    break
        data.qvel[:] = 0.0
        for _ in range(40):  # two seconds at most
            mujoco.mj_step(model, data, SUBSTEPS)
            if np.abs(data.qvel[-18:]).max() < 1e-3:
                break
        mujoco.mj_forward(model, data)

    def _usable(self) -> bool:
        """All three objects within reach, at rest, and not stacked by chance; the hand clear of them."""
        places = np.stack([self.cell.pose(self.data, colour)[:3] for colour in range(3)])
        inside = (np.abs(places[:, :2] - [0.6, 0.0]) < 0.15).all() and (places[:, 2] > FLOOR).all()
        owners = self.cell.owner[self.data.contact.geom] if self.data.ncon else np.empty((0, 2))
        touched = ((owners == 3).any(axis=1) & (owners != 3).any(axis=1)).any()
        return bool(inside and not touched and not is_stacked(self.cell, self.data))

    def _observe(self) -> dict[str, np.ndarray]:
        data, place = self.data, self.cell
        values = {
            "gripper": data.qpos[place.driver : place.driver + 1],  # rad, 0 is open, 0.8 closed
            "joints": data.qpos[:7],
            "pinch": _site_pose(data, place.pinch),
            "wrist": _site_pose(data, place.wrist),
        }
        if not self._pixels:
            values["joints_velocity"] = data.qvel[:7]
            values |= {colour: place.pose(data, i) for i, colour in enumerate(COLOURS)}
        observed = {key: value.astype(np.float32) for key, value in values.items()}
        return {**observed, **self._pictures()} if self._pixels else observed

    def _pictures(self) -> dict[str, np.ndarray]:
        import mujoco

        if self._drawn is not self.cell:
            self.close()
            self._drawn = self.cell
            for name in CAMERAS:
                index = mujoco.mj_name2id(self.cell.model, mujoco.mjtObj.mjOBJ_CAMERA, f"base/{name}")
                where = f"{DOMAIN}/{self._objects}"
                # The wrist alone has 200,000 triangles; its hulls look the same at this size.
                self._cameras.append(Camera(self.cell.model, FRAME, FRAME, index, where, hulls=True))
        return {name: c.picture(self.data) for name, c in zip(CAMERAS, self._cameras, strict=True)}


def _site_pose(data: Any, site: int) -> np.ndarray:
    """float64 (7,): position in metres and quaternion, its first number not negative."""
    import mujoco

    turn = np.empty(4)
    mujoco.mju_mat2Quat(turn, data.site_xmat[site])
    return np.concatenate([data.site_xpos[site], turn if turn[0] >= 0 else -turn])


@functools.cache
def training_objects() -> tuple[str, ...]:
    """The package's training set, sorted (its own order depends on the process)."""
    from dm_robotics.manipulation.props.rgb_objects import rgb_object

    return tuple(sorted(rgb_object.RGB_OBJECTS_TRAIN_SET))
