"""Rendering a report with Jinja, in a sandbox: a template can be a user's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    DictLoader,
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateNotFound,
    TemplateSyntaxError,
    Undefined,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestrator.config.resources import resource
from orchestrator.errors import ConfigError, UsageError
from orchestrator.models.run import Judgement
from orchestrator.reporting import markdown
from orchestrator.reporting.context import build
from orchestrator.reporting.views import Report
from orchestrator.store.files import atomic_write
from orchestrator.store.paths import RunPaths

REPORT = "selection_report.md"
TEMPLATE = "selection_report.md.j2"
RATIONALE = "rationale.md.j2"

_DATA = (str, int, float, dict, list, tuple, set)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which records are only data: none of their methods can be called."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if not isinstance(obj, _DATA) and callable(value):
            return False
        return super().is_safe_attribute(obj, attr, value)


def render_report(
    paths: RunPaths,
    judgement: Judgement,
    template: Path | None = None,
    *,
    templates: Path | None = None,
) -> Path:
    """Render `report/selection_report.md` from the run directory alone.

    Args:
        paths: the run.
        judgement: what it amounts to.
        template: a user's template; it may extend or include those that ship.
        templates: folder of the templates that ship.

    Raises:
        StoreError: `run.json` is missing or damaged.
        UsageError: the template cannot be read or used.
    """
    report = build(paths, judgement)
    text = render(report, template, templates=templates or resource("reports", "templates"))
    paths.report.mkdir(exist_ok=True)
    atomic_write(paths.report / REPORT, text)
    return paths.report / REPORT


def render_rationale(
    paths: RunPaths, judgement: Judgement, *, templates: Path | None = None
) -> str:
    """The document that says why the kernel stays off, from the values that the report has.

    Raises:
        StoreError: `run.json` is missing or damaged.
        UsageError: its template is missing or broken.
    """
    folder = templates or resource("reports", "templates")
    return render(build(paths, judgement), templates=folder, name=RATIONALE)


def render(
    report: Report, template: Path | None = None, *, templates: Path, name: str = TEMPLATE
) -> str:
    """A template filled in: the user's `template`, or the one called `name` that ships.

    Raises:
        UsageError: the template cannot be read or used.
    """
    environment = shipped(templates)
    if template is not None:
        name = f"user/{template.name}"
        own = DictLoader({name: _source(template)})
        environment = _environment(ChoiceLoader([own, FileSystemLoader(templates)]))
    shown = str(template or templates / name)
    try:
        loaded = environment.get_template(name)
    except TemplateNotFound:
        raise UsageError(
            f"the template {shown} is missing",
            remedy="install orchestrate again, or run it from a complete checkout",
        ) from None
    except TemplateSyntaxError as error:
        raise _syntax_error(error, templates, name, shown) from None
    try:
        text = loaded.render(report=report)
    except TemplateSyntaxError as error:
        raise _syntax_error(error, templates, name, shown) from None  # in one that it extends
    except (TemplateError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        line = _line(loaded, error)
        raise ConfigError(
            f"the template cannot be rendered: {error}",
            where=f"{shown}:{line}:1",
            remedy="its values are those of orchestrator.reporting.views.Report",
        ) from None
    return markdown.tidy(text)


def _syntax_error(
    error: TemplateSyntaxError, templates: Path, name: str, shown: str
) -> ConfigError:
    where = shown if error.name == name else str(templates / str(error.name))
    return ConfigError(error.message or "syntax error", where=f"{where}:{error.lineno}:1")


def _source(template: Path) -> str:
    try:
        return template.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the template {template}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the template {template} is not UTF-8 text") from None


def _line(template: Template, error: BaseException) -> int:
    """Line of the template that was being rendered; Jinja rewrites its own frames to it."""
    trace, line = error.__traceback__, 1
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in (template.filename, "<template>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


@cache
def shipped(templates: Path) -> _Sandbox:
    """The templates that ship; a run renders them again and again, and compiling takes longest."""
    return _environment(FileSystemLoader(templates))


def _environment(loader: BaseLoader) -> _Sandbox:
    environment = _Sandbox(
        loader=loader,
        undefined=StrictUndefined,
        autoescape=False,  # this is Markdown; `finalize` escapes every value
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters.update(
        escape=markdown.escape,
        e=markdown.escape,
        prose=markdown.prose,
        link=markdown.link,
        safe=markdown.Markdown,
        code=markdown.code,
        codes=markdown.codes,
        block=markdown.block,
        ms=markdown.milliseconds,
        error=markdown.error,
        ratio=markdown.ratio,
        size=markdown.size,
        duration=markdown.duration,
        verdict=markdown.verdict,
        moment=markdown.moment,
    )
    return environment


def _finalize(value: Any) -> str:
    if isinstance(value, Undefined):
        return str(value)  # raises: it is a StrictUndefined
    return markdown.escape(value)
