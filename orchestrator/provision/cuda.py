"""Device sanity: what torch in the environment sees."""

from __future__ import annotations

import json

from orchestrator.models.command import Command, CommandResult
from orchestrator.models.pod import Pod
from orchestrator.provision.state import Finding

# Version numbers come from the metadata: importing flash_attn would load CUDA kernels.
_SCRIPT = """\
import importlib.metadata as metadata, json, platform
def version(name):
    try: return metadata.version(name)
    except metadata.PackageNotFoundError: return None
import torch
available = torch.cuda.is_available()
def device(index):
    p = torch.cuda.get_device_properties(index)
    return {"name": p.name, "capability": [p.major, p.minor], "memory_bytes": p.total_memory}
print(json.dumps({
    "python": platform.python_version(),
    "torch": torch.__version__,
    "cuda_runtime": torch.version.cuda,
    "cuda_available": available,
    "devices": [device(i) for i in range(torch.cuda.device_count())] if available else [],
    "triton": version("triton"),
    "flash_attn": version("flash-attn"),
}))
"""


def check(pod: Pod) -> Command:
    """Ask torch for its devices."""
    return Command((f"{pod.venv_path}/bin/python", "-c", _SCRIPT))


def parse(result: CommandResult) -> Finding:
    """Read the script's last line; warnings may come before it."""
    lines = result.stdout.strip().splitlines()
    if not result.ok or not lines:
        reason = (result.stderr.strip().splitlines() or [f"exit {result.exit_code}"])[-1]
        return Finding(False, reason, problem=f"torch does not load in the environment: {reason}")
    try:
        facts = json.loads(lines[-1])
    except ValueError:
        return Finding(
            False, "unreadable", problem=f"device sanity printed no facts: {lines[-1][:200]!r}"
        )
    names = ", ".join(device["name"] for device in facts["devices"]) or "no CUDA device"
    return Finding(bool(facts["cuda_available"]), f"torch {facts['torch']}, {names}", facts)
