"""benchmarks/generalist_data.py: its plans name what there is, and what is recorded comes from where they say."""

import pytest

from benchmarks import generalist_data
from gato.episodes import Dataset, find_datasets
from gato.recipes.generalist import WEIGHTS


@pytest.mark.parametrize("plan", generalist_data.PLANS, ids=lambda plan: plan.task[:40])
def test_every_plan_has_tasks_with_experts_that_the_recipe_weighs(plan):
    tasks = plan.select()
    assert tasks and all(task.make_expert is not None and task.domain in WEIGHTS for task in tasks)
    assert not {task.id for task in tasks} & set(plan.but)


def test_collecting_plays_and_replays(tmp_path, capsys):
    text = "dm-control-suite-text/ball-in-cup-catch"  # of which the repository has the traces of the state
    for plan in (
        generalist_data.Plan("classic-control/cartpole-v1", 2, generalist_data.STATE),
        generalist_data.Plan(f"{text},dm-control-suite-text/hopper-hop", 1, from_traces=True),
    ):
        generalist_data.collect_plan(plan, tmp_path, 0, None)
    datasets = {dataset.task: dataset for dataset in map(Dataset.open, find_datasets([tmp_path]))}
    assert {task: len(dataset) for task, dataset in datasets.items()} == {"classic-control/cartpole-v1": 2, text: 1}
    assert datasets[text][0].total_return > 900
    assert "1 tasks, 1 episodes, 0 failed" in capsys.readouterr().out
