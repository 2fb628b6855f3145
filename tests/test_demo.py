"""The demo's stages, on one small task: what is there is not done again."""

from __future__ import annotations

import json

import pytest

from gato import demo


def test_every_stage_once(tmp_path, monkeypatch, capsys):
    pytest.importorskip("minigrid")
    task = "babyai/go-to-red-ball-grey"
    monkeypatch.setattr(demo, "PLANS", (demo.Plan(task, 20),))
    monkeypatch.setattr(demo, "CAPTIONED", 500)
    made = {"tokenizer/tokenizer.model", f"data/{task}/MANIFEST.json", "train/bundle/MANIFEST.json", "results.json"}

    def state() -> dict[str, int]:
        return {name: (tmp_path / name).stat().st_mtime_ns for name in made}

    report = demo.run(tmp_path, seconds=3, episodes=2, workers=1)
    found, first = json.loads((tmp_path / "results.json").read_text()), state()
    assert [t["id"] for t in found["tasks"]] == [task] and len(found["tasks"][0]["episode_scores"]) == 2
    assert found["language"]["captions"] == 300 and 0 < found["language"]["trigram_bits_per_byte"] < 8
    assert str(report) in capsys.readouterr().out and report.stat().st_size > 10_000

    assert demo.run(tmp_path, seconds=3, episodes=2, workers=1) == report and state() == first
