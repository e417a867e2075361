"""An ssh command line as clouds print it: `ssh root@203.0.113.7 -p 12181 -i ~/.ssh/id_ed25519`.

Only where to, as whom and with which key is taken from it. What would open a way back to this
machine is left out and said so; what would change the way to the pod is refused.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from orchestrator.config.hints import shown
from orchestrator.errors import UsageError

_WITH_VALUE = frozenset("BbcDEeFIiJLlmOopPQRSWw")
_HARMLESS = frozenset("CNTaknqtvx")
_FORWARDING = {
    "A": "the agent is never forwarded",
    "D": "nothing is forwarded",
    "L": "nothing is forwarded",
    "R": "nothing is forwarded",
    "X": "no display is forwarded",
    "Y": "no display is forwarded",
}
_HARMLESS_OPTIONS = frozenset(
    (
        *("addkeystoagent", "batchmode", "compression", "connecttimeout", "connectionattempts"),
        *("identitiesonly", "loglevel", "passwordauthentication", "preferredauthentications"),
        *("pubkeyauthentication", "requesttty", "serveralivecountmax", "serveraliveinterval"),
        *("tcpkeepalive", "visualhostkey"),
    )
)
_FORWARDING_OPTIONS = {
    "dynamicforward": "D",
    "forwardagent": "A",
    "forwardx11": "X",
    "localforward": "L",
    "remoteforward": "R",
}
_HOST_KEY_OPTIONS = frozenset(
    ("checkhostip", "globalknownhostsfile", "stricthostkeychecking", "userknownhostsfile")
)
_SCHEME = "ssh://"


@dataclass
class SshLine:
    """What an ssh command line says about a pod."""

    host: str = ""
    port: int | None = None
    user: str | None = None
    identity_file: str | None = None
    """as written, `~` and all"""
    notes: list[str] = field(default_factory=list)
    """what was left out, a sentence each"""

    def take(self, name: str, value: str | int, token: str) -> None:
        """Set a field once."""
        before = getattr(self, name)
        if before not in (None, "", value):
            what = name.replace("_", " ")
            raise _refused(token, f"the {what} is {before} before it and {value} here")
        setattr(self, name, value)


def is_ssh_line(text: str) -> bool:
    """Whether the text is meant as an ssh command line."""
    return re.match(r"ssh\s", text.strip()) is not None


def parse_ssh_line(text: str) -> SshLine:
    """Read a command line that begins with `ssh`.

    Raises:
        UsageError: names the word that cannot be used.
    """
    words = _Words(text)
    if words.next() != "ssh":
        raise UsageError(
            f"{shown(text)} is no ssh command line", remedy="it begins with ssh and a blank"
        )
    line = SshLine()
    options = True
    for word in words:
        if options and word == "--":
            options = False
        elif options and word.startswith("-") and len(word) > 1:
            _options(word, words, line)
        elif line.host:
            raise _refused(
                word,
                "what follows the host is a command for the pod",
                remedy="paste the line without it; the playbook says what runs there",
            )
        else:
            _destination(word, line)
    if not line.host:
        raise UsageError(
            f"{shown(text)} names no host",
            remedy="a complete line: ssh root@203.0.113.7 -p 12181",
        )
    return line


class _Words:
    """The words of the line; those that nobody could have meant are refused."""

    def __init__(self, text: str) -> None:
        try:
            words = shlex.split(text.replace("\\\n", " "))
        except ValueError as error:
            why = str(error).lower()
            raise UsageError(f"{shown(text)} is no ssh command line: {why}") from None
        self._words = iter(words)

    def __iter__(self) -> Iterator[str]:
        while (word := self.next()) is not None:
            yield word

    def next(self) -> str | None:
        """The next word, or None at the end."""
        word = next(self._words, None)
        if word is not None:
            if not word.isprintable():
                raise _refused(word, "control characters are not allowed")
            if re.search(r"[<>]", word):
                raise _refused(word, "this is a placeholder, or steers a shell")
        return word


def _options(word: str, words: _Words, line: SshLine) -> None:
    """One word of options: `-p`, `-p22`, `-tt`, `-At`."""
    for index, letter in enumerate(word[1:], 1):
        value = word[index + 1 :]
        if letter not in _WITH_VALUE:
            _flag(letter, word, line)
            continue
        token = word if value else f"-{letter}"
        value = value or words.next() or ""
        if not value:
            raise _refused(token, "its value is missing")
        _valued(letter, value, token, line)
        return


def _flag(letter: str, word: str, line: SshLine) -> None:
    if letter in _FORWARDING:
        line.notes.append(f"{_FORWARDING[letter]}: -{letter} is left out")
    elif letter not in _HARMLESS:
        raise _refused(word)


def _valued(letter: str, value: str, token: str, line: SshLine) -> None:
    if letter == "p":
        line.take("port", _port(value, token), token)
    elif letter == "l":
        line.take("user", value, token)
    elif letter == "i":
        line.take("identity_file", value, token)
    elif letter == "o":
        _named(value, line)
    elif letter == "J":
        raise _jump("-J", value)
    elif letter in _FORWARDING:
        line.notes.append(f"{_FORWARDING[letter]}: -{letter} {value} is left out")
    else:
        raise _refused(token)


def _named(option: str, line: SshLine) -> None:
    """`Name=value` or `Name value`."""
    match = re.fullmatch(r"([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.+)", option.strip())
    token = f"-o {option}"
    if match is None:
        raise _refused(token, "it is not Name=value")
    name, value = match[1].lower(), match[2].strip('"')
    if name == "port":
        line.take("port", _port(value, token), token)
    elif name == "user":
        line.take("user", value, token)
    elif name == "identityfile":
        line.take("identity_file", value, token)
    elif name in _HOST_KEY_OPTIONS:
        line.notes.append(f"host keys are checked here anyway: {token} is left out")
    elif name in _FORWARDING_OPTIONS:
        if value.lower() != "no":
            why = _FORWARDING[_FORWARDING_OPTIONS[name]]
            line.notes.append(f"{why}: {token} is left out")
    elif name in ("proxyjump", "proxycommand"):
        raise _jump(token, value if name == "proxyjump" else None)
    elif name not in _HARMLESS_OPTIONS:
        raise _refused(token)


def _destination(word: str, line: SshLine) -> None:
    """`host`, `user@host`, `ssh://user@host:port`."""
    is_url = word.lower().startswith(_SCHEME)
    rest = word[len(_SCHEME) :].rstrip("/") if is_url else word
    user, at, host = rest.rpartition("@")
    if at:
        if not user:
            raise _refused(word, "nothing stands before the @")
        line.take("user", unquote(user) if is_url else user, word)
    bracketed = re.fullmatch(r"\[([^\[\]]+)\](?::(.*))?", host)
    if is_url and bracketed:
        host, port = bracketed[1], bracketed[2]
    elif is_url:
        host, _, port = host.partition(":")
    else:
        port = ""
    if port:
        line.take("port", _port(port, word), word)
    if not host or (":" in host and not _is_v6(host)) or "[" in host or "/" in host:
        raise _refused(word, "this is no host", remedy="ssh user@host -p PORT")
    line.host = host


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _port(value: str, token: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= 65535:
        raise _refused(token, f"{shown(value)} is no port from 1 to 65535")
    return int(value)


def _jump(token: str, through: str | None) -> UsageError:
    setting = f"ProxyJump {through}" if through else "a ProxyCommand"
    return _refused(
        token,
        "the way to the pod belongs into ~/.ssh/config",
        remedy=f"put `{setting}` below a `Host NAME` there, and name that host",
    )


def _refused(token: str, why: str | None = None, *, remedy: str | None = None) -> UsageError:
    message = f"ssh command line: {shown(token)} cannot be used"
    if why is None:
        remedy = remedy or "leave it out, or put the setting into ~/.ssh/config"
    return UsageError(f"{message}: {why}" if why else message, remedy=remedy)
