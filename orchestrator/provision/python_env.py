"""The virtual environment and what pip puts into it.

Requirements are checked against the installed metadata. A marker `<venv>/.orchestrate/<id>.json`
adds what metadata cannot show: that an upgrade was done once, which requirements file it was.
"""

from __future__ import annotations

import hashlib
import json

from orchestrator.models.command import Command, CommandResult
from orchestrator.models.playbook import PipResource, RequirementsResource
from orchestrator.models.pod import Pod
from orchestrator.provision.state import Finding

_CHECK_VENV = """\
import json, os, subprocess, sys
python = os.path.join(sys.argv[1], "bin", "python")
code = "import pip, sys; print(pip.__version__, sys.version.split()[0])"
try:
    words = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           universal_newlines=True).stdout.split()
except OSError:
    words = []
detail = "Python %s" % words[1] if len(words) == 2 else "no environment with pip yet"
print(json.dumps({"satisfied": len(words) == 2, "detail": detail}))
"""

# Runs inside the environment. pip carries its own copy of `packaging`.
_CHECK_PACKAGES = """\
import importlib.metadata as metadata, json, sys, urllib.request
from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
wanted = json.loads(sys.argv[1])
have, missing = [], []
for text in wanted["packages"]:
    try:
        need = Requirement(text)
        version = metadata.version(need.name)
    except InvalidRequirement as error:
        print(json.dumps({"satisfied": False, "detail": "bad requirement",
                          "problem": "%r is no pip requirement: %s" % (text, error)}))
        sys.exit()
    except metadata.PackageNotFoundError:
        missing.append(text)
        continue
    if need.specifier.contains(version, prereleases=True):
        have.append("%s %s" % (need.name, version))
    else:
        missing.append("%s (%s is installed)" % (text, version))
satisfied = not missing
if satisfied and wanted["marker_required"]:
    try:
        satisfied = json.load(open(wanted["marker"]))["fingerprint"] == wanted["fingerprint"]
    except (OSError, ValueError, KeyError):
        satisfied = False
reachable = None
if not satisfied and wanted["probe"]:
    try:
        urllib.request.urlopen(wanted["probe"].rstrip("/") + "/", timeout=10).close()
        reachable = True
    except Exception as error:
        reachable = False
        have = ["%s cannot be reached (%s)" % (wanted["probe"], error)]
detail = "missing " + ", ".join(missing) if missing else ", ".join(have)
print(json.dumps({"satisfied": satisfied, "detail": detail, "index_reachable": reachable}))
"""

_CHECK_REQUIREMENTS = """\
import hashlib, json, sys
file, marker, fingerprint = sys.argv[1:]
try:
    digest = hashlib.sha256(open(file, "rb").read()).hexdigest()
except OSError:
    print(json.dumps({"satisfied": False, "detail": "no such file",
                      "problem": "the repository has no %s" % file}))
    sys.exit()
try:
    done = json.load(open(marker))["fingerprint"]
except (OSError, ValueError, KeyError):
    done = None
print(json.dumps({"satisfied": done == fingerprint + digest, "digest": digest,
                  "detail": "installed as of sha256 " + digest[:12]}))
"""

_MARK = 'mkdir -p "${1%/*}" && printf %s "$2" > "$1.new" && mv "$1.new" "$1"'


def check_venv(pod: Pod) -> Command:
    """Whether the environment's interpreter runs and has pip."""
    return Command((pod.python, "-c", _CHECK_VENV, pod.venv_path))


def apply_venv(pod: Pod, _found: Finding) -> list[Command]:
    """Make the environment; a half-made one is replaced."""
    return [Command((pod.python, "-m", "venv", "--clear", pod.venv_path))]


def check_pip(resource: PipResource, pod: Pod) -> Command:
    """Whether the requirements are met by what is installed."""
    wanted = {
        "packages": resource.packages,
        "marker": _marker(pod, resource.id),
        "marker_required": resource.upgrade,
        "fingerprint": _fingerprint(resource),
        "probe": resource.index_url if resource.index_fallback else None,
    }
    return Command((_python(pod), "-c", _CHECK_PACKAGES, json.dumps(wanted)))


def apply_pip(resource: PipResource, pod: Pod, found: Finding) -> list[Command]:
    """Install the requirements."""
    argv = [_python(pod), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if resource.upgrade:
        argv.append("--upgrade")
    if resource.index_url and found.facts.get("index_reachable") is not False:
        argv += ["--index-url", resource.index_url]
    argv += [*resource.options, *resource.packages]
    install = Command(tuple(argv))
    if not resource.upgrade:
        return [install]
    return [install, _mark(pod, resource.id, _fingerprint(resource))]


def check_requirements(resource: RequirementsResource, pod: Pod) -> Command:
    """Whether this very file has been installed."""
    script = (_python(pod), "-c", _CHECK_REQUIREMENTS)
    arguments = (resource.file, _marker(pod, resource.id), _fingerprint(resource))
    return Command((*script, *arguments), cwd=pod.workdir)


def apply_requirements(resource: RequirementsResource, pod: Pod, found: Finding) -> list[Command]:
    """Install the file."""
    pip = (_python(pod), "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
    mark = _mark(pod, resource.id, _fingerprint(resource) + str(found.facts.get("digest", "")))
    return [Command((*pip, "-r", resource.file), cwd=pod.workdir), mark]


def parse(result: CommandResult) -> Finding:
    """Read the one JSON line that the checks print."""
    try:
        facts = json.loads(result.stdout)
        return Finding(facts["satisfied"], facts["detail"], facts, facts.get("problem"))
    except (ValueError, KeyError, TypeError):
        lines = result.stderr.strip().splitlines()
        return Finding(False, lines[-1] if lines else f"check exited with {result.exit_code}")


def _python(pod: Pod) -> str:
    return f"{pod.venv_path}/bin/python"


def _marker(pod: Pod, resource_id: str) -> str:
    return f"{pod.venv_path}/.orchestrate/{resource_id}.json"


def _mark(pod: Pod, resource_id: str, fingerprint: str) -> Command:
    text = json.dumps({"fingerprint": fingerprint})
    return Command(("sh", "-c", _MARK, "mark", _marker(pod, resource_id), text))


def _fingerprint(resource: PipResource | RequirementsResource) -> str:
    asked = resource.model_dump_json(exclude={"id", "profiles", "optional", "timeout"})
    return hashlib.sha256(asked.encode()).hexdigest()
