"""The jobs that ship: loaded as a user names them, described by their signature, and shown in the README as they are."""

from __future__ import annotations

import re

import pytest

from etlkit.errors import UsageError
from etlkit.plan.job import load
from tests.conftest import REPOSITORY

JOBS = sorted((REPOSITORY / "jobs").glob("*.py"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_each_is_a_job_of_its_files_name_that_says_what_it_does(path):
    job = load(str(path))
    assert job.name == path.stem
    assert job.doc
    assert {"src", "out"} <= set(job.parameters)
    (pipeline,) = job.pipelines(job.bind({"src": "elsewhere", "out": "there"}))
    assert "there" in repr(pipeline.node)


def test_parameters_are_read_from_the_signature():
    job = load(str(REPOSITORY / "jobs" / "part_revenue.py"))
    bound = job.bind({"max_qty": "30"})
    assert bound == {"src": "data/tpch/lineitem", "out": "out/part_revenue", "max_qty": 30.0}
    with pytest.raises(UsageError, match="did you mean 'max_qty'"):
        job.bind({"max_qyt": "30"})


def test_the_readme_shows_a_job_as_it_is():
    shown = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)
    job = (REPOSITORY / "jobs" / "part_revenue.py").read_text()
    assert job in shown
    code = [line for line in job.splitlines() if line.strip()]
    assert len(code) <= 15
