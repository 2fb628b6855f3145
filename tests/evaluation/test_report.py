"""The report of an invented run: twelve tasks of five domains, whole, broken and hostile."""

import html.parser
import json
import re

import numpy as np
import pytest

from gato.errors import DataError
from gato.evaluation.animation import animate, picture, plot_episode
from gato.evaluation.charts import Bar, bars, curve, percent, short, steps
from gato.evaluation.report import duration, read_log, write_report
from gato.evaluation.scores import TaskScores, results, write_results

# id, measure, random, expert, agent's mean, spread
TASKS = [
    ("babyai/go-to-local", "success", 0.12, 1.0, 0.95, 0),
    ("babyai/go-to-red-ball", "success", 0.09, 1.0, 0.9, 0),
    ("babyai/pickup-loc", "success", 0.03, 1.0, 0.75, 0),
    ("meta-world/reach", "success", 0.02, 1.0, 1.0, 0),
    ("meta-world/push", "success", 0.0, 0.99, 0.8, 0),
    ("meta-world/drawer-open", "success", 0.0, 1.0, 0.95, 0),
    ("dm-control-suite/cartpole-swingup", "return", 12.0, 861.0, 702.0, 60),
    ("dm-control-suite/reacher-easy", "return", 61.0, 978.0, 890.0, 150),
    ("dm-control-suite/point-mass-easy", "return", 8.0, 903.0, 930.0, 25),
    ("sokoban/tiny", "success", 0.04, 1.0, 0.55, 0),
    ("ale-atari/breakout", "return", 1.3, 62.0, 41.0, 16),
    ("ale-atari/freeway", "return", 0.0, 33.0, 27.0, 2),
    ("dummy/count", "return", 3.0, 3.0, 3.0, 0),
]  # fmt: skip
NOTES = [
    "MuJoCo videos are plots of the state because no GL library was found: apt-get install libegl1 libgl1",
    "<script>alert('a note')</script>",
]


def scores(episodes=20):
    rng = np.random.default_rng(0)
    for task, measure, random, expert, mean, spread in TASKS:
        drawn = rng.random(episodes) < mean if measure == "success" else rng.normal(mean, spread, episodes)
        yield TaskScores(task, np.asarray(drawn, float), random, expert, measure, {"environment_steps": 4000})


def example_run(run):
    """A run folder with everything in it that a report can show; all numbers are invented."""
    protocol = {
        "seed": 0, "episodes": 20, "sampling": "discrete actions sampled, continuous ones the mean over the bins",
        "parameters": 1_630_000, "training_tokens": 21_400_000, "training_seconds": 598.2, "evaluation_seconds": 214.0,
        "processor": "two cores of an x86-64 processor", "versions": {"gato-agent": "0.1.0", "torch": "2.13.0"},
        "notes": NOTES,
    }  # fmt: skip
    media, rng = run / "media", np.random.default_rng(1)
    media.mkdir(parents=True)
    index = []
    tasks = list(scores())
    for i, task in enumerate(tasks[:-1]):
        name = task.id.replace("/", "--")
        if task.domain in ("meta-world", "dm-control-suite"):
            t = np.arange(120)[:, None]
            state = np.sin(t / (6 + 3 * np.arange(5)) + i) * np.exp(-t / 90)
            file, data = f"{name}.png", plot_episode({"observation": state}, np.linspace(0, 1, 120))
        else:
            file, data = f"{name}.webp", animate(_world(i), fps=8)
        (media / file).write_bytes(data)
        index.append(
            {"task": task.id, "file": file, "caption": "seed 1073741830", "return": task.episodes[0],
             "expert_normalised": task.expert_normalised}
        )  # fmt: skip
    (media / "index.json").write_text(json.dumps(index))
    samples = []
    for i, (said, true) in enumerate(
        [("a red ball and a blue key", "a red ball and a blue key"), ("a grey box", "a grey box"),
         ("two green keys", "a green key and a green box"), ("a purple ball", "a purple ball")]
    ):  # fmt: skip
        (media / f"caption-{i}.png").write_bytes(picture(_world(i + 3)[0]))
        samples.append({"image": f"caption-{i}.png", "predicted": said, "true": true})
    samples.append(
        {
            "prompt": "Return a list of the ",
            "continuation": "names in the current scope. If <name> is not\nfound, an empty list is returned.",
        }
    )
    language = {
        "captions": {"exact": 0.72, "held_out_scenes": 100},
        "text": {"bits_per_byte": 2.31, "trigram_bits_per_byte": 2.58},
        "samples": samples,
    }
    (run / "train").mkdir()
    domains = {
        "babyai": 1.2,
        "meta-world": 4.1,
        "dm-control-suite": 4.6,
        "sokoban": 1.3,
        "ale-atari": 1.6,
        "captions": 3.4,
        "text": 6.2,
    }
    with (run / "train" / "log.jsonl").open("w") as log:
        for step in range(1, 801):
            record = {"step": step, "tokens": step * 26_750, "elapsed_seconds": step * 0.7475}
            for d, start in domains.items():
                floor = 0.33 * start
                record[f"loss/{d}"] = floor + (start * 1.4 - floor) * np.exp(-((step / 90) ** 0.6)) * rng.lognormal(
                    0, 0.09
                )
            record["loss"] = float(np.mean([record[f"loss/{d}"] for d in domains]))
            log.write(json.dumps(record) + "\n")
    write_results(results(protocol, tasks, language), run / "results.json")
    return run


