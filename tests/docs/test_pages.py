"""Every command and every block of code in the documentation, executed; every link, followed.

`pages.py` says which blocks are run, and which commands are not, with the reason. What is slow stays out of the pages: this is
meant to take about a minute of CPU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import REPOSITORY, environment, shared_tpch
from . import runner
from .pages import NOT_RUN, Block, blocks, commands, name, not_run, pages

PAGES = pages()
SHOWN = [page for page in PAGES if "adr" not in page.parts and any(True for _ in blocks(page))]
"""Pages with something to run. Decision records are records: their links are followed, their code is of its day."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_tpch(tmp_path_factory, "0.02", "lineitem,orders,customer", 2)


@pytest.mark.parametrize("page", SHOWN, ids=name)
def test_what_a_page_shows_works(page: Path, tmp_path: Path, tables: Path, request: pytest.FixtureRequest) -> None:
    shutil.copytree(REPOSITORY / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    # Neither Makefile nor pyproject.toml: nothing here may install anything.
    for other in ("scripts", "manifests", "benchmarks"):
        (tmp_path / other).symlink_to(REPOSITORY / other)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "data").mkdir()
    if page == REPOSITORY / "README.md":  # at the scale that its demo makes
        tables = request.getfixturevalue("six_million").parent
    (tmp_path / "data" / "tpch").symlink_to(tables)
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.runner", str(page), str(tmp_path)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_run_is_there() -> None:
    """An exemption that exempts nothing is dropped."""
    texts = [c.text for page in SHOWN for b in blocks(page) for c in commands(b)]
    texts += [b.text for page in SHOWN for b in blocks(page) if b.language == "python"]
    for pattern, reason in NOT_RUN:
        assert any(re.search(pattern, text, re.M) for text in texts), f"{pattern}: {reason}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for heading in re.findall(r"^#{1,6}\s+(.*)$", text, re.M):
        words = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


GENERATED = {"docs/reference/command-line.md"}
"""Pages whose headings come with the build; Sphinx follows links to those."""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)}: {target}"
        assert there.is_relative_to(REPOSITORY), f"{name(page)}: {target}"
        if anchor and there.suffix == ".md" and name(there) not in GENERATED:
            assert anchor in anchors(there), f"{name(page)}: {target} has no such heading"


# ── the runner itself ───────────────────────────────────────────────────────────────────────────────────────────────


def found_wrong(tmp_path: Path, text: str) -> str:
    page = tmp_path / "page.md"
    page.write_text(text)
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    reader = runner.Page(folder)
    cut = [
        Block("page.md", 1, language, body, False) for language, body in re.findall(r"```(\w*)\n(.*?)```", text, re.S)
    ]
    before = Path.cwd()
    os.chdir(folder)
    try:
        return "\n".join(what for block in cut for what in reader.wrong(block))
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```console\n$ false\n```", "ends with 1"),
        ("```console\n$ echo 5 rows\n6 rows\n```", "does not print: 6 rows"),
        ("```console\n$ printf 'a\\nb\\n'\na\n```", "the end"),
        ("```python\nx = 1\n```\n```python\nassert x == 2\n```", "AssertionError"),
        ("```text\n$ rm -rf /\n```", "something to type"),
        ("```\netlkit explode\n```", "no verb"),
        ("```sh\netlkit submit jobs/x.py --nonsense\n```", "does not take this"),
        ("```console\n$ etlkit run --nonsense\n```", "ends with 2"),
        ("```toml\n[policy]\ntihgt = 0.5\n```", "did you mean 'tight'"),
        ("```yaml\na: [\n```", "ParserError"),
        ("```json\n{\n```", "JSONDecodeError"),
        ("```ruby\nputs\n```", "a block in 'ruby'"),
    ],
)
def test_a_page_that_is_wrong_is_found(tmp_path: Path, text: str, said: str) -> None:
    assert said in found_wrong(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ printf '3 rows in 1.2 s\\nlast\\n'\n3 rows in 85 ms\n…\n```",
        "```console\n$ (exit 75)\n$ echo $?\n75\n```",
        "```console\n$ printf 'a\\nb\\nc\\nd\\n'\na\n…\nd\n```",
        "```python\nx = 1\n```\n```python\nassert x == 1\n```",
        '```python\n"""jobs/made.py"""\ny = 2\n```\n```sh\ngrep -q "y = 2" jobs/made.py\n```',
        "```toml\ncheckpoint_every = '5s'\n[policy]\ntight = 0.7\n```",
    ],
)
def test_a_page_that_is_right_passes(tmp_path: Path, text: str) -> None:
    assert found_wrong(tmp_path, text) == ""


def test_a_reason_is_given_for_what_needs_a_cluster() -> None:
    assert not_run("kubectl get pods") == "needs a cluster"
    assert not_run("etlkit run jobs/x.py") is None
