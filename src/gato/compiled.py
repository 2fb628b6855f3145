"""C sources of this package, compiled when they are first needed.

With the C compiler that is there, for the processor that is there, into the user's cache. Where that cannot be, the caller has
a way without, and `gato doctor` says why. `GATO_NATIVE=0` switches all of it off.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
SECONDS = 60.0  # that a compiler may take


def library(package: str, name: str) -> tuple[ctypes.CDLL | None, str]:
    """(the compiled library of `name`, a file of `package`, and where it is), or (None, why there is none)."""
    if os.environ.get("GATO_NATIVE") == "0":
        return None, "switched off by GATO_NATIVE=0"
    compiler = shutil.which(os.environ.get("CC", "cc"))
    source = resources.files(package).joinpath(name).read_bytes()
    key = hashlib.sha256(b"\0".join([source, " ".join(FLAGS).encode(), _processor()])).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gato"
        made = folder / f"{Path(name).stem}-{key}.so"
        if not made.exists():
            if compiler is None:
                return None, "no C compiler (cc) was found"
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as beside:
                (Path(beside) / name).write_bytes(source)
                told = subprocess.run(
                    [compiler, *FLAGS, name, "-o", "made.so", "-lm"],
                    cwd=beside,
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                )
                if told.returncode:
                    return None, f"{compiler} could not compile it: {told.stderr.strip()[:200]}"
                os.replace(Path(beside) / "made.so", made)
        return ctypes.CDLL(str(made)), str(made)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:  # RuntimeError: there is no home
        return None, str(error)


def _processor() -> bytes:
    """What `-march=native` depends on: a cache may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})).encode()
