"""The machine: how many cores, which GPUs; TensorFlow set up for it.

One batch a thread, each with one core to itself, comes within a few percent of what
the cores can multiply; one batch split over the cores does not. So TensorFlow's own
pools are one thread an operation, and as many operations as batches.
"""

import ctypes
import math
import os
from dataclasses import dataclass

import tensorflow as tf
from absl import logging

from bert_extract.errors import BertExtractError, OptionsError
from bert_extract.model import arithmetic

# The least compute capability of an NVIDIA GPU that multiplies bfloat16.
_BFLOAT16_CAPABILITY = (8, 0)


# glibc's mallopt: from which size on a block gets pages of its own, which go back to
# the system when it is freed (32 MB is the most that glibc takes), how much free
# memory a heap keeps, and by how much it grows.
_MALLOC_SETTINGS = {-3: 32 << 20, -1: 1 << 30, -2: 64 << 20}

# The process that TensorFlow was set up in; None before that.
_process_id: int | None = None
# Whether this one was forked from it. Asked for the number of a process each time, a
# system spends as long as on some short lines.
_is_forked = False


def _note_fork() -> None:
    global _is_forked
    _is_forked = _process_id is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@dataclass(frozen=True)
class Device:
    """Where the model runs."""

    name: str  # as TensorFlow calls it: "/CPU:0", "/GPU:1"
    kind: str  # "CPU" or "GPU"
    description: str  # for people


def set_up_tensorflow(num_threads: int) -> list[Device]:
    """Sets threads, memory and arithmetic, once a process, and finds the devices.

    Args:
      num_threads: batches to compute at once on the CPU.

    Returns:
      The GPUs if TensorFlow can use any, else the CPU.

    Raises:
      BertExtractError: it was set up before this process was forked.
    """
    global _process_id
    check_process()
    _process_id = os.getpid()
    _keep_freed_memory()
    # float32 means float32: newer GPUs would round the factors to 10 bits.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    # This optimizer reorders the products inside gelu, and the one that would compute
    # gelu inside the matrix product no longer knows it: bfloat16 took 15 to 25 %
    # longer, float32 2 to 4 %. The model has nothing else for it to do.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    gpus = tf.config.list_physical_devices("GPU")
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(num_threads)
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        # TensorFlow takes these once, before its first operation.
        if tf.config.threading.get_intra_op_parallelism_threads() != 1:
            logging.warning(
                "TensorFlow was used in this process before the extractor was made: "
                "its threads cannot be set any more, and speed may suffer"
            )
    if not gpus:
        threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
        return [Device("/CPU:0", "CPU", f"CPU, {threads}")]
    return [_gpu(number, gpu) for number, gpu in enumerate(gpus)]


def check_process() -> None:
    """Refuses to compute where TensorFlow would wait for ever.

    Its threads stay behind when a process is forked, and nobody starts them again.

    Raises:
      BertExtractError: TensorFlow was set up before this process was forked.
    """
    if _is_forked:
        raise BertExtractError(
            f"this process ({os.getpid()}) was forked from process {_process_id} after "
            "a FeatureExtractor was made there, and TensorFlow's threads did not come "
            "along: it would hang. Make the extractor in the child, and none in the "
            "parent before; or start the children with "
            "multiprocessing.get_context('spawn')"
        )


def _keep_freed_memory() -> None:
    """Lets this process use its freed memory again, rather than give it back.

    Batch after batch takes and frees blocks of the same sizes. By default glibc gives
    them back to the system, which hands out zeroed pages again one by one: 4 to 5 % of
    a run with a small model. The peak is that of two stretches of lines in any case.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, which has other ways
        return
    for parameter, num_bytes in _MALLOC_SETTINGS.items():
        mallopt(parameter, num_bytes)


def _gpu(number: int, gpu: "tf.config.PhysicalDevice") -> Device:
    details = tf.config.experimental.get_device_details(gpu)
    name = details.get("device_name", "GPU")
    return Device(f"/GPU:{number}", "GPU", f"GPU {number}, {name}")


def warn_of_unusable_gpu() -> None:
    """Says loudly when there is a GPU that TensorFlow does not use."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if os.path.exists("/dev/nvidiactl") and not is_hidden:
        logging.warning(
            "THERE IS A GPU THAT TENSORFLOW CANNOT USE; going on with the CPU. "
            "Install the CUDA libraries with: pip install 'tensorflow[and-cuda]'"
        )


def warn_of_slow_bfloat16() -> None:
    """Says that float32 would be faster, where the CPU's bfloat16 is slow."""
    if arithmetic.has_slow_bfloat16():
        logging.warning(
            "--precision=bfloat16: without AMX, which this CPU's kind has but which is "
            "hidden or switched off here, it takes nearly twice as long as "
            "--precision=float32"
        )


def check_precision(precision: str, devices: list[Device]) -> None:
    """Refuses an arithmetic that the devices lack, or have only slowly.

    Raises:
      OptionsError: names the reason and what to use instead.
    """
    if precision == "float32":
        return
    way_out = "use --precision=float32"
    if devices[0].kind == "CPU":
        if precision == "float16":
            raise OptionsError(
                "--precision=float16: CPUs compute float16 slower than float32; "
                + ("use --precision=bfloat16" if arithmetic.has_bfloat16() else way_out)
            )
        if not arithmetic.has_bfloat16():
            raise OptionsError(
                "--precision=bfloat16: this CPU has no instructions for it "
                f"(avx512_bf16, amx_bf16 or bf16) and would be slower; {way_out}"
            )
        return
    if precision == "bfloat16":
        for number, gpu in enumerate(tf.config.list_physical_devices("GPU")):
            details = tf.config.experimental.get_device_details(gpu)
            capability = details.get("compute_capability", _BFLOAT16_CAPABILITY)
            if capability < _BFLOAT16_CAPABILITY:
                raise OptionsError(
                    f"--precision=bfloat16: GPU {number} has compute capability "
                    f"{capability[0]}.{capability[1]} and bfloat16 needs 8.0; use "
                    "--precision=float16"
                )


def usable_cores() -> int:
    """The cores that this process may use: its affinity, and its cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cgroup_quota()
    # Of one and a half cores, one thread would leave a third.
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cgroup_quota(
    mount: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup"
) -> float | None:
    """The cores that a CPU limit amounts to, a container's or a job's.

    Args:
      mount: where cgroups are to be seen.
      membership: the file that says which ones this process is in.

    Returns:
      That of the strictest cgroup that it is in; None without a limit.
    """
    # A container sees its own at the top, whatever its name is outside.
    folders = {mount, os.path.join(mount, "cpu")}
    for line in _read_text(membership).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = os.path.join(mount, "cpu") if controllers else mount
        while path.strip("/"):
            folders.add(os.path.join(top, path.strip("/")))
            path = os.path.dirname(path)
    quotas = [quota for quota in map(_quota_of, folders) if quota is not None]
    return min(quotas, default=None)


def _quota_of(folder: str) -> float | None:
    """What one cgroup allows, of either version."""
    texts = _read_text(os.path.join(folder, "cpu.max")).split() or [
        _read_text(os.path.join(folder, f"cpu.cfs_{name}_us").strip())
        for name in ("quota", "period")
    ]
    try:
        quota, period = map(int, texts)
    except ValueError:  # "max", or nothing
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as reader:
            return reader.read()
    except OSError:
        return ""
