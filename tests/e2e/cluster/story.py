"""The story on a cluster: a job starts too small, sees it coming, checkpoints, is resized, goes on, and ends right.

Everything goes through ``etlkit submit`` and an operator's API calls. The input is made by an init container of the same
pod, on the job's own volume; the output is checked by a second pod that mounts the volume after the first has ended. On
the local node, where this is tried, both scripts are run here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from etlkit.cli import submit
from etlkit.kube.cluster import Cluster
from etlkit.kube.watch import JOB_NAME, JobWatch, Look
from etlkit.manifest.patch import merge
from tests.conftest import REPOSITORY

Json = dict[str, Any]
JOB = str(REPOSITORY / "jobs" / "part_revenue.py")
PATIENCE_S = 600.0

SEED = """
import decimal, pathlib, sys
import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
out = pathlib.Path(sys.argv[1]); files, rows = int(sys.argv[2]), int(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
two = pa.decimal128(15, 2)
for number in range(files):
    path = out / f"part-{number:03}.parquet"
    if path.exists():
        continue
    key = pa.array(range(number * rows, (number + 1) * rows), pa.int64())
    small = pc.subtract(key, pc.multiply(pc.divide(key, 50), 50))
    table = pa.table({"l_partkey": key, "l_quantity": small.cast(pa.decimal128(19, 0)).cast(two),
                      "l_extendedprice": pc.add(small, 1).cast(pa.decimal128(19, 0)).cast(two),
                      "l_discount": pa.repeat(pa.scalar(decimal.Decimal("0.05"), two), rows)})
    pq.write_table(table, out / f".{path.name}", row_group_size=65536, compression="zstd")
    (out / f".{path.name}").rename(path)
print("seeded", files * rows)
"""
CHECK = """
import pathlib, sys
import pyarrow.dataset as ds, pyarrow.compute as pc
rows = int(sys.argv[2])
assert (pathlib.Path(sys.argv[1]) / "_SUCCESS").exists(), "no _SUCCESS"
table = ds.dataset(sorted(str(p) for p in pathlib.Path(sys.argv[1]).glob("*.parquet"))).to_table()
wanted = [n for n in range(rows) if n % 50 < 40]
keys = sorted(table["l_partkey"].to_pylist())
assert keys == wanted, (len(keys), len(wanted))
assert pc.sum(table["lines"]).as_py() == len(wanted)
total = sum(n % 50 + 1 for n in wanted)
assert pc.sum(table["revenue"]).as_py() * 100 == total * 95
print("VERIFIED", len(keys))
"""
"""Every key is there once: the output says whether a row was lost or counted twice, decimals exactly."""


@dataclass
class Story:
    image: str
    namespace: str
    root: str = "/data"
    patch: Json = field(default_factory=dict)
    """What stands in for an image: merged into every pod."""
    files: int = 24
    rows: int = 250_000
    here: bool = False
    """On the local node: the scripts run on this machine."""
    python: tuple[str, ...] = ("python",)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.api = Cluster(self.namespace)

    def submit(self, folder: Path, shape: str, memory: str, max_memory: str, *more: str) -> str:
        name = f"e2e-{shape}-{uuid.uuid4().hex[:6]}"
        self.names.append(name)
        patch = merge(self._pod_patch(name), self.patch)
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(patch))
        parser = argparse.ArgumentParser()
        submit.add_arguments(parser)
        words = [
            JOB, "--image", self.image, "--name", name, "--namespace", self.namespace, "--shape", shape,
            "--memory", memory, "--max-memory", max_memory, "--state-size", "2Gi", "--pod-patch", str(path), "--events",
            "--set", f"src={self.root}/in", "--set", f"out={self.root}/out/{name}", "--detach", *more,
        ]  # fmt: skip
        assert submit.run(parser.parse_args(words)) == 0
        return name

    def _pod_patch(self, name: str) -> Json:
        command = ["run", "jobs/part_revenue.py", f"--set=src={self.root}/in", f"--set=out={self.root}/out/{name}"]
        etl: Json = {"name": "etl"}
        if self.here:
            self._script(SEED, f"{self.root}/in", str(self.files), str(self.rows))
            etl["command"] = [*self.python, "-m", "etlkit", "run", JOB, *command[2:], "--progress=json"]
            etl["env"] = [
                {"name": "ETLKIT_STATE", "value": f"{self.root}/state/{name}"},
                {"name": "ETLKIT_CONFIG", "value": ""},
                {"name": "PYTHONPATH", "value": str(REPOSITORY)},
            ]
            etl["volumeMounts"] = [{"name": "data", "mountPath": self.root}]
            return {"spec": {"containers": [etl]}}
        seed = self._container("seed", [*self.python, "-c", SEED, f"{self.root}/in", str(self.files), str(self.rows)])
        return {"spec": {"initContainers": [seed], "containers": [etl]}}

    def _container(self, name: str, command: list[str]) -> Json:
        return {
            "name": name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": command,
            # A small request: the largest init container's is the pod's, and would be room that a resize needs not ask for.
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "data", "mountPath": self.root}, {"name": "tmp", "mountPath": "/tmp"}],
        }

    @property
    def patch_without_seed(self) -> Json:
        """For pods that make no input."""
        return {"spec": {key: value for key, value in self.patch.get("spec", {}).items() if key != "initContainers"}}

    def placed(self, name: str) -> bool:
        pods = self.api.list("Pod", labelSelector=f"{JOB_NAME}={name}").body.get("items") or []
        return any(pod["spec"].get("nodeName") for pod in pods)

    def watch(self, name: str) -> Watched:
        return Watched(JobWatch(self.api, name))

    def verify(self, name: str) -> None:
        out, total = f"{self.root}/out/{name}", str(self.files * self.rows)
        if self.here:
            assert "VERIFIED" in self._script(CHECK, out, total)
            return
        found = self.api.get("Job", name).body["spec"]["template"]["spec"]
        pod = f"check-{name}"
        spec = {key: found[key] for key in ("securityContext", "volumes")} | {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [self._container("etl", [*self.python, "-c", CHECK, out, total])],
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": self.namespace}, "spec": spec}
        body = merge(body, self.patch_without_seed)
        created = self.api.create(body)
        assert created.ok, created.explain()
        watched = self.watch(pod)
        try:
            assert watched.until_it_ends() == "Complete" and any("VERIFIED" in line for line in watched.lines), (
                watched.lines
            )
        finally:
            self.api.delete("Pod", pod)

    def _script(self, script: str, *arguments: str) -> str:
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def clean(self) -> None:
        for name in self.names:
            for kind, suffix in (
                ("Job", ""),
                ("RoleBinding", ""),
                ("RoleBinding", "-events"),
                ("ServiceAccount", ""),
                ("ConfigMap", "-config"),
            ):
                self.api.delete(kind, name + suffix)
            self.api.delete("PersistentVolumeClaim", f"{name}-data")


class Watched:
    """A Job's log and looks, gathered."""

    def __init__(self, watch: JobWatch) -> None:
        self._watch = watch
        self.lines: list[str] = []
        self.looks: list[Look] = []

    @property
    def events(self) -> list[Json]:
        found = []
        for line in self.lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                found.append(event)
        return found

    def of(self, kind: str) -> list[Json]:
        return [event for event in self.events if event["event"] == kind]

    def look(self) -> Look:
        look = self._watch.look()
        self.looks.append(look)
        self.lines += [line for pod in look.pods for line in pod.lines]
        return look

    def until(self, what: str, met: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        deadline_s = time.monotonic() + patience_s
        while True:
            look = self.look()
            tail = "\n".join(self.lines[-20:])
            if value := met():
                return value
            assert not look.condition, f"the Job is {look.condition} before {what}; {look.troubles}\n" + "\n".join(
                self.lines[-20:]
            )
            assert time.monotonic() < deadline_s, (
                f"not in {patience_s:g} s: {what}; {look.pods}; {look.troubles}\n{tail}"
            )
            time.sleep(0.25)

    def until_it_ends(self) -> str:
        condition: str = self.until("the end", lambda: self.looks[-1].condition)
        self.look()
        return condition

    @property
    def killed(self) -> bool:
        return any(
            pod.ended is not None and pod.ended.reason == "OOMKilled" for look in self.looks for pod in look.pods
        )


@contextmanager
def told(image: str, namespace: str, **options: Any) -> Iterator[Story]:
    story = Story(image, namespace, **options)
    try:
        yield story
    finally:
        story.clean()


def grows_and_finishes(story: Story, folder: Path, shape: str, memory: str = "160Mi", *more: str) -> None:
    """The main story, for each shape."""
    name = story.submit(folder, shape, memory, "1Gi", *more)
    watched = story.watch(name)
    assert watched.until_it_ends() == "Complete"
    assert not watched.killed
    started = watched.of("attempt_started")
    assert watched.of("checkpoint"), "it checkpointed"
    granted = [e for e in watched.of("resize") if e["outcome"] == "actuated"]
    limits = [e["limit_bytes"] for e in started] + [e["to_bytes"] for e in watched.of("limit_changed")]
    assert len(set(limits)) > 1, f"the limit never changed: {limits}"
    if shape == "restart":
        assert len(started) > 1 and started[-1]["resumed_from"] is not None, "it was restarted and resumed"
        ends = [pod.ended.message for look in watched.looks for pod in look.pods if pod.ended is not None]
        assert any("exit 75: checkpointed, work left" in message for message in ends), f"how it ended: {ends[-3:]}"
        assert max(pod.view.restart_count for pod in watched.looks[-1].pods) >= 1
    else:
        assert granted and len(started) == 1, "it grew without a restart"
    # The role lets it say so; with a restart the process may have ended before its event had left.
    told = {one.reason for one in JobWatch(story.api, name, logs=False).told()}
    assert shape == "restart" or told >= {"MemoryResizeRequested", "MemoryResizeActuated"}, told
    story.verify(name)
    # The same again: nothing is there to do.
    assert story.api.get("Job", name).ok


def is_deferred_and_then_granted(
    story: Story, folder: Path, fill: Callable[[str], Callable[[], None]], memory: str = "160Mi", *more: str
) -> None:
    """Behind a blocker the job goes on within its limit; when the blocker leaves, it gets its room."""
    name = story.submit(folder, "live", memory, "1Gi", *more)
    watched = story.watch(name)
    # Before it can have asked: while it seeds its input, or imports.
    watched.until("it is placed", lambda: story.placed(name))
    leave = fill("16Mi")
    try:
        watched.until("it is deferred", lambda: [e for e in watched.of("resize") if e["outcome"] == "deferred"])
    finally:
        leave()
    assert watched.until_it_ends() == "Complete"
    assert [e for e in watched.of("resize") if e["outcome"] == "actuated"] and not watched.killed
    story.verify(name)
