"""Landing a decision: check everything, commit in a temporary worktree, then push."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kernels.bench.contract import KEEP_OFF_MIN_L
from orchestrator.errors import LandingError
from orchestrator.landing.config_edit import Edit, propose, read_value, set_value
from orchestrator.landing.forge import Forge
from orchestrator.landing.git import ORIGIN, Git, Remote
from orchestrator.landing.request import Landed, LandRequest, Plan, contents, inside
from orchestrator.models.verdict import Outcome

_MAX_NAMED = 5


def plan(request: LandRequest) -> Plan:
    """What `land` would do. Reads the repository and writes nothing; asks no network.

    Raises:
        LandingError: the decision is UNDECIDED, or the repository is not fit to land in.
        ConfigError: the config file does not hold the key as a whole number.
    """
    if request.decision.outcome is Outcome.UNDECIDED:
        raise LandingError(
            f"an undecided run lands nothing: {request.decision.summary}",
            remedy="resolve what the report lists as in the way, and run again",
        )
    git = Git(request.root)
    base = git.require_commit()
    branch = _branch(request, git)
    config = inside(request.root, request.config_file, "the config file")
    files = _contents(request, config)
    _require_clean(request, git, config)
    git.require_identity()
    edit = _edit(request, config)
    title, message = _message(request, edit)
    return Plan(branch, base, edit, files, title, message, tuple(_notes(request, git, edit)))


def land(request: LandRequest) -> Landed:
    """Commit the decision on a branch of its own, and with `pr` open a pull request for it.

    The user's branch, index and files stay as they are. Whatever fails before the commit leaves
    nothing behind; whatever fails after it leaves the branch, and landing again goes on from there.

    Raises:
        LandingError: the decision is UNDECIDED, or git or gh refuse.
        ConfigError: the config file does not hold the key as a whole number.
    """
    planned = plan(request)
    git, forge = Git(request.root), Forge(request.root)
    remote = None
    if request.pr:
        forge.require_login()
        remote = _remote(git, planned.branch)
    landed = _commit(request, git, planned)
    if remote is None or landed.branch is None:
        return landed
    base = remote.default_branch or git.default_branch
    if base is None:
        raise LandingError(
            f"{ORIGIN} has no default branch to open a pull request against",
            remedy=f"the commit is on the local branch {landed.branch}: push it by hand",
        )
    if remote.sha != landed.commit:
        git.push(landed.branch, default_branch=remote.default_branch)
    url = forge.open_pull_request(
        branch=landed.branch, base=base, title=planned.title, body=request.pr_body
    )
    return replace(landed, pr_url=url, notes=(*landed.notes, *_ahead(git, base, planned.base)))


# --- checks ---------------------------------------------------------------------------------------


def _branch(request: LandRequest, git: Git) -> str:
    name = request.branch_name
    if not git.is_branch_name(name):
        raise LandingError(
            f"{name!r} is not a name for a branch", remedy="see: git help check-ref-format"
        )
    if name in git.protected_branches:
        raise LandingError(
            f"{name} is a default branch, and decisions land on a branch of their own",
            remedy="choose another name for the branch",
        )
    return name


def _require_clean(request: LandRequest, git: Git, config: str) -> None:
    touched = [config]
    if request.decision.outcome is Outcome.KEEP_OFF and request.rationale_doc is not None:
        touched.append(request.rationale_doc)
    dirty = git.uncommitted(*touched)
    if dirty:
        raise LandingError(
            f"{request.root} has uncommitted changes in {', '.join(dirty)}, which landing edits",
            remedy="commit them (the same content keeps the evidence valid), then: orchestrate run "
            "--phase 5",
        )


def _contents(request: LandRequest, config: str) -> dict[str, bytes]:
    """What to write beside the edit; no two of the things to write may be one file."""
    evidence, rationale = contents(request), _rationale(request)
    names = [config, *rationale, *evidence]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LandingError(
            f"{twice} would be written twice: config file, rationale and evidence must differ",
            remedy="choose another folder for the evidence, or another rationale_doc",
        )
    return evidence | rationale


def _rationale(request: LandRequest) -> dict[str, bytes]:
    if request.decision.outcome is not Outcome.KEEP_OFF:
        return {}
    if request.rationale_doc is None or not (request.rationale or "").strip():
        raise LandingError(
            "KEEP_OFF lands with its rationale, and there is none",
            remedy="set the playbook's variable rationale_doc",
        )
    name = inside(request.root, request.rationale_doc, "the rationale")
    return {name: (request.rationale or "").encode("utf-8", "replace")}


def _edit(request: LandRequest, config: str) -> Edit:
    path = request.root / config
    value = request.decision.min_L or KEEP_OFF_MIN_L
    if request.decision.outcome is Outcome.KEEP_OFF:
        value = max(read_value(path, request.key), value)
    return propose(path, request.key, value, name=config)


def _remote(git: Git, branch: str) -> Remote:
    remote = git.remote(branch)
    if branch == remote.default_branch:
        raise LandingError(
            f"{branch} is the default branch of {ORIGIN}, which is never pushed to",
            remedy="choose another name for the branch",
        )
    if remote.sha is not None and git.branch(branch) is None:
        raise LandingError(
            f"{ORIGIN} has a branch {branch} that this clone does not",
            remedy=f"fetch it, to go on from it: git fetch {ORIGIN} {branch}:{branch}",
        )
    return remote


# --- the commit -----------------------------------------------------------------------------------


def _commit(request: LandRequest, git: Git, planned: Plan) -> Landed:
    existing = git.branch(planned.branch)
    if existing is not None and git.current_branch != planned.branch:
        # Merged, and perhaps not deleted: then what counts is what HEAD has.
        existing = None if git.contains(planned.base, existing) else existing
    with git.worktree(existing or planned.base) as tree:
        files = _write(request, tree.root, planned)
        if existing is not None:
            return _landed_before(tree, planned, existing, files)
        commit = tree.commit_files(files, planned.message)
        if commit is None:
            note = "HEAD holds all of it already: there is nothing to land"
            return Landed(
                None, planned.base, planned.edit, files, already=True, notes=(*planned.notes, note)
            )
        notes = (*planned.notes, *_by_hooks(tree, commit, files))
        git.create_branch(planned.branch, commit)
    return Landed(planned.branch, commit, planned.edit, files, notes=notes)


def _write(request: LandRequest, tree: Path, planned: Plan) -> tuple[str, ...]:
    """Write everything into the worktree, whose paths may be links even if the user's are not."""
    config = inside(tree, request.config_file, "the config file")
    if not (tree / config).is_file():
        raise LandingError(
            f"{config} is not in the commit to land on",
            remedy="commit it first (an ignored file needs: git add --force)",
        )
    set_value(tree / config, planned.edit.key, planned.edit.after)
    for name, data in planned.contents.items():
        path = tree / inside(tree, name, "evidence")
        if name == request.report_name and request.has_own_folder and path.is_file():
            continue  # the same run's, rendered before it had this landing to tell of
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise LandingError(f"{name} cannot be written: {error.strerror or error}") from None
    return (config, *sorted(planned.contents))


