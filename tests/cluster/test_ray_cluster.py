"""How large a worker is, and how many a cluster has room for."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bert_extract.cluster import ray_cluster
from bert_extract.cluster.ray_cluster import RayCluster
from bert_extract.errors import BertExtractError
from support.running import REPOSITORY


def node(cpus: float, gpus: float = 0.0) -> dict[str, Any]:
    resources = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    return {"Resources": resources, "NodeManagerAddress": "10.0.0.1"}


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "expected", "room"),
    [
        # A machine with several GPUs: a worker each, which share its cores.
        ([node(16, 4)], 0, -1, (4, 1), 4),
        ([node(96, 8)], 0, -1, (8, 1), 8),
        # More GPUs than cores: no worker without a core.
        ([node(2, 4)], 0, -1, (1, 1), 2),
        # A head without one does not make the others' workers smaller.
        ([node(2), node(16, 2), node(16, 2)], 0, -1, (8, 1), 4),
        # Who wants the cores alone says so.
        ([node(16, 4)], 0, 0, (8, 0), 2),
        ([node(16, 4)], 2, 2, (2, 2), 2),
        # No GPU: the smallest node's cores, and eight at most.
        ([node(2)], 0, -1, (2, 0), 1),
        ([node(64), node(64)], 0, -1, (8, 0), 16),
        ([node(4), node(16)], 0, -1, (4, 0), 5),
        ([node(0), node(16)], 0, -1, (8, 0), 2),  # a head that computes nothing
        ([node(16)], 5, -1, (5, 0), 3),
        ([node(4)], 8, -1, (8, 0), 0),
    ],
)
def test_the_size_of_a_worker_is_the_machines(
    nodes: list[dict[str, Any]],
    cpus: int,
    gpus: int,
    expected: tuple[int, int],
    room: int,
) -> None:
    size = ray_cluster._size_of_worker(nodes, cpus, gpus)
    assert size == expected
    assert sum(ray_cluster._room_on(each, *size) for each in nodes) == room


def test_a_cluster_of_this_machine_has_a_token_and_takes_none_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    ray_cluster._set_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    # Ray has read it once and for all: a second cluster must ask for the same.
    ray_cluster._set_token()
    assert os.environ["RAY_AUTH_TOKEN"] == token
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the cluster's")
    ray_cluster._set_token()
    assert os.environ["RAY_AUTH_TOKEN"] == "the cluster's"


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BertExtractError, match="the package ray, which is not inst"):
        RayCluster("", 0, 0, -1, 1)


@pytest.mark.slow
def test_a_token_that_is_missing_is_told_of_without_a_traceback(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    code = (
        "from bert_extract.cluster.ray_cluster import RayCluster\n"
        "from bert_extract.errors import BertExtractError\n"
        "try:\n"
        "    RayCluster('127.0.0.1:1', 0, 0, -1, 1)\n"
        "except BertExtractError as error:\n"
        "    print(error)\n"
    )
    # It looks for the token before it connects to anything.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    environment |= {"PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "token"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--ray_address=127.0.0.1:1: cannot connect to Ray there" in done.stdout
    assert "RAY_AUTH_TOKEN" in done.stdout
