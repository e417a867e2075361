"""Rendering a report with Jinja, in a sandbox: a template can be a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import (
    ChoiceLoader,
    DictLoader,
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateError,
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


def render(report: Report, template: Path | None = None, *, templates: Path) -> str:
    """The report as Markdown.

    Raises:
        UsageError: the template cannot be read or used.
    """
    shipped = FileSystemLoader(templates)
    if template is None:
        name, loader = TEMPLATE, ChoiceLoader([shipped])
    else:
        name = f"user/{template.name}"
        loader = ChoiceLoader([DictLoader({name: _source(template)}), shipped])
    shown = str(template or templates / TEMPLATE)
    environment = _environment(loader)
    try:
        text = environment.get_template(name).render(report=report)
    except TemplateSyntaxError as error:
        where = shown if error.name == name else f"{templates / str(error.name)}"
        raise ConfigError(
            error.message or "syntax error", where=f"{where}:{error.lineno}:1"
        ) from None
    except (TemplateError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        line = _line(environment.get_template(name), error)
        raise ConfigError(
            f"the template cannot be rendered: {error}",
            where=f"{shown}:{line}:1",
            remedy="its values are those of orchestrator.reporting.views.Report",
        ) from None
    return markdown.tidy(text)


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


def _environment(loader: ChoiceLoader) -> _Sandbox:
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
