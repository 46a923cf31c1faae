"""Ray Train: two workers of a local Ray learn together, as docs/tasks/clusters.md says."""

import os
from pathlib import Path

import pytest
from tiny import TINY

from opendetr.checkpoints.native import load_folder
from opendetr.training.run_folder import read_metrics

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray")
of_ray = pytest.importorskip("ray.train")
with_torch = pytest.importorskip("ray.train.torch")


@pytest.fixture
def local_ray():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow  # half a minute
@pytest.mark.usefixtures("local_ray")
def test_two_workers_learn_together_and_go_on(digits, tmp_path):
    run = tmp_path / "run"

    def learn(options):  # by value: a worker does not see this file
        import opendetr

        opendetr.train(**options)

    def fit(options):
        with_torch.TorchTrainer(
            learn,
            train_loop_config=options,
            scaling_config=of_ray.ScalingConfig(num_workers=2),
            torch_config=with_torch.TorchConfig(backend="gloo"),
            run_config=of_ray.RunConfig(storage_path=str(tmp_path / "ray")),
        ).fit()

    fit({**TINY, "data": str(digits), "output": str(run), "batch_size": 2, "epochs": 1})
    assert read_metrics(run)[-1]["step"] == 6  # 24 pictures, 4 per step
    fit({"resume": str(run), "epochs": 2})
    assert [line["epoch"] for line in read_metrics(run) if line["kind"] == "epoch"] == [1, 2]
    assert load_folder(Path(run)).config.train.epochs == 2
