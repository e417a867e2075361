"""What the pod is: a small shell script, the device sanity script's JSON, and their parsers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import Field, ValidationError

from orchestrator.evidence.errors import EvidenceError
from orchestrator.models.verdict import Record

FACTS_SCRIPT = r"""
# usage: sh -s -- [directory] [python] < this
# Prints name=value lines between two marks; what a machine does not have stays empty.
LC_ALL=C; export LC_ALL
directory=${1:-.}; python=${2:-python3}
# The directory may not exist yet: its nearest parent tells how much room there is.
while [ ! -d "$directory" ] && [ "$directory" != "${directory%/*}" ]
do directory=${directory%/*}
done
[ -d "$directory" ] || directory=/
fact() { printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr '\n\r' '  ')"; }
echo facts=1
fact uname "$(uname -srm)"
fact os "$(. /etc/os-release 2>/dev/null && printf %s "$PRETTY_NAME")"
fact cpus "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null)"
fact memory_kib "$(awk '$1 == "MemTotal:" {print $2}' /proc/meminfo 2>/dev/null)"
fact disk_path "$directory"
fact disk_kib "$(df -Pk "$directory" 2>/dev/null | awk 'NR == 2 {print $2, $4}')"
fact python "$("$python" -I -S -c 'import sys; print(sys.version.split()[0])' 2>/dev/null)"
# A driver that hangs would keep the run waiting; where there is no timeout, there is none.
limit=10; within="timeout -k 2 $limit"
$within true >/dev/null 2>&1 || within=
if command -v nvidia-smi >/dev/null 2>&1; then
    if rows=$($within nvidia-smi \
        --query-gpu=index,name,uuid,driver_version,memory.total,pci.bus_id \
        --format=csv,noheader,nounits 2>&1)
    then printf '%s\n' "$rows" | while IFS= read -r row; do fact gpu "$row"; done
    else
        status=$?
        case "$within $status" in
            timeout*\ 124 | timeout*\ 137) fact gpu_error "no answer within $limit s. $rows" ;;
            *) fact gpu_error "$rows" ;;
        esac
    fi
fi
echo facts=end
""".lstrip()
"""POSIX sh; arguments: a directory whose disk matters, and the Python to ask for its version."""

_BEGIN, _END = "facts=1", "facts=end"
_GPU_FIELDS = 6


class GpuFacts(Record):
    """A GPU as the driver reports it."""

    index: int = Field(ge=0)
    name: str
    uuid: str
    driver_version: str
    memory_mib: int | None = Field(description="None where the driver does not say")
    pci_bus_id: str


class SystemFacts(Record):
    """The machine, from `FACTS_SCRIPT`. None is what it could not tell."""

    uname: str | None = None
    os: str | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    disk_path: str | None = None
    disk_total_bytes: int | None = None
    disk_free_bytes: int | None = None
    python: str | None = None
    gpus: tuple[GpuFacts, ...] = ()
    gpu_error: str | None = Field(default=None, description="what nvidia-smi said when it failed")


class Device(Record):
    """A CUDA device as torch sees it."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int = Field(ge=0)


class DeviceFacts(Record):
    """The environment's Python, from the device sanity script."""

    python: str
    torch: str | None
    cuda_runtime: str | None
    cuda_available: bool
    devices: tuple[Device, ...]
    triton: str | None
    flash_attn: str | None


class Facts(Record):
    """`facts.json` of a run."""

    system: SystemFacts | None = None
    device: DeviceFacts | None = None


def parse_device(stdout: str) -> DeviceFacts:
    """Read the JSON that the device sanity script prints as its last line.

    Raises:
        EvidenceError: no such line, or it is not that JSON.
    """
    file = "device facts"
    lines = stdout.splitlines()
    line = next((n for n in range(len(lines), 0, -1) if lines[n - 1].strip()), None)
    if line is None:
        raise EvidenceError("the device sanity script printed nothing", file=file)
    try:
        return DeviceFacts.model_validate_json(lines[line - 1].strip())
    except ValidationError as error:
        first = error.errors()[0]
        column = ".".join(str(part) for part in first["loc"]) or None
        raise EvidenceError(first["msg"], file=file, line=line, column=column) from None


def parse_system(stdout: str) -> SystemFacts:
    """Read what `FACTS_SCRIPT` prints; lines outside its marks are a login banner's.

    Raises:
        EvidenceError: cut short, or a line that is not what the script prints.
    """
    file = "system facts"
    inside = ended = False
    values: dict[str, str] = {}
    at: dict[str, int] = {}
    gpus: list[GpuFacts] = []
    for number, raw in enumerate(stdout.split("\n"), 1):
        line = raw.strip()
        if not inside:
            inside = line == _BEGIN
            continue
        if not line:
            continue
        if line == _END:
            ended = True
            break
        name, equals, value = line.partition("=")
        if not equals or (name not in _KNOWN and name != "gpu"):
            raise EvidenceError(f"unexpected {line[:80]!r}", file=file, line=number)
        if name == "gpu":
            gpus.append(_gpu(value, number))
        elif name in values:
            raise EvidenceError("told twice", file=file, line=number, column=name)
        else:
            values[name], at[name] = value.strip(), number
    if not ended:
        raise EvidenceError("cut short" if inside else "the facts script did not run", file=file)

    def read(name: str, parse: Callable[[str], _T]) -> _T | None:
        value = values.get(name, "")
        try:
            return parse(value) if value else None
        except ValueError:
            raise EvidenceError(
                f"{value[:80]!r} is not what was asked for", file=file, line=at[name], column=name
            ) from None

    disk = read("disk_kib", _pair)
    memory = read("memory_kib", _whole)
    return SystemFacts(
        uname=read("uname", str),
        os=read("os", str),
        cpus=read("cpus", _whole),
        memory_bytes=None if memory is None else memory * 1024,
        disk_path=read("disk_path", str),
        disk_total_bytes=disk[0] * 1024 if disk else None,
        disk_free_bytes=disk[1] * 1024 if disk else None,
        python=read("python", str),
        gpus=tuple(gpus),
        gpu_error=read("gpu_error", str),
    )


_T = TypeVar("_T")
_KNOWN = {
    "uname", "os", "cpus", "memory_kib", "disk_path", "disk_kib", "python", "gpu_error",
}  # fmt: skip


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(text)
    return int(text)


def _pair(text: str) -> tuple[int, int]:
    total, free = text.split()
    return _whole(total), _whole(free)


def _gpu(text: str, line: int) -> GpuFacts:
    """One row of `nvidia-smi --query-gpu`. A value in brackets is one the driver does not have."""
    fields = [field.strip() for field in text.split(",")]
    try:
        if len(fields) != _GPU_FIELDS:
            raise ValueError(text)
        index, name, uuid, driver, memory, bus = fields
        return GpuFacts(
            index=_whole(index),
            name=name,
            uuid=uuid,
            driver_version=driver,
            memory_mib=None if memory.startswith("[") else _whole(memory),
            pci_bus_id=bus,
        )
    except ValueError:
        raise EvidenceError(
            f"{text[:80]!r} is not a row of nvidia-smi", file="system facts", line=line
        ) from None
