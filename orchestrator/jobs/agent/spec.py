"""What to run, as the controller says it on standard input."""

from __future__ import annotations

import json
from typing import Any, Mapping, NamedTuple

VERSION = 1
"""Of the interface of these files."""
# What makes two submissions the same one; values of secrets are never stored, so only their names.
IDENTITY = ("job_id", "argv", "cwd", "env", "timeout_s", "secret_names")


class Refused(Exception):
    """Why nothing was done; the caller gets it as JSON."""

    def __init__(self, message: str, exit_code: int = 3) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Spec(NamedTuple):
    """What to run, as given on stdin."""

    job_id: str
    argv: list[str]
    cwd: str | None = None  # None: the job directory
    env: Mapping[str, str] = {}
    timeout_s: float | None = None
    kill_after_s: float = 10.0
    secrets: Mapping[str, str] = {}
    min_free_bytes: int = 0
    lock: str | None = None  # None: others may run on the device meanwhile
    lock_wait: bool = True  # False: FAILED, reason "busy", where it is taken

    @classmethod
    def parse(cls, raw: bytes) -> Spec:
        """Read and check the JSON; what is refused is named, but never a secret's value."""
        try:
            spec = cls(**json.loads(raw))
        except (ValueError, TypeError) as error:
            names = ", ".join(cls._fields)
            raise Refused(f"bad spec: {type(error).__name__}; fields are {names}", 2) from None
        checks = {
            "job_id": _is_text(spec.job_id) and bool(spec.job_id),
            "argv": isinstance(spec.argv, list) and spec.argv and all(map(_is_text, spec.argv)),
            "cwd": spec.cwd is None or _is_path(spec.cwd),
            "env": _is_env(spec.env),
            "secrets": _is_env(spec.secrets) and all(spec.secrets.values()),
            "timeout_s": spec.timeout_s is None or (_is_number(spec.timeout_s) and spec.timeout_s),
            "kill_after_s": _is_number(spec.kill_after_s),
            "min_free_bytes": _is_number(spec.min_free_bytes),
            "lock": spec.lock is None or _is_path(spec.lock),
            "lock_wait": isinstance(spec.lock_wait, bool),
        }
        bad = [name for name, good in checks.items() if not good]
        if bad:
            raise Refused(f"bad spec: wrong type or value of {', '.join(bad)}", 2)
        public = [spec.job_id, *spec.argv, spec.cwd or "", *spec.env, *spec.env.values()]
        for name, value in spec.secrets.items():
            if name in spec.env or any(value in text for text in public):
                raise Refused(f"bad spec: secret {name} occurs outside of secrets", 2)
        return spec

    def record(self) -> dict[str, Any]:
        """Return what job.json holds: everything but the values of the secrets."""
        fields = {name: value for name, value in self._asdict().items() if name != "secrets"}
        return {**fields, "secret_names": sorted(self.secrets), "agent_version": VERSION}


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and b"\0" not in encode(value)
    except UnicodeEncodeError:
        return False


def _is_path(value: Any) -> bool:
    return _is_text(value) and bool(value.startswith("/"))


def _is_env(value: object) -> bool:
    return isinstance(value, dict) and all(
        name and "=" not in name and _is_text(name) and _is_text(text)
        for name, text in value.items()
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def encode(text: str) -> bytes:
    """Return what the system is given: UTF-8, whatever the login shell's locale says."""
    return text.encode("utf-8", "surrogateescape")
