"""The reference is whole, and made of the code: every public name, setting, variable, verb and option is there.

Covers what the site's builder is given, and what comes out of it: no warning, nothing fetched from elsewhere.
"""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit import cli, settings
from etlkit.errors import PlanError
from etlkit.runtime import policy_file

from ..conftest import REPOSITORY, environment

DOCS = REPOSITORY / "docs"
OWN = {"ETLKIT_IN_SCOPE", "ETLKIT_STARTED_AGAIN"}


@pytest.fixture(scope="module")
def generated():
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        yield importlib.import_module("generated")
    finally:
        sys.path.pop(0)


def rendered(generated, page: str) -> str:
    source = [(DOCS / page).read_text()]
    generated.replace(None, page, source)
    assert "<!-- generated" not in source[0]
    return source[0]


@pytest.mark.parametrize("name", ek.__all__)
def test_a_public_name_is_described_and_on_the_page(name: str) -> None:
    page = (DOCS / "reference" / "python.md").read_text()
    assert re.search(rf"auto(class|function|exception):: etlkit\.{name}$|py:data:: etlkit\.{name}$", page, re.M)
    found = getattr(ek, name)
    if name != "fn":
        assert len(inspect.getdoc(found) or "") > 20
    if name in ("Pipeline", "Sink", "Source", "Job"):
        for member, value in vars(found).items():
            if not member.startswith("_") and callable(value):
                assert len(inspect.getdoc(value) or "") > 20, f"{name}.{member}"


def test_every_setting_variable_and_threshold_is_in_the_configuration(generated) -> None:
    page = rendered(generated, "reference/configuration.md")
    for key in settings.KEYS:
        assert f"| `{key}` | `ETLKIT_{key.upper()}` |" in page
    for key in policy_file._THRESHOLDS:
        assert f"| `{key}` |" in page
    code = "".join(path.read_text() for path in (REPOSITORY / "etlkit").rglob("*.py"))
    for variable in set(re.findall(r"\bETLKIT_[A-Z_]+[A-Z]\b", code)):
        assert f"`{variable}`" in page, f"{variable} is read or set, and not described"


def test_a_default_and_its_option_are_told_as_they_are(generated) -> None:
    page = rendered(generated, "reference/configuration.md")
    row = next(line for line in page.splitlines() if line.startswith("| `checkpoint_every`"))
    assert "`1s`" in row and "`--checkpoint-every` of " in row and "run" in row
    assert next(line for line in page.splitlines() if line.startswith("| `quantum`")).split("|")[2].strip() == "`16Mi`"


def test_every_verb_and_option_is_in_the_command_line(generated) -> None:
    page = rendered(generated, "reference/command-line.md")
    for verb in cli.VERBS:
        _, _, part = page.partition(f"\n## etlkit {verb}\n")
        part = part.partition("\n## ")[0]
        for option in cli.parser_of(verb)[1]._option_string_actions:
            assert option in ("-h", "--help") or f"`{option}" in part, f"{verb} {option}"


def test_every_exit_code_is_explained_three_times(generated) -> None:
    pages = [rendered(generated, "reference/command-line.md"), (DOCS / "how-to" / "recover.md").read_text()]
    for code in ek.Exit:
        assert all(re.search(rf"^\| `?{int(code)}`? \|", page, re.M) for page in pages), code


def test_the_decision_records_are_listed(generated) -> None:
    page = rendered(generated, "adr/index.md")
    assert all(path.name in page for path in (DOCS / "adr").glob("[0-9]*.md"))


def test_a_setting_without_a_docstring_is_refused(generated) -> None:
    with pytest.raises(ValueError, match="keep has no docstring"):
        generated._meaning({}, "keep")


def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html", str(DOCS), str(tmp_path / "html"), "-d",
         str(tmp_path / "trees")],
        env=environment({"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}),
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "html").rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]*)\"|<link[^>]*\shref=\"([^\"]*)\"", text)
        assert not [one for pair in fetched for one in pair if re.match(r"(https?:)?//", one)], page.name


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda rows: rows.rename(a="b"), "two columns would be called 'b'"),
        (lambda rows: rows.drop("a", "b"), "no column is left"),
        (lambda rows: rows.drop("c"), "no column 'c'"),
        (lambda rows: rows.explode("a"), "not a list"),
        (lambda rows: rows.union(rows.select("a")), "union"),
        (lambda rows: rows.join(rows, left_on="a", right_on="b"), "cast one of them"),
        (lambda rows: rows.agg(x=ek.any("a")), "needs true and false"),
        (lambda rows: rows.filter(ek.col("a") + 1), "not boolean"),
        (lambda rows: rows.map_batches(lambda batch: batch.select(["a"]), version="1"), "its schema says"),
    ],
)
def test_what_the_reference_says_is_a_plan_error_is_one(tmp_path: Path, step, said: str) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), tmp_path / "in.parquet")
    rows = ek.read_parquet(tmp_path / "in.parquet")
    with pytest.raises(PlanError, match=re.escape(said)):
        ek.run(step(rows).write_parquet(tmp_path / "out"), state=tmp_path / "state")
