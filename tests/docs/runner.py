"""Runs one page as a reader would, in a folder of its own: ``python -m tests.docs.runner PAGE FOLDER``.

A process of its own, since a page's Python shares one namespace and may run jobs. What is wrong is printed, a line each, and
makes the exit code 1.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from .. import warm
from .pages import LANGUAGES, Block, Command, blocks, commands, looks_typed, not_run

LIMIT_S = 240
TYPED = {"make demo": "scripts/demo"}
"""What `make` adds here is the environment, and that is there."""
MASKS = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME"),
    (r"\b\d\d:\d\d:\d\d\.\d+", "TIME"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{10,}\b", "ID"),
    (r"\b\d[\d,.]* ?(GiB·s|[KMG]iB|B)(?!\w)", "SIZE"),
    (r"\b\d+[KMG]i\b", "SIZE"),
    (r"\b(\d+ min )?\d+(\.\d+)? (ms|s)\b", "SPAN"),
    (r"\b\d+(\.\d+)? ?%", "SHARE"),
    (r"\bcheckpoint \d+", "checkpoint N"),
    (r"^ +\d+(?=  )", "N"),
    (r"  +", " "),
)
"""What differs from run to run and from machine to machine. Everything else, rows above all, is compared as it stands."""


def masked(line: str) -> str:
    for pattern, by in MASKS:
        line = re.sub(pattern, by, line)
    return line.strip()


def matches(expected: str, found: str) -> bool:
    """``…`` in a line stands for anything."""
    pattern = ".*".join(re.escape(part) for part in masked(expected).split("…"))
    return re.fullmatch(pattern, masked(found)) is not None


def missing(expected: tuple[str, ...], found: list[str]) -> str | None:
    """The first line that is not where it should be. A line of ``…`` alone stands for any number of lines."""
    place, floating = 0, False
    for line in expected:
        if line.strip() == "…":
            floating = True
            continue
        if not line.strip():
            continue
        at = next((n for n in range(place, len(found)) if matches(line, found[n])), None)
        if at is None or (at != place and not floating):
            return line
        place, floating = at + 1, False
    return None if floating or place >= len(found) else f"(the end: the command goes on with {found[place]!r})"


def loosely_missing(expected: tuple[str, ...], found: list[str]) -> str | None:
    """Half of the lines, by their words alone, must be there."""
    there = {re.sub(r"[\d,.]+|\b[a-z]+s\b", "#", masked(line)) for line in found}
    wanted = [re.sub(r"[\d,.]+|\b[a-z]+s\b", "#", masked(line)) for line in expected if line.strip() not in ("", "…")]
    absent = [line for line in wanted if line not in there]
    return f"{len(absent)} of {len(wanted)} lines, such as {absent[0]!r}" if 2 * len(absent) > len(wanted) else None


class Page:
    """One page's folder, Python namespace and last exit code."""

    def __init__(self, folder: Path, shown: Iterable[str] = ()) -> None:
        self._folder = folder
        self._shown = frozenset(shown)
        """What is typed in the page with its output: where it stands without, it is not run a second time."""
        self._names: dict[str, Any] = {"__name__": "page"}
        self._last = 0

    def wrong(self, block: Block) -> Iterator[str]:
        """What is wrong with one block, having run it."""
        if block.language not in LANGUAGES:
            yield f"a block in '{block.language}': one of {', '.join(sorted(LANGUAGES - {''}))}"
            return
        typed = commands(block)
        for number, command in enumerate(typed):
            follower = typed[number + 1].text if number + 1 < len(typed) else ""
            yield from self._type(command, block, follower)
        if not typed and block.language in ("", "text") and looks_typed(block):
            yield "something to type in a block that is not run: make it 'console' or 'sh'"
        elif block.language == "console" and not typed:
            yield "a console block without a '$ ' line: make it 'text' or 'sh'"
        elif block.language == "python":
            yield from self._python(block)
        elif block.language in ("toml", "yaml", "json"):
            yield from self._data(block)

    def _type(self, command: Command, block: Block, follower: str) -> Iterator[str]:
        text = re.sub(r"\s+#\s.*$", "", command.text)
        if not_run(text) is not None:
            yield from _not_taken(text)
            return
        if text in self._shown and not any(command.output) and block.language == "sh":
            return
        env = {k: v for k, v in os.environ.items() if not k.startswith(("ETLKIT_", "KUBERNETES_"))}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
        done = self._started(TYPED.get(text, text), env)
        self._last = done.returncode if done.returncode >= 0 else 128 - done.returncode
        shown = "\n".join(f"    {line}" for line in done.stdout.splitlines())
        if self._last and not follower.startswith("echo $?"):
            yield f"`{text}` ends with {self._last}:\n{shown}"
        found = [line for line in done.stdout.splitlines() if line.strip()]
        if any(line.strip() for line in command.output):
            lost = (loosely_missing if block.loose else missing)(command.output, found)
            if lost is not None:
                yield f"`{text}` does not print: {lost}\n  it printed:\n{shown}"

    def _started(self, text: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """By a shell; ``etlkit …`` without anything of a shell's by a start that is warm."""
        how: dict[str, Any] = {
            "cwd": self._folder,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "text": True,
        }
        words = shlex.split(text) if not re.search(r"[|&;<>$`*?#\\\n]", text) else []
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            env = env | {name: value}
        if words[:1] != ["etlkit"]:
            typed = ["bash", "-c", f"(exit {self._last})\n{text}"]
            return subprocess.run(typed, env=env, stderr=subprocess.STDOUT, timeout=LIMIT_S, **how)
        with warm.start(words[1:], env=env, stderr=subprocess.STDOUT, **how) as process:
            try:
                out, _ = process.communicate(timeout=LIMIT_S)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, out)

    def _python(self, block: Block) -> Iterator[str]:
        try:
            tree = ast.parse(block.text)
        except SyntaxError as error:
            yield f"line {error.lineno}: {error.msg}"
            return
        if not_run(block.text) is not None:
            return
        doc = (ast.get_docstring(tree) or "").split()
        if doc and doc[0].endswith(".py"):
            path = self._folder / doc[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            return
        try:
            with redirect_stdout(StringIO()):
                exec(compile(block.text, block.place, "exec"), self._names)
        except BaseException as error:
            yield f"{type(error).__name__}: {error}"

    def _data(self, block: Block) -> Iterator[str]:
        try:
            if block.language == "json":
                for line in block.text.splitlines() if block.text.count("\n{") else [block.text]:
                    json.loads(line)
            elif block.language == "yaml":
                import yaml

                list(yaml.safe_load_all(block.text))
            else:
                from etlkit.runtime.policy_file import policy_from
                from etlkit.settings import load

                path = self._folder / ".example.toml"
                path.write_text(block.text)
                policy_from(load(environ={"ETLKIT_CONFIG": str(path)}, cwd=self._folder))
        except Exception as error:
            yield f"{type(error).__name__}: {error}"


def _not_taken(text: str) -> Iterator[str]:
    """An ``etlkit`` command that is not run: whether its verb takes these options."""
    from etlkit.cli import VERBS, parser_of

    words = shlex.split(re.split(r"\s[|><]", text)[0])
    if not words or words[0] != "etlkit":
        return
    if len(words) < 2 or words[1] not in VERBS:
        yield f"`{text}`: no such verb"
        return
    try:
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
            parser_of(words[1])[1].parse_args(words[2:])
    except SystemExit:
        yield f"`{text}`: the verb does not take this"


def main() -> int:
    page, folder = Path(sys.argv[1]), Path(sys.argv[2])
    os.chdir(folder)
    found = list(blocks(page))
    shown = {command.text for block in found for command in commands(block) if any(command.output)}
    reader, wrong = Page(folder, shown), 0
    for block in found:
        for what in reader.wrong(block):
            print(f"{block.place}: {what}")
            wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
