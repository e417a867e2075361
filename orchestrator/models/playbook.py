"""The playbook: variables, profiles, phases, steps, resources and gates, as a person writes them.

Loaded by `orchestrator.config`, which resolves `${variables}` first and turns what pydantic
refuses into `file:line:column` errors.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from kernels.bench.contract import DEFAULT_MARGIN, MAX_MAE
from orchestrator.models.values import (
    Environment,
    EnvName,
    Identifier,
    Lengths,
    Seconds,
    Size,
    Variables,
    Word,
)
from orchestrator.models.verdict import Record

# --- gates: evidence -> verdict -------------------------------------------------------------------


class TestsGate(Record):
    """Counts a JUnit file: enough tests passed, none failed, skipped ones do not count."""

    __test__ = False  # not a pytest class

    gate: Literal["tests"]
    file: str
    min_passed: int = Field(default=1, ge=1)


class ParityGate(Record):
    """Errors that the tests recorded (`mae`, `max_err`, `kernel_path`, `device`)."""

    gate: Literal["parity"]
    file: str
    max_mae: float = Field(
        default=MAX_MAE, gt=0, le=MAX_MAE, description="mean absolute error against the oracle"
    )
    paths: list[str] = Field(
        default_factory=list,
        description="kernel paths of which each must have run at least once (prefix match)",
    )


def _distinct(lengths: list[int]) -> list[int]:
    twice = sorted({length for length in lengths if lengths.count(length) > 1})
    if twice:
        raise ValueError(f"names {', '.join(f'L={length}' for length in twice)} twice")
    return lengths


class BenchGate(Record):
    """A bench CSV: complete, one row per declared cell, both sides right, timed alike.

    What is declared of the cells (N, H and so on) is what every row must say.
    """

    gate: Literal["bench"]
    file: str
    mode: Literal["dense", "varlen"]
    lengths: Annotated[Lengths, AfterValidator(_distinct)] = Field(
        description="L of every cell that must be there, and no other"
    )
    N: int | None = Field(default=None, ge=1, description="rows of every cell")
    H: int | None = Field(default=None, ge=1, description="query heads of a row")
    D: int | None = Field(default=None, ge=1, description="head dimension of queries and keys")
    Dv: int | None = Field(default=None, ge=1, description="head dimension of values")
    nspans: int | None = Field(default=None, ge=1, description="spans a row")
    streams: int | None = Field(default=None, ge=1, description="streams, of both sides")
    dist: Literal["few", "many", "mixed"] | None = None
    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    max_mae: float = Field(
        default=MAX_MAE, gt=0, le=MAX_MAE, description="largest mean error against the oracle"
    )


class DiagnosticsGate(Record):
    """`diagnostics.jsonl` of a rerun with the debug flags: symptoms, each with its remedy."""

    gate: Literal["diagnostics"]
    file: str


Gate = Annotated[TestsGate | ParityGate | BenchGate | DiagnosticsGate, Field(discriminator="gate")]


# --- resources: what provisioning brings about ----------------------------------------------------


class ResourceBase(Record):
    """Common to all resources."""

    id: Identifier
    profiles: list[Identifier] | None = Field(
        default=None, description="only in these; default: all"
    )
    optional: bool = Field(
        default=False, description="failure is reported and does not stop (`|| true`)"
    )
    timeout: Seconds = 3600


class AptResource(ResourceBase):
    """Debian packages, by `apt-get install`; needs root or passwordless sudo."""

    resource: Literal["apt"]
    packages: list[str] = Field(min_length=1)


class VenvResource(ResourceBase):
    """The pod's virtual environment (`pod.venv`)."""

    resource: Literal["venv"]


class PipResource(ResourceBase):
    """Packages in the environment, by pip requirement."""

    resource: Literal["pip"]
    packages: list[Word] = Field(min_length=1)
    upgrade: bool = False
    index_url: str | None = None
    index_fallback: bool = Field(
        default=False, description="use pip's configured index when index_url cannot be reached"
    )
    options: list[str] = Field(default_factory=list, description="further pip options, verbatim")


class RequirementsResource(ResourceBase):
    """A requirements file of the repository."""

    resource: Literal["requirements"]
    file: str


class DeviceResource(ResourceBase):
    """Device sanity: what torch sees. `cuda: required` makes a missing device INFRA."""

    resource: Literal["device"]
    cuda: Literal["required", "reported"] = "required"


Resource = Annotated[
    AptResource | VenvResource | PipResource | RequirementsResource | DeviceResource,
    Field(discriminator="resource"),
]


# --- steps ----------------------------------------------------------------------------------------


class StepBase(Record):
    """Common to all steps."""

    id: Identifier
    title: str | None = None
    profiles: list[Identifier] | None = Field(
        default=None, description="only in these; default: all"
    )


