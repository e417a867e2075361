"""Debian packages."""

from __future__ import annotations

from orchestrator.models.command import Command, CommandResult
from orchestrator.models.playbook import AptResource
from orchestrator.provision.state import Finding

# Exit 3: not a Debian. dpkg-query itself exits 1 when one of the packages is unknown to it.
_CHECK = """\
command -v dpkg-query >/dev/null 2>&1 || exit 3
[ "$(id -u)" = 0 ] && echo root || { sudo -n true 2>/dev/null && echo sudo || echo user; }
dpkg-query -W -f '${Package} ${db:Status-Status} ${Version}\\n' "$@" 2>/dev/null || true
"""


def check(resource: AptResource) -> Command:
    """List the state of the packages, and whether we may install any."""
    return Command(("sh", "-c", _CHECK, "check", *resource.packages), env={"LC_ALL": "C"})


def parse(resource: AptResource, result: CommandResult) -> Finding:
    """Compare what dpkg knows with what is wanted."""
    if result.exit_code == 3:
        return Finding(
            False, "no dpkg", problem="the pod has no dpkg: it is not a Debian or Ubuntu"
        )
    right, *lines = result.stdout.splitlines() or ["user"]
    words = [line.split(" ", 2) for line in lines]
    installed = {word[0]: word[2] for word in words if len(word) == 3 and word[1] == "installed"}
    missing = [name for name in resource.packages if name not in installed]
    if not missing:
        return Finding(True, ", ".join(f"{name} {installed[name]}" for name in resource.packages))
    problem = None
    if right == "user":
        problem = (
            f"missing {', '.join(missing)}, and no right to install: log in as root, or allow sudo"
        )
    return Finding(False, f"missing {', '.join(missing)}", {"right": right}, problem)


def apply(resource: AptResource, found: Finding) -> list[Command]:
    """Update the package lists, then install."""
    prefix = ("sudo", "-n") if found.facts.get("right") == "sudo" else ()
    quiet = ("env", "DEBIAN_FRONTEND=noninteractive")
    # A fresh pod often still runs its unattended upgrade: wait for its lock instead of failing.
    options = ("-y", "-q", "-o", "DPkg::Lock::Timeout=300")
    return [
        Command((*prefix, *quiet, "apt-get", "update", "-q")),
        Command(
            (
                *prefix,
                *quiet,
                "apt-get",
                "install",
                *options,
                "--no-install-recommends",
                *resource.packages,
            )
        ),
    ]
