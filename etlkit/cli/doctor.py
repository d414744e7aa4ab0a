"""``etlkit doctor``: whether a job that runs here can checkpoint, see its limit, ask for memory and be restarted.

It looks and asks, and changes nothing: files are written in a folder of its own that is removed, and the PATCH is a dry run.
It does not run the job; ``etlkit plan`` says what a job needs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from ..kube.checks import Check
    from ..settings import Settings

NAME = "doctor"
HELP = "check this place: cgroup, state directory, API server, permissions, policies; and where each setting comes from"
SLOW_SYNC_S = 0.05
SMALL_LIMIT_BYTES = 128 * 1024 * 1024
LITTLE_ROOM_BYTES = 1024**3
_SYNCS = 8
_MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", metavar="DIR", help="the state directory to check")
    parser.add_argument("--max-memory", metavar="SIZE", help="the cap to check")
    parser.add_argument(
        "--meet",
        metavar="0|1",
        type=int,
        choices=(0, 1),
        help="only test the state's volume together with a second doctor in another pod, which has the other number",
    )
    parser.add_argument("--meet-wait", metavar="T", default="2m", help="how long to wait for the other (default: 2m)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    from ..exits import Exit
    from ..kube.checks import Level
    from ..settings import load

    settings = load(vars(args))
    if args.meet is not None:
        from ..units import parse_seconds

        checks, admin = check_meeting(settings.state or ".etlkit", args.meet, parse_seconds(args.meet_wait)), None
    else:
        pod_checks, admin = check_cluster(settings)
        checks = [*check_memory(), *check_state(settings.state), *pod_checks]
    if args.json:
        import json

        print(json.dumps(as_json(checks, settings, admin), default=str))
    else:
        show(checks, settings, admin, sys.stdout)
    return Exit.CONFIG if any(check.level is Level.FAIL for check in checks) else Exit.DONE


def as_json(checks: list[Check], settings: Settings, admin: str | None) -> dict[str, object]:
    rows = [{"key": key, "value": value, "origin": origin} for key, value, origin in settings.rows()]
    return {"checks": [check.to_json() for check in checks], "settings": rows, "request_for_admin": admin}


def show(checks: list[Check], settings: Settings, admin: str | None, out: TextIO) -> None:
    """Plain text: it is read in pod logs as often as in a terminal."""
    from ..observe.terminal import wrapped

    for check in checks:
        print(wrapped(f"{check.level.upper():<5} {check.name}: {check.what}", out, 6), file=out)
        if check.why:
            print(wrapped(f"      {check.why}", out, 0), file=out)
        if check.remedy:
            print(wrapped(f"      → {check.remedy}", out), file=out)
    print("\nSettings", file=out)
    for key, value, origin in settings.rows():
        print(f"  {key:<18} {_shown(key, value):<22} {origin}", file=out)
    if admin is not None:
        print(f"\nTo send to an administrator:\n\n{admin}", file=out)


def _shown(key: str, value: object) -> str:
    from ..units import quantity_bytes

    if value is None:
        return "-"
    if key == "max_memory" and isinstance(value, int):
        return quantity_bytes(value)
    return f"{value:g}s" if isinstance(value, float) and not key.startswith("policy.") else str(value)


def check_memory(environ: Mapping[str, str] = os.environ, root: str = "/") -> list[Check]:
    from ..errors import EtlkitError
    from ..kube.checks import Check, Level, ok
    from ..memory.cpu import find_cpu_reader
    from ..memory.discover import find_reader
    from ..units import format_bytes

    try:
        reader = find_reader(root, environ)
        sample, limit_bytes = reader.read(), reader.limit_bytes()
        quota_cores = find_cpu_reader(root, environ).read().quota_cores
    except EtlkitError as error:
        return [Check("cgroup", Level.FAIL, error.message, "the limit is read from it", error.remedy)]
    used = f"{format_bytes(sample.used_bytes)} used"
    checks = []
    if limit_bytes is None:
        why = "without a limit there is nothing to foresee: the job is never short until the machine is"
        remedy = "set resources.limits.memory, or try `etlkit local --memory 512Mi`"
        checks.append(Check("cgroup", Level.WARN, f"{reader.describe()}; {used}", why, remedy))
    elif limit_bytes < SMALL_LIMIT_BYTES:
        why = "Python and pyarrow alone need some 100 MiB"
        what = f"{reader.describe()}; {used}"
        checks.append(Check("cgroup", Level.WARN, what, why, "start with 192Mi or more"))
    else:
        checks.append(ok("cgroup", f"{reader.describe()} ({format_bytes(limit_bytes)}); {used}"))
    if sample.oom_kills:
        why = "something in this group was killed for memory already"
        checks.append(Check("OOM kills", Level.WARN, str(sample.oom_kills), why, "`etlkit show STATE` says when"))
    checks.append(ok("CPU quota", "none" if quota_cores is None else f"{quota_cores:g} cores"))
    return checks


def check_state(state: str | None) -> list[Check]:
    """The volume under the state directory, tried in a folder of our own beside where the state is or will be."""
    from ..kube.checks import Check, Level

    place = state or ".etlkit"
    if "://" in place:
        return [_object_store(place)]
    folder = Path(place).absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".etlkit-doctor-", dir=folder) as probe:
            return [_filesystem(place, folder), _commit(Path(probe)), _sync(Path(probe)), _room(folder)]
    except OSError as error:
        why = "checkpoints are written there"
        remedy = "mount a writable volume there, or name another folder with --state or ETLKIT_STATE"
        return [Check("state", Level.FAIL, f"{folder}: {error.strerror}", why, remedy)]


def check_meeting(state: str, part: int, wait_s: float) -> list[Check]:
    """What one process alone can't find out about a volume that several pods share."""
    from ..checkpoint.meeting import NobodyCameError, meet
    from ..errors import EtlkitError
    from ..kube.checks import Check, Level, ok

    try:
        found = meet(state, part, wait_s)
    except NobodyCameError as error:
        why = "a volume that two pods share is tried by two pods"
        remedy = f"start `etlkit doctor --meet {1 - part}` with the same --state in another pod, best on another node"
        return [Check("meeting", Level.FAIL, str(error), why, remedy)]
    except EtlkitError as error:
        remedy = "mount a volume there that both may write, or name another place with --state"
        return [Check("meeting", Level.FAIL, error.message, "checkpoints are written there", remedy)]
    checks = []
    for one in found:
        if one.holds:
            checks.append(ok(one.name, one.what))
        elif one.holds is None:
            checks.append(Check(one.name, Level.WARN, one.what, "nothing is lost by it", "start one run at a time"))
        else:
            why = "two pods that share this volume could lose or repeat work"
            remedy = "use another volume (NFS 4, CephFS), or an object store with conditional writes"
            checks.append(Check(one.name, Level.FAIL, one.what, why, remedy))
    return checks


