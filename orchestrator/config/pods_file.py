"""`pods.toml`: the pods a user has, a table `[pods.NAME]` each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.config.document import Document, Location, Source, all_of, read_source
from orchestrator.config.explain import explain
from orchestrator.config.hints import did_you_mean, shown
from orchestrator.config.pods import EMBEDDED
from orchestrator.config.pods_path import find_pods_file
from orchestrator.config.ssh_line import parse_ssh_line
from orchestrator.config.toml import parse_toml
from orchestrator.errors import ConfigError, UsageError
from orchestrator.models.pod import Pod

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_RULE = "letters, digits, `_`, `.` and `-`, beginning with a letter or digit, at most 64"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_INSTEAD_OF_SSH = ("host", "port", "user", "identity_file")
_PATHS = ("identity_file", "known_hosts_file")


@dataclass(frozen=True)
class PodsFile:
    """A pods file that was read. `notes` says per pod what of its `ssh` line was left out."""

    path: Path
    pods: Mapping[str, Pod]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class _Table(BaseModel):
    """What may stand in `[pods.NAME]`; what the values must be like is the model's to say."""

    model_config = ConfigDict(extra="forbid", strict=True)

    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    user: str | None = None
    identity_file: str | None = None
    known_hosts_file: str | None = None
    workdir: str | None = None
    venv: str | None = None
    python: str | None = None
    gpu: str | None = None
    ssh: str | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")  # reported with a better remedy

    pods: dict[str, _Table] = {}


def open_pods(named: Path | None = None) -> PodsFile | None:
    """The file that `--pods`, the environment or its usual places name, if there is one.

    Raises:
        ConfigError: the file that was named does not exist, or something in it is wrong.
    """
    path = find_pods_file(named)
    return None if path is None else parse_pods(read_source(path))


def parse_pods(source: Source) -> PodsFile:
    """The pods of a file.

    Raises:
        ConfigError: everything that is wrong, each with line, column and what was probably meant.
    """
    document = parse_toml(source)
    errors = [
        document.error(
            (key,),
            f"unknown key{did_you_mean(key, ['pods'])}",
            key=True,
            remedy="a pod is a table: [pods.NAME]",
        )
        for key in document.data
        if key != "pods"
    ]
    tables: dict[str, _Table] = {}
    try:
        tables = _File.model_validate(document.data).pods
    except ValidationError as error:
        errors += explain(error, _File, document)
    pods: dict[str, Pod] = {}
    notes: dict[str, tuple[str, ...]] = {}
    folder = Path(source.file).absolute().parent
    for name, table in tables.items():
        try:
            pods[name], notes[name] = _pod(document, name, table, folder)
        except ConfigError as error:  # noqa: PERF203 - one error a pod
            errors.append(error)
    if errors:
        raise all_of(errors)
    return PodsFile(Path(source.file), pods, notes)


def _pod(document: Document, name: str, table: _Table, folder: Path) -> tuple[Pod, tuple[str, ...]]:
    at: Location = ("pods", name)
    if not _NAME.fullmatch(name):
        raise document.error(at, f"{shown(name)} is not a name: {_NAME_RULE}", key=True)
    if name == EMBEDDED:
        raise document.error(at, "this name is taken by the pod on this machine", key=True)
    given: dict[str, Any] = table.model_dump(exclude_none=True)
    for key, value in given.items():
        if isinstance(value, str) and (not value or not value.isprintable()):
            what = "control characters are not allowed" if value else "must not be empty"
            raise document.error((*at, key), what)
    notes: tuple[str, ...] = ()
    written = {key: key for key in given}  # field -> the key whose value it came from
    if (command := given.pop("ssh", None)) is not None:
        fields, notes = _from_ssh(document, at, command, given)
        given |= fields
        written |= dict.fromkeys(fields, "ssh")
    if "host" not in given:
        raise document.error(
            (*at, "host"),
            "required, but missing",
            remedy='write host = "203.0.113.7", or ssh = "ssh root@203.0.113.7 -p 12181"',
        )
    for key in _PATHS:
        if key in given:
            try:
                given[key] = folder / Path(given[key]).expanduser()
            except RuntimeError as error:
                raise document.error((*at, written[key]), str(error)) from None
    try:
        return Pod(name=name, **given), notes
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        key = written.get(str(first["loc"][0]), "host")
        raise document.error((*at, key), message) from None


def _from_ssh(
    document: Document, at: Location, command: str, given: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    for key in _INSTEAD_OF_SSH:
        if key in given:
            raise document.error(
                (*at, key), "the pod has `ssh`, which says this", key=True, remedy="keep one"
            )
    try:
        line = parse_ssh_line(command)
    except UsageError as error:
        raise document.error((*at, "ssh"), error.message, remedy=error.remedy) from None
    fields = {key: getattr(line, key) for key in _INSTEAD_OF_SSH}
    return {key: value for key, value in fields.items() if value is not None}, tuple(line.notes)


def with_pod(text: str, name: str, fields: Mapping[str, str | int], *, file: str) -> str:
    """The text of a pods file with one more pod; what was there stays as it was.

    Raises:
        UsageError: the name cannot be taken, or the new table would be wrong.
        ConfigError: something in the file is wrong already.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{shown(name)} is not a name for a pod: {_NAME_RULE}")
    if name in parse_pods(_source(text, file)).pods:
        raise UsageError(
            f"{file} has a pod {name} already", remedy="choose another name, or edit the file"
        )
    for key, value in fields.items():
        if isinstance(value, str) and not value.isprintable():
            raise UsageError(f"{key}: control characters are not allowed, got {shown(value)}")
    key = name if _BARE_KEY.fullmatch(name) else f'"{name}"'
    lines = [f"[pods.{key}]"]
    # JSON's strings are TOML's, as far as printable text goes
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    break_ = "\r\n" if "\r\n" in text else "\n"
    before = text if not text or text.endswith("\n") else text + break_
    new = before + (break_ if before else "") + break_.join(lines) + break_
    try:
        parse_pods(_source(new, file))
    except ConfigError as error:
        message = error.message.removeprefix(f"{error.where}: ")
        raise UsageError(
            f"pod {name} cannot be added to {file}: {message}", remedy=error.remedy
        ) from None
    return new


def _source(text: str, file: str) -> Source:
    return Source(file, text.replace("\r\n", "\n"), "")
