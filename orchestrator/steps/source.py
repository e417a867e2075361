"""Whose files the pod's workdir holds: what is measured must be what the run is about.

Beside what a push leaves lies a mark: the fingerprint of the source, a word of the push that put it
in the place of another, and whether that push was finished. A push of the same source keeps the
word. So a job that met one mark before it began and after it ended ran on one source, however many
runs have used the workdir in between.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from orchestrator.errors import SyncError
from orchestrator.models.command import Command
from orchestrator.models.playbook import SyncStep
from orchestrator.steps.base import Session
from orchestrator.transport.source import describe
from orchestrator.transport.sync import SyncReport, push

_READ = 'cat -- "$1" 2>/dev/null; :'
_BEGIN = """\
mkdir -p -m 700 -- "${1%/*}" || exit
case "$(cat -- "$1" 2>/dev/null)" in
"$2 "*) ;;
*) printf '%s %s pushing\\n' "$2" "$3" >"$1.$3" && mv -f -- "$1.$3" "$1" || exit ;;
esac
cat -- "$1"
"""
_END = """\
case "$(cat -- "$1" 2>/dev/null)" in
"$2 whole") ;;
"$2 pushing") printf '%s whole\\n' "$2" >"$1.$3" && mv -f -- "$1.$3" "$1" || exit ;;
*) rm -f -- "$1" ;;
esac
cat -- "$1" 2>/dev/null; :
"""
"""Where another push began meanwhile, nobody knows what lies there: no mark, and all push again."""


def mark(session: Session) -> str:
    """The mark as it is now; empty where there is none."""
    return _ask(session, _READ)


def bring(session: Session, step: SyncStep) -> SyncReport:
    """Push the run's source, and mark the workdir with it.

    Raises:
        SyncError: the repository here is not what it was when the run began, or another run pushed
            to the same workdir at the same time.
        ConnectionLost: the link broke; call again.
    """
    _require_same(session)
    word = secrets.token_hex(8)
    begun = _ask(session, _BEGIN, session.fingerprint, word)
    report = push(session.connection, Path(session.root), protect=step.protect)
    _require_same(session)  # what was changed meanwhile may have been sent
    token = begun.rpartition(" ")[0]
    if _ask(session, _END, token, word) != f"{token} whole":
        raise SyncError(
            f"{session.pod.name}: another run pushed to {session.pod.workdir} at the same time",
            remedy="let it end, or give this run a workdir of its own (--workdir), then: "
            "orchestrate resume",
        )
    session.events.append("sync.done", **report.counts())
    return report


def ensure(session: Session) -> str | None:
    """The mark under which a job may begin; pushes again where the workdir is not the run's.

    None for a playbook that pushes nothing.

    Raises:
        As `bring`.
    """
    steps = [step for phase in session.playbook.phases for step in phase.steps]
    sync = next((step for step in steps if isinstance(step, SyncStep)), None)
    if sync is None:
        return None
    found = mark(session)
    if not (found.startswith(f"{session.fingerprint} ") and found.endswith(" whole")):
        bring(session, sync)
        found = mark(session)
    return found


def _require_same(session: Session) -> None:
    if describe(Path(session.root)).fingerprint != session.fingerprint:
        raise SyncError(
            f"{session.root} has changed since run {session.run_id} began, and its files are to be "
            "pushed",
            remedy="take the change back, then: orchestrate resume; or start a new run",
        )


def _ask(session: Session, script: str, *words: str) -> str:
    place = f"{session.pod.state_dir}/source"
    answer = session.connection.run(Command(("sh", "-c", script, "sh", place, *words)))
    if not answer.ok:
        raise SyncError(
            f"{session.pod.name}: cannot write {place}: {answer.stderr.strip()[-500:]}",
            remedy="the pod's user must be able to write to its workdir",
        )
    return answer.stdout.strip()
