"""How much memory is available for what comes next."""

import os
from pathlib import Path

import torch

_UNKNOWN = 4 * 2**30  # where the system does not say
_MEMINFO = Path("/proc/meminfo")
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def available_bytes(device: torch.device) -> int:
    """Bytes that new tensors on the device can take: free ones and those that are kept only for reuse."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:  # a container has a limit of its own, which the system's figures ignore
        left = max(int(_LIMIT.read_text(encoding="ascii")) - int(_USED.read_text(encoding="ascii")), 0)
    except (OSError, ValueError):  # no such file, or the word "max"
        return _system_bytes()
    return min(left, _system_bytes())


def _system_bytes() -> int:
    try:
        figures = dict(line.split(":") for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        return int(figures["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        pass
    try:
        # macOS gives its whole memory, not what is free: half of it is a guess on the safe side.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):  # no sysconf on Windows
        return _UNKNOWN
