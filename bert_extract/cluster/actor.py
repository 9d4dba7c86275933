"""A worker's process, as Ray starts it: TensorFlow comes when it is told what to do."""

import os
import platform
from typing import TYPE_CHECKING, Any, cast

from bert_extract.cluster.messages import Done, Failed, Opened, Refused, Setup, Task
from bert_extract.errors import BertExtractError
from bert_extract.model import arithmetic

if TYPE_CHECKING:
    from bert_extract.cluster.worker import SplitWorker


def node_name() -> str:
    """This machine, as its people and as Ray call it."""
    import ray  # only its workers need it

    address: str = cast(Any, ray.util).get_node_ip_address()
    return f"{platform.node()} ({address})"


class Actor:
    """A worker that can be asked how far it is while it computes."""

    def __init__(self) -> None:
        self._worker: SplitWorker | None = None

    def open(self, setup: Setup) -> Opened | Refused:
        """Checks the node and loads the model."""
        node = node_name()
        if not setup.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        arithmetic.choose_kernels()
        try:
            from bert_extract.cluster.worker import SplitWorker

            self._worker = SplitWorker(setup, node)
            return self._worker.report()
        except BertExtractError as error:
            return Refused(node, str(error))
        except (ImportError, MemoryError, OSError) as error:
            return Refused(node, str(error) or type(error).__name__)

    def compute(self, task: Task) -> Done | Failed:
        """Makes the part of a split."""
        assert self._worker is not None
        return self._worker.compute(task)

    def num_done(self) -> int:
        """Asks how far it is: a number that grows while all is well."""
        return 0 if self._worker is None else self._worker.num_done