def _landed_before(tree: Git, planned: Plan, commit: str, files: tuple[str, ...]) -> Landed:
    if tree.stage(files):
        raise LandingError(
            f"the branch {planned.branch} exists, and what is on it differs from this landing",
            remedy="choose another name for the branch, or delete that one if nothing else needs "
            f"it: git branch -D {planned.branch}",
        )
    note = f"landed before: {planned.branch} holds it, with the report as it was then"
    return Landed(
        planned.branch, commit, planned.edit, files, already=True, notes=(*planned.notes, note)
    )


# --- words ----------------------------------------------------------------------------------------


def _message(request: LandRequest, edit: Edit) -> tuple[str, str]:
    """Title and text of the commit: numbers and names of ours, no text that a pod wrote."""
    decision = request.decision
    if decision.outcome is Outcome.ENABLE:
        title = f"Enable Triton selection from L={edit.after}"
    else:
        title = "Keep Triton selection off"
    change = f"{edit.before} -> {edit.after}" if edit.changed else f"stays {edit.after}"
    lines = [
        title,
        "",
        f"{request.key}: {change}",
        f"Decision: {decision}, margin {decision.margin:g}",
        f"Run: {request.run_id}",
        f"Evidence: {request.folder_name}",
    ]
    if decision.environment:
        flags = (f"{name}={value}" for name, value in decision.environment.items())
        lines.append(f"Measured with: {shlex.join(flags)}")
    lines += [f"Waived: {waiver}" for waiver in decision.waivers]
    return title, "\n".join(lines) + "\n"


def _notes(request: LandRequest, git: Git, edit: Edit) -> Iterator[str]:
    if not edit.changed:
        yield f"{edit.key} is {edit.after} already, so the config file does not change"
    elsewhere = git.uncommitted(untracked=False)
    if elsewhere:
        named = ", ".join(elsewhere[:_MAX_NAMED]) + (", ..." if elsewhere[_MAX_NAMED:] else "")
        yield f"uncommitted changes are not on {request.branch_name}: {named}"


def _by_hooks(tree: Git, commit: str, files: tuple[str, ...]) -> Iterator[str]:
    prefix = tree.prefix
    ours = {f"{prefix}{name}" for name in files}
    added = [name for name in tree.changed(commit) if name not in ours]
    if added:
        yield f"a commit hook added: {', '.join(added[:_MAX_NAMED])}"


def _ahead(git: Git, base: str, commit: str) -> Iterator[str]:
    """Commits that a reviewer will see beside ours."""
    theirs = git.commit(f"refs/remotes/{ORIGIN}/{base}")
    more = git.count(f"{theirs}..{commit}") if theirs else 0
    if more:
        what = "1 commit" if more == 1 else f"{more} commits"
        yield f"the pull request also shows {what} of yours that {ORIGIN}/{base} does not have"