def _world(i, frames=24, cells=8):
    """A little square that walks over a little board."""
    rng = np.random.default_rng(i)
    board = np.full((frames, cells, cells, 3), 34, np.uint8)
    board[:, [0, -1]] = board[:, :, [0, -1]] = 96
    for _ in range(5):
        board[:, rng.integers(1, cells - 1), rng.integers(1, cells - 1)] = rng.integers(60, 230, 3)
    for t, (y, x) in enumerate(zip(*np.unravel_index((np.arange(frames) + i) % 36, (6, 6)), strict=True)):
        board[t, y + 1, x + 1] = (226, 84, 60)
    return board.repeat(8, axis=1).repeat(8, axis=2)


class Page(html.parser.HTMLParser):
    """Collects tags, checks that every one is closed, and joins the text."""

    VOID = {"meta", "img"}  # svg closes its own

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(source)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return example_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run):
    return Page(write_report(run).read_text())


def test_the_page_says_what_the_file_says(run, page):
    record = json.loads((run / "results.json").read_text())
    found = record["aggregates"]
    low, high = found["intervals"]["mean_of_domain_means"]
    text = " ".join(page.text.split())
    assert f"{found['mean_of_domain_means']:.1f}%" in text and f"{low:.1f} to {high:.1f} %" in text
    assert "One network, 12 tasks, 5 domains" in text and "One set of 1.63 M weights" in text
    assert f"{found['tasks_at_80']} of 12" in text
    for task in record["tasks"]:
        assert task["id"] in text
        if task["expert_normalised"] is not None:
            assert f"{task['expert_normalised']:.1f} %".replace("-", "−") in text
    for words in ("9 min 58 s", "21,400,000", "two cores of an x86-64", "2.58", "72.0 %", "names in the current scope"):
        assert words in text, words
    assert "dummy/count: the expert is no better than random" in text
    assert "libegl1" in text


