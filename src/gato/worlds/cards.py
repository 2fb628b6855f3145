"""A card per domain: what it is, whose simulator, how its expert thinks and where it fails, what differs from the paper.

Prose only. What can be counted or measured (tasks, specs, scores, versions) is not written here: the registry and
`references/` have it, and `benchmarks/worlds_pages.py` makes a page of both. A domain without a card fails a test.

The rows of the paper's Table 1 stand in `PAPER`, those that nobody can have included, each with the domains that stand for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class DomainCard:
    """Markdown throughout. `observation`, `action` and `expert` are a few words each, for a table; `simulator` names licences."""

    what: str
    observation: str
    action: str
    expert: str
    simulator: str
    seen: str  # the observation, at length
    done: str  # the action, at length
    score: str
    how: str  # the expert, at length
    fails: str  # where the expert is weak or gives up; "" where there is no expert
    wide: str  # what reset(options={"wide": True}) does
    differs: str  # from the paper; says so where the paper has nothing of the kind
    pictures: tuple[str, ...] = ()  # tasks shown on the page
    more: str = ""  # anything else worth a paragraph


@dataclass(frozen=True)
class PaperRow:
    """One control row of Table 1 (Reed et al. 2022) and what stands for it here; `agent` made the paper's data."""

    name: str
    tasks: int
    agent: str
    domains: tuple[str, ...] = ()  # the same tasks, or tasks by the same rules
    nearest: tuple[str, ...] = ()  # something else that asks for a similar skill
    why: str = ""  # why the row itself cannot be had


PAPER = (
    PaperRow(
        "DM Lab", 254, "IMPALA", ("dm-lab",), ("miniworld", "vizdoom", "dm-control-maze"),
        "The simulator is on no package registry and the data were not published. `dm-lab/*` is an adapter for those who have "
        "built it; three installable first-person domains stand in its place.",
    ),
    PaperRow("ALE Atari", 51, "Muesli", ("ale-atari",)),
    PaperRow("ALE Atari Extended", 28, "Muesli", ("ale-atari-extended",)),
    PaperRow("Sokoban", 1, "Muesli", ("sokoban",)),
    PaperRow("BabyAI", 46, "the built-in bot", ("babyai",)),
    PaperRow("DM Control Suite", 30, "D4PG", ("dm-control-suite",)),
    PaperRow("DM Control Suite Pixels", 28, "MPO", ("dm-control-suite-pixels",)),
    PaperRow("DM Control Suite Random Small", 26, "D4PG", ("dm-control-suite-random-small",)),
    PaperRow("DM Control Suite Random Large", 26, "D4PG", ("dm-control-suite-random-large",)),
    PaperRow("Meta-World", 45, "MPO", ("meta-world", "meta-world-physics-state")),
    PaperRow("Procgen Benchmark", 16, "R2D2", ("procgen",)),
    PaperRow("RGB Stacking simulator", 1, "the generalist of Lee et al. 2021", ("rgb-stacking",)),
    PaperRow(
        "RGB Stacking real robot", 1, "the same, on the robot", (), ("rgb-stacking",),
        "It takes a Sawyer arm, a Robotiq gripper and the objects; the trajectories were not published. The simulated cell has the "
        "same arm, gripper and objects.",
    ),
    PaperRow("Modular RL", 38, "D4PG", ("modular-rl",)),
    PaperRow(
        "DM Manipulation Playground", 4, "CRR on human demonstrations", (), ("dm-manipulation-playground",),
        "The four tasks (box, stack banana, insertion, slide) and the demonstrations were never published. The published "
        "tasks of the same arm, Jaco, stand in their place, under the row's name.",
    ),
    PaperRow(
        "Playroom", 1, "not told", (), ("babyai", "miniworld"),
        "Never published, and the paper says nothing of it but its name. What comes nearest is to be told in words what to fetch "
        "and where to put it: BabyAI's `put-next` levels, or MiniWorld's `put-next`, seen from within the room.",
    ),
)  # fmt: skip

_DM_CONTROL = "[dm_control](https://github.com/google-deepmind/dm_control) and [MuJoCo](https://mujoco.org), Apache-2.0"
_SUITE_HOW = (
    "The state task's, which is shown the state: feedback laws for cartpole, pendulum, point mass, reacher and swimmers, trained "
    "actors for `cheetah-run`, `walker-run` and `finger-spin`, and predictive control, which samples plans on the simulator's own "
    "physics, for most others."
)
_SUITE_FAILS = (
    "What is known of the [state tasks](dm-control-suite.md) holds here too. A planner's action is no function of one "
    "observation, so it is harder to imitate than a feedback law or an actor."
)
_NOT_IN_PAPER = "Not in the paper."
_LAB = "The paper has DeepMind Lab's 254 levels, played by IMPALA. This is another simulator, chosen because it can be installed."

