"""How much memory there is for what comes next."""

import os
from pathlib import Path

import torch

# Where neither the system nor its files tell.
_UNKNOWN = 4 * 2**30
_MEMINFO = Path("/proc/meminfo")
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def available_bytes(device: torch.device) -> int:
    """Bytes that new tensors on the device can take: free ones and those that are kept only for reuse."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_system_bytes(), _container_bytes())


def _system_bytes() -> int:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        # macOS tells all of its memory, not how much is free: half of it is a guess on the safe side.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):  # no sysconf on Windows
        return _UNKNOWN


def _container_bytes() -> int:
    """What a container's own limit leaves; the system's figures know nothing of it."""
    try:
        return max(int(_LIMIT.read_text(encoding="ascii")) - int(_USED.read_text(encoding="ascii")), 0)
    except (OSError, ValueError):  # no such file, or the word "max"
        return 2**63 - 1
