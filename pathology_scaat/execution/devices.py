"""Which device computes, and CUDA events on it.

Torch takes seconds to import. The process that gives out the jobs computes nothing itself, so
that torch is imported by the functions here that cannot answer without it, not with this module.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.errors import UsageError
from pathology_scaat.execution.jobs import worker_number
from pathology_scaat.system.processes import usable_cores

if TYPE_CHECKING:
    import torch

NVIDIA_DRIVER = "libcuda.so.1"
AMD_DRIVER = Path("/dev/kfd")

PROCESSES_ON_A_GPU = 3
CORES_FOR_EACH = 4
MEMORY_FOR_EACH = 12 << 30
"""One process decodes a slide's patches at half the rate at which a large GPU explains them, and
between two slides gives it nothing to do: several take turns on the GPU, where the machine has
the cores, and the GPU the memory (bytes), for them."""

_COMPUTE_MODE, _SHARED = 20, 0
"""CU_DEVICE_ATTRIBUTE_COMPUTE_MODE and CU_COMPUTEMODE_DEFAULT of NVIDIA's cuda.h."""


def _no_gpu_driver() -> bool:
    """Whether this machine certainly has no GPU that torch computes on; asked without torch."""
    if sys.platform != "linux" or AMD_DRIVER.exists():
        return False
    try:
        ctypes.CDLL(NVIDIA_DRIVER)
    except OSError:
        return True
    return False


def require_device(name: str = "auto") -> None:
    """Refuse a device that does not exist; torch is asked only where it alone knows.

    Raises
    ------
    UsageError
        As :func:`choose_device`.
    """
    if name not in ("auto", "cpu"):
        choose_device(name)


def choose_device(name: str = "auto") -> torch.device:
    """The device a name stands for: ``auto`` is CUDA, then Apple's MPS, then the CPU.

    Raises
    ------
    UsageError
        If it is no device, or not one of this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise UsageError("--device", f"'{name}' is not a device", "use auto, cpu or cuda") from None
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UsageError("--device", "no CUDA device is usable here", "use --device auto")
        if chosen.index is not None and chosen.index >= count:
            raise UsageError(
                "--device", f"there is no '{name}' here", f"use cuda:0 to cuda:{count - 1}"
            )
    return chosen


def job_device(name: str = "auto") -> torch.device:
    """The device of a job: ``auto`` and ``cuda`` without a number share a machine's GPUs out.

    Worker n of a machine takes GPU n modulo their count; a named one (``cuda:1``) is kept.

    Raises
    ------
    UsageError
        If it is no device, or not one of this machine.
    """
    import torch

    device = choose_device(name)
    if device.type != "cuda" or ":" in name:
        return device
    return torch.device("cuda", worker_number() % torch.cuda.device_count())


def gpu_count(name: str = "auto") -> int:
    """GPUs that jobs share where a device name is given; 0 where the CPU or MPS computes."""
    if name == "cpu" or (name == "auto" and _no_gpu_driver()):
        return 0
    import torch

    device = choose_device(name)
    if device.type != "cuda":
        return 0
    return torch.cuda.device_count() if device.index is None else 1


def processes_on_gpu(name: str = "auto") -> int:
    """How many processes of this machine explain on each GPU; 1 where no GPU is used."""
    gpus = gpu_count(name)
    most = min(PROCESSES_ON_A_GPU, usable_cores() // (CORES_FOR_EACH * gpus)) if gpus else 1
    if most < 2:
        return 1
    import torch

    number = torch.device(name).index if ":" in name else None
    memory = min(_memory_to_share(n) for n in (range(gpus) if number is None else [number]))
    return max(1, min(most, memory // MEMORY_FOR_EACH))


def _memory_to_share(number: int) -> int:
    """Bytes of a GPU's memory; 0 where that is not known, or one process may use the GPU at a time.

    Clusters set the latter (exclusive compute mode). The driver is asked by itself: torch does not
    tell, and would begin to use the GPU.
    """
    try:
        driver = ctypes.CDLL(NVIDIA_DRIVER)
    except OSError:
        return 0
    device, mode, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), number)
        or driver.cuDeviceGetAttribute(ctypes.byref(mode), _COMPUTE_MODE, device)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    )
    return memory.value if not failed and mode.value == _SHARED else 0


def process_device(name: str, rank: int) -> torch.device:
    """The device of one process: ``cuda`` without a number is its own GPU of its own machine."""
    import torch

    device = torch.device(name)
    numbered = ":" in name
    if device.type != "cuda" or numbered:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))


def recorded_event(device: torch.device, timed: bool = False) -> torch.cuda.Event:
    """An event that happens when a GPU has done all that it was given so far."""
    import torch

    event = torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