def test_the_page_is_whole_and_asks_for_nothing(run, page):
    source = (run / "report.html").read_text()
    assert len(page.all("img")) == 12 + 4
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.all("img"))
    assert not page.all("script") and not page.all("link") and not page.all("a")
    assert not re.search(r"""(src|href|url\()\s*=?\s*["']?\s*(https?:)?//""", source)
    policy = next(m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    assert len(source) < 12 * 300_000


def test_everything_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    task = TaskScores(f"evil{evil}/x{evil}", [1.0], 0.0, 1.0, evil)
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.png").write_bytes(picture(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "media/index.json").write_text(
        json.dumps([{"task": evil, "file": "a.png", "caption": evil}, {"file": evil}])
    )
    language = {
        evil: evil,
        "samples": [
            {"image": "a.png", "predicted": evil, "true": evil, "question": evil},
            {"prompt": evil, "continuation": evil},
        ],
    }
    write_results(results({evil: {evil: [evil]}, "notes": [evil]}, [task], language), tmp_path / "results.json")
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, f"loss/{evil}": 2.0}))
    page = Page(write_report(tmp_path).read_text())
    assert not page.all("script")
    assert page.text.count("<script>alert(1)</script>") >= 10
    allowed = {
        "src",
        "alt",
        "class",
        "style",
        "title",
        "aria-label",
        "aria-hidden",
        "role",
        "lang",
        "charset",
        "name",
        "content",
    }
    svg = {
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "d",
        "width",
        "height",
        "rx",
        "viewbox",
        "preserveaspectratio",
        "http-equiv",
    }
    assert {key for _, attributes in page.tags for key in attributes} <= allowed | svg


def test_only_results_are_needed(tmp_path):
    write_results(results({}, list(scores())), tmp_path / "results.json")
    page = Page(write_report(tmp_path).read_text())
    assert "Task by task" in page.text and "How it learned" not in page.text and "Watch it" not in page.text


def test_nothing_scored_is_still_a_page(tmp_path):
    write_results(results({}, []), tmp_path / "results.json")
    assert "0 tasks" in Page(write_report(tmp_path).read_text()).text


def test_results_of_the_bare_contract(tmp_path):
    """Only what the contract of results.json names, as another program might write it."""
    task = {
        "id": "a/b",
        "domain": "a",
        "score": 1.0,
        "random": 0.0,
        "expert": 2.0,
        "expert_normalised": 50.0,
        "interval": None,
        "episodes": 3,
    }
    aggregates = {"mean_of_domain_means": 50.0, "mean": 50.0, "median": 50.0, "iqm": 50.0}
    (tmp_path / "results.json").write_text(
        json.dumps({"protocol": {}, "tasks": [task], "aggregates": aggregates, "language": {}})
    )
    assert "50.0%" in Page(write_report(tmp_path).read_text()).text


def test_mass_on_legal_ids_stands_beside_each_task(tmp_path):
    """Nearly all of it is not all of it; nothing measured is a dash."""
    drawn = np.full(20, 0.5)
    each = [("a", 1.0), ("b", 0.999999), ("c", 0.25), ("d", None)]
    tasks = [
        TaskScores(f"meta-world/{n}", drawn, 0.0, 1.0, "success", {} if mass is None else {"legal_mass": mass})
        for n, mass in each
    ]
    write_results(results({}, tasks), tmp_path / "results.json")
    page = write_report(tmp_path).read_text()
    rows = {m[1]: m[2] for m in re.finditer(r"</span>([^<]*)</td>(?:(?!<tr>).)*<td>([^<]*)</td></tr>", page)}
    assert rows == {"a": "100.00 %", "b": "99.99 %", "c": "25.00 %", "d": "–"}


def test_a_task_at_zero_percent_is_scored(tmp_path):
    """It stands before those below random, and they before what has no references."""
    means = {"below": -0.5, "nothing": 0.0, "half": 0.5}
    tasks = [TaskScores(f"meta-world/{n}", [mean], 0.0, 1.0) for n, mean in means.items()]
    unknown = TaskScores("meta-world/unknown", [9.0], None, None)
    write_results(results({}, [unknown, *tasks]), tmp_path / "results.json")
    shown = write_report(tmp_path).read_text().split("Task by task")[1].split("</section>")[0]
    assert re.findall(r"<title>meta-world/(\w+)", shown) == ["half", "nothing", "below", "unknown"]


