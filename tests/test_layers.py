"""Rooms import only rooms above them: data flows one way."""

import ast
from pathlib import Path

import gato

ROOT = Path(gato.__file__).parent
RANKS = {
    "errors": 0, "installed": 0, "compiled": 0, "episodes": 1, "worlds": 2, "corpora": 2, "tokens": 2, "rollouts": 3, "sequences": 3, "scenes": 4, "model": 4,
    "training": 5, "policy": 5, "evaluation": 6, "serving": 6,
}  # fmt: skip
FREE = {"cli", "recipes", "testing", "client", "demo", "doctor", "paper", "__init__", "__main__"}


def imports_of(source, package):
    """(room, line) of every import of ours: at the top, inside functions, `from gato import x`, and relative ones."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"gato.{a.name}" for a in node.names] if base == "gato" else [base]
        for name in names:
            if name.startswith("gato."):
                yield name.split(".")[1], node.lineno


def test_every_way_to_import_is_seen():
    source = (
        "import gato.model\nfrom gato import policy\nfrom ..training import loop\nfrom .. import serving\n"
        "from . import babyai\nfrom gato.tokens.text import x\nimport numpy\n"
        "def f():\n    from gato.evaluation import scores\n"
    )
    found = {name for name, _ in imports_of(source, ["gato", "worlds"])}
    assert found == {"model", "policy", "training", "serving", "worlds", "tokens", "evaluation"}


def test_rooms_import_only_rooms_above():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in FREE:
            continue
        assert room in RANKS, f"{room} has no rank"
        for other, line in imports_of(path.read_text(), ["gato", *path.relative_to(ROOT).parent.parts]):
            if other != room and not RANKS.get(other, 99) < RANKS[room]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    print("\n".join(f"{rank}  {room}" for room, rank in sorted(RANKS.items(), key=lambda x: x[1])))
    assert not wrong, "\n".join(wrong)


def test_no_pickle_and_no_evaluated_text():
    """Nothing that is loaded can run code. (A recipe file is the user's own program, and said to be.)"""
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                bad = name in (
                    "eval",
                    "exec",
                    "torch.load",
                    "pickle.load",
                    "pickle.loads",
                    "np.load",
                    "yaml.load",
                    "os.system",
                )
                bad |= any(k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords)
                if bad:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not wrong, "\n".join(wrong)
