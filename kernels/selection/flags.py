"""The `NSA_*` environment variables, read in one place into one frozen record."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .errors import FlagError

CONFIG = Path(__file__).parents[1] / "configs" / "base.yaml"
"""Holds `runtime.sel_triton_min_L`, the threshold where the environment says nothing."""

_MIN_L = re.compile(
    r"^runtime:\s*(?:#.*)?\n(?:(?:[ \t]+.*|#.*)?\n)*?[ \t]+sel_triton_min_L:[ \t]*(\S+)", re.M
)

FORCE_PATHS = ("auto", "dense", "varlen")
FALLBACKS = ("auto", "flex", "packed")
WARPS = (1, 2, 4, 8)
STAGES = (1, 2, 3, 4, 5)
SPLITS = (1, 2, 4, 8, 16, 32, 64)

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True)
class Flags:
    """What the environment asks for. The README has the same table for humans."""

    use_triton: bool = False
    """`NSA_USE_TRITON_SEL`: opt in."""
    min_l: int = field(default_factory=lambda: configured_min_l())
    """`NSA_SEL_TRITON_MIN_L`: shortest selected length that runs on Triton."""
    group: bool = True
    """`NSA_SEL_TRITON_GROUP`: all heads of a group in one tile, so K/V are read once."""
    double_buffer: bool = False
    """`NSA_SEL_TRITON_DB`: exactly two K/V tiles in flight, whatever the tuning table has."""
    num_warps: int | None = None
    """`NSA_SEL_TRITON_WARPS`: warps a program, in place of the tuning table's."""
    num_stages: int | None = None
    """`NSA_SEL_TRITON_STAGES`: tiles in flight, in place of the table's and of `_DB`."""
    splits: int | None = None
    """`NSA_SEL_TRITON_SPLITS`: programs that share the keys of a row; None decides by shapes."""
    force_path: str = "auto"
    """`NSA_SEL_TRITON_FORCE_PATH`: `auto` reads ranges in place, the others pack first."""
    force_device: bool = False
    """`NSA_TRITON_SEL_FORCE`: run on a device where policy has Triton off."""
    fallback: str = "auto"
    """`NSA_SEL_FALLBACK`: what runs where Triton does not: `auto` is flex_attention on CUDA and the
    packed path elsewhere, `flex` is flex_attention on a CPU too, `packed` is never it."""
    allow_grad: bool = False
    """`NSA_SEL_TRITON_ALLOW_GRAD`: serve inputs that require grad; backward recomputes."""
    require_align: bool = False
    """`NSA_SEL_TRITON_REQUIRE_ALIGN`: refuse rows that do not start on 16 bytes."""
    debug_timing: bool = False
    """`NSA_DEBUG_TIMING`: log milliseconds. Synchronises the device on every call."""
    debug_compare: bool = False
    """`NSA_DEBUG_COMPARE`: log the error against the packed reference, computed beside."""
    debug_shapes: bool = False
    """`NSA_DEBUG_SHAPES`: log shapes and strides."""
    diagnostics: Path = Path("diagnostics.jsonl")
    """`NSA_DIAGNOSTICS`: where the `NSA_DEBUG_*` lines go."""

    @property
    def debug(self) -> bool:
        """Whether any call should leave a line in the diagnostics file."""
        return self.debug_timing or self.debug_compare or self.debug_shapes

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Flags:
        """Read every flag; an absent variable means its default.

        Raises:
            FlagError: a value is not one of those that the flag can have.
        """
        env = os.environ if environ is None else environ
        return cls(
            use_triton=_boolean(env, "NSA_USE_TRITON_SEL", cls.use_triton),
            min_l=_length(env, "NSA_SEL_TRITON_MIN_L"),
            group=_boolean(env, "NSA_SEL_TRITON_GROUP", cls.group),
            double_buffer=_boolean(env, "NSA_SEL_TRITON_DB", cls.double_buffer),
            num_warps=_optional(env, "NSA_SEL_TRITON_WARPS", WARPS),
            num_stages=_optional(env, "NSA_SEL_TRITON_STAGES", STAGES),
            splits=_optional(env, "NSA_SEL_TRITON_SPLITS", SPLITS),
            force_path=_choice(env, "NSA_SEL_TRITON_FORCE_PATH", FORCE_PATHS, cls.force_path),
            force_device=_boolean(env, "NSA_TRITON_SEL_FORCE", cls.force_device),
            fallback=_choice(env, "NSA_SEL_FALLBACK", FALLBACKS, cls.fallback),
            allow_grad=_boolean(env, "NSA_SEL_TRITON_ALLOW_GRAD", cls.allow_grad),
            require_align=_boolean(env, "NSA_SEL_TRITON_REQUIRE_ALIGN", cls.require_align),
            debug_timing=_boolean(env, "NSA_DEBUG_TIMING", cls.debug_timing),
            debug_compare=_boolean(env, "NSA_DEBUG_COMPARE", cls.debug_compare),
            debug_shapes=_boolean(env, "NSA_DEBUG_SHAPES", cls.debug_shapes),
            diagnostics=Path(env.get("NSA_DIAGNOSTICS") or cls.diagnostics),
        )


def _boolean(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name)
    if text is None:
        return default
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise FlagError(f"{name}={text!r}: expected 1/true/yes/on or 0/false/no/off")


@cache
def configured_min_l(config: Path = CONFIG) -> int:
    """The threshold that has been landed. One key is read, so that PyYAML is not needed.

    Raises:
        FlagError: the file or the key is missing, or the value is no length.
    """
    try:
        found = _MIN_L.search(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlagError(f"{config} cannot be read: {error.strerror}") from None
    if found is None:
        raise FlagError(f"{config} has no runtime.sel_triton_min_L")
    if not (found[1].isascii() and found[1].isdecimal() and len(found[1]) < 10):
        raise FlagError(f"{config}: sel_triton_min_L is {found[1]!r}, expected a number of keys")
    return int(found[1])


def _length(env: Mapping[str, str], name: str) -> int:
    text = env.get(name)
    if text is None:
        return configured_min_l()
    # isascii too: isdecimal accepts digits of other scripts
    word = text.strip()
    if not (word.isascii() and word.isdecimal() and len(word) < 19):
        raise FlagError(f"{name}={text!r}: expected a number of keys, 0 or more")
    return int(text)


def _optional(env: Mapping[str, str], name: str, choices: tuple[int, ...]) -> int | None:
    words = tuple(str(choice) for choice in choices)
    return int(_choice(env, name, words, "")) if env.get(name) else None


def _choice(env: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    text = env.get(name)
    if text is None:
        return default
    if text.strip() not in choices:
        raise FlagError(f"{name}={text!r}: expected one of {', '.join(choices)}")
    return text.strip()
