"""What `--pod` may be: a name in `pods.toml`, an address, a pasted ssh line, a Host of ssh."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from orchestrator.config.hints import did_you_mean, listing, shown
from orchestrator.config.pods import EMBEDDED, parse_address, pod_at
from orchestrator.config.pods_file import open_pods
from orchestrator.config.ssh_hosts import is_ssh_host
from orchestrator.config.ssh_line import is_ssh_line, parse_ssh_line
from orchestrator.errors import UsageError
from orchestrator.models.pod import Pod

_ADDRESS = re.compile(r"[@:\[\]]")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def _ignore(_note: str) -> None:
    pass


def resolve_pod(
    text: str,
    *,
    pods_file: Path | None = None,
    identity_file: Path | None = None,
    workdir: str | None = None,
    on_note: Callable[[str], object] = _ignore,
) -> Pod:
    """The pod that is meant.

    Args:
        text: a name in `pods.toml`, `user@host:port`, an ssh command line, or a Host of
            `~/.ssh/config`, tried in this order.
        pods_file: where to look instead of the usual places.
        identity_file: wins over what the pod says.
        workdir: wins over what the pod says.
        on_note: told what of an ssh command line was left out, a sentence at a time.

    Raises:
        UsageError: there is no such pod; names the nearest.
        ConfigError: `pods.toml` is wrong.
    """
    text = text.strip()
    if is_ssh_line(text):
        return pod_of_line(text, identity_file=identity_file, workdir=workdir, on_note=on_note)
    if text == EMBEDDED:
        raise UsageError(
            "the embedded pod is made by the run itself, and cannot be reached from outside",
            remedy="run on it: orchestrate run, without --pod",
        )
    # What cannot be a name needs no file, nor one without errors.
    file = None if _ADDRESS.search(text) else open_pods(pods_file)
    if file is not None and text in file.pods:
        for note in file.notes.get(text, ()):
            on_note(f"pod {text}: {note}")
        return _overridden(file.pods[text], identity_file, workdir)
    if _WORD.fullmatch(text) and text != "localhost" and not is_ssh_host(text):
        known = [*(file.pods if file else ()), EMBEDDED]
        where = f"{file.path} has {listing(file.pods)}" if file else "there is no pods.toml"
        raise UsageError(
            f"there is no pod {shown(text)}{did_you_mean(text, known)}",
            remedy=f"{where}; add it with `orchestrate pods add {text} user@host:port`, or write "
            "user@host:port here",
        )
    return parse_address(text, identity_file=identity_file, workdir=workdir)


def pod_of_line(
    text: str,
    *,
    identity_file: Path | None = None,
    workdir: str | None = None,
    on_note: Callable[[str], object] = _ignore,
) -> Pod:
    """The pod of an ssh command line; see `resolve_pod`."""
    line = parse_ssh_line(text)
    for note in line.notes:
        on_note(note)
    if identity_file is None and line.identity_file is not None:
        try:
            identity_file = Path(line.identity_file).expanduser()
        except RuntimeError as error:
            raise UsageError(f"-i {line.identity_file}: {error}") from None
    return pod_at(
        line.host,
        port=line.port,
        user=line.user,
        identity_file=identity_file,
        workdir=workdir,
        written=text,
    )


def _overridden(pod: Pod, identity_file: Path | None, workdir: str | None) -> Pod:
    changes = {"identity_file": identity_file, "workdir": workdir}
    fields = pod.model_dump() | {key: value for key, value in changes.items() if value is not None}
    try:
        return Pod.model_validate(fields)
    except ValueError:
        raise UsageError(
            f"--workdir {shown(workdir)} is not an absolute path below /",
            remedy=f"for example --workdir {pod.workdir}",
        ) from None
