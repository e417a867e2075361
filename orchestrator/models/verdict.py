"""Verdicts of gates, steps, phases and runs, and the decision they lead to."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from orchestrator.errors import ExitCode


class Verdict(str, Enum):
    """What the evidence says. Only PASS counts in favour of anything."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    NOT_VERIFIED = "NOT_VERIFIED"
    INVALID = "INVALID"
    INFRA = "INFRA"

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of a run whose worst verdict this is."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.INFRA: ExitCode.INFRA,
    Verdict.INVALID: ExitCode.INVALID,
    Verdict.FAIL: ExitCode.GATE_FAILED,
    Verdict.NOT_VERIFIED: ExitCode.NOT_VERIFIED,
    Verdict.PASS: ExitCode.OK,
}
_WORST_FIRST = tuple(_EXIT_CODES)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that decides: INFRA, INVALID, FAIL, NOT_VERIFIED, PASS, the first present.

    No verdict at all is NOT_VERIFIED: nothing was shown.
    """
    present = set(verdicts)
    return next((verdict for verdict in _WORST_FIRST if verdict in present), Verdict.NOT_VERIFIED)


class Reason(str, Enum):
    """Machine-readable cause of a verdict, for scripts; the sentence beside it is for people."""

    NO_CUDA_DEVICE = "no-cuda-device"
    WRONG_GPU = "wrong-gpu"
    NO_EVIDENCE = "no-evidence"
    INCOMPLETE = "incomplete"
    MALFORMED = "malformed"
    TESTS_FAILED = "tests-failed"
    TOO_FEW_TESTS = "too-few-tests"
    ERROR_TOO_LARGE = "error-too-large"
    REFERENCE_WRONG = "reference-wrong"
    IMPOSSIBLE = "impossible"
    FLAT_IN_L = "flat-in-l"
    MACHINE_DISTURBED = "machine-disturbed"
    SECRET_EXPOSED = "secret-exposed"  # noqa: S105 - a reason, not a secret
    FALLBACK_RAN = "fallback-ran"
    WEAK_FALLBACK = "weak-fallback"
    ONE_SIDED = "one-sided"
    JOB_FAILED = "job-failed"
    JOB_LOST = "job-lost"
    NOT_RUN = "not-run"
    EARLIER_PHASE = "earlier-phase"
    ENVIRONMENT = "environment"
    UNREACHABLE = "unreachable"
    POD_ERROR = "pod-error"
    INHERITED_DIFFERS = "inherited-differs"
    NOT_LANDED = "not-landed"


class Record(BaseModel):
    """Base of everything that is written to a run directory: frozen, unknown keys refused.

    A command uses few of these models: each is compiled when it is first used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Waiver(Record):
    """A gate that does not have to pass, and who answers for it says why."""

    gate: str
    reason: str = Field(min_length=1)

    def __str__(self) -> str:
        return f"{self.gate} ({self.reason})"


class GateResult(Record):
    """One gate's verdict, the numbers that decided it, and what to do next."""

    gate: str = Field(description="gate name, with the file or family it judged")
    verdict: Verdict
    message: str = Field(description="one sentence a tired engineer understands")
    reason: Reason | None = None
    measured: dict[str, JsonValue] = Field(default_factory=dict)
    next_step: str | None = None
    waiver: Waiver | None = Field(default=None, description="why it counts as PASS all the same")

    @model_validator(mode="after")
    def _says_why(self) -> GateResult:
        if self.verdict is Verdict.PASS and not self.measured:
            raise ValueError("PASS needs the measurement it rests on")
        if self.verdict is not Verdict.PASS and self.reason is None:
            raise ValueError(f"{self.verdict.value} needs a reason")
        return self


class Outcome(str, Enum):
    """The three decisions. Only the first two may change a config."""

    ENABLE = "ENABLE"
    KEEP_OFF = "KEEP_OFF"
    UNDECIDED = "UNDECIDED"


class Obstacle(Record):
    """One thing that stands between the run and a decision."""

    reason: Reason
    message: str


class AtMargin(Record):
    """The threshold that the rule gives at one margin; None where no length is admissible."""

    margin: float
    min_L: int | None  # noqa: N815


class Comparison(Record):
    """The threshold at one level, against one reference, at the decision's margin."""

    level: Literal["kernel", "operator"]
    reference: Literal["shipped", "strongest"]
    min_L: int | None  # noqa: N815
    lowest: float = Field(description="smallest lower bound of all cells' speedups")


class Decision(Record):
    """Whether, and from which selected length on, the kernel is to be used."""

    outcome: Outcome
    min_L: int | None = Field(  # noqa: N815 - L is the field's name for the selected length
        default=None, description="value for runtime.sel_triton_min_L; None when undecided"
    )
    margin: float = Field(gt=0, description="speedup that the lower bound must reach")
    summary: str
    obstacles: tuple[Obstacle, ...] = ()
    level: Literal["kernel", "operator"] = "operator"
    reference: Literal["shipped", "strongest"] = "strongest"
    device: str | None = Field(default=None, description="GPU that it holds for, and no other")
    sensitivity: tuple[AtMargin, ...] = Field(default=(), description="at other margins")
    comparisons: tuple[Comparison, ...] = Field(
        default=(), description="at both levels, against both references"
    )
    non_monotone: tuple[str, ...] = Field(
        default=(), description="cells below the margin while a shorter length reaches it"
    )
    noise_bound: tuple[str, ...] = Field(
        default=(), description="cells whose interval holds the margin, or that did not settle"
    )
    waivers: tuple[Waiver, ...] = Field(default=(), description="gates that it holds without")
    variant: str | None = Field(default=None, description="variant of phase 4 that it rests on")
    environment: dict[str, str] = Field(
        default_factory=dict, description="flags that the variant needs, in production too"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Decision:
        undecided = self.outcome is Outcome.UNDECIDED
        if undecided != (self.min_L is None):
            raise ValueError("a decision has a min_L; an undecided one has none")
        if undecided and not self.obstacles:
            raise ValueError("UNDECIDED must say why")
        return self

    def __str__(self) -> str:
        return f"ENABLE(L>={self.min_L})" if self.outcome is Outcome.ENABLE else self.outcome.value
