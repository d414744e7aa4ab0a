"""The package as it is imported and called: light, typed, and consistent in what it lists."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import etlkit
from etlkit import cli
from etlkit.errors import ConfigError
from tests.conftest import REPOSITORY, environment

HEAVY = ("pyarrow", "kubernetes", "rich", "pandas", "numpy", "fsspec", "orjson", "urllib3")


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has loaded after ``code``."""
    script = f"import sys\n{code}\nimport json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True, cwd="/"
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import etlkit",
        "import etlkit.__main__",
        "import etlkit, contextlib, io\nfrom etlkit.cli import dispatch\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    try: dispatch(['--help'])\n"
        "    except SystemExit: pass",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code):
    loaded = modules_after(code)
    assert not [name for name in HEAVY if name in loaded]


def test_the_check_above_would_see_a_heavy_import():
    assert "orjson" in modules_after("import etlkit.observe.events")


def test_public_names_are_sorted_and_all_resolve():
    assert list(etlkit.__all__) == sorted(etlkit.__all__)
    assert set(etlkit.__all__) == set(etlkit._HOME)
    for name in etlkit.__all__:
        assert getattr(etlkit, name).__module__ if hasattr(getattr(etlkit, name), "__module__") else True
        assert name in dir(etlkit)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        etlkit.nothing  # noqa: B018


def test_static_imports_say_the_same_as_the_table():
    """What a type checker sees is what is loaded when the name is used."""
    text = Path(etlkit.__file__).read_text()
    block = text[text.index("if TYPE_CHECKING:") : text.index("_HOME = {")]
    static = {
        name.strip(): home
        for home, one, several in re.findall(r"from \.([\w.]+) import (?:([\w, ]+)$|\(([^)]*)\))", block, re.M)
        for name in (one or several).split(",")
        if name.strip()
    }
    assert static == etlkit._HOME


def test_version_and_marker_of_types():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == etlkit.__version__
    assert project["name"] == "etlkit-runtime"
    assert (Path(etlkit.__file__).parent / "py.typed").exists()


def test_each_verb_is_listed_with_the_help_that_its_module_has():
    folder = Path(cli.__file__).parent
    there = {path.stem for path in folder.glob("*.py") if "\nNAME = " in path.read_text()}
    assert set(cli.VERBS) == there
    assert list(cli.VERBS) == sorted(cli.VERBS)
    for name, text in cli.VERBS.items():
        module = importlib.import_module(f"etlkit.cli.{name}")
        assert (name, text) == (module.NAME, module.HELP)


def test_nobody_is_told_to_install_the_other_project():
    """The name ``etlkit`` on PyPI is somebody else's."""
    texts = [path for pattern in ("*.md", "docs/**/*.md", "manifests/**/*.yaml") for path in REPOSITORY.glob(pattern)]
    assert REPOSITORY / "README.md" in texts
    for path in texts:
        assert not re.search(r"pip3? install (-\S+ )*etlkit(?!-runtime)\b", path.read_text()), path


def test_help_names_every_verb_and_version_is_printed(etlkit_command, tmp_path):
    shown = etlkit_command("--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert all(re.search(rf"^  {verb} ", shown.stdout, re.M) for verb in cli.VERBS)
    assert etlkit_command("--version", cwd=tmp_path).stdout.strip() == f"etlkit {etlkit.__version__}"


@pytest.mark.parametrize("arguments", [(), ("shwo", "x"), ("show",), ("show", "x", "--nonsense")])
def test_a_wrong_call_ends_with_2_and_says_why(etlkit_command, tmp_path, arguments):
    done = etlkit_command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "usage: etlkit" in done.stderr and not done.stdout
    assert "Traceback" not in done.stderr


def test_a_verb_that_was_mistyped_is_guessed(etlkit_command, tmp_path):
    assert "did you mean 'show'" in etlkit_command("shwo", cwd=tmp_path).stderr


def test_an_error_on_purpose_is_its_message_its_remedy_and_its_code(etlkit_command, tmp_path):
    done = etlkit_command("show", "nowhere", cwd=tmp_path)
    assert done.returncode == int(ConfigError.exit_code) == 78
    assert done.stderr.splitlines() == [
        "etlkit show: nowhere: there is no such state directory",
        "  name the folder that --state named",
    ]


class _Verb:
    NAME = "verb"

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def run(self, args):
        raise self._error


def test_an_unexpected_error_ends_with_1_and_a_short_traceback(capsys):
    assert cli._guarded(_Verb(ValueError("odd")), None) == 1
    said = capsys.readouterr().err
    assert "unexpected ValueError: odd" in said and "test_package.py" in said


def test_a_reader_that_goes_away_is_no_error(etlkit_command, tmp_path):
    """``etlkit … | head``: the pipe is closed before anything is written."""
    code = (
        "import sys\nfrom etlkit import cli\n"
        "class V:\n NAME = 'v'\n"
        " @staticmethod\n def run(args):\n  print('x' * 1_000_000)\n  return 0\n"
        "sys.exit(cli._guarded(V, None))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 0


INSIDE_ARROW = """
import io, sys, threading, time
import pyarrow as pa, pyarrow.csv
from etlkit import __main__

class Slow(io.RawIOBase):
    def readable(self): return True
    def read(self, size=-1):
        inside.set()
        time.sleep(0.5)
        return b"x" * size

inside = threading.Event()
threading.Thread(target=lambda: pyarrow.csv.read_csv(pa.PythonFile(Slow(), mode="r")), daemon=True).start()
inside.wait()
__main__.dispatch = lambda arguments: print("said") or 73
sys.exit(__main__.main())
"""


def test_a_worker_inside_arrow_does_not_change_the_exit_code():
    """Python ends such a thread where it stands, and C++ answers with SIGABRT."""
    done = subprocess.run(
        [sys.executable, "-c", INSIDE_ARROW], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (73, "said\n", "")
