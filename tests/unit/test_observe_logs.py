"""Logs: JSON where stderr is no terminal, text on one, and warnings of libraries among them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

from tests.conftest import environment

CODE = """
import logging, warnings
from etlkit.observe import logs
logs.configure()
logging.getLogger("a.b").warning("über %s", 3)
logging.getLogger("a.b").info("not shown")
warnings.warn("old")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("c").exception("broke")
"""


def test_json_where_stderr_is_no_terminal():
    done = subprocess.run([sys.executable, "-c", CODE], env=environment(), capture_output=True, text=True, check=True)
    first, second, third = [json.loads(line) for line in done.stderr.splitlines()]
    assert (first["level"], first["logger"], first["message"]) == ("warning", "a.b", "über 3")
    assert first["at"].endswith("Z")
    assert second["logger"] == "py.warnings" and "old" in second["message"]
    assert third["level"] == "error" and "ZeroDivisionError" in third["error"]
    assert not done.stdout


def test_text_on_a_terminal():
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", CODE], env=environment(), stderr=theirs)
    os.close(theirs)
    assert process.wait(30) == 0
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert said.startswith("WARNING a.b: über 3")
