"""Public-key authentication: which keys are offered, and what is said when none is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

from orchestrator.errors import ConnectError

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass
class KeyAuthentication:
    """Offers keys in OpenSSH's order, and only named ones where any is named.

    Paramiko's own loop tries each file as each type of key and reports the last failure, which is
    seldom the one that matters. `SSHClient` calls `authenticate()`, its protocol for strategies.
    """

    pod: str
    user: str
    address: str
    identities: Sequence[Path]
    _problems: list[str] = field(default_factory=list)

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in with the first key that the server takes.

        Raises:
            ConnectError: none was taken; says which were tried.
            paramiko.SSHException: the link broke.
        """
        refused: list[str] = []
        agent = _Agent()
        try:
            for label, key in self._keys(agent):
                try:
                    further = transport.auth_publickey(self.user, key)
                except paramiko.BadAuthenticationType as error:
                    self._problems.append(
                        f"the server takes no keys, only {', '.join(error.allowed_types)}"
                    )
                    break
                except paramiko.AuthenticationException as error:
                    if not transport.is_active() and not refused:
                        raise paramiko.SSHException(str(error)) from error
                    refused.append(label)
                    if not transport.is_active():
                        break  # MaxAuthTries
                    continue
                if not further:
                    return
                self._problems.append(f"the server also wants {', '.join(further)}")
                break
        finally:
            agent.close()
        raise self._failure(refused)

    def _failure(self, refused: Sequence[str]) -> ConnectError:
        where = f"{self.user}@{self.address}"
        if not refused and not self._problems:
            return ConnectError(
                f"pod {self.pod}: no key to log in to {where} with: none is named, the agent holds "
                "none, and ~/.ssh has none",
                remedy="set identity_file for the pod, or make a key with ssh-keygen",
            )
        tried = [f"{where} refused {', '.join(refused)}"] if refused else []
        message = "; ".join([*tried, *self._problems]) or f"{where} refused to let us in"
        return ConnectError(
            f"pod {self.pod}: {message}",
            remedy=f"is the public key in authorized_keys of {self.user}? "
            "Is the user name right, and the key the one the pod was made with?",
        )

    def _keys(self, agent: _Agent) -> Iterator[tuple[str, paramiko.PKey]]:
        if not self.identities:
            for held in agent.get_keys():
                yield f"key {held.fingerprint} of the agent", held
        default = tuple(Path.home() / ".ssh" / name for name in _DEFAULT_KEYS)
        for path in self.identities or [path for path in default if path.exists()]:
            if (key := self._load(path, agent)) is not None:
                yield f"key {path}", key

    def _load(self, path: Path, agent: _Agent) -> paramiko.PKey | None:
        """The key of a file, or None and a problem noted."""
        try:
            return paramiko.PKey.from_path(path)
        except FileNotFoundError:
            problem = "does not exist"
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        except TypeError:  # what cryptography raises for a passphrase that was not given
            if (held := _held_by_agent(path, agent)) is not None:
                return held
            problem = "has a passphrase: unlock it with ssh-add"
        except (ValueError, paramiko.SSHException) as error:
            problem = f"is not a private key that can be used: {error}"
        self._problems.append(f"key {path} {problem}")
        return None


class _Agent:
    """The user's ssh-agent, asked only when a key of its is needed: a named key needs none."""

    def __init__(self) -> None:
        self._asked: paramiko.Agent | None = None

    def get_keys(self) -> tuple[paramiko.AgentKey, ...]:
        """The keys that it holds."""
        if self._asked is None:
            self._asked = paramiko.Agent()
        return self._asked.get_keys()

    def close(self) -> None:
        """Hang up."""
        if self._asked is not None:
            self._asked.close()


def _held_by_agent(path: Path, agent: _Agent) -> paramiko.PKey | None:
    """The agent's copy of a locked key, found by the public half beside it."""
    try:
        public = Path(f"{path}.pub").read_text(encoding="utf-8").split()[1]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    return next((key for key in agent.get_keys() if key.get_base64() == public), None)
