"""Tables that are made of the code when the documentation is built, so that they can't go stale.

A page says ``<!-- generated: NAME -->`` where a table goes. Covers settings, thresholds, exit codes, verbs, metrics and the
decision records. A setting or threshold without a docstring fails the build, and so does a name that is not known.
"""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

from etlkit import cli, settings
from etlkit.cli import parser_of
from etlkit.decide.policy import Policy
from etlkit.exits import Exit
from etlkit.runtime import policy_file
from etlkit.units import format_seconds, quantity_bytes

MARK = re.compile(r"^<!-- generated: (\S+) -->$", re.M)


def replace(app: Sphinx | None, docname: str, source: list[str]) -> None:
    """Sphinx's ``source-read``: the text of a page, before it is parsed."""
    source[0] = MARK.sub(lambda found: MAKERS[found.group(1)](), source[0])


def _meanings(module: str, of: str) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    docs = ModuleAnalyzer.for_module(module).find_attr_docs()
    return {name: " ".join(" ".join(lines).split()) for (owner, name), lines in docs.items() if owner == of}


def _meaning(found: dict[str, str], name: str) -> str:
    if not found.get(name):
        raise ValueError(f"{name} has no docstring: write one under the field")
    return found[name].replace("``", "`").replace("|", r"\|")


def _shown(name: str, value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool | str):
        return f"`{value}`"
    if name.endswith("_bytes") and isinstance(value, int):
        return f"`{quantity_bytes(value)}`"
    if name.endswith("_s") and isinstance(value, float):
        return f"`{format_seconds(value)}`".replace(".0 s", "s").replace(" min 0 s", "m").replace("0 ms", "0s")
    return f"`{value}`"


def _options(name: str) -> list[str]:
    """The verbs that take a setting as an option."""
    option = f"--{name.replace('_', '-')}"
    return [verb for verb in cli.VERBS if option in parser_of(verb)[1]._option_string_actions]


def setting_rows() -> list[tuple[str, ...]]:
    found, default = _meanings("etlkit.settings", "Settings"), settings.Settings()
    rows = []
    for key in settings._KEYS:
        verbs = _options(key.name)
        option = f" Option `--{key.name.replace('_', '-')}` of {', '.join(verbs)}." if verbs else ""
        value = _shown(key.field, getattr(default, key.field))
        meaning = f"{_meaning(found, key.field)} Value: {key.expects}.{option}"
        rows.append((f"`{key.name}`", f"`{key.variable}`", value, meaning))
    return rows


def settings_table() -> str:
    head = ("key in etlkit.toml", "environment", "default", "meaning")
    return _table(head, setting_rows())


def policy_table() -> str:
    found, default = _meanings("etlkit.decide.policy", "Policy"), Policy()
    rows = [
        (f"`{key}`", _shown(field, getattr(default, field)), _meaning(found, field))
        for key, (field, _) in policy_file._THRESHOLDS.items()
    ]
    assert {field for field, _ in policy_file._THRESHOLDS.values()} <= {one.name for one in fields(Policy)}
    return _table(("key in [policy]", "default", "meaning"), rows)


def exits_table() -> str:
    from etlkit.kube.termination import _MEANING

    rows = [(f"`{int(code)}`", f"`Exit.{code.name}`", _MEANING[int(code)]) for code in Exit]
    return _table(("code", "name", "meaning"), rows)


def formats_table() -> str:
    from etlkit.io.formats import _SINKS, _SOURCES

    rows = []
    for verb, known, place in (("ek.read_", _SOURCES, "paths"), (".write_", _SINKS, "path")):
        for name, (module, kind) in known.items():
            made = inspect.signature(getattr(import_module(module, "etlkit.io"), kind))
            options = [f"`{one.name}={one.default!r}`" for one in made.parameters.values() if one.name != place]
            rows.append((f"`{verb}{name}`", ", ".join(options)))
    return _table(("call", "options and defaults"), rows)


def verbs_table() -> str:
    rows = [(f"[`etlkit {verb}`](#etlkit-{verb})", text.replace("|", r"\|")) for verb, text in cli.VERBS.items()]
    return _table(("verb", "what it does"), rows)


def metrics_table() -> str:
    from etlkit.observe.metrics import METRICS

    rows = [(f"`{name}`", metric.kind, metric.help) for name, metric in METRICS.items()]
    return _table(("metric", "kind", "meaning"), rows)


def commands() -> str:
    return "\n\n".join(_command(verb) for verb in cli.VERBS)


def _command(verb: str) -> str:
    _, parser = parser_of(verb)
    usage = textwrap.dedent(parser.format_usage().removeprefix("usage: "))
    parts = [f"## etlkit {verb}", f"{_sentence(cli.VERBS[verb])}", f"```text\n{usage.rstrip()}\n```"]
    inner: list[argparse._SubParsersAction[Any]] = []
    rows: list[tuple[str, str]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner.append(action)
        elif not isinstance(action, argparse._HelpAction) and action.help is not argparse.SUPPRESS:
            rows.append((_invocation(action), _help(action)))
    if rows:
        parts.append(_table(("argument", "meaning"), rows))
    for group in inner:
        acts = []
        for choice in group._choices_actions:
            sub = group.choices[choice.dest]
            asked = [one for one in sub._actions if one.help is not argparse.SUPPRESS and one.dest != "help"]
            shown = " ".join([choice.dest, *(_bare(one) for one in asked)])
            acts.append((f"`{shown}`", choice.help or ""))
        parts.append(_table(("then one of", "meaning"), acts))
    return "\n\n".join(parts)


def _bare(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return f"{action.option_strings[0]} {value}" if action.option_strings else value


def _invocation(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        value = "\\|".join(map(str, action.choices))
    else:
        value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return f"`{value}`"
    takes = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{option}{takes}`" for option in sorted(action.option_strings, reverse=True))


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default} if action.help and "%(" in action.help else action.help
    said = (text or "").replace("|", r"\|")
    return said if not action.required or not action.option_strings else f"{said} **(required)**"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def decisions() -> str:
    """The decision records, by number, with their titles."""
    lines = []
    for path in sorted((Path(__file__).parents[1] / "adr").glob("[0-9]*.md")):
        title = re.sub(r"^#\s*(\d+\.\s*)?", "", path.read_text(encoding="utf-8").splitlines()[0])
        lines.append(f"* {int(path.name[:4])}: [{title}]({path.name})")
    return "\n".join(lines)


MAKERS = {
    "settings": settings_table,
    "policy": policy_table,
    "exits": exits_table,
    "formats": formats_table,
    "verbs": verbs_table,
    "commands": commands,
    "decisions": decisions,
    "metrics": metrics_table,
}


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("source-read", replace)
    return {"parallel_read_safe": True}
