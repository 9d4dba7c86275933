"""How large a worker is, and how many a cluster has room for."""

from typing import Any

import pytest

from bert_extract.cluster import ray_cluster
from bert_extract.cluster.ray_cluster import RayCluster
from bert_extract.errors import BertExtractError


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


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BertExtractError, match="the package ray, which is not inst"):
        RayCluster("", 0, 0, -1, 1)