def test_no_results_is_named(tmp_path):
    with pytest.raises(DataError, match=r"results\.json"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_pictures_come_from_the_run_alone(tmp_path):
    """An index that names files elsewhere would carry them away inside the page."""
    run = tmp_path / "run"
    (run / "media").mkdir(parents=True)
    secret = picture(np.full((8, 8, 3), 7, np.uint8))
    (tmp_path / "secret.png").write_bytes(secret)
    (run / "media/link.png").symlink_to(tmp_path / "secret.png")
    (run / "media/broken.png").write_bytes(b"not a picture")
    names = [
        "../../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "broken.png",
        "absent.webp",
        None,
        "index.json",
    ]
    (run / "media/index.json").write_text(json.dumps([{"task": "a/b", "file": name} for name in names]))
    write_results(results({}, list(scores())), run / "results.json")
    page = Page(write_report(run).read_text())
    assert not page.all("img")
    assert "absent.webp is not there" in page.text and "broken.png is not a picture" in page.text


def test_a_log_that_was_killed_and_resumed(tmp_path):
    file, notes = tmp_path / "log.jsonl", []
    lines = [{"step": s, "loss": 1.0} for s in (1, 2, 3)] + [{"step": s, "loss": 0.5} for s in (2, 3, 4)]
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 5, "lo')
    log = read_log(file, notes)
    assert [(r["step"], r["loss"]) for r in log] == [(1, 1.0), (2, 0.5), (3, 0.5), (4, 0.5)]
    assert notes == ["1 line of the training log could not be read."]
    assert read_log(tmp_path / "none.jsonl") == []


def _numbers(markup, pattern):
    return [tuple(map(float, m.groups())) for m in re.finditer(pattern, markup)]


def test_a_bar_is_as_long_as_its_number():
    drawn = bars([Bar("half", 50.0, (40.0, 60.0)), Bar("all", 100.0)])
    (zero,) = set(_numbers(drawn, r'class="zero" x1="([\d.]+)%"'))
    (expert,) = set(_numbers(drawn, r'class="expert" x1="([\d.]+)%"'))
    (start, half), (_, whole) = _numbers(drawn, r'<rect class="mark" x="([\d.]+)%" y="24%" width="([\d.]+)%"')
    assert start == zero[0] and whole == pytest.approx(expert[0] - zero[0], abs=0.02)
    assert half == pytest.approx(whole / 2, abs=0.02)
    whisker = _numbers(drawn, r'class="whisker" x1="([\d.]+)%" x2="([\d.]+)%" y1="50%"')[0]
    assert whisker[1] - whisker[0] == pytest.approx(whole * 0.2, abs=0.02)


def test_bars_below_random_and_far_beyond_the_expert_stay_inside():
    drawn = bars([Bar("bad", -400.0, (-500.0, -300.0)), Bar("good", 900.0), Bar("none", None, title="why")])
    assert all(0 <= v <= 100 for (v,) in _numbers(drawn, r'x[12]?="(-?[\d.]+)%"'))
    assert "−400 %" in drawn and "900 %" in drawn and "‹" in drawn and "›" in drawn and "why" in drawn


def test_steps_fall_at_the_scores():
    drawn = steps([20.0, 60.0, 60.0, 100.0])
    path = re.search(r'class="line" d="M([^"]+)"', drawn).group(1)
    points = [tuple(map(float, p.split())) for p in path.split("L")]
    assert points == [(0, 0), (200, 0), (200, 250), (600, 250), (600, 750), (1000, 750), (1000, 1000), (1000, 1000)]
    assert "3 of 4 tasks reach 60 % of their expert" in drawn and "1 of 4 tasks reach 65 %" in drawn


@pytest.mark.parametrize("values", [[], [0.0], [-30.0, -2.0], [250.0, 40.0], [99.99]])
def test_steps_of_odd_scores(values):
    Page(f"<main>{steps(values)}</main>")


def test_curves_of_odd_logs():
    for y in ([1.0], [0.0, 0.0], [np.nan, 2.0], [np.inf] * 3, list(np.geomspace(900, 0.1, 5000))):
        Page(f"<main>{curve(np.arange(1, len(y) + 1), np.array(y), 'tokens')}</main>")


def test_words():
    assert (percent(-0.4), percent(-3.0), percent(None), percent(81.25, 1)) == ("0 %", "−3 %", "–", "81.2 %")
    assert (short(1_630_000), short(950), short(2.14e7)) == ("1.63 M", "950", "21.4 M")
    assert (duration(3.25), duration(598.2), duration(7260)) == ("3.25 s", "9 min 58 s", "2 h 1 min")