_RANDOM = DomainCard(
    what="The DM Control Suite with other bodies: the physics is drawn anew for every episode, {amount}.",
    observation="state",
    action="1 to 21 numbers",
    expert="feedback laws, predictive control",
    simulator=_DM_CONTROL,
    seen="The state task's. It does not show what was drawn.",
    done="The state task's.",
    score="Return, at most 1,000 in 1,000 steps.",
    how="Feedback laws for cartpole, pendulum, point mass, reacher and swimmers, which keep their constants; for the others predictive "
    "control, which plans on the changed physics. The state tasks' trained actors know one body only; that of `cheetah-run` bears "
    "the small changes and has them.",
    fails="Feedback laws do not know the body they have been given, so they lose more the larger the draw. That is not all: on twelve "
    "large draws of pendulum a law that was told the body scored the same on eleven, of which two are 0, for some motors are "
    "too weak for their poles.",
    wide="The state task's.",
    differs="The paper names neither its 26 tasks nor says whether one factor was drawn for all of a kind, as here. These are the "
    "suite's benchmark tasks without `manipulator-bring-ball` and `acrobot-swingup-sparse`. There the agents were D4PG.",
    more="Six factors come from the episode's seed: actuator gear, joint range, stiffness, damping, size of the geoms, density, each "
    "from {interval}. The model's description is changed and compiled again, so masses and inertias follow. The factors are "
    "in the reset's info and in every recorded episode's, as `drawn`.",
)


def _random(size: str, amount: str, interval: str) -> DomainCard:
    shown = ("walker-walk", "cheetah-run", "finger-spin", "hopper-hop")
    return replace(
        _RANDOM,
        what=_RANDOM.what.format(amount=amount),
        more=_RANDOM.more.format(interval=interval),
        pictures=tuple(f"dm-control-suite-random-{size}/{name}" for name in shown),
    )


_META_WORLD = DomainCard(
    what="A robot arm on a table and fifty things to do with it: reach, push, pull, open, close, press, stack, insert. "
    "`meta-world/push` is `push-v3` of the package.",
    observation="39 numbers",
    action="4 numbers",
    expert="the package's scripts",
    simulator="[metaworld](https://metaworld.farama.org), MIT; [MuJoCo](https://mujoco.org), Apache-2.0",
    seen="39 numbers: 18 of the present, the same 18 of the step before, and 3 of the goal, which is visible here and hidden in the "
    "package's default. The 18 are the hand's position (metres), the gripper's opening, and position and quaternion of up to two "
    "objects.",
    done="Velocity of the hand in x, y, z, and the gripper, in [−1, 1].",
    score="Success. The episode ends at the first one, else after 500 steps. Goal and objects are placed anew by every seed.",
    how="The package's scripted policies, which are functions of the observation alone and so easy to imitate.",
    fails="Some scripts miss a few starts; the table says which tasks those are.",
    wide="The hand is moved by up to 25 steps of one random action.",
    differs="There the experts were MPO agents with access to the physics state, 45 of the 50 tasks were used, `assembly` was held "
    "out for fine-tuning, and the token counts suggest about 67 numbers a step rather than 39: see "
    "[meta-world-physics-state](meta-world-physics-state.md).",
    pictures=("meta-world/push", "meta-world/drawer-open", "meta-world/assembly", "meta-world/hammer"),
)

