"""The recipes of ``examples/`` for clusters: their commands parse, and Ray Train trains."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_pages import ROOT

from ssltool.cli.pretrain import StartOptions, build
from ssltool.runs.config import RunConfig

EXAMPLES = ROOT / "examples"


def job() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text())
    return document


def shell_of_the_pod() -> str:
    (container,) = pod()["containers"]
    assert container["command"] == ["bash", "-c"]
    (script,) = container["args"]
    return str(script)


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = job()["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    return spec


def commands(script: str) -> list[list[str]]:
    """The words after ``ssltool`` of a script that starts or resumes a run."""
    lines = script.replace("\\\n", " ")
    (line,) = re.findall(r"torchrun .*? -m ssltool (.*)", lines)
    variables = dict(re.findall(r"^\s*(\w+)=([^\s(]+)", lines, re.MULTILINE))
    found = []
    for options in re.findall(r"options=\((.*?)\)", lines):
        typed = line.replace('"${options[@]}"', options)
        typed = re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), typed)
        found.append(shlex.split(typed))
    return found


@pytest.mark.parametrize(
    "script", [(EXAMPLES / "slurm.sbatch").read_text(), shell_of_the_pod()], ids=["slurm", "k8s"]
)
def test_the_command_of_a_recipe_parses(script: str) -> None:
    """Its flags exist, their values are valid, and it can begin and resume a run."""
    begun, resumed = commands(script)
    for words in (begun, resumed):
        assert words[0] == "pretrain"
        context = build(words[1]).make_context(words[1], words[2:])
        typed = {name: value for name, value in context.params.items() if value not in (None, [])}
        start = {name: typed.pop(name) for name in StartOptions.model_fields if name in typed}
        config = RunConfig.merged(words[1], typed, start.get("preset"))
        assert config.run.out is not None  # torchrun's restarts have to find it
        assert config.run.out.name == "npid-1"
        if words is begun:
            config.require_data()
            assert start == {"preset": "infonce"}
        else:
            assert start == {"resume": True}


def test_the_kubernetes_job_is_what_the_operator_expects() -> None:
    document = job()
    assert (document["apiVersion"], document["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec = document["spec"]
    policy, worker = spec["elasticPolicy"], spec["pytorchReplicaSpecs"]["Worker"]
    assert policy["rdzvBackend"] == "c10d"
    assert policy["minReplicas"] == policy["maxReplicas"] == worker["replicas"]
    (container,) = pod()["containers"]
    assert container["name"] == "pytorch"
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node {gpus} " in shell_of_the_pod()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod()["volumes"]}
    variables = {each["name"]: each["value"] for each in container["env"]}
    patience = int(variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert patience < pod()["terminationGracePeriodSeconds"]


LOCAL_RAY = """
import runpy, sys, ray
ray.init(include_dashboard=False, num_cpus=2, object_store_memory=100 * 2**20)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


STEPS = 4
OPTIONS = {
    "steps": STEPS,
    "image_size": 32,
    "batch_size": 4,
    "backbone": "resnet20",
    "workers": 0,
    "device": "cpu",
}


def ran(*words: str) -> str:
    """What a command printed."""
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else any other process comes first
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
            "RAY_AUTH_MODE": "disabled",  # else it writes a token into the home folder
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ray_train(folder: Path) -> str:
    recipe = str(EXAMPLES / "ray_train.py")
    words = f"jigsaw demo:48 {folder}/run --workers 2 --storage {folder}/ray --options"
    options = [f"{name}={value}" for name, value in OPTIONS.items()]
    return ran("-c", LOCAL_RAY, recipe, *words.split(), *options)


def devices_train(folder: Path) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    words = f"pretrain jigsaw --data demo:48 --out {folder}/same --devices 2"
    ran("-m", "ssltool", *words.split(), *options)


@pytest.mark.slow
def test_ray_train_runs_pretraining(tmp_path: Path) -> None:
    """Two workers of a local Ray train one run together, as ``--devices 2`` does."""
    pytest.importorskip("ray.train")
    printed = ray_train(tmp_path)
    run, same = tmp_path / "run", tmp_path / "same"
    record = json.loads((run / "run.json").read_text())
    assert (record["options"]["devices"], record["options"]["batch_size"]) == (2, 4)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == STEPS
    assert f"'loss': {last['loss']}" in printed
    devices_train(tmp_path)
    trained = ["encoder.safetensors"]
    trained += [
        f"checkpoints/step-{STEPS:07d}/{name}.safetensors" for name in ("model", "optimizer")
    ]
    for name in trained:
        assert (run / name).read_bytes() == (same / name).read_bytes(), name
