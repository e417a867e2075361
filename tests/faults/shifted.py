"""shifted.py FILE [-I] [-S] SCRIPT|-m MODULE ARGS...: runs it by a clock that FILE moves.

FILE holds by how many seconds. Only the clock on the wall is moved: the monotonic one does not jump
on a real machine either.
"""

from __future__ import annotations

import datetime
import runpy
import sys
import time
from pathlib import Path

_true_time = time.time
_file = Path(sys.argv[1])


def _time() -> float:
    return _true_time() + (float(_file.read_text() or 0) if _file.exists() else 0.0)


class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _Datetime:
        return cls.fromtimestamp(time.time(), tz)


time.time = _time
datetime.datetime = _Datetime  # type: ignore[misc]
while sys.argv[2] in ("-I", "-S"):
    del sys.argv[2]
if sys.argv[2] == "-m":
    del sys.argv[:3]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
