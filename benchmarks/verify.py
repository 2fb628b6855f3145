"""How fast `gato data verify` is, beside its bounds: reading the same bytes, SHA-256 of them, and decoding them.

    python benchmarks/verify.py [--megabytes 64] [--rounds 5]     # writes results/verify.json

Two datasets are written, of numbers (39 values and 4 actions a timestep) and of pictures (64 × 64 × 3, of which a third of
the bits are noise). All sides take turns, round by round, on the same files in the page cache. GB/s are 10⁹ bytes on disk
per processor second of the whole process, so threads are paid for and neighbours on the machine are not; ratios are the
medians over the rounds of two sides in the same round.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.episodes import Dataset, DatasetWriter, Episode, Spec, TaskSpec
from gato.episodes.repair import verify

STEPS = 500
ACTION = {"action": Spec("continuous", (4,), "float32", (-1.0,), (1.0,))}
SPECS = {
    "numbers": TaskSpec({"state": Spec("continuous", (39,), "float32", (-np.inf,), (np.inf,))}, ACTION),
    "pictures": TaskSpec({"image": Spec("image", (64, 64, 3), "uint8", (0.0,), (255.0,))}, ACTION),
}


def write(folder: Path, kind: str, num_bytes: int) -> None:
    """Episodes of 500 steps until the dataset has about so many bytes."""
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, f"bench/{kind}", SPECS[kind], {"source": "benchmark"}) as writer:
        written = 0
        while written < num_bytes:
            walk = np.cumsum(rng.normal(0, 0.01, (STEPS, 39)), axis=0).astype(np.float32)
            if kind == "numbers":
                observed = {"state": walk}
            else:
                scene = rng.integers(0, 8, (1, 8, 8, 3)).repeat(8, 1).repeat(8, 2) * 32
                observed = {"image": (scene + rng.integers(0, 6, (STEPS, 64, 64, 3))).astype(np.uint8)}
            actions = {"action": np.clip(rng.normal(0, 0.5, (STEPS, 4)), -1, 1).astype(np.float32)}
            writer.add(Episode(f"bench/{kind}", observed, actions, np.ones(STEPS, np.float32), info={"seed": 0}))
            newest = max((folder / "pending").glob("*.parquet"), key=lambda f: f.stat().st_mtime_ns)
            written += newest.stat().st_size


def read_alone(folder: Path) -> None:
    buffer = bytearray(1 << 18)
    for file in sorted(folder.rglob("*.parquet")):
        with open(file, "rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def hash_alone(folder: Path) -> None:
    for file in sorted(folder.rglob("*.parquet")):
        with open(file, "rb") as opened:
            hashlib.file_digest(opened, "sha256").hexdigest()


def decode_alone(folder: Path) -> None:
    """Every page decompressed and its checksum verified, a row group at a time."""
    for file in sorted((folder / "data").glob("*.parquet")):
        opened = pq.ParquetFile(file, page_checksum_verification=True)
        for group in range(opened.num_row_groups):
            opened.read_row_group(group, use_threads=False)


def verify_hashes(folder: Path) -> None:
    assert verify(folder, contents=False).ok


def verify_all(folder: Path) -> None:
    assert verify(folder).ok


SIDES: dict[str, Callable[[Path], None]] = {
    "read alone": read_alone, "sha256 alone": hash_alone, "decode alone": decode_alone,
    "gato data verify --no-contents": verify_hashes, "gato data verify": verify_all,
}  # fmt: skip
HASHES, ALL = "gato data verify --no-contents", "gato data verify"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    measured = {}
    with tempfile.TemporaryDirectory() as place:
        for kind in SPECS:
            folder = Path(place) / kind
            write(folder, kind, options.megabytes * 10**6)
            num_bytes = sum(f.stat().st_size for f in folder.rglob("*.parquet"))
            seconds: dict[str, list[float]] = {name: [] for name in SIDES}
            hash_alone(folder)  # the page cache is warm for all
            for _ in range(options.rounds):
                for name, side in SIDES.items():
                    began = time.process_time()
                    side(folder)
                    seconds[name].append(time.process_time() - began)

            def ratio(bound: str, side: str, seconds: dict[str, list[float]] = seconds) -> float:
                return round(statistics.median(b / s for b, s in zip(seconds[bound], seconds[side], strict=True)), 3)

            both = [a + b for a, b in zip(seconds["sha256 alone"], seconds["decode alone"], strict=True)]
            measured[kind] = {
                "megabytes_on_disk": round(num_bytes / 1e6, 1), "timesteps": Dataset(folder).num_timesteps,
                "gigabytes_per_second_per_core": {n: round(num_bytes / 1e9 / statistics.median(s), 3) for n, s in seconds.items()},
                "hashes_alone_of_sha256_bound": ratio("sha256 alone", HASHES),
                "all_of_sha256_bound": ratio("sha256 alone", ALL),
                "all_of_sha256_and_decode_bound": round(
                    statistics.median(b / s for b, s in zip(both, seconds[ALL], strict=True)), 3
                ),
            }  # fmt: skip
            print(json.dumps({kind: measured[kind]}, indent=1))
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    record = {
        "protocol": {
            "what": "bytes on disk per processor second of one process, sides in turns, medians over rounds",
            "rounds": options.rounds, "processor": platform.processor() or platform.machine(),
            "sha_instructions": "sha_ni" in flags.split(), "python": platform.python_version(),
            "pyarrow": pa.__version__, "openssl": __import__("ssl").OPENSSL_VERSION,
        },
        "datasets": measured,
    }  # fmt: skip
    out = Path(__file__).parent.parent / "results" / "verify.json"
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"→ {out}")


if __name__ == "__main__":
    main()
