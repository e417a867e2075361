"""`python -m kernels.compat`: compile every kernel as shipped, for every Triton and card.

Exit codes: 0 all compile, spill nothing and fit; 1 something does not, and is named; 2 usage;
3 an environment could not be made.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .environments import EnvironmentFailed, cache_dir
from .matrix import QUICK, SHIPPED, Cell, run_matrix
from .table import as_json, markdown, summary
from .targets import TARGETS, VERSIONS, Target

OK, FAIL, INFRA = 0, 1, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the matrix that the arguments describe; returns the exit code."""
    options = _parser().parse_args(argv)
    cells: list[Cell] = []
    unmade: list[EnvironmentFailed] = []

    def report(news: Cell | EnvironmentFailed) -> None:
        if isinstance(news, EnvironmentFailed):
            unmade.append(news)
            print(f"environment: {news}", file=sys.stderr)
            return
        cells.append(news)
        print(f"Triton {news.triton} {news.target}: {summary(news)} ({news.seconds:.0f} s)")
        for failure in news.failures:
            print(f"  {failure}")

    run_matrix(
        options.triton,
        options.target,
        cache=options.cache,
        launches=options.launches or (QUICK if options.quick else SHIPPED),
        processes=options.processes,
        timeout_s=options.timeout,
        report=report,
    )
    compiled = sum(len(cell.outcomes) for cell in cells)
    wrong = sum(len(cell.failures) for cell in cells)
    print(f"{compiled} launches, {len(cells)} pairs of Triton and target, {wrong} failures")
    if unmade:
        print("nothing is written: part of the matrix is missing", file=sys.stderr)
        return INFRA
    date = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    if options.markdown:
        page = markdown(cells, date, _command(options), _scope(options))
        options.markdown.write_text(page, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(as_json(cells, date), indent=1), encoding="utf-8")
    return FAIL if wrong else OK


def _scope(options: argparse.Namespace) -> str:
    if options.launches:
        return f"They are those of `{options.launches}`."
    if options.quick:
        return "They are every kernel at the document's head dimensions, 128, in fp16."
    return (
        "They are every kernel with each entry of the tuning table, at the other head dimensions "
        "that are served, and in fp16, bf16 and fp32."
    )


def _command(options: argparse.Namespace) -> str:
    """What makes the same table again, anywhere: without this machine's folders."""
    words = ["python -m kernels.compat"]
    if options.quick:
        words.append("--quick")
    if options.launches:
        words.append(f"--launches {options.launches}")
    if options.triton != VERSIONS:
        words.append(f"--triton {','.join(options.triton)}")
    if options.target != tuple(TARGETS.values()):
        words.append(f"--target {','.join(map(str, options.target))}")
    return " ".join(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.compat",
        description="Compile every kernel as shipped for each Triton and GPU target, without a GPU",
        epilog="exit codes: 0 all is well, 1 a kernel is not, 2 usage, 3 no environment",
    )
    parser.add_argument(
        "--triton",
        type=_versions,
        default=VERSIONS,
        metavar="LIST",
        help=f"versions, comma-separated (default: {','.join(VERSIONS)})",
    )
    parser.add_argument(
        "--target",
        type=_targets,
        default=tuple(TARGETS.values()),
        metavar="LIST",
        help=f"compute capabilities, comma-separated (default: {','.join(TARGETS)})",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="the document's shapes only, for CI")
    what.add_argument(
        "--launches",
        metavar="MODULE:FUNCTION",
        help="what to compile in place of the shipped launches: takes a Target, gives Launches",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    parser.add_argument(
        "--cache", type=Path, default=cache_dir(), metavar="DIR", help="(default: %(default)s)"
    )
    parser.add_argument(
        "-n",
        "--processes",
        type=_count,
        default=os.cpu_count() or 1,
        help="at once (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=_count,
        default=300,
        metavar="S",
        help="for a launch (default: %(default)s)",
    )
    return parser


def _versions(text: str) -> tuple[str, ...]:
    versions = tuple(text.split(","))
    for version in versions:
        if not re.fullmatch(r"\d+\.\d+\.\d+", version):
            raise argparse.ArgumentTypeError(f"{version!r} is not a version such as 3.1.0")
    return versions


def _targets(text: str) -> tuple[Target, ...]:
    names = text.split(",")
    for name in names:
        if name not in TARGETS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(TARGETS)}")
    return tuple(TARGETS[name] for name in names)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