class SyncStep(StepBase):
    """Push the repository to the pod."""

    action: Literal["sync"]
    protect: list[str] = Field(
        default_factory=list,
        description="paths on the pod that a sync never deletes, rsync patterns",
    )
    allow_paths: list[str] = Field(
        default_factory=list,
        description="only these files (wildcards) may differ from the run that is built upon; "
        "default: any",
    )


class ProvisionStep(StepBase):
    """Bring resources about, in order; what is there already is left alone."""

    action: Literal["provision"]
    resources: list[Resource] = Field(min_length=1)


class JobStep(StepBase):
    """Run a command on the pod, detached; pull its artifacts; judge them."""

    action: Literal["job"]
    command: list[Word] = Field(
        min_length=1, description="argv; ${out} is the job's output directory"
    )
    env: Environment = Field(default_factory=dict)
    artifacts: list[str] = Field(default_factory=list, description="files it must leave in ${out}")
    gates: list[Gate] = Field(default_factory=list)
    timeout: Seconds = Field(default=3600, description="from the start of the command on")
    exclusive: bool = Field(
        default=True,
        description="one such job at a time on the pod's device, whosever it is; others wait",
    )
    min_free: Size = Field(
        default=100 << 20, description="room that the pod's disk must have before it starts"
    )


class DecideStep(StepBase):
    """Apply the decision rule to bench CSVs of earlier steps."""

    action: Literal["decide"]
    dense: str = Field(description="step that produced the dense CSV, as `step/file`")
    varlen: str
    margin: float = Field(
        default=DEFAULT_MARGIN, ge=1, description="speedup that the lower bound must reach"
    )
    level: Literal["kernel", "operator"] = Field(
        default="operator",
        description="operator: both sides from Q, K, V and ranges on, as in production; "
        "kernel: both sides get packed K and V",
    )
    reference: Literal["shipped", "strongest"] = Field(
        default="strongest", description="what Triton must beat"
    )


class LandStep(StepBase):
    """Write the decision where it takes effect: config, branch, commit, pull request."""

    action: Literal["land"]
    config_file: str = Field(description="YAML file of the repository")
    key: str = Field(default="runtime.sel_triton_min_L", description="dotted key in it")
    rationale_doc: str = Field(description="document that says why the kernel stays off")
    evidence_dir: str = Field(
        default="reports/runs", description="folder of the repository for CSVs and report"
    )


Step = Annotated[
    SyncStep | ProvisionStep | JobStep | DecideStep | LandStep, Field(discriminator="action")
]


class When(str, Enum):
    """Condition under which a phase runs."""

    ALWAYS = "always"
    UNDERPERFORMANCE = "underperformance"
    """A gate of phase 1 or 2 is FAIL or INVALID, or the decision is KEEP_OFF."""
    DECIDED = "decided"
    """The decision is ENABLE or KEEP_OFF."""


class Variant(Record):
    """A declared way to run the repeated phases: other flags, same code."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,23}$")]
    title: str
    environment: Environment = Field(default_factory=dict, description="on top of each step's own")
    changed_code: bool = Field(
        default=False, description="only where the code differs from the run that is built upon"
    )


class Phase(Record):
    """A numbered group of steps that ends in a verdict."""

    id: int = Field(ge=0, le=5)
    name: Identifier
    title: str
    when: When = When.ALWAYS
    steps: list[Step] = Field(default_factory=list)
    repeat: list[int] = Field(
        default_factory=list, description="phases whose steps are repeated for each variant"
    )
    variants: list[Variant] = Field(default_factory=list)


class Profile(Record):
    """A named set of overrides, for a kind of machine."""

    description: str
    default_for: Literal["embedded", "remote"] | None = None
    variables: Variables = Field(default_factory=dict)
    environment: Environment = Field(default_factory=dict)


class Playbook(Record):
    """A whole playbook."""

    version: Literal[1]
    name: Identifier
    title: str
    description: str = ""
    variables: Variables = Field(default_factory=dict)
    profiles: dict[Identifier, Profile] = Field(default_factory=dict)
    environment: Environment = Field(default_factory=dict, description="of every job")
    secrets: list[EnvName] = Field(
        default_factory=list, description="names of environment variables of the controller"
    )
    deliverables: list[str] = Field(
        default_factory=list, description="artifacts also put at the top of the run directory"
    )
    phases: list[Phase] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Playbook:
        seen: set[int | str] = set()
        for phase in self.phases:
            if phase.id in seen:
                raise ValueError(f"phase {phase.id} is declared twice")
            seen.add(phase.id)
            for step in phase.steps:
                if step.id in seen:
                    raise ValueError(f"step {step.id} is declared twice")
                seen.add(step.id)
        return self
