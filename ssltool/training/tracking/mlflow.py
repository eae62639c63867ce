"""An MLflow run of a run's options, metrics and figures."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from ssltool.training.tracking.tracker import TrackedRun

_ID = "ssltool.id"
_LONGEST = 6000  # characters of a parameter that stores take


class MLflow:
    """Writes to ``RUN/mlflow``, a file store, or to ``MLFLOW_TRACKING_URI`` where that is set.

    Args:
        run: The run; its options are parameters.
    """

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        local = (run.folder / "mlflow").resolve().as_uri()
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or local)
        found = self._client.get_experiment_by_name("ssltool")
        experiment = found.experiment_id if found else self._client.create_experiment("ssltool")
        known = self._client.search_runs([experiment], f"tags.`{_ID}` = '{run.id}'")
        if known:
            self._run = known[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        created = self._client.create_run(experiment, tags={_ID: run.id}, run_name=run.name)
        self._run = created.info.run_id
        options = [Param(name, str(value)[:_LONGEST]) for name, value in run.options.items()]
        options += [Param(f"chance.{name}", str(value)) for name, value in run.chance.items()]
        for start in range(0, len(options), 100):  # as many as a store takes at once
            self._client.log_batch(self._run, params=options[start : start + 100])

    def line(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker.line`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=values)

    def figure(self, name: str, path: Path, step: int) -> None:
        """See `Tracker.figure`."""
        self._client.log_artifact(self._run, str(path), "figures")

    def close(self, *, finished: bool) -> None:
        """See `Tracker.close`."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")
