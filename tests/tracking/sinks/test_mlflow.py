"""Local runs of the real library; a user rightly expects each record in the run that is named."""

import math

import mlflow
import pytest
import torch

import ncfast
from ncfast.tracking.sinks import MlflowSink, as_sink


@pytest.fixture(autouse=True)
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # needs no database packages
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    mlflow.set_tracking_uri(tmp_path.as_uri())
    mlflow.set_experiment("mine")
    yield mlflow.MlflowClient()
    while mlflow.active_run() is not None:
        mlflow.end_run()


def track(sink, steps=300):
    with ncfast.Tracker(num_classes=2, metrics="rnc1", sinks=[sink]) as tracker:
        for _ in range(steps):
            tracker.step(feats=torch.randn(8, 4), labels=torch.arange(8) % 2)


def runs(client):
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments) if experiments else []


def steps(client, run_id, key="train/rnc1.max"):
    return [entry.step for entry in client.get_metric_history(run_id, key)]


def test_a_new_run_in_an_experiment_that_may_exist(client):
    for _ in range(2):
        track("mlflow:collapse")
    found = runs(client)
    assert len(found) == 2
    for run in found:
        assert client.get_experiment(run.info.experiment_id).name == "collapse"
        assert run.info.status == "FINISHED"
        assert steps(client, run.info.run_id) == list(range(1, 301))
        assert '"rnc1.max"' in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/ncfast.json")


def test_names_and_values_that_mlflow_is_strict_about(client):
    sink = MlflowSink("x")
    sink.write({"step": 3, "a": math.nan, "b": math.inf, "lr@fc:input/w": 0.5, "note": "text"})
    sink.close()
    (run,) = runs(client)
    assert steps(client, run.info.run_id, "lr_fc:input/w") == [3]
    assert math.isinf(client.get_metric_history(run.info.run_id, "b")[0].value)
    assert set(run.data.metrics) == {"a", "b", "lr_fc:input/w"}


@pytest.mark.parametrize("sink", ["mlflow:", "mlflow:mine"])
def test_the_active_run_of_the_experiment_stays_open(client, sink):
    with mlflow.start_run() as active:
        track(sink)
        mlflow.log_metric("own", 1.0)
        assert client.get_run(active.info.run_id).info.status == "RUNNING"
    (run,) = runs(client)
    assert set(run.data.metrics) >= {"own", "train/rnc1.max"}


def test_another_experiment_gets_a_run_of_its_own(client):
    with mlflow.start_run() as active:
        track("mlflow:other", steps=3)
        assert mlflow.active_run().info.run_id == active.info.run_id
    assert {len(run.data.metrics) > 0 for run in runs(client)} == {False, True}


@pytest.mark.parametrize(
    "function",
    [
        mlflow.log_metrics,
        lambda record: mlflow.log_metrics(dict(record), step=record["step"]),
    ],
    ids=["log_metrics", "lambda"],
)
def test_the_fluent_interface_as_a_function(client, function):
    """The metrics are in the user's own active run, which stays open; no second run appears."""
    with mlflow.start_run() as active:
        track(function)
        mlflow.log_metric("own", 1.0)
        assert client.get_run(active.info.run_id).info.status == "RUNNING"
    (run,) = runs(client)
    assert steps(client, run.info.run_id) == list(range(1, 301))
    assert run.info.status == "FINISHED"


def test_a_block_that_comes_after_the_run_has_ended_does_not_reopen_it(client):
    tracker = ncfast.Tracker(num_classes=2, metrics="rnc1", sinks=[mlflow.log_metrics])
    with mlflow.start_run() as active:
        tracker.close()
        tracker = ncfast.Tracker(num_classes=2, metrics="rnc1", sinks=[mlflow.log_metrics])
        tracker.step(feats=torch.randn(8, 4), labels=torch.arange(8) % 2)
    tracker.close()
    run = client.get_run(active.info.run_id)
    assert run.info.status == "FINISHED"
    assert steps(client, active.info.run_id) == [1]


def test_neither_an_experiment_nor_a_run():
    with pytest.raises(ValueError, match=r"'mlflow:EXPERIMENT'.*mlflow\.start_run"):
        as_sink("mlflow:")
