"""The Containerfile and its locks, as far as they can be judged without building: pinned, hashed, non-root, no shell."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.conftest import REPOSITORY

CONTAINERFILE = (REPOSITORY / "Containerfile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LOCKS = sorted((REPOSITORY / "image").glob("*.lock"))


def pinned(text: str) -> dict[str, list[str]]:
    """Hashes by package, one entry for each pinned version."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=\S)", text):
        head = re.match(r"([a-z0-9._-]+)==\S+", block)
        assert head, f"not pinned: {block.splitlines()[0]}"
        found[head.group(1)] = re.findall(r"--hash=sha256:([0-9a-f]{64})", block)
    return found


def named(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", one)[0].lower() for one in requirements}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_package_is_pinned_with_hashes_and_without_a_place(lock):
    text = lock.read_text().strip()
    assert all(pinned(text).values()) and "://" not in text


def test_the_locks_hold_what_the_package_asks_for():
    assert named(PROJECT["dependencies"]) <= set(pinned((REPOSITORY / "image/requirements.lock").read_text().strip()))
    stores = PROJECT["optional-dependencies"]
    wanted = named([*PROJECT["dependencies"], *stores["s3"], *stores["gcs"], *stores["azure"]])
    assert wanted <= set(pinned((REPOSITORY / "image/requirements-stores.lock").read_text().strip()))
    assert set(pinned((REPOSITORY / "image/build.lock").read_text().strip())) == {"setuptools"}


def test_it_runs_as_nobody_in_particular_and_through_no_shell():
    final = CONTAINERFILE[CONTAINERFILE.rindex("\nFROM ") :]
    assert "USER 10001:10001" in final and "RUN" not in final and "ENTRYPOINT" not in final
    assert 'CMD ["etlkit"' in final
    assert CONTAINERFILE.count("--require-hashes") == 2


def test_what_it_copies_is_there_and_not_ignored():
    ignored = (REPOSITORY / ".containerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.M):
        for one in source.split():
            assert (REPOSITORY / one).exists()
            assert f"!{one.rstrip('/')}" in ignored


def test_the_workflow_runs_what_is_there():
    """YAML that parses, scripts and tests that exist, and the variables that the tests read."""
    import yaml

    text = (REPOSITORY / ".github/workflows/kind.yaml").read_text()
    (job,) = yaml.safe_load(text)["jobs"].values()
    steps = "\n".join(step.get("run", "") + str(step.get("env", "")) for step in job["steps"])
    for path in ("scripts/environment", "tests/conformance", "tests/e2e/cluster", "Containerfile"):
        assert path in steps and (REPOSITORY / path).exists()
    story = (REPOSITORY / "tests/e2e/cluster/test_story.py").read_text()
    for variable in ("ETLKIT_TEST_KUBECONFIG", "ETLKIT_TEST_E2E_IMAGE", "ETLKIT_TEST_NAMESPACE"):
        assert variable in steps and variable in story
