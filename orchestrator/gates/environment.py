"""Environment: was the repository pushed, is every resource there, is this the expected GPU?"""

from __future__ import annotations

from orchestrator.gates.findings import Finding, conclude, counted, listed
from orchestrator.models.playbook import DeviceResource, ProvisionStep
from orchestrator.models.pod import Pod
from orchestrator.models.run import StepResult
from orchestrator.models.verdict import GateResult, Reason, Verdict


def sync_gate(result: StepResult) -> GateResult:
    """The push is done when it says how many files lie on the pod."""
    files = result.details.get("files")
    if result.error is None and isinstance(files, int) and files > 0:
        return GateResult(
            gate="sync",
            verdict=Verdict.PASS,
            message=f"{counted(files, 'file')} on the pod, as they lie here.",
            measured=result.details,
        )
    return GateResult(
        gate="sync",
        verdict=Verdict.INFRA,
        reason=Reason.NO_EVIDENCE,
        message=f"The repository was not pushed: {result.error or 'no files were sent'}.",
        measured=result.details,
        next_step="Run `orchestrate run --phase 0` again once the pod can be reached.",
    )


def resources_gate(step: ProvisionStep, result: StepResult) -> GateResult:
    """Every resource that is not optional is there."""
    outcomes = {outcome.id: outcome for outcome in result.resources}
    findings = []
    for resource in step.resources:
        outcome = outcomes.get(resource.id)
        if resource.optional or (outcome is not None and outcome.action != "failed"):
            continue
        why = outcome.detail if outcome else "not reached"
        findings.append(
            Finding(
                Verdict.INFRA,
                Reason.ENVIRONMENT,
                f"{resource.id}: {why}.",
                f"Put {resource.id} right on the pod, or in the playbook, then run phase 0 again.",
            )
        )
    waived = [o.id for o in result.resources if o.action == "failed" and o.optional]
    passed = f"{counted(len(outcomes), 'resource')} in place"
    passed += f"; optional and not there: {listed(waived)}." if waived else "."
    measured = {outcome.id: outcome.action for outcome in result.resources}
    return conclude("resources", findings, dict(measured), passed)


def device_gate(resource: DeviceResource, pod: Pod, result: StepResult) -> GateResult:
    """A usable CUDA device where one is required, and the GPU that the pod was rented for."""
    facts = result.details.get("device")
    facts = facts if isinstance(facts, dict) else {}
    devices = facts.get("devices")
    names = [
        str(device.get("name"))
        for device in (devices if isinstance(devices, list) else [])
        if isinstance(device, dict)
    ]
    findings = []
    if "cuda_available" not in facts:
        findings.append(
            Finding(
                Verdict.INFRA,
                Reason.ENVIRONMENT,
                "torch did not say which devices it sees.",
                "Read the outcome of the device resource; torch must load on the pod.",
            )
        )
    elif resource.cuda == "required" and not names:
        findings.append(
            Finding(
                Verdict.INFRA,
                Reason.NO_CUDA_DEVICE,
                "torch sees no CUDA device on this pod.",
                "Compare `nvidia-smi` with the CUDA runtime of torch, or rent another pod; the "
                "profile `cpu` runs without one.",
            )
        )
    if pod.gpu and names and not any(pod.fits(name) for name in names):
        findings.append(
            Finding(
                Verdict.INFRA,
                Reason.WRONG_GPU,
                f"The pod is declared with {pod.gpu}, torch sees {listed(names)}.",
                "Correct `gpu` of the pod, or rent the right one.",
            )
        )
    seen = listed(names) if names else "no CUDA device; the profile does not require one"
    return conclude("device", findings, {"devices": list(names)}, f"torch sees {seen}.")


def landing_gate(result: StepResult) -> GateResult:
    """The decision is where it takes effect: a commit on a branch of its own."""
    branch, commit = result.details.get("branch"), result.details.get("commit")
    if result.error is None and commit:
        where = f"Commit {str(commit)[:12]} on branch {branch}."
        return GateResult(
            gate="landing",
            verdict=Verdict.PASS,
            message=where if branch else "The repository has it already.",
            measured=result.details,
        )
    return GateResult(
        gate="landing",
        verdict=Verdict.NOT_VERIFIED,
        reason=Reason.NOT_LANDED,
        message=f"The decision stands, but is not landed: {result.error or 'no commit was made'}.",
        measured=result.details,
        next_step="Put right what is in the way, then: orchestrate run --phase 5.",
    )
