"""A laboratory whose pod is behind a link that the test holds."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kernels.bench.bench_csv import read_table
from tests.faults.proxy import Proxy
from tests.faults.server import Server
from tests.integration.lab import Controller, Lab, Outcome

HERE = Path(__file__).parent
PROGRAM = ("orchestrator",)
FULL = os.environ.get("TEST_FULL") == "1"
WHEN = ("began_ms", "ended_ms")
Event = dict[str, Any]


def label(event: Event) -> str:
    """What tells the events of a run apart: `job.state dense RUNNING`, `artifact.pulled a.csv`."""
    job = str(event.get("job", "")).split(".")  # run.phase.step.attempt
    step = event.get("step") or (job[2] if len(job) > 2 else event.get("phase", ""))
    file = event["path"] if event["event"] == "artifact.pulled" else ""
    return " ".join(
        str(word)
        for word in (event["event"], step, event.get("state"), file)
        if word not in ("", None)
    )


class Rig:
    """A fixture repository, a pod, the link between them, and what both sides have on disk."""

    def __init__(
        self,
        folder: Path,
        server: Server,
        proxy: Proxy | None,
        *,
        prefix: tuple[str, ...] = (),
        pod: Path | None = None,
    ) -> None:
        self.folder = folder
        self.lab = Lab(folder)
        self.server, self._proxy, self.prefix = server, proxy, prefix
        self.pod = pod or folder / "pod"
        self.counter = folder / "counter"
        for name in ("work.py", "playbook.yaml"):
            shutil.copy(HERE / name, self.lab.repo / name)
        self.lab.git("add", "-A")
        self.lab.git("commit", "-q", "-m", "faults")
        self.python("python3")

    def python(self, interpreter: str) -> None:
        """Which interpreter the pod is said to have."""
        port = self._proxy.port if self._proxy else None
        text = self.server.stanza(self.pod, port=port, python=interpreter)
        (self.folder / "pods.toml").write_text(text)

    def run_by(self, *program: object, what: str = "*/agent") -> None:
        """Have the pod's agent, or `what`, and nothing else run by `python3 PROGRAM ARGS`."""
        interpreter = self.folder / "python"
        words = shlex.join(map(str, program))
        interpreter.write_text(
            "#!/bin/sh\n"
            f'for word; do case "$word" in {what}) exec python3 {words} "$@" ;; esac; done\n'
            'exec python3 "$@"\n'
        )
        interpreter.chmod(0o755)
        self.python(str(interpreter))

    @property
    def link(self) -> Proxy:
        assert self._proxy is not None
        return self._proxy

    # -- commands -----------------------------------------------------------------------------

    def start(
        self,
        *arguments: str,
        program: Sequence[str] = PROGRAM,
        fresh: bool = False,
        **settings: object,
    ) -> Controller:
        """`orchestrate run`, or another program that does the same up to a point."""
        settings = {"counter": self.counter, **settings}
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        pods = ["--pods", str(self.folder / "pods.toml"), "--pod", "box"]
        playbook = str(self.lab.repo / "playbook.yaml")
        words = ["run", playbook, "--json", *pods, *sets, *arguments]
        return self.begin(*words, program=program, fresh=fresh)

    def resume(self, *arguments: str) -> Controller:
        return self.begin("resume", "--json", *arguments)

    def begin(
        self, *arguments: str, program: Sequence[str] = PROGRAM, fresh: bool = False
    ) -> Controller:
        module, *first = program
        return self.lab.begin(*first, *arguments, module=module, prefix=self.prefix, fresh=fresh)

    # -- this side ----------------------------------------------------------------------------

    @property
    def run(self) -> Path | None:
        runs = sorted(path.parent for path in self.lab.runs_dir.glob("*/run.json"))
        return runs[-1] if runs else None

    def events(self, name: str = "", **fields: object) -> list[Event]:
        if self.run is None or not (self.run / "events.jsonl").exists():
            return []
        found = []
        for line in (self.run / "events.jsonl").read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # noqa: PERF203 - torn
                continue
        return [
            event
            for event in found
            if event["event"].startswith(name) and fields.items() <= event.items()
        ]

    def wait_for(self, controller: Controller, name: str, **fields: object) -> None:
        controller.wait_until(lambda: self.events(name, **fields))

    def wait_for_log(self, controller: Controller, text: str, step: str = "dense") -> None:
        """Until the job's log on this side has it."""

        def found() -> bool:
            log = self.run and self.run / "phase-2" / step / "1" / "log"
            return bool(log and log.exists() and text in log.read_text(errors="replace"))

        controller.wait_until(found)

    def csvs(self) -> dict[str, list[dict[str, str]]]:
        """What was published, but for the time of day at which it was measured."""
        assert self.run is not None
        tables = {path.name: read_table(path.read_text()) for path in self.run.glob("*.csv")}
        assert all(table.complete for table in tables.values())
        return {
            name: [{k: v for k, v in row.items() if k not in WHEN} for row in table.rows]
            for name, table in tables.items()
        }

    # -- the pod ------------------------------------------------------------------------------

    def job(self, step: str) -> Path:
        (found,) = self._jobs(step)
        return found

    def _jobs(self, step: str) -> list[Path]:
        run = self.run.name if self.run else "none"
        return list((self.pod / ".orchestrate" / "jobs").glob(f"{run}.*.{step}.*"))

    def starts(self) -> list[str]:
        """One word for every time a job was started on the pod."""
        lines = self.counter.read_text().splitlines() if self.counter.exists() else []
        return sorted(line.split()[0] for line in lines)

    def supervisor(self, step: str) -> int:
        process = json.loads((self.job(step) / "process.json").read_text())
        return int(process["supervisor"]["pid"])

    def command(self, step: str) -> int:
        process = json.loads((self.job(step) / "process.json").read_text())
        return int(process["command"]["pid"])

    # -- what must hold whatever happened -----------------------------------------------------

    def assert_whole(self, outcome: Outcome, reference: Reference) -> None:
        """PASS with the decision and the CSVs of an untroubled run, and nothing done twice."""
        assert outcome.code == 0, outcome.stderr
        assert outcome.last["verdict"] == "PASS"
        assert outcome.last["decision"] == reference.decision
        assert self.csvs() == reference.csvs
        assert self.starts() == ["dense", "varlen"]
        for step in ("dense", "varlen"):
            assert self.run is not None
            here, there = self.run / "phase-2" / step / "1", self.job(step)
            assert (here / "log").read_bytes() == (there / "log").read_bytes()
            csv = (there / "out" / f"sel_{step}.csv").read_bytes()
            assert (here / "artifacts" / f"sel_{step}.csv").read_bytes() == csv
            assert (self.run / f"sel_{step}.csv").read_bytes() == csv


@dataclass(frozen=True)
class Reference:
    """What a run amounts to when nothing goes wrong."""

    decision: dict[str, Any]
    csvs: dict[str, list[dict[str, str]]]
    events: list[Event]

    @property
    def seconds(self) -> float:
        return at(self.events[-1]) - at(self.events[0])


def at(event: Event) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()
