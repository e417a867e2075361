"""What a job, a log and a sync cost, beside OpenSSH and rsync on the same server in the same run.

    .venv/bin/python -m benchmarks.transport [--quick] [--json FILE]

A private OpenSSH server on loopback serves both sides. Rounds are interleaved, medians reported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.jobs.collect import collect
from orchestrator.jobs.follow import Ended, run
from orchestrator.jobs.job import JobSpec
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.command import Command
from orchestrator.models.pod import Pod
from orchestrator.transport.connection import Connection
from orchestrator.transport.hostkeys import HostKeys
from orchestrator.transport.sync import push
from tests.integration.sshd import private_sshd


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(
    ours: Callable[[], object], rival: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Medians of both, measured in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        times[0].append(seconds(ours))
        times[1].append(seconds(rival))
    return statistics.median(times[0]), statistics.median(times[1])


class Bench:
    """One server, one open connection of ours, one ControlMaster of OpenSSH's."""

    def __init__(self, folder: Path, pod: Pod, connection: Connection) -> None:
        self.folder, self.pod, self.connection = folder, pod, connection
        self.launcher = SshLauncher(connection, pod)
        self.ssh = [*connection.ssh_command(), "-o", f"ControlPath={folder}/cm", connection.host]
        master = [*self.ssh[:-1], "-o", "ControlMaster=yes", "-fN", connection.host]
        subprocess.run(master, check=True)
        self._jobs = 0

    def close(self) -> None:
        """End the ControlMaster."""
        subprocess.run([*self.ssh[:-1], "-O", "exit", self.ssh[-1]], capture_output=True)

    def job(self, *argv: str) -> Path:
        """Submit, follow to the end, collect; the log."""
        self._jobs += 1
        name = f"bench.{self._jobs}"
        spec = JobSpec(name, Command(argv, cwd=self.pod.workdir))
        log = self.folder / f"{name}.log"
        ended = self.run(spec, log)
        into = self.folder / f"{name}.artifacts"
        collect(self.launcher, self.connection, name, into, lambda _artifact: None, ended.manifest)
        return log

    def run(self, spec: JobSpec, log: Path) -> Ended:
        """Submit and follow, as a run does."""
        return run(
            self.launcher, spec, log, on_status=lambda _status: None, sink=lambda _data: None
        )

    def overhead(self, rounds: int) -> dict[str, object]:
        """A job that does nothing, beside three round trips over a warm ControlMaster."""

        def three() -> None:
            for _ in range(3):
                subprocess.run([*self.ssh, "true"], check=True)

        self.job("true")  # the agent is copied once
        ours, rival = interleaved(lambda: self.job("true"), three, rounds)
        return {
            "what": "job overhead: submit, follow, collect `true`",
            "ours_s": ours,
            "rival": "3 x `ssh host true` over a ControlMaster",
            "rival_s": rival,
            "goal": "<= 2 x rival + 150 ms",
            "met": ours <= 2 * rival + 0.150,
        }

    def log(self, megabytes: int, rounds: int) -> dict[str, object]:
        """A log of that size, followed to a file here, beside `ssh cat` of the same bytes."""
        source = Path(self.pod.workdir) / "big.log"
        line = ("x" * 99 + "\n").encode()
        with source.open("wb") as file:  # line by line: our own peak memory is measured below
            file.writelines(itertools.repeat(line, megabytes * 2**20 // len(line)))
        target = self.folder / "cat.out"

        def cat() -> None:
            with target.open("wb") as file:
                subprocess.run([*self.ssh, f"cat {source}"], stdout=file, check=True)

        # The job is over before the clock starts: what is timed is the way of the bytes, not `cat`.
        self._jobs += 1
        name = f"bench.{self._jobs}"
        spec = JobSpec(name, Command(("cat", str(source))))
        log = self.folder / f"{name}.log"
        self.run(spec, log)
        assert log.stat().st_size == source.stat().st_size, "the log is not whole"

        def ours() -> None:
            log.unlink()
            self.run(spec, log)

        mine, rival = interleaved(ours, cat, rounds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = source.stat().st_size / 2**20
        return {
            "what": f"log of {megabytes} MiB",
            "ours_s": mine,
            "ours_mib_s": size / mine,
            "rival": "`ssh host cat` to a file",
            "rival_s": rival,
            "rival_mib_s": size / rival,
            "peak_mib": peak,
            "goal": ">= half of rival's throughput, < 150 MiB",
            "met": mine <= 2 * rival and peak < 150,
        }

    def sync(self, files: int, rounds: int) -> list[dict[str, object]]:
        """A repository of that many files, cold and without a change, beside rsync itself."""
        root = self.folder / "repo"
        for number in range(files):
            file = root / f"d{number % 50}" / f"f{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{number}\n" * 50)
        subprocess.run(["git", "init", "-q", str(root)], check=True)
        theirs = self.folder / "theirs"
        shell = " ".join(self.ssh[:-1])
        rsync = ["rsync", "-az", "--delete", "--exclude=.git", "-e", shell]
        rsync += [f"{root}/", f"{self.connection.host}:{theirs}/"]
        mine = Path(self.pod.workdir)

        def cold(place: Path, action: Callable[[], object]) -> float:
            for name in list(place.iterdir()) if place.exists() else []:
                if name.name != ".orchestrate":
                    shutil.rmtree(name) if name.is_dir() else name.unlink()
            return seconds(action)

        def ours() -> None:
            push(self.connection, root)

        def rival() -> None:
            subprocess.run(rsync, check=True)

        times = [(cold(mine, ours), cold(theirs, rival)) for _ in range(rounds)]
        ours_cold, rival_cold = (statistics.median(column) for column in zip(*times, strict=True))
        ours_none, rival_none = interleaved(ours, rival, rounds)
        common = {"rival": "`rsync -az --delete` over a ControlMaster"}
        return [
            {"what": f"sync of {files} files, cold", "ours_s": ours_cold, **common}
            | {"rival_s": rival_cold, "goal": "-", "met": True},
            {"what": f"sync of {files} files, no-op", "ours_s": ours_none, **common}
            | {
                "rival_s": rival_none,
                "goal": "<= 1.5 x rival",
                "met": ours_none <= 1.5 * rival_none,
            },
        ]


def main() -> int:
    """Measure everything; print a table, and JSON to a file where one is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    rounds, megabytes, files = (2, 20, 500) if options.quick else (7, 200, 5000)
    folder = Path(tempfile.mkdtemp(prefix="orchestrate-bench-"))
    try:
        server_folder = folder / "sshd"
        server_folder.mkdir()
        with private_sshd(server_folder) as server:
            workdir = folder / "pod"
            workdir.mkdir()
            pod = server.pod(workdir, python=sys.executable)
            keys = HostKeys(folder / "pins", known_hosts=())
            with Connection(pod, host_keys=keys) as connection:
                bench = Bench(folder, pod, connection)
                try:
                    rows = [bench.overhead(3 * rounds), bench.log(megabytes, rounds)]
                    rows += bench.sync(files, rounds)
                finally:
                    bench.close()
    finally:
        shutil.rmtree(folder)
    for row in rows:
        met = "met" if row["met"] else "MISSED"
        print(f"{row['what']}: {row['ours_s']:.3f} s; {row['rival']}: {row['rival_s']:.3f} s")
        extra = f", peak {row['peak_mib']:.0f} MiB" if "peak_mib" in row else ""
        print(f"    goal {row['goal']}: {met}{extra}")
    if options.json:
        load = os.getloadavg()[0]
        options.json.write_text(json.dumps({"load": load, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
