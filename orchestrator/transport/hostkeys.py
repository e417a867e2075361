"""Host keys: who a pod is.

A key is known when the pod's pin file or the user's known_hosts has it. An unknown one is shown to
the caller and, once confirmed, pinned in a file per pod. A changed one ends the attempt and is
never asked about: that question is what an attacker wants asked. Paramiko and the `ssh` under rsync
both check against the same file.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ConnectError
from orchestrator.models.pod import Pod

USER_KNOWN_HOSTS = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))


@dataclass(frozen=True)
class HostKey:
    """A public host key: its type and its bytes as they travel."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as `ssh-keygen -l` prints it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii")
        return f"SHA256:{digest.rstrip('=')}"

    def line(self, name: str) -> str:
        """The line of a known_hosts file."""
        return f"{name} {self.type} {base64.b64encode(self.blob).decode('ascii')}\n"


@dataclass(frozen=True)
class HostKeyQuestion:
    """What a person needs to know to accept a host key."""

    pod: str
    address: str
    key: HostKey
    pin_file: Path

    def __str__(self) -> str:
        return (
            f"{self.address} (pod {self.pod}) presents an unknown host key:\n"
            f"  {self.key.type} {self.key.fingerprint}"
        )


Confirm = Callable[[HostKeyQuestion], bool]


def refuse(question: HostKeyQuestion) -> bool:
    """The default answer to an unknown host key."""
    del question
    return False


def known_as(host: str, port: int) -> str:
    """How known_hosts names an address: `host`, or `[host]:port` where the port is not 22."""
    host = host.lower()
    return host if port == 22 else f"[{host}]:{port}"


@dataclass(frozen=True)
class _Entry:
    """One line of a known_hosts file."""

    marker: str
    names: str
    key: HostKey

    def matches(self, name: str) -> bool:
        if self.names.startswith("|1|"):
            return _matches_hash(self.names, name)
        found = False
        for pattern in self.names.lower().split(","):
            # `[` opens a character class for fnmatch, but a port for known_hosts
            plain = pattern.removeprefix("!").replace("[", "[[]")
            if fnmatch.fnmatchcase(name, plain):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


def _matches_hash(hashed: str, name: str) -> bool:
    """Whether `|1|salt|hash` (HashKnownHosts) stands for `name`."""
    try:
        salt, digest = (base64.b64decode(part) for part in hashed[3:].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _entries(file: Path) -> Iterator[_Entry]:
    """The entries of a known_hosts file; lines that cannot be read are passed over, as ssh does."""
    try:
        text = file.expanduser().read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        if len(fields) < 3:
            continue
        try:
            blob = base64.b64decode(fields[2], validate=True)
        except (ValueError, binascii.Error):
            continue
        yield _Entry(marker, fields[0], HostKey(fields[1], blob))


def _keys(file: Path, name: str) -> list[HostKey]:
    # A certificate authority is not a host key; Paramiko cannot check certificates against one.
    return [e.key for e in _entries(file) if e.marker == "" and e.matches(name)]


class HostKeys:
    """Knows, asks about and pins the host keys of pods.

    Args:
        pins_dir: holds one known_hosts file per pod, named like the pod.
        confirm: asked about an unknown key; the default refuses.
        known_hosts: the user's own files, whose keys count as known.
    """

    def __init__(
        self,
        pins_dir: Path,
        confirm: Confirm = refuse,
        *,
        known_hosts: Sequence[Path] = USER_KNOWN_HOSTS,
    ) -> None:
        self.pins_dir = pins_dir
        self._confirm = confirm
        self._known_hosts = tuple(known_hosts)

    def file_for(self, pod: Pod) -> Path:
        """The one file that both Paramiko and ssh check this pod against."""
        return pod.known_hosts_file or self.pins_dir / pod.name

    def known(self, pod: Pod, name: str) -> list[HostKey]:
        """Keys known for `name`, from the first file that has any."""
        return self._known(pod, name)[1]

    def _known(self, pod: Pod, name: str) -> tuple[Path, list[HostKey]]:
        files = [self.file_for(pod)]
        if pod.known_hosts_file is None:
            files += self._known_hosts
        for file in files:
            if keys := _keys(file, name):
                return file, keys
        return files[0], []

    def check(self, pod: Pod, name: str, presented: HostKey) -> None:
        """Accept `presented` or raise: pinned, known to the user, or confirmed, in this order.

        A host of which only keys of another type are known counts as changed: else an impostor
        would offer a type nobody has pinned yet, and be asked about instead of refused.

        Raises:
            ConnectError: revoked, changed, or unknown and not confirmed.
        """
        pin = self.file_for(pod)
        for file in (pin, *self._known_hosts):
            for entry in _entries(file):
                if entry.marker == "@revoked" and entry.key == presented and entry.matches(name):
                    raise ConnectError(
                        f"pod {pod.name}: the host key of {name} ({presented.fingerprint}) is "
                        f"marked as revoked in {file.expanduser()}"
                    )
        source, keys = self._known(pod, name)
        if presented in keys:
            if source != pin:
                self._pin(pin, name, presented)
            return
        if keys:
            raise self._changed(pod, name, presented, keys, source.expanduser())
        if pod.known_hosts_file is not None:
            raise ConnectError(
                f"pod {pod.name}: {name} is not in {pod.known_hosts_file}, the only file its host "
                f"keys are checked against; it presents {presented.type} {presented.fingerprint}",
                remedy="if that fingerprint is right, add the key to the file "
                "or remove known_hosts_file from the pod",
            )
        if not self._confirm(HostKeyQuestion(pod.name, name, presented, pin)):
            raise ConnectError(
                f"pod {pod.name}: {name} presents an unknown host key, which was not accepted: "
                f"{presented.type} {presented.fingerprint}",
                remedy="compare it with the fingerprint your provider shows; if they agree: "
                f"--accept-host-key {presented.fingerprint}",
            )
        self._pin(pin, name, presented)

    @staticmethod
    def _changed(
        pod: Pod, name: str, presented: HostKey, keys: Sequence[HostKey], source: Path
    ) -> ConnectError:
        known = ", ".join(f"{key.type} {key.fingerprint}" for key in keys)
        return ConnectError(
            f"pod {pod.name}: the host key of {name} has changed; this may be another machine, "
            f"or someone in between\n"
            f"  known:     {known} ({source})\n"
            f"  presented: {presented.type} {presented.fingerprint}",
            remedy=f"if you know why (a pod rented anew): ssh-keygen -R '{name}' -f '{source}'",
        )

    @staticmethod
    def _pin(file: Path, name: str, key: HostKey) -> None:
        """Append the key to the pin file: written whole and renamed, readable by the user alone."""
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(before + key.line(name))
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
