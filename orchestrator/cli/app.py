"""Commands and their options."""

from __future__ import annotations

import math
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from orchestrator import __version__
from orchestrator.cli import completion as complete
from orchestrator.errors import ExitCode, OrchestrateError

RUNS_DIR = click.option(
    "--runs-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Where run directories lie.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
RECONNECT_FOR = click.option(
    "--reconnect-for",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one outage of the pod may last.",
)
RUN = click.argument("run", default="latest", shell_complete=complete.runs)
PODS_FILE = click.option(
    "--pods",
    "pods_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Pods file; default: $ORCHESTRATE_PODS, ./pods.toml, or the user's configuration.",
)
ACCEPT_HOST_KEY = click.option(
    "--accept-host-key", metavar="SHA256:...", help="Accept this unknown host key."
)


def main() -> NoReturn:
    """Entry point: maps every error to a message and its exit code."""
    # A closed terminal or a `kill` must clean up just as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _terminate)
    try:
        code = cli.main(standalone_mode=False, prog_name="orchestrate")
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(ExitCode.DETACHED)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except OrchestrateError as error:
        click.echo(click.style("error: ", fg="red") + printable(str(error)), err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader, `head` perhaps, has seen enough; Python must not complain while exiting
        sys.stdout = None
        sys.exit(128 + signal.SIGPIPE)
    except Exception:  # noqa: BLE001 - exit code 1 means that a gate failed, which none did
        sys.excepthook(*sys.exc_info())
        click.echo("this is a defect of orchestrate; the run directory is kept", err=True)
        sys.exit(ExitCode.INFRA)


def _terminate(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def printable(text: str) -> str:
    """Text of a pod without control sequences, which would steer the terminal."""
    from orchestrator.cli.console import plain

    return plain(text)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orchestrate")
def cli() -> None:
    """Run a playbook on a GPU pod over SSH; come back with a decision that can be trusted."""


@cli.command()
@click.argument("playbook", required=False, shell_complete=complete.playbooks)
@click.option("--phase", "phases", help="0-5, 2, or 1,2; default: all of the playbook.")
@click.option(
    "--pod",
    shell_complete=complete.pods,
    help="Name in pods.toml, user@host:port, or an ssh command line; "
    "default: a private SSH server on this machine.",
)
@PODS_FILE
@click.option("--identity", type=click.Path(path_type=Path, dir_okay=False), help="Private key.")
@click.option("--workdir", help="Repository on the pod (absolute).")
@click.option("--python", help="Interpreter on the pod that makes the environment.")
@click.option("--profile", shell_complete=complete.profiles, help="Profile of the playbook.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
@click.option("--repo", type=click.Path(path_type=Path), help="Repository to push.")
@ACCEPT_HOST_KEY
@click.option("--from", "inherit_from", metavar="RUN", help="Run to take the other phases from.")
@RECONNECT_FOR
@click.option("--no-wait", is_flag=True, help="Fail where another job has the pod's device.")
@click.option("--waive", multiple=True, metavar="GATE", help="Count GATE as PASS; needs --reason.")
@click.option("--reason", "reasons", multiple=True, metavar="TEXT", help="Why; printed everywhere.")
@click.option("--pr", is_flag=True, help="Push the branch and open a pull request (gh).")
@click.option("--dry-run", is_flag=True, help="Print the resolved commands; do nothing.")
@RUNS_DIR
@JSON
def run(**options: Any) -> int:
    """Run phases of PLAYBOOK (default: m4-02-selection).

    \b
    Exit code: 0 all PASS; 1 a gate FAIL; 2 usage; 3 infrastructure; 4 NOT_VERIFIED;
    5 INVALID evidence; 6 unreachable; 130 detached.
    """  # noqa: D301 - click wants the backspace
    from orchestrator.cli.run import run_command

    return run_command(**options)


@cli.command()
@RUN
@RECONNECT_FOR
@RUNS_DIR
@JSON
def resume(run: str, reconnect_for: float, runs_dir: Path, as_json: bool) -> int:
    """Go on with RUN from wherever its controller died; nothing is done twice."""
    from orchestrator.cli.after import resume_command

    return resume_command(run, runs_dir, reconnect_for, as_json=as_json)


@cli.command()
@RUN
@RECONNECT_FOR
@RUNS_DIR
@JSON
def attach(run: str, reconnect_for: float, runs_dir: Path, as_json: bool) -> int:
    """Follow RUN's job again after detaching, and go on to the end (the same as resume)."""
    from orchestrator.cli.after import resume_command

    return resume_command(run, runs_dir, reconnect_for, as_json=as_json)


@cli.command()
@RUN
@RUNS_DIR
@JSON
def cancel(run: str, runs_dir: Path, as_json: bool) -> int:
    """End the job of RUN that still runs on the pod: TERM, then KILL."""
    from orchestrator.cli.after import cancel_command

    return cancel_command(run, runs_dir, as_json=as_json)


@cli.command()
@RUN
@RUNS_DIR
@JSON
def fetch(run: str, runs_dir: Path, as_json: bool) -> int:
    """Pull logs and artifacts of RUN again, without running anything."""
    from orchestrator.cli.after import fetch_command

    return fetch_command(run, runs_dir, as_json=as_json)


@cli.command()
@RUN
@RUNS_DIR
@JSON
def explain(run: str, runs_dir: Path, as_json: bool) -> int:
    """Say for each step of RUN whether resume would reuse it or run it, and why."""
    from orchestrator.cli.after import explain_command

    return explain_command(run, runs_dir, as_json=as_json)


@cli.command()
@RUN
@click.option("--template", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@RUNS_DIR
@JSON
def report(run: str, template: Path | None, runs_dir: Path, as_json: bool) -> int:
    """Judge RUN again and render its report, from its directory alone."""
    from orchestrator.cli.inspect import report_command

    return report_command(run, template, runs_dir, as_json=as_json)


def _finite(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """A range lets NaN and infinity through, at which nothing is ever fast enough."""
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--device", help='Card of rows that do not name it, e.g. "RTX 4090".')
@click.option(
    "--margin",
    type=click.FloatRange(min=1),
    callback=_finite,
    default=1.2,
    show_default=True,
    help="Speedup that the lower bound must reach.",
)
@JSON
def judge(paths: tuple[Path, ...], device: str | None, margin: float, as_json: bool) -> int:
    """Judge PATHS offline: run directories, or bench CSVs of any origin.

    \b
    With the CSVs may go JUnit files, telemetry.csv and <stem>.canary.csv.
    Exit code: 0 all PASS; 1 a gate FAIL; 2 usage; 3 a run in INFRA; 4 NOT_VERIFIED; 5 INVALID.
    """  # noqa: D301 - click wants the backspace
    from orchestrator.cli.judge import judge_command

    return judge_command(paths, device=device, margin=margin, as_json=as_json)


@cli.command()
@click.argument("run_a", shell_complete=complete.runs)
@click.argument("run_b", default="latest", shell_complete=complete.runs)
@RUNS_DIR
@JSON
def compare(run_a: str, run_b: str, runs_dir: Path, as_json: bool) -> int:
    """Compare RUN_A with RUN_B (default: the latest), cell by cell.

    Times are compared on equal machines and versions only, speedups otherwise.
    Exit code: 0 compared; 2 usage; 4 no cell was measured in both; 5 one has INVALID evidence.
    """
    from orchestrator.cli.compare import compare_command

    return compare_command(run_a, run_b, runs_dir, as_json=as_json)


@cli.command()
@RUNS_DIR
@JSON
def runs(runs_dir: Path, as_json: bool) -> int:
    """List the runs, oldest first."""
    from orchestrator.cli.inspect import runs_command

    return runs_command(runs_dir, as_json=as_json)


@cli.command()
@RUN
@click.option("--watch", is_flag=True, help="Again every two seconds, until RUN is over.")
@RUNS_DIR
@JSON
def status(run: str, watch: bool, runs_dir: Path, as_json: bool) -> int:
    """Show what RUN amounts to so far."""
    from orchestrator.cli.inspect import status_command

    return status_command(run, runs_dir, watch=watch, as_json=as_json)


@cli.command()
@RUN
@click.option("--step", help="Only this step.")
@click.option("-f", "--follow", is_flag=True, help="Go on while a controller writes RUN.")
@RUNS_DIR
@JSON
def logs(run: str, step: str | None, follow: bool, runs_dir: Path, as_json: bool) -> int:
    """Print the logs of RUN's steps."""
    from orchestrator.cli.inspect import logs_command

    return logs_command(run, step, runs_dir, follow=follow, as_json=as_json)


@cli.command()
@click.argument("playbook", required=False, shell_complete=complete.playbooks)
@click.option(
    "--profile",
    shell_complete=complete.profiles,
    help="Check for this profile only; default: every one.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
@JSON
def validate(
    playbook: str | None, profile: str | None, settings: tuple[str, ...], as_json: bool
) -> int:
    """Check PLAYBOOK without running anything."""
    from orchestrator.cli.inspect import validate_command

    return validate_command(playbook, profile, settings, as_json=as_json)


@cli.command()
def schema() -> int:
    """Print the JSON Schema of playbooks, for editors."""
    from orchestrator.config.schema import render

    click.echo(render(), nl=False)
    return 0


@cli.group()
def pods() -> None:
    """Keep the pods you have in pods.toml."""


@pods.command("list")
@PODS_FILE
@JSON
def pods_list(pods_file: Path | None, as_json: bool) -> int:
    """List the pods of pods.toml."""
    from orchestrator.cli.pods import list_command

    return list_command(pods_file, as_json=as_json)


# The words of an ssh command line look like options: what is no option of ours belongs to it.
@pods.command(
    "add", context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]}
)
@click.argument("name")
@click.argument("address", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--gpu", help="Expected GPU, matched within the device name.")
@click.option("--workdir", help="Repository on the pod (absolute).")
@click.option("--identity", metavar="FILE", help="Private key.")
@click.option("--python", help="Interpreter on the pod that makes the environment.")
@PODS_FILE
def pods_add(
    name: str,
    address: tuple[str, ...],
    gpu: str | None,
    workdir: str | None,
    identity: str | None,
    python: str | None,
    pods_file: Path | None,
) -> int:
    """Append NAME to pods.toml: user@host:port, or the ssh command line your cloud shows.

    \b
    orchestrate pods add gpu-a root@203.0.113.7:12181 --gpu "RTX 4090"
    orchestrate pods add gpu-a ssh root@203.0.113.7 -p 12181 -i ~/.ssh/id_ed25519
    """  # noqa: D301 - click wants the backspace
    from orchestrator.cli.pods import add_command

    return add_command(
        name,
        address,
        pods_file,
        identity=identity,
        workdir=workdir,
        python=python,
        gpu=gpu,
    )


@pods.command("check")
@click.argument("pod", required=False, shell_complete=complete.pods)
@PODS_FILE
@ACCEPT_HOST_KEY
@JSON
def pods_check(
    pod: str | None, pods_file: Path | None, accept_host_key: str | None, as_json: bool
) -> int:
    """Connect to POD (a name or address; default: all of pods.toml) and say what it is.

    Changes nothing on it. Exit code 3 where one cannot be reached or is not fit for a run.
    """
    from orchestrator.cli.pods import check_command

    return check_command(pod, pods_file, accept_host_key, as_json=as_json)


@cli.command()
@click.argument("shell", type=click.Choice(complete.SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the completion script of SHELL."""
    click.echo(complete.script(ctx, shell), nl=False)
    return 0
