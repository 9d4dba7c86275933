"""Ray, as the dispatcher wants it: workers that start where there is room."""

import contextlib
import importlib.util
import logging as python_logging
import os
import secrets
import signal
import threading
from typing import Any, cast

from absl import logging

from bert_extract.cluster.actor import Actor
from bert_extract.cluster.messages import Answer, Failed, Lost, Setup, Task
from bert_extract.errors import BertExtractError, OptionsError

# A worker of ours hands on file names; nothing large goes through Ray's memory.
_OBJECT_STORE_BYTES = 80 << 20
_MOST_CPUS = 8


class RayCluster:
    """A connection to a cluster, or one that was started on this machine.

    Attributes:
      num_workers: how many there may be.
      cpus: of each worker.
      gpus: of each worker.
    """

    def __init__(
        self, address: str, num_workers: int, cpus: int, gpus: int, own_cpus: int
    ) -> None:
        """Connects, or starts Ray on loopback, with a token.

        Args:
          address: of the head, or "" to start one.
          num_workers: how many there may be; 0: as many as there is room for.
          cpus: of each worker; 0: see `--cpus_per_worker`.
          gpus: of each worker; -1: one if there are any.
          own_cpus: the cores of a cluster that is started here.

        Raises:
          BertExtractError: Ray is not installed, or cannot be reached.
        """
        if importlib.util.find_spec("ray") is None:
            raise BertExtractError(
                "--runner=ray needs the package ray, which is not installed: pip "
                "install ray"
            )
        if not address:
            # Who may talk to Ray may run what they like: loopback alone, and a token.
            _set_token()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with _own_signals():
            self._connect(address, own_cpus)
        try:
            nodes = self._nodes()
            self.cpus, self.gpus = _size_of_worker(nodes, cpus, gpus)
            room = sum(_room_on(node, self.cpus, self.gpus) for node in nodes)
            self.num_workers = num_workers or room
            if not self.num_workers:
                raise OptionsError(
                    f"--cpus_per_worker={self.cpus} --gpus_per_worker={self.gpus}: no "
                    f"node of the cluster has as many: {_listed(nodes)}"
                )
            logging.info(
                "Ray: %d nodes, room for %d workers of %d CPUs%s",
                len(nodes),
                room,
                self.cpus,
                f" and {self.gpus} GPUs" if self.gpus else "",
            )
        except BaseException:
            self.close()
            raise
        self._actor = self._ray.remote(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,  # who computes can be asked how far it is
            scheduling_strategy="SPREAD",
        )(Actor)

    def _connect(self, address: str, own_cpus: int) -> None:
        import ray

        self._ray = cast(Any, ray)
        kind: dict[str, Any] = {"address": address}
        if not address:
            kind = {
                "address": "local",
                "num_cpus": own_cpus,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
            }
        try:
            ray.init(log_to_driver=False, logging_level=python_logging.ERROR, **kind)
        except (
            ConnectionError,
            RuntimeError,
            ValueError,
            OSError,
            self._ray.exceptions.RayError,  # a token is missing, or is another one
        ) as error:
            raise BertExtractError(
                f"--ray_address={address}: cannot connect to Ray there: {error}. Start "
                "it with 'ray start --head' on one machine, and 'ray start "
                "--address=HOST:PORT' on the others; with RAY_AUTH_MODE=token, this "
                "command needs the same token"
            ) from error

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def close(self) -> None:
        """Ends what was started, and leaves the cluster."""
        self._ray.shutdown()

    # -- what a dispatcher asks for

    def start_worker(self) -> Any:
        """Asks Ray for a worker."""
        return self._actor.remote()

    def open(self, worker: Any, setup: Setup) -> Any:
        """Lets it load the model."""
        return worker.open.remote(setup)

    def compute(self, worker: Any, task: Task) -> Any:
        """Lets it do a split."""
        return worker.compute.remote(task)

    def num_done(self, worker: Any) -> Any:
        """Asks how far it is."""
        return worker.num_done.remote()

    def wait(self, references: list[Any], seconds: float) -> list[Any]:
        """Waits for an answer."""
        ready, _ = self._ray.wait(
            references, num_returns=len(references), timeout=0, fetch_local=True
        )
        if not ready:
            ready, _ = self._ray.wait(references, num_returns=1, timeout=seconds)
        return list(ready)

    def answer(self, reference: Any) -> Answer:
        """Gets an answer that is there."""
        try:
            return cast(Answer, self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            # Out of memory on a GPU, for one: other splits may do.
            logging.debug("%s", error)
            return Failed(f"{type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.RayError as error:
            return Lost(_reason_of(error))

    def kill(self, worker: Any) -> None:
        """Ends it."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker)


def _set_token() -> None:
    """Sees to it that a cluster that is started here asks for a token.

    One that the environment has stays: Ray reads it once a process, and a cluster to
    which this process connects later may ask for it.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    if not os.environ.get("RAY_AUTH_TOKEN"):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextlib.contextmanager
def _own_signals() -> Any:
    """Keeps the command's way to end: Ray takes SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _resource(node: dict[str, Any], name: str) -> int:
    return int(node["Resources"].get(name, 0))


def _size_of_worker(
    nodes: list[dict[str, Any]], cpus: int, gpus: int
) -> tuple[int, int]:
    """The CPUs and GPUs of a worker."""
    if gpus < 0:
        gpus = 1 if any(_resource(node, "GPU") for node in nodes) else 0
    if not cpus:
        useful = [node for node in nodes if _resource(node, "GPU") >= gpus]
        shares = [
            _resource(node, "CPU") // (_resource(node, "GPU") // gpus if gpus else 1)
            for node in useful
            if _resource(node, "CPU")
        ]
        cpus = max(1, min([*shares, _MOST_CPUS]))
    return cpus, gpus


def _room_on(node: dict[str, Any], cpus: int, gpus: int) -> int:
    room = _resource(node, "CPU") // cpus
    return min(room, _resource(node, "GPU") // gpus) if gpus else room


def _listed(nodes: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{node['NodeManagerAddress']} has {_resource(node, 'CPU')} CPUs and "
        f"{_resource(node, 'GPU')} GPUs"
        for node in nodes[:8]
    )


def _reason_of(error: Exception) -> str:
    """What Ray says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("The actor is dead")]
    return (telling or lines or [type(error).__name__])[0][:300]