CARDS: dict[str, DomainCard] = {
    "babyai": DomainCard(
        what="Grid worlds with instructions in English, every BabyAI level of minigrid. `babyai/go-to-local-s5n2` is "
        "`BabyAI-GoToLocalS5N2-v0`.",
        observation="7×7 cells, direction, mission text",
        action="7 choices",
        expert="the package's planner",
        simulator="[minigrid](https://minigrid.farama.org), MIT",
        seen="`symbols`, the 7×7 cells before the agent; object, colour and state of a cell are combined without loss into one "
        "discrete value of 264, so that a cell is one token. `direction`, 4 values. `mission`, the instruction, at every step.",
        done="Left, right, forward, pickup, drop, toggle, done.",
        score="Return: 1 − 0.9 · steps / limit when the mission is done, else 0.",
        how="minigrid's bot. It sees what the agent has seen so far and no more. Where its own assumptions fail, a fresh bot plans "
        "from the present state.",
        fails="Where that fails too the episode is dropped and counted, most often in `babyai/unlock-to-unlock`. In "
        "`babyai/open-doors-order-n2-debug` and `…-n4-debug` only the missions of a single door can be done at all: opening the "
        "first of two doors ends the episode as failed.",
        wide="Up to ten random moves before the first observation.",
        differs="What the paper fed of BabyAI is not known (text, grid or picture; how the mission was repeated), nor which 46 levels. "
        "It had 100,000 episodes of each from the same bot.",
        pictures=("babyai/go-to-local", "babyai/pickup-loc", "babyai/unlock", "babyai/boss-level"),
    ),
    "meta-world": _META_WORLD,
    "meta-world-physics-state": replace(
        _META_WORLD,
        what="The fifty tasks of [Meta-World](meta-world.md) with the simulator's state appended to the observation.",
        observation="59 to 74 numbers",
        seen="The 39 numbers of `meta-world/*`, then all joint positions and velocities (MuJoCo's qpos and qvel): 18 values of the "
        "arm, 2 to 17 of the objects; 65 numbers in all, on average over the tasks.",
        fails="As in `meta-world/*`: same scripts, same starts, same physics, same episodes.",
        differs="The paper's experts saw the physics state, and its token counts leave about 67 numbers per step, which this comes "
        "near. There the experts were MPO agents and 45 of the 50 tasks were used.",
        pictures=("meta-world-physics-state/door-open", "meta-world-physics-state/basketball",
                  "meta-world-physics-state/window-open", "meta-world-physics-state/peg-insert-side"),
    ),
    "dm-control-suite": DomainCard(
        what="All tasks of the DM Control Suite, from state: poles, reachers, walkers, a fish, a dog. "
        "`dm-control-suite/cartpole-swingup` is the suite's `cartpole`, `swingup`.",
        observation="state, several named vectors",
        action="1 to 56 numbers",
        expert="feedback laws, trained actors, predictive control",
        simulator=_DM_CONTROL,
        seen="The suite's own vectors under their names, float32. No bounds are declared.",
        done="Within the suite's bounds. `lqr`, which has none, gets [−1, 1], 1,000 steps and one fixed system.",
        score="Return, at most 1,000 in 1,000 steps.",
        how="For cartpole, pendulum, point mass and reacher a feedback law, which is a function of the observation and so easy to "
        "imitate; for the swimmers too, but theirs is a wave that travels down the body, and beats to a clock. For `cheetah-run`, "
        "`walker-run` and `finger-spin` a trained actor: a network of two hidden layers that PPO trained in minutes on 128 copies of "
        "the physics at once (`benchmarks/train_actors.py`), and as smooth a function of the state. For most others predictive control, "
        "which samples plans on the simulator's own physics and moves to their weighted mean. Where a body is to be balanced (acrobot, "
        "two and three poles), plans that end in linear-quadratic feedback are among the samples, so that what was swung up stays up.",
        fails="Predictive control looks a fixed time ahead and learns nothing. Hopping and running quadrupeds stay behind the published best; "
        "humanoids were tried on a few episodes and do not come near it. The manipulator, the dog, the "
        "stacker, the motion-capture humanoid and two of the quadruped's tasks have no expert. Of the published scores those "
        "of RPO and PPO are of agents that learned little: others have reported more for the fish and the point mass, in figures "
        "that were not at hand.",
        wide="Positions and velocities well beyond the task's own, for pendulum, cartpole, reacher, point mass, ball in cup, "
        "cheetah, finger, lqr, swimmer and walker.",
        differs="There 30 tasks, D4PG agents, and data from the whole of their training; `cartpole-swingup` was held out for "
        "fine-tuning.",
        pictures=("dm-control-suite/cartpole-swingup", "dm-control-suite/walker-walk", "dm-control-suite/ball-in-cup-catch",
                  "dm-control-suite/dog-walk"),
    ),
    "dm-control-suite-pixels": DomainCard(
        what="The suite's 28 benchmark tasks, seen by the model's first camera.",
        observation="picture, 64×64",
        action="1 to 21 numbers",
        expert="the state task's",
        simulator=_DM_CONTROL,
        seen="One picture, 64×64, 16 patches, drawn without shadows, reflections and antialiasing. On a software renderer those "
        "take most of a step; `benchmarks/camera.py` measures both looks and puts them side by side. "
        '`pixel_task("walker", "walk", look="suite")` of `gato.worlds.dm_control_pixels` is the task with the suite\'s own look.',
        done="The state task's.",
        score="The state task's, to the bit: return, at most 1,000.",
        how=_SUITE_HOW,
        fails=_SUITE_FAILS + " One picture shows no velocity.",
        wide="The state task's.",
        differs="There MPO agents; the paper names neither the resolution nor the camera. Its token counts would fit 64 patches a "
        "step, four times as many as here.",
        pictures=("dm-control-suite-pixels/cartpole-swingup", "dm-control-suite-pixels/cheetah-run",
                  "dm-control-suite-pixels/fish-swim", "dm-control-suite-pixels/humanoid-walk"),
    ),
    "dm-control-suite-random-small": _random("small", "a little", "[0.9, 0.95] ∪ [1.05, 1.1]"),
    "dm-control-suite-random-large": _random("large", "much", "[0.6, 0.8] ∪ [1.2, 1.4]"),
    "dm-control-suite-text": DomainCard(
        what="Tasks of the suite whose observation is a sentence: with the state and the pixel task of the same name, one skill can "
        "be asked of three senses.",
        observation="the state in a sentence",
        action="1 to 6 numbers",
        expert="the state task's",
        simulator=_DM_CONTROL,
        seen="`position -0.29 0.96 0.29; velocity -1.31.`: every vector of the state by its name, its numbers to two decimals.",
        done="The state task's.",
        score="The state task's: return, at most 1,000.",
        how=_SUITE_HOW,
        fails=_SUITE_FAILS,
        wide="The state task's.",
        differs=_NOT_IN_PAPER,
        pictures=("dm-control-suite-text/pendulum-swingup", "dm-control-suite-text/reacher-easy",
                  "dm-control-suite-text/ball-in-cup-catch", "dm-control-suite-text/hopper-hop"),
    ),
    "modular-rl": DomainCard(
        what="One body with limbs taken off: Gymnasium's Walker2d, HalfCheetah, Hopper and Humanoid in all their smaller forms. "
        "`modular-rl/walker-3-1` has three segments of one leg and one of the other; `modular-rl/humanoid-legs-2-2-arms-1-0` "
        "counts right and left from the trunk.",
        observation="state: position, velocity",
        action="1 to 17 numbers",
        expert="trained actors, predictive control",
        simulator="[MuJoCo](https://mujoco.org), Apache-2.0; bodies of [Gymnasium](https://gymnasium.farama.org), MIT",
        seen="`position`, without the way travelled, and `velocity`.",
        done="One number a motor, in [−1, 1].",
        score="Return: speed forwards, a bonus while the torso is up (not for cheetahs), less a cost of control, with Gymnasium's "
        "weights. A fall does not end the episode, which always has 1,000 steps, so that returns of different bodies compare.",
        how="A trained actor where the table says so (`benchmarks/train_actors.py`): four to ten minutes of PPO on 128 copies of the "
        "body at once. For the other bodies predictive control on their own physics.",
        fails="What is planned is not measured: the humanoids, and what has a foot or less to stand on. The actors were trained for "
        "minutes, not hours: there are faster ways to run, and one "
        "that is thrown on its back by noise may stay there.",
        wide="Bent limbs, tilted, moving.",
        differs="The paper names the families (Walker2d, Humanoid, Hopper) and the count, 38, not the bodies. There D4PG agents, one "
        "per body and thirty seeds of each.",
        pictures=("modular-rl/walker-3-1", "modular-rl/cheetah-2-3", "modular-rl/hopper-3", "modular-rl/humanoid-legs-2-1-arms-2-2"),
    ),
    "dm-manipulation-playground": DomainCard(
        what="A Jaco arm reaches, lifts, places, stacks and reassembles: the tasks of `dm_control.manipulation`, from features or from "
        "a camera. `dm-manipulation-playground/lift-brick-features` is `lift_brick_features`.",
        observation="joints and poses, or joints and a picture, 80×80",
        action="9 numbers",
        expert="inverse kinematics, on most",
        simulator=_DM_CONTROL,
        seen="The package's own: joint angles as sine and cosine, torques on a logarithmic scale, the hand's pose, and poses of the "
        "bricks or the picture of `front_close`, drawn without shadows at 80×80 (84×84 in the package).",
        done="Velocities of six joints and three fingers, rad/s.",
        score="Return, at most 250 in 250 steps (10 s).",
        how="Inverse kinematics at every step for `reach-site`, `reach-duplo`, `lift-brick`, `place-brick` and `place-cradle`, from "
        "features and from vision alike, since both have the same physics. For the two last, ways to take the brick beside the "
        "pedestal are tried out on a copy of the physics until one ends well; for the stacks, where a brick has to be pressed on until it "
        "clicks, the quickest of four that do.",
        fails="`lift-large-box` and the reassemblies have no expert. Of three bricks the third is seldom on before the ten seconds are over.",
        wide="Up to 25 steps of random velocities before the first observation.",
        differs="The paper's four tasks with this arm (box, stack banana, insertion, slide) were never published, nor the human "
        "demonstrations that its CRR agents learned from. These are the published tasks.",
        pictures=("dm-manipulation-playground/reach-duplo-vision", "dm-manipulation-playground/lift-brick-vision",
                  "dm-manipulation-playground/place-cradle-vision", "dm-manipulation-playground/stack-3-bricks-vision"),
    ),
    "rgb-stacking": DomainCard(
        what="The red object onto the blue one, on a Sawyer arm with a Robotiq gripper: `triplet-1` to `triplet-5`, the test "
        "triplets of Lee et al. 2021, each from pixels and as `…-state`; `skill-mastery`, one of the five in each episode; "
        "`skill-generalization`, three objects of the training set in each episode, none of which is in a triplet.",
        observation="two pictures, 128×128, and the arm; or all poses",
        action="4 numbers and 2 choices",
        expert="a script, tried out on a copy of the physics",
        simulator="[dm_robotics](https://github.com/google-deepmind/dm_robotics), dm_control and MuJoCo, Apache-2.0",
        seen="From pixels two front cameras, joint angles, gripper angle, poses of the pinch point and of the wrist (22 numbers), "
        "nothing of the objects; from state the poses of the three objects and the joints' velocities instead.",
        done="Velocity of the hand in x, y, z (at most 0.07 m/s) and yaw (1 rad/s), and a gripper that opens or closes.",
        score="Success: red has stood on blue for half a second, touching neither robot nor basket. The episode ends there, with its "
        "one reward, or after 400 steps (20 s).",
        how="Reach, grasp, lift, carry, lower, leave. Grasps are ranked by the objects' faces and performed on a copy of the physics "
        "until one ends with a standing stack. A blue object without a level top is picked up and dropped first.",
        fails="Of the triplets the second is the hardest for it.",
        wide="The hand anywhere in its workspace, the gripper partly closed.",
        differs="From the published environment: physics steps of 2 ms, not 0.5; the arm's velocity control is damped least squares, "
        "not a quadratic programme; the stack must last half a second and ends the episode; red must be clear of the basket too; "
        "meshes are drawn as their hulls, without shadows. From the paper: there an agent learned to stack, and its successful "
        "trajectories with the training objects were the data. Of the real robot there is nothing here.",
        pictures=("rgb-stacking/triplet-1", "rgb-stacking/triplet-3", "rgb-stacking/triplet-5"),
        more="Train on `skill-mastery` or `skill-generalization` and test on the triplets (`gato.worlds.rgb_stacking.SPLITS`).",
    ),
    "sokoban": DomainCard(
        what="Boxes to be pushed onto targets, in rooms carved by a random walk, from one box in 7×7 cells to four in 10×10.",
        observation="picture, 16 pixels a cell",
        action="4 choices",
        expert="exact solver, A*",
        simulator="none: our own",
        seen="A picture, every cell one tile of 16×16 pixels, so one patch.",
        done="Up, down, left, right. Moving into a box pushes it.",
        score="Success within the limit of steps.",
        how="Up to two boxes the first action, in a fixed order, on a shortest solution (a table of all positions); with three and "
        "more an A* over pushes.",
        fails="It solved every level that was measured. With three boxes and more a search can take long.",
        wide="Anywhere from which the level can still be solved. A pushed box cannot always be pulled back, so prefer wide starts "
        "to noise.",
        differs="Our own levels, pictures and four actions; there one task of the literature and a Muesli agent.",
        pictures=("sokoban/7x7-1-box", "sokoban/8x8-2-boxes", "sokoban/10x10-3-boxes", "sokoban/10x10-4-boxes"),
    ),
    "ale-atari": DomainCard(
        what="The 57 games of the literature on the Arcade Learning Environment; their ROMs come with ale-py.",
        observation="picture, 64 high, 80 wide",
        action="up to 18 choices",
        expert="planning on saved states",
        simulator="[ale-py](https://ale.farama.org), GPL-2.0",
        seen="One RGB picture, 64×80, the maximum over the last two of four frames; 20 patches.",
        done="The game's minimal set, each held for four frames. No sticky actions.",
        score="The raw return, neither clipped nor scaled. An episode begins with 1 to 30 no-op frames.",
        how="Planners that try plans on saved emulator states. Boxing, Breakout, Freeway and Pong have a rule of thumb to start "
        "from; the other games are searched by held random actions and mutations of the best plan so far, with points measured by "
        "their usual size, lives at a price, and a little for memory contents not seen before.",
        fails="The search looks forty steps ahead, under three seconds, so a game whose next point lies further away gives it "
        "nothing but novelty to choose by. Thinking takes long, so games are played once and kept as traces.",
        wide="Up to 200 steps of random play.",
        differs="There Muesli agents at 51 games, and data from the whole of their training; boxing was held out for fine-tuning; "
        "frame skip, sticky actions and starts are not told.",
        pictures=("ale-atari/breakout", "ale-atari/boxing", "ale-atari/ms-pacman", "ale-atari/seaquest"),
        more="Four games come with *traces*: seed, actions, rewards and checksums, a few kilobytes each, which replay to the bit into "
        "whole episodes at the emulator's speed (`collect(…, from_traces=True)`). The repository's `traces/` has eight episodes of "
        "each game whose expert is measured below. `benchmarks/make_traces.py` makes more, in pieces that survive being killed.\n\n"
        '`gato.worlds.atari.variant("breakout", sticky=0.25, noop_frames=0, mode=4)` is a task of its own, with an id that says '
        "so; `gato.register` makes it known. A mode or difficulty that the game does not have is an error with those it has.\n\n"
        "Published: a professional games tester, the mean over episodes that begin with up to 30 no-op frames (Mnih et al. 2015; "
        "Wang et al. 2016). Those episodes could last 30 minutes and ours end after five.",
    ),
    "ale-atari-extended": DomainCard(
        what="The emulator's other games for one player. The seed also draws the mode and the difficulty (the console's switches) "
        "from all that the game has.",
        observation="picture, 64 high, 80 wide",
        action="up to 18 choices",
        expert="planning on saved states",
        simulator="[ale-py](https://ale.farama.org), GPL-2.0",
        seen="As `ale-atari/*`: one RGB picture, 64×80, 20 patches.",
        done="The game's minimal set, each held for four frames.",
        score="The raw return.",
        how="The general planner of `ale-atari/*`: held random actions and mutations of the best plan so far, on saved states.",
        fails="As there; and no rule of thumb helps it in any of these games.",
        wide="Up to 200 steps of random play.",
        differs="The paper's 28 games are not told. There Muesli agents.",
        pictures=("ale-atari-extended/carnival", "ale-atari-extended/frogger", "ale-atari-extended/pooyan",
                  "ale-atari-extended/adventure"),
        more='`info["drawn"]` says which mode and difficulty, and so does the recorded episode. Not among the games: four for two '
        "players, two whose opponent depends on something that a saved state leaves out, and one that begins alike whatever the "
        "seed.",
    ),
    "procgen": DomainCard(
        what="The sixteen games of the Procgen Benchmark, every level drawn by the seed. `procgen/coinrun` has the paper's "
        "difficulty, hard, or easy for maze and heist; `procgen/coinrun-easy` and `procgen/maze-hard` have the other one.",
        observation="picture, 64×64",
        action="15 choices",
        expert="lookahead on saved states",
        simulator="[procgen](https://github.com/openai/procgen) (as `procgen-mirror`) and gym3, MIT",
        seen="One RGB picture, 64×64; 16 patches. The last one of an episode repeats the one before it: Procgen shows the next "
        "level as soon as one ends.",
        done="All fifteen of Procgen's; a game ignores what it does not use.",
        score="The raw return.",
        how="A planner that plays some forty plans on copies of the saved state, with a rule per game for how promising a state is "
        "(walking distance to the goal, the boss's health), and follows the best.",
        fails="Tried on two or three levels of each game it reached a normalised return of 0.7 or more, so not all of it. It reads the "
        "whole level, of which the picture may show a part.",
        wide="Up to a hundred steps of random play.",
        differs="There the data came from R2D2 agents while they learned.",
        pictures=("procgen/coinrun", "procgen/bigfish", "procgen/heist", "procgen/starpilot"),
        more="The seed is the level's number, so training and evaluation share none. Published: the return of a policy that ignores "
        "what it sees, and the greatest possible one, of Cobbe et al. 2020 (appendix C) at that difficulty; "
        '`meta["published_range"]` has both. The package\'s own bounds are stale, so the line below has a second half with '
        "`--no-deps`.",
    ),
    "miniworld": DomainCard(
        what="Small rooms and mazes seen through the agent's eyes, objects to pick up or to put next to each other, a sign to read: "
        "the levels of MiniWorld that have a reward. `miniworld/maze-s3` is `MiniWorld-MazeS3-v0`.",
        observation="picture, 64 high, 80 wide",
        action="3 to 8 choices",
        expert="shortest way over true positions",
        simulator="[miniworld](https://miniworld.farama.org), Apache-2.0",
        seen="One RGB picture, 64×80 where the package draws 60×80; 20 patches. In `sign` the goal stands beside it, 2 values.",
        done="Turn, walk, and where the level has objects pick up, drop, toggle.",
        score="The level's own return.",
        how="It walks the shortest way over true positions, which the picture does not always show.",
        fails="`put-next` goes wrong about every other time, `maze` and `sidewalk` now and then, and in `collect-health` it does not "
        "always last.",
        wide="Anywhere in the level.",
        differs=_LAB,
        pictures=("miniworld/maze-s3", "miniworld/four-rooms", "miniworld/put-next", "miniworld/sidewalk"),
        more="Everything is drawn by software where there is no graphics card, through EGL.",
    ),
    "vizdoom": DomainCard(
        what="The scenarios that come with ViZDoom, on its own engine and Freedoom's art: shoot, dodge, gather, find the way.",
        observation="picture, 64 high, 80 wide, and counters",
        action="3 to 13 choices",
        expert="scripts on true positions, rehearsed",
        simulator="[vizdoom](https://vizdoom.farama.org), MIT; Freedoom's art, BSD",
        seen="`image`, one RGB picture, 64×80, 20 patches; `variables`, the scenario's own counters (ammunition, health), where it "
        "has some.",
        done="Buttons singly or in useful pairs (walking and turning), each held for two of Doom's 35 tics a second.",
        score="The scenario's own return.",
        how="Scripts that read where everything truly is. Where luck has a say, a second engine rehearses the episode in several "
        "styles (how wary, how exact, how patient) and the best is repeated.",
        fails="`deadly-corridor`, `rocket-basic` and `take-cover` end very differently from one episode to the next. Where things "
        "are is known to the script before the picture shows it.",
        wide="Up to 25 steps of random play.",
        differs=_LAB,
        pictures=("vizdoom/basic", "vizdoom/health-gathering", "vizdoom/deadly-corridor", "vizdoom/my-way-home"),
    ),
    "dm-control-maze": DomainCard(
        what="DM Control's rolling ball in mazes from DeepMind Lab's own generator, under DeepMind Lab's textures: reach the goal "
        "again and again (`random-goal`), collect all the apples (`many-goals`), leave the lemons (`forage`), in three sizes.",
        observation="picture, 64×64, and motion",
        action="roll and steer",
        expert="shortest way over true positions",
        simulator="[dm_control](https://github.com/google-deepmind/dm_control), labmaze and MuJoCo, Apache-2.0",
        seen="`image`, what the head's camera sees, 64×64, 16 patches; `motion`, what the head feels: velocity and turning.",
        done="Roll (forwards is positive) and steer (to the left), in [−1, 1], twenty a second.",
        score="Return: 10 for every goal; 1 for every apple; in foraging 1 for an apple and −1 for a lemon.",
        how="The shortest way over the maze's cells, which it knows as a map.",
        fails="It rolls to the nearest apple first, which need not be the shortest tour.",
        wide="Any free cell.",
        differs=_LAB,
        pictures=("dm-control-maze/random-goal-small", "dm-control-maze/many-goals-small", "dm-control-maze/forage-small"),
        more="The model is compiled once and its walls are moved, so that a reset takes milliseconds.",
    ),
    "dm-lab": DomainCard(
        what="The paper's largest domain, where somebody has built it from its source: every level in its folder is then a task, "
        "`dm-lab/contributed.dmlab30.rooms-watermaze`. Elsewhere the one id `dm-lab/not-installed` is listed.",
        observation="picture, 72 high, 96 wide, instruction",
        action="7 choices",
        expert="none",
        simulator="[DeepMind Lab](https://github.com/google-deepmind/lab), GPL-2.0, on no registry",
        seen="`image`, one RGB picture, 72×96; `instruction`, the level's text, empty where it has none.",
        done="Seven of the literature's small set, each held for four frames.",
        score="The level's own return.",
        how="None.",
        fails="",
        wide="The same as the task's own.",
        differs="There 254 levels, 18 procedurally generated ones and 237 made by hand less a held-out one, played by IMPALA. The "
        "adapter follows the documented interface and has not been run against the real program. Install one of "
        "[miniworld](miniworld.md), [vizdoom](vizdoom.md), [dm-control-maze](dm-control-maze.md) instead.",
    ),
    "classic-control": DomainCard(
        what="Gymnasium's CartPole, two mountain cars, pendulum and acrobot, under its own ids in lower case (`mountain-car-v0`).",
        observation="2 to 6 numbers",
        action="2 or 3 choices, or a number",
        expert="formulas, dynamic programming, plans",
        simulator="[Gymnasium](https://gymnasium.farama.org), MIT",
        seen="Gymnasium's own numbers.",
        done="Push left, (nothing,) right; or a force, or a torque.",
        score="Return.",
        how="For CartPole a line; for the cars and the pendulum dynamic programming on a grid over their two state numbers; for "
        "acrobot plans on its equations of motion. All are functions of the observation.",
        fails="Acrobot's plans look a limited time ahead, and its episodes differ the most.",
        wide="A wider draw of the start, by the environments' own options.",
        differs=_NOT_IN_PAPER,
        pictures=("classic-control/cartpole-v1", "classic-control/mountain-car-v0", "classic-control/pendulum-v1",
                  "classic-control/acrobot-v1"),
    ),
    "box2d": DomainCard(
        what="Gymnasium's Box2D tasks: two lunar landers, two bipedal walkers, a racing car seen from above.",
        observation="8 or 24 numbers, or a picture, 96×96",
        action="4 choices, or 2 to 4 numbers",
        expert="scripts; the walkers none",
        simulator="[Gymnasium](https://gymnasium.farama.org), MIT; Box2D, zlib",
        seen="The landers' eight numbers, the walkers' twenty-four, the car's picture (96×96, 36 patches).",
        done="Engines, torques, or steering, gas and brake.",
        score="Return.",
        how="The landers follow a glide path by the observation alone; the racing driver reads the true track, steers for a point "
        "some way ahead and brakes for what is bent there.",
        fails="The walkers have none. Landings on the discrete engines vary the most.",
        wide="The same as the tasks' own.",
        differs=_NOT_IN_PAPER,
        pictures=("box2d/lunar-lander-v3", "box2d/bipedal-walker-hardcore-v3", "box2d/car-racing-v3"),
        more="A walker gets a new physics world for every episode: in a used one the same seed does not give quite the same episode.",
    ),
    "gym-mujoco": DomainCard(
        what="The eleven MuJoCo tasks of Gymnasium, fifth version: `gym-mujoco/half-cheetah-v5`.",
        observation="4 to 348 numbers",
        action="1 to 17 numbers",
        expert="trained actors, feedback, predictive control",
        simulator="[Gymnasium](https://gymnasium.farama.org), MIT; [MuJoCo](https://mujoco.org), Apache-2.0",
        seen="Gymnasium's own vector: joint positions and velocities, and contact forces and inertias for some.",
        done="Torques within the bounds of the action space.",
        score="Return, without a ceiling; some tasks end with a fall.",
        how="Four runners have trained actors (`benchmarks/train_actors.py`): `ant-v5` and `hopper-v5` their own, `half-cheetah-v5` and "
        "`walker2d-v5` those of `modular-rl/cheetah-3-3` and `modular-rl/walker-3-3`, which are the same bodies. Linear-quadratic "
        "feedback for the two pendulums on a cart; a wave that travels down the body, to a clock, for the swimmer. For the others "
        "predictive control on the environment's own model, planned with a cheaper integrator where the model uses Runge-Kutta.",
        fails="The humanoid's planner is not measured.",
        wide="The environment's own start noise, several times larger (not Reacher and Pusher).",
        differs=_NOT_IN_PAPER + " [modular-rl](modular-rl.md) takes the same bodies apart.",
        pictures=("gym-mujoco/ant-v5", "gym-mujoco/half-cheetah-v5", "gym-mujoco/pusher-v5", "gym-mujoco/walker2d-v5"),
    ),
    "gymnasium-robotics": DomainCard(
        what="Fetch (4 tasks), the Shadow hand (28, with touch sensors as variants), Adroit (4), mazes for a ball and for an ant "
        "(20), the Franka kitchen (its seven single tasks, and microwave, kettle, light and slide cabinet in a row).",
        observation="numbers, and the goal beside them",
        action="2 to 30 numbers",
        expert="scripts, shortest paths, predictive control; Adroit none",
        simulator="[gymnasium-robotics](https://robotics.farama.org), MIT; [MuJoCo](https://mujoco.org), Apache-2.0",
        seen="As the package has it; achieved and desired goal are part of it.",
        done="The package's own, in [−1, 1].",
        score="Success. For Fetch and the hands at the last step; the mazes and the kitchen end at the first success.",
        how="Scripts for Fetch (sliding tries its one hit on the simulator first); a shortest path over the maze's cells for ball "
        "and ant, followed by the ball with a spring, and by the ant with the actor of `gym-mujoco/ant-v5`, which runs along the "
        "first axis and is shown the world turned so that this is the way. What lies in the Shadow hand is turned by predictive "
        "control on the environment's own model; its fingertips go where least squares on the simulator send them. In the kitchen the hand strokes along four places beside a "
        "thing, by inverse kinematics, which a random search on the simulator found. A thing of the kitchen counts as done within 0.3 "
        "of its goal, in the units of its joints: doors are left half open.",
        fails="Adroit has none, nor have block and egg where they are to be held in the air to the centimetre as "
        "well: a planner turns them and leaves them where they lie. A pen that rolls off the palm is lost. An ant that runs into a corner may be thrown on its back, and stays there.",
        wide="The same as the tasks' own.",
        differs=_NOT_IN_PAPER,
        pictures=("gymnasium-robotics/fetch-pick-and-place-v4", "gymnasium-robotics/hand-block-rotate-z-v1",
                  "gymnasium-robotics/point-maze-medium-v3", "gymnasium-robotics/adroit-door-v1"),
    ),
    "dummy": DomainCard(
        what="The counting world: every modality at once, and every observation and every right action says which step it is. A "
        "test world that never counts in a score.",
        observation="every kind at once",
        action="a button and a stick",
        expert="counts",
        simulator="none: our own",
        seen="A picture filled with the count, a sentence, digits, bits, a ramp.",
        done="`button`, the count modulo 16, and `stick`, two numbers.",
        score="Return: 1 for every right action.",
        how="It reads the count and answers it.",
        fails="It does not.",
        wide="Any count.",
        differs=_NOT_IN_PAPER + " A shifted, dropped or shuffled step shows itself in the first value looked at.",
    ),
    "gym": DomainCard(
        what="Any Gymnasium id as a task: `gym/CartPole-v1`; `gym/my_package:Pour-v0` imports `my_package` first.",
        observation="whatever it has",
        action="whatever it has",
        expert="yours",
        simulator="[Gymnasium](https://gymnasium.farama.org), MIT, and the environment's own",
        seen="Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple are read, nested too. A uint8 Box of rank 3 with 1, 3 "
        "or 4 channels and at least 16 pixels a side is an image.",
        done="An action space needs bounds; a discrete value has at most 1,024 possibilities.",
        score="Return.",
        how="`module:function`, called as `function(env, seed)` after every reset; it returns a policy "
        "`(observation, info) -> action`. [Data](../data.md) shows both ways to demonstrations.",
        fails="An ExpertError that yours raises drops the episode and is counted.",
        wide="The same as the environment's own.",
        differs=_NOT_IN_PAPER,
    ),
}  # fmt: skip
