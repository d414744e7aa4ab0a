"""The pages that people read, cut into blocks: which files they are, what languages their blocks may have, what is not run.

A block's language says what is done with it:

* ``console``: lines that begin with ``$ `` are typed, in the page's order and in one folder; what stands below one is its output.
* ``sh``: every line is typed. So is a block without a language, or an indented one, that begins with a command.
* ``python``: executed, a page's blocks in one namespace; one that begins with a docstring naming a ``.py`` file becomes that file.
* ``toml``: an ``etlkit.toml``, read as etlkit reads it. ``yaml``, ``json``: parsed.
* ``text``, and a block without a language: shown only; no line may look like something to type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from ..conftest import REPOSITORY

LANGUAGES = {"console", "sh", "python", "toml", "yaml", "json", "text", ""}
PROGRAMS = (
    "etlkit",
    "make",
    "kubectl",
    "python",
    "python3",
    "pip",
    ".venv/bin/",
    "scripts/",
    "git",
    "docker",
    "helm",
    "cd",
)

NOT_RUN: tuple[tuple[str, str], ...] = (
    (r"\bkubectl\b", "needs a cluster"),
    (r"^(docker|podman) (build|push)\b", "needs a registry"),
    (r"^etlkit (submit|status|logs|resize)\b", "needs a cluster"),
    (r"\bpip install\b", "needs the network"),
    (r"^make (test|check|docs)\b|-m pytest\b", "it is what runs this"),
    (r"^make environment\b|^scripts/environment\b", "it would change the environment that runs this"),
    (
        r"^etlkit bench (\w|--against)|-m benchmarks\.",
        "takes minutes; tests/unit/test_benchmarks.py runs the short forms",
    ),
    (r"\bairflow\b|KubernetesPodOperator\(", "needs Airflow"),
    (r"PipesK8sClient\(|execute_k8s_job", "needs Dagster"),
)
"""Commands, and Python, that no test runs: a pattern and the reason. An ``etlkit`` command must still be one that its verb takes, and
Python must compile."""


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    """Of the page, from 1: where the fence stands."""
    language: str
    text: str
    loose: bool
    """``<!-- the output differs … -->`` stands above: from run to run other lines come. Half of them must be there."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    text: str
    output: tuple[str, ...]
    line: int


def pages() -> list[Path]:
    """Every Markdown page that a user or contributor reads."""
    return sorted(
        [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "benchmarks" / "README.md"]
    )


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines()
    for token in MarkdownIt("commonmark").parse(text):
        if token.type not in ("fence", "code_block") or token.map is None:
            continue
        language = token.info.split()[0] if token.info.strip() else ""
        if language.startswith("{"):  # a directive of the site's builder
            continue
        above = next((line for line in reversed(lines[: token.map[0]]) if line.strip()), "")
        yield Block(name(page), token.map[0] + 1, language, token.content, above.startswith("<!-- the output differs"))


def commands(block: Block) -> list[Command]:
    """What the block asks to type, each with the output that it shows."""
    lines = block.text.splitlines()
    if block.language == "console":
        return list(_session(lines, block.line + 1))
    if block.language == "sh" or (block.language == "" and _begins_with_a_command(lines)):
        return list(_session([f"$ {line}" if line.strip() else "" for line in _joined(lines)], block.line + 1))
    return []


def _begins_with_a_command(lines: list[str]) -> bool:
    first = next((line for line in lines if line.strip()), "")
    return first.startswith(PROGRAMS)


def _joined(lines: list[str]) -> Iterator[str]:
    """Lines that end in a backslash, with what follows, as one."""
    held = ""
    for line in lines:
        held += line
        if not held.endswith("\\"):
            if not held.lstrip().startswith("#"):
                yield held
            held = ""
        else:
            held = held[:-1].rstrip() + " "
            line = ""


def _session(lines: list[str], first: int) -> Iterator[Command]:
    typed, output, at = "", list[str](), first
    for number, line in enumerate(lines, first):
        if typed.endswith("\\"):
            typed = typed[:-1].rstrip() + " " + line.strip().removeprefix("> ")
        elif line.startswith("$ "):
            if typed:
                yield Command(typed, tuple(output), at)
            typed, output, at = line[2:], [], number
        elif typed:
            output.append(line)
    if typed:
        yield Command(typed, tuple(output), at)


def looks_typed(block: Block) -> bool:
    """A block that is only shown, with a line in it that a reader would type."""
    return any(re.match(r"\$ |etlkit [a-z]+ |kubectl [a-z]", line) for line in block.text.splitlines())


def not_run(text: str) -> str | None:
    """Why this command, or Python, is not run."""
    return next((reason for pattern, reason in NOT_RUN if re.search(pattern, text, re.M)), None)