def _object_store(place: str) -> Check:
    """Ask the store whether its conditional put is one; it does the same before each run."""
    from ..checkpoint.store import open_store
    from ..errors import EtlkitError
    from ..kube.checks import Check, Level, ok

    began_s = time.perf_counter()
    try:
        open_store(place).prepare()
    except EtlkitError as error:
        return Check(
            "state", Level.FAIL, error.message, "a checkpoint is committed by one conditional put", error.remedy
        )
    except Exception as error:  # whatever the store's own package raises for a missing bucket or credentials
        why = "checkpoints are written there"
        remedy = "check the bucket's name and the credentials in the environment"
        return Check("state", Level.FAIL, f"{place}: {type(error).__name__}: {error}", why, remedy)
    took_s = time.perf_counter() - began_s
    return ok("state", f"{place}: its conditional put was tried, {took_s * 1000:.0f} ms in all")


def _filesystem(place: str, folder: Path, mounts: str = "/proc/self/mountinfo") -> Check:
    from ..kube.checks import Check, Level, ok

    kind, root = mounted_as(folder, Path(mounts))
    where = f"{place} on {kind}"
    remedy = "mount a PersistentVolumeClaim there"
    if kind in _MEMORY_FILESYSTEMS:
        why = "it is memory: it counts against the limit and is gone with the pod"
        return Check("state", Level.FAIL if in_pod() else Level.WARN, where, why, remedy)
    if kind == "overlay" and in_pod():
        why = "the container's own file system is gone when the container restarts, and the job would begin anew each time"
        return Check("state", Level.FAIL, where, why, remedy)
    if "kubernetes.io~empty-dir" in root:
        why = "an emptyDir outlives restarts of the container, but not the pod"
        return Check("state", Level.WARN, f"{where}, an emptyDir", why, remedy)
    return ok("state", where)


def in_pod(environ: Mapping[str, str] = os.environ) -> bool:
    return "KUBERNETES_SERVICE_HOST" in environ


def mounted_as(folder: Path, mountinfo: Path) -> tuple[str, str]:
    """File system and, within it, the folder that is mounted; of the deepest mount point above ``folder``."""
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return "an unknown file system", ""
    best, found = -1, ("an unknown file system", "")
    resolved = folder.resolve()
    for line in lines:
        fields, _, rest = line.partition(" - ")
        root, point = (part.replace("\\040", " ") for part in fields.split()[3:5])
        if resolved.is_relative_to(point) and len(point) >= best:
            best, found = len(point), (rest.split()[0], root)
    return found


