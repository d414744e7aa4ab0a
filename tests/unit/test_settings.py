"""Where a setting comes from, and what is said about a wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from etlkit.errors import ConfigError, EtlkitError, UsageError
from etlkit.settings import KEYS, Settings, load
from etlkit.units import GIB, MIB


def toml(folder: Path, text: str, name: str = "etlkit.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_defaults(tmp_path: Path) -> None:
    settings = load({}, {}, tmp_path, terminal=False)
    assert settings == Settings(origins=dict.fromkeys(KEYS, "default"))
    assert (settings.checkpoint_every_s, settings.keep, settings.workers, settings.lock_wait_s) == (1.0, 2, None, 0.0)
    assert not settings.asked("checkpoint_every")


def test_option_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = toml(tmp_path, 'max_memory = "1Gi"\ncheckpoint_every = "5s"\nworkers = 3\nkeep = 4\n')
    environ = {"ETLKIT_MAX_MEMORY": "2Gi", "ETLKIT_CHECKPOINT_EVERY": "250ms", "ETLKIT_WORKERS": ""}
    settings = load({"max_memory": "3Gi", "state": None}, environ, tmp_path, terminal=True)
    assert (settings.max_memory_bytes, settings.checkpoint_every_s, settings.workers, settings.keep) == (
        3 * GIB,
        0.25,
        3,
        4,
    )
    assert settings.origins["max_memory"] == "option --max-memory"
    assert settings.origins["checkpoint_every"] == "environment ETLKIT_CHECKPOINT_EVERY"
    assert settings.origins["workers"] == f"file {path}", "an empty variable says nothing"
    assert settings.origins["state"] == "default"
    assert settings.asked("workers") and not settings.asked("state")


def test_the_arguments_of_a_verb_will_do(tmp_path: Path) -> None:
    options = {
        "target": "jobs/x.py",
        "state": Path("here"),
        "lock_wait": "2m",
        "max_memory": "1073741824",
        "json": True,
    }
    settings = load(options, {}, tmp_path)
    assert (settings.state, settings.lock_wait_s, settings.max_memory_bytes) == ("here", 120.0, GIB)


def test_the_file_may_be_named(tmp_path: Path) -> None:
    toml(tmp_path, "keep = 9")
    (tmp_path / "mounted").mkdir()
    path = toml(tmp_path / "mounted", 'state = "s3://bucket/x"\n[policy]\ntight = 0.7\n', "my.toml")
    settings = load({}, {"ETLKIT_CONFIG": "mounted/my.toml"}, tmp_path)
    assert (settings.state, settings.keep, settings.file) == ("s3://bucket/x", 2, path)
    assert settings.policy == {"tight": 0.7}
    assert ("policy.tight", 0.7, f"file {path}") in settings.rows()
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        load({}, {"ETLKIT_CONFIG": "gone.toml"}, tmp_path)


def test_waiting_for_the_lock_in_a_pod(tmp_path: Path) -> None:
    pod = {"ETLKIT_POD_NAME": "p"}
    assert load({}, pod, tmp_path, terminal=False).lock_wait_s == 60
    assert load({}, pod, tmp_path, terminal=True).lock_wait_s == 0
    assert load({"lock_wait": 0}, pod, tmp_path, terminal=False).lock_wait_s == 0
    assert not load({}, pod, tmp_path, terminal=False).asked("lock_wait")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('max_memry = "1Gi"', ["unknown key 'max_memry'", "did you mean 'max_memory'?"]),
        ("zzz = 1", ["unknown key 'zzz'", "known keys are: state,"]),
        ('max_memory = "1Gb"', ["'max_memory' is '1Gb'", "512Mi"]),
        ("max_memory = true", ["'max_memory' is True"]),
        ("max_memory = 0", ["'max_memory' is 0"]),
        ("workers = 0", ["'workers' is 0", "from 1"]),
        ("workers = 1.5", ["'workers' is 1.5"]),
        ('checkpoint_every = "0s"', ["'checkpoint_every' is '0s'", "above zero"]),
        ("checkpoint_every = nan", ["'checkpoint_every' is nan"]),
        ("lock_wait = inf", ["'lock_wait' is inf"]),
        ('progress = "loud"', ["'progress' is 'loud'", "auto, plain, json, none"]),
        ('state = ""', ["'state' is ''"]),
        ("policy = 3", ["'policy' is 3", "[policy]"]),
        ("keep = = 3", ["is not TOML", "line 1"]),
    ],
)
def test_a_wrong_file_is_named_with_the_remedy(tmp_path: Path, text: str, words: list[str]) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load({}, {}, tmp_path)
    for word in [str(path), *words]:
        assert word in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("options", "environ", "kind", "words"),
    [
        ({"workers": "many"}, {}, UsageError, "option --workers is 'many'"),
        ({}, {"ETLKIT_BACKOFF_LIMIT": "-1"}, ConfigError, "environment ETLKIT_BACKOFF_LIMIT is '-1'"),
    ],
)
def test_who_is_wrong(
    tmp_path: Path, options: dict[str, object], environ: dict[str, str], kind: type[EtlkitError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        load(options, environ, tmp_path)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "etlkit.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        load({}, {}, tmp_path)


def test_rows_name_everything(tmp_path: Path) -> None:
    rows = load({"max_memory": 256 * MIB}, {}, tmp_path).rows()
    assert [row[0] for row in rows] == list(KEYS)
    assert ("max_memory", 256 * MIB, "option --max-memory") in rows


def test_it_imports_the_standard_library_only() -> None:
    code = (
        "import sys, etlkit.settings; print([n for n in ('pyarrow', 'tomllib', 'difflib', 'rich') if n in sys.modules])"
    )
    environ = {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, timeout=30)
    assert run.stdout.strip() == "[]", run.stderr
