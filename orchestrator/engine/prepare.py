"""From what the user typed to a plan, before anything touches a pod or a run directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.config.phases import parse_phases
from orchestrator.config.playbook import load_playbook
from orchestrator.config.pod_lookup import resolve_pod
from orchestrator.config.pods import EMBEDDED, embedded_pod
from orchestrator.config.resources import find_playbook
from orchestrator.engine.inherit import inherit, refuse_foreign_changes
from orchestrator.engine.plan import make_plan
from orchestrator.engine.waivers import waivers_of
from orchestrator.errors import UsageError
from orchestrator.models.command import Secret
from orchestrator.models.pod import Pod
from orchestrator.models.run import RunPlan
from orchestrator.store import runs
from orchestrator.transport.source import describe


@dataclass(frozen=True)
class Request:
    """The command line of `run`."""

    playbook: str | None = None
    phases: str | None = None
    pod: str | None = None
    pods_file: Path | None = None
    identity_file: Path | None = None
    workdir: str | None = None
    python: str | None = None
    profile: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    repo: Path | None = None
    runs_dir: Path = Path("runs")
    inherit_from: str | None = None
    pr: bool = False
    waive: Sequence[str] = ()
    reasons: Sequence[str] = ()
    argv: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """A plan, and what belongs to it but must not be written into it."""

    plan: RunPlan
    diff: bytes = field(repr=False)
    manifest: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, Secret] = field(repr=False)
    notes: Sequence[str] = ()
    """what the user should hear before the run"""


def prepare(request: Request) -> Prepared:
    """Resolve everything.

    Raises:
        UsageError, ConfigError: naming what is wrong and what to do.
    """
    phases = parse_phases(request.phases) if request.phases is not None else None
    path = find_playbook(request.playbook)
    embedded = request.pod in (None, EMBEDDED)
    asked = {"profile": request.profile, "embedded": embedded, "overrides": request.overrides}
    root = _root(request.repo, path)
    # Twice: the pod's environment is named after the profile, and its paths go into the playbook.
    profile = load_playbook(path, **asked).profile  # type: ignore[arg-type]
    notes: list[str] = []
    pod = _pod(request, root, f"{path.stem}-{profile or 'default'}", notes)
    builtins = {
        "pod.workdir": pod.workdir,
        "pod.venv": pod.venv_path,
        "pod.python": pod.python,
    }
    loaded = load_playbook(path, **asked, builtins=builtins)  # type: ignore[arg-type]
    source = describe(root)
    run_id = runs.new_run_id(request.runs_dir)
    plan = make_plan(loaded, pod, source, phases, request.argv, run_id=run_id, pr=request.pr)
    waivers = waivers_of(plan.playbook, request.waive, request.reasons)
    inherited = inherit(plan, source.manifest, request.runs_dir, request.inherit_from)
    plan = plan.model_copy(update={"inherits": inherited, "waivers": waivers})
    refuse_foreign_changes(plan)
    secrets = secrets_of(plan)
    _refuse_exposed(plan, source.diff, secrets)
    return Prepared(plan, source.diff, source.manifest, secrets, notes)


def _pod(request: Request, root: Path, environment: str, notes: list[str]) -> Pod:
    if request.pod in (None, EMBEDDED):
        pod = embedded_pod(root, environment)
    else:
        assert request.pod is not None  # noqa: S101 - for the type checker
        pod = resolve_pod(
            request.pod,
            pods_file=request.pods_file,
            identity_file=request.identity_file,
            workdir=request.workdir,
            on_note=notes.append,
        )
    return pod.model_copy(update={"python": request.python}) if request.python else pod


def _root(repo: Path | None, playbook: Path) -> Path:
    """`--repo`, else the git root above the playbook, else its folder."""
    if repo is not None:
        if not repo.is_dir():
            raise UsageError(f"--repo {repo} is not a folder")
        return repo.resolve()
    folder = playbook.resolve().parent
    return next((place for place in (folder, *folder.parents) if (place / ".git").exists()), folder)


def _refuse_exposed(plan: RunPlan, diff: bytes, secrets: Mapping[str, Secret]) -> None:
    """What goes into the run directory, and from there into reports, holds no secret."""
    for name, secret in secrets.items():
        places = [place for place, text in _texts(plan.model_dump()) if secret.value in text]
        file = "a file"
        for line in diff.splitlines():
            if line.startswith(b"+++ "):
                file = line[4:].decode(errors="replace").removeprefix("b/")
            elif secret.value.encode() in line:
                places.append(f"uncommitted changes of {file}")
        if places:
            raise UsageError(
                f"the value of {name} is in what the run would keep: {places[0]}",
                remedy=f"take it out there, and let the command read {name} from its environment",
            )


def _texts(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text within, and where it is: `playbook.variables.note`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield place, str(name)
            yield from _texts(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{number}]")
    elif value is not None:
        yield place, str(value)


def secrets_of(plan: RunPlan) -> dict[str, Secret]:
    """Values of the playbook's secrets, from the environment.

    Raises:
        UsageError: one is not set.
    """
    missing = [name for name in plan.playbook.secrets if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"the playbook needs {', '.join(missing)}, which the environment does not have",
            remedy=f"export {missing[0]}=... before the run; it is never stored or printed",
        )
    return {name: Secret(os.environ[name]) for name in plan.playbook.secrets}
