"""The machine's thresholds from etlkit.toml, also while a job runs."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

from etlkit.decide.events import ResizeMode
from etlkit.decide.policy import Policy
from etlkit.errors import ConfigError
from etlkit.runtime.policy_file import PolicyWatcher, changed_policy, policy_from
from etlkit.settings import load
from etlkit.units import GIB, MIB

News = queue.SimpleQueue[tuple[str, Policy | None, str]]


def policy_of(folder: Path, text: str) -> Policy:
    (folder / "etlkit.toml").write_text(text)
    return policy_from(load({}, {}, folder))


def test_nothing_set_is_the_default(tmp_path: Path) -> None:
    assert policy_from(load({}, {}, tmp_path)) == Policy()


def test_every_threshold_can_be_set(tmp_path: Path) -> None:
    policy = policy_of(
        tmp_path,
        """
        max_memory = "2Gi"
        checkpoint_every = "4s"
        [policy]
        overhead = 0.05
        tight = 0.7
        critical = 0.9
        margin = 0.3
        quantum = "32Mi"
        cooldown = "1m"
        deferred_deadline = "2m"
        request_deadline = 20
        refused_retry = "10m"
        min_workers = 2
        min_slice_rows = 512
        slice_rows = 4096
        max_tries = 3
        """,
    )
    assert policy == Policy(
        max_memory_bytes=2 * GIB,
        checkpoint_every_s=4.0,
        overhead=0.05,
        every_is_bound=True,
        tight=0.7,
        critical=0.9,
        margin=0.3,
        quantum_bytes=32 * MIB,
        cooldown_s=60.0,
        deferred_deadline_s=120.0,
        request_deadline_s=20.0,
        refused_retry_s=600.0,
        min_workers=2,
        min_slice_rows=512,
        slice_rows=4096,
        max_tries=3,
    )
    same = [name for name in Policy.__dataclass_fields__ if getattr(policy, name) == getattr(Policy(), name)]
    assert same == ["mode"], "a threshold that no key reaches"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tigth = 0.7", ["unknown key 'tigth'", "did you mean 'tight'?"]),
        ("tight = 1.0", ["'tight' is 1.0", "below 1"]),
        ("tight = 0.95", ["tight 0.95 is not below critical 0.92"]),
        ('quantum = "1K"', ["'quantum'", "192Mi"]),
        ("quantum = 1", ["'quantum' is 1", "4Ki"]),
        ('cooldown = "soon"', ["'cooldown'", "250ms"]),
        ("min_workers = 0", ["'min_workers' is 0"]),
        ("min_slice_rows = 100000", ["min_slice_rows is above slice_rows"]),
        ("margin = -1", ["'margin' is -1"]),
        ("critical = true", ["'critical' is True"]),
    ],
)
def test_wrong_thresholds(tmp_path: Path, line: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        policy_of(tmp_path, f"[policy]\n{line}\n")
    for word in [str(tmp_path / "etlkit.toml"), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("cap", "wanted", "taken", "refused"),
    [
        (2 * GIB, GIB, GIB, False),
        (2 * GIB, 3 * GIB, 2 * GIB, True),
        (2 * GIB, None, 2 * GIB, False),
        (None, GIB, None, True),
        (None, None, None, False),
    ],
)
def test_a_cap_may_only_be_lowered(cap: int | None, wanted: int | None, taken: int | None, refused: bool) -> None:
    current = Policy(mode=ResizeMode.LIVE, max_memory_bytes=cap)
    policy, refusal = changed_policy(current, Policy(tight=0.5, max_memory_bytes=wanted))
    assert (policy.max_memory_bytes, policy.tight, policy.mode) == (taken, 0.5, ResizeMode.LIVE)
    assert bool(refusal) == refused


class ConfigMap:
    """A folder as the kubelet makes it: the file is a link to ``..data/NAME``, and ``..data`` is swapped."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self._version = 0
        self.update(text)
        (folder / "etlkit.toml").symlink_to("..data/etlkit.toml")

    def update(self, text: str) -> None:
        self._version += 1
        new = self.folder / f"..2026_11_{self._version}"
        new.mkdir()
        (new / "etlkit.toml").write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(new.name)
        link.replace(self.folder / "..data")


def watcher(folder: Path, news: News) -> PolicyWatcher:
    environ = {"ETLKIT_CONFIG": str(folder / "etlkit.toml")}
    settings = load({}, environ, folder)
    return PolicyWatcher(
        settings,
        policy_from(settings, Policy(mode=ResizeMode.RESTART)),
        lambda policy, what: news.put(("take", policy, what)),
        lambda why: news.put(("refuse", None, why)),
        environ=environ,
        cwd=folder,
    )


def test_the_swap_of_a_config_map_reaches_a_running_job(tmp_path: Path) -> None:
    news: News = queue.SimpleQueue()
    mounted = ConfigMap(tmp_path, 'max_memory = "2Gi"\n[policy]\ntight = 0.7\n')
    with watcher(tmp_path, news):
        mounted.update('max_memory = "1Gi"\n[policy]\ntight = 0.6\n')
        kind, policy, what = news.get(timeout=10)
        assert kind == "take" and policy is not None
        assert (policy.tight, policy.max_memory_bytes, policy.mode) == (0.6, GIB, ResizeMode.RESTART)
        assert "tight 0.7 → 0.6" in what

        mounted.update("[policy]\ntigth = 0.5\n")
        kind, _, why = news.get(timeout=10)
        assert kind == "refuse" and "tigth" in why and "kept" in why

        mounted.update('max_memory = "8Gi"\n')
        kind, _, why = news.get(timeout=10)
        assert kind == "refuse" and "only be lowered" in why
        kind, policy, _ = news.get(timeout=10)
        assert kind == "take" and policy is not None
        assert policy.max_memory_bytes == GIB, "the cap in force"
        assert policy.tight == Policy().tight, "a threshold that is taken out is the default again"
    assert news.empty()


def test_a_file_that_an_editor_saves(tmp_path: Path) -> None:
    news: News = queue.SimpleQueue()
    (tmp_path / "etlkit.toml").write_text("[policy]\nmargin = 0.1\n")
    with watcher(tmp_path, news):
        (tmp_path / "etlkit.toml").write_text("[policy]\nmargin = 0.2\n")
        assert news.get(timeout=10)[0] == "take"
        (tmp_path / "etlkit.toml").unlink()
        kind, _, why = news.get(timeout=10)
        assert kind == "refuse" and "gone" in why


def test_the_same_content_is_no_news(tmp_path: Path) -> None:
    news: News = queue.SimpleQueue()
    mounted = ConfigMap(tmp_path, "[policy]\ntight = 0.7\n")
    watching = watcher(tmp_path, news)
    mounted.update("[policy]\ntight = 0.7\n")
    watching.check()
    mounted.update("[policy]\ntight = 0.70  # said otherwise\n")
    watching.check()
    assert news.empty()


def test_without_a_file_nothing_is_watched(tmp_path: Path) -> None:
    with PolicyWatcher(load({}, {}, tmp_path), Policy(), lambda *_: None, lambda _: None) as watching:
        assert watching._observer is None