def _commit(probe: Path) -> Check:
    """The atomic step: link(2), which must fail if the name is taken."""
    from ..kube.checks import Check, Level, ok

    staged, name = probe / "staged", probe / "committed"
    staged.write_bytes(b"x")
    try:
        os.link(staged, name)
    except OSError as error:
        why = "a commit is a hard link; without them a slower pair of claim file and rename is used"
        remedy = "use a volume with hard links if you can (ext4, XFS, NFS)"
        return Check("commit", Level.WARN, f"no hard links here: {error.strerror}", why, remedy)
    try:
        os.link(staged, name)
    except FileExistsError:
        return ok("commit", "a name is given once: link(2) fails when it is taken")
    why = "two writers could both believe that they committed"
    return Check(
        "commit", Level.FAIL, "link(2) replaced a name that was taken", why, "use another volume (ext4, XFS, NFS)"
    )


def _sync(probe: Path) -> Check:
    from ..kube.checks import Check, Level, ok

    times_s = []
    for number in range(_SYNCS):
        began_s = time.perf_counter()
        with (probe / f"sync-{number}").open("wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        handle = os.open(probe, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        times_s.append(time.perf_counter() - began_s)
    median_s, worst_s = statistics.median(times_s), max(times_s)
    what = f"{median_s * 1000:.1f} ms for a file and its folder (median of {_SYNCS}, worst {worst_s * 1000:.1f} ms)"
    if median_s > SLOW_SYNC_S:
        why = "a checkpoint waits for several of these"
        return Check("fsync", Level.WARN, what, why, "use a faster volume, or set checkpoint_every to 10s or more")
    return ok("fsync", what)


def _room(folder: Path) -> Check:
    import shutil

    from ..kube.checks import Check, Level, ok
    from ..units import format_bytes

    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < LITTLE_ROOM_BYTES:
        why = "state that does not fit in memory is spilled there, and the output is staged on its own volume"
        return Check("room", Level.WARN, f"{format_bytes(free_bytes)} free", why, "use a larger volume")
    return ok("room", f"{format_bytes(free_bytes)} free")


def check_cluster(settings: Settings, environ: Mapping[str, str] = os.environ) -> tuple[list[Check], str | None]:
    """The findings, and what to send to an administrator where permissions are missing."""
    from ..errors import EtlkitError
    from ..kube import checks
    from ..kube.answer import Kind
    from ..kube.client import Patience, PodClient
    from ..kube.identity import PodIdentity, find_access, find_identity, missing_names
    from ..kube.pod import read_pod

    access, identity = find_access(environ), find_identity(environ)
    if access is None:
        return [checks.ok("pod", "this is no pod: nobody can be asked for memory, and nothing restarts it")], None
    found = []
    if identity is None:
        names = ", ".join(missing_names(environ))
        why = "the job does not know which pod and container to ask for; it never guesses"
        remedy = "set them in the manifest: names by the downward API, the container's name as a literal"
        found.append(checks.Check("pod identity", checks.Level.FAIL, f"{names} not set", why, remedy))
    client = PodClient(access, identity or PodIdentity("", "", ""), Patience(tries=2))
    version = client.get_version()
    found.append(checks.check_version(version))
    if identity is None or version.kind in (Kind.NO_TOKEN, Kind.TLS, Kind.TIMEOUT, Kind.UNREACHED):
        return found, None
    found.insert(0, checks.ok("pod identity", str(identity)))
    pod = client.get_pod()
    found.append(checks.check_get(pod))
    if not pod.ok:
        return found, _request(identity.namespace, checks.service_account_of(pod)) if pod.kind is Kind.RBAC else None
    try:
        view = read_pod(pod.body, identity.container)
    except EtlkitError as error:
        why = "a resize is asked for by the container's name"
        found.append(checks.Check("container", checks.Level.FAIL, error.message, why, error.remedy))
        return found, None
    admin = None
    if view.spec.limit_bytes is not None:
        size_bytes, cap_bytes = view.spec.limit_bytes, settings.max_memory_bytes
        patch = client.resize_memory(size_bytes, view, request_bytes=view.spec.request_bytes, dry_run=True)
        found.append(checks.check_patch(patch, size_bytes, cap=False))
        if patch.kind is Kind.RBAC:
            admin = _request(identity.namespace, checks.service_account_of(pod, patch))
        if patch.ok and cap_bytes is not None and cap_bytes > size_bytes:
            found.append(checks.check_patch(client.resize_memory(cap_bytes, view, dry_run=True), cap_bytes, cap=True))
    return found + checks.check_pod(view, settings.backoff_limit, settings.max_memory_bytes), admin


def _request(namespace: str, service_account: str | None) -> str:
    from ..kube.checks import request_for_admin

    return request_for_admin(namespace, service_account or "default")
