"""Which files are read, on layouts as they are found in the world. Each is a small tree below a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from etlkit.errors import ConfigError, EtlkitError
from etlkit.memory import find_cpu_reader, find_reader
from etlkit.memory.cgroup_v1 import CgroupV1Reader
from etlkit.memory.cgroup_v2 import CgroupV2Reader
from etlkit.memory.process import ProcessReader
from etlkit.testing.fake_cgroup import FakeCgroup

MIB = 1024**2
NO_LIMIT_V1 = 9223372036854771712
POD = "kubepods/burstable/pod3f2a"
POD_SYSTEMD = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3f2a.slice"


def write(root: Path, name: str, text: str | int) -> None:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def proc(root: Path, cgroup: str, *mounts: str) -> None:
    write(root, "proc/self/cgroup", cgroup)
    other = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw", "23 22 0:5 / /proc rw - proc proc rw"]
    write(root, "proc/self/mountinfo", "\n".join([*other, *mounts]))


def v1_mount(inside: str = "/", point: str = "/sys/fs/cgroup/memory", controllers: str = "memory") -> str:
    return f"36 32 0:33 {inside} {point} ro,nosuid shared:14 master:9 - cgroup cgroup rw,{controllers}"


def v2_mount(inside: str = "/", point: str = "/sys/fs/cgroup") -> str:
    return f"30 23 0:26 {inside} {point} rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def v1_group(root: Path, name: str, limit: int, usage: int, inherited: int | None = None, inactive: int = 0) -> None:
    write(root, f"{name}/memory.limit_in_bytes", limit)
    write(root, f"{name}/memory.usage_in_bytes", usage)
    write(root, f"{name}/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3")
    stat = {
        "cache": 1,
        "rss": 1,
        "hierarchical_memory_limit": limit if inherited is None else inherited,
        "total_cache": 20 * MIB,
        "total_rss": usage - 21 * MIB,
        "total_shmem": MIB,
        "total_mapped_file": 5 * MIB,
        "total_dirty": 2 * MIB,
        "total_writeback": MIB,
        "total_workingset_refault_anon": 5,
        "total_workingset_refault_file": 70,
        "total_pgmajfault": 9,
        "total_inactive_file": inactive,
        "total_active_file": 8 * MIB,
    }
    write(root, f"{name}/memory.stat", "\n".join(f"{key} {value}" for key, value in stat.items()))


def v2_group(root: Path, name: str, limit: int | str, usage: int, high: int | str = "max", inactive: int = 0) -> None:
    write(root, f"{name}/memory.max", limit)
    write(root, f"{name}/memory.high", high)
    write(root, f"{name}/memory.current", usage)
    write(root, f"{name}/memory.events", "low 0\nhigh 7\nmax 12\noom 2\noom_kill 2\noom_group_kill 0")
    stat = f"anon {usage // 2}\nfile {usage // 4}\nkernel {MIB}\nfile_mapped {MIB}\ninactive_file {inactive}\n"
    stat += f"active_file {2 * MIB}\nslab_reclaimable 4096\nworkingset_refault_anon 1\nworkingset_refault_file 10\n"
    write(root, f"{name}/memory.stat", stat + "pgmajfault 4")


def test_v1_docker_with_its_own_mount(tmp_path: Path) -> None:
    """Docker without a cgroup namespace: the path is the host's, the mount shows that very folder."""
    container = "/docker/9c1f"
    proc(tmp_path, f"11:memory:{container}\n1:name=systemd:{container}\n0::/", v1_mount(container))
    v1_group(tmp_path, "/sys/fs/cgroup/memory", 256 * MIB, 100 * MIB, inactive=12 * MIB)
    reader = find_reader(tmp_path, {})
    sample = reader.read()
    assert isinstance(reader, CgroupV1Reader)
    assert (sample.limit_bytes, sample.current_bytes, sample.used_bytes) == (256 * MIB, 100 * MIB, 88 * MIB)
    assert (sample.anon_bytes, sample.file_bytes, sample.kernel_bytes) == (79 * MIB, 20 * MIB, MIB)
    assert (sample.dirty_bytes, sample.writeback_bytes, sample.shmem_bytes) == (2 * MIB, MIB, MIB)
    assert (sample.oom_kills, sample.refaults, sample.major_faults) == (3, 75, 9)
    assert sample.psi_some_avg10 is None and sample.high_bytes is None
    assert sample.unreclaimable_bytes == (79 + 1 + 1 + 2 + 1 + 5) * MIB


def test_v1_kubernetes_cgroupfs_seen_from_the_host_takes_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    proc(tmp_path, f"4:memory:/{POD}/c0ffee\n3:cpu,cpuacct:/{POD}/c0ffee", v1_mount())
    base = "/sys/fs/cgroup/memory"
    v1_group(tmp_path, base, NO_LIMIT_V1, 900 * MIB)
    write(tmp_path, f"{base}/release_agent", "")
    v1_group(tmp_path, f"{base}/kubepods", NO_LIMIT_V1, 800 * MIB)
    v1_group(tmp_path, f"{base}/kubepods/burstable", NO_LIMIT_V1, 700 * MIB)
    v1_group(tmp_path, f"{base}/{POD}", 512 * MIB, 300 * MIB)
    v1_group(tmp_path, f"{base}/{POD}/c0ffee", 1024 * MIB, 200 * MIB)
    reader = find_reader(tmp_path, {})
    sample = reader.read()
    # The pod's limit binds, so the use is the pod's, the side-cars' included.
    assert (sample.limit_bytes, sample.current_bytes) == (512 * MIB, 300 * MIB)
    assert reader.describe().endswith(f"{POD}, limit {512 * MIB}")


def test_v1_namespace_hides_the_pod_but_memory_stat_tells_its_limit(tmp_path: Path) -> None:
    proc(tmp_path, "4:memory:/", v1_mount("/"))
    v1_group(tmp_path, "/sys/fs/cgroup/memory", NO_LIMIT_V1, 90 * MIB, inherited=512 * MIB)
    reader = find_reader(tmp_path, {})
    assert reader.read().limit_bytes == 512 * MIB
    assert reader.limit_bytes() == 512 * MIB


def test_v1_mount_of_another_part_of_the_tree_is_read_as_it_is(tmp_path: Path) -> None:
    """The path is the host's, the mount another's view: what is mounted for us is the best there is."""
    proc(tmp_path, f"4:memory:/{POD}/c0ffee", v1_mount("/../.."))
    v1_group(tmp_path, "/sys/fs/cgroup/memory", 64 * MIB, 30 * MIB)
    assert find_reader(tmp_path, {}).read().limit_bytes == 64 * MIB


def test_v1_root_of_the_machine_is_no_group(tmp_path: Path) -> None:
    proc(tmp_path, "4:memory:/", v1_mount())
    v1_group(tmp_path, "/sys/fs/cgroup/memory", NO_LIMIT_V1, 900 * MIB)
    write(tmp_path, "/sys/fs/cgroup/memory/release_agent", "")
    assert isinstance(find_reader(tmp_path, {}), ProcessReader)


def test_v1_mounted_together_with_others_at_a_place_with_a_space(tmp_path: Path) -> None:
    proc(tmp_path, "2:cpu,memory:/job", v1_mount("/", "/cgroup\\040all", "cpu,memory"))
    v1_group(tmp_path, "/cgroup all/job", 99 * MIB, 30 * MIB)
    assert find_reader(tmp_path, {}).read().limit_bytes == 99 * MIB


def test_v2_private_namespace(tmp_path: Path) -> None:
    proc(tmp_path, "0::/", v2_mount())
    v2_group(tmp_path, "/sys/fs/cgroup", 192 * MIB, 80 * MIB, high=160 * MIB, inactive=16 * MIB)
    sample = find_reader(tmp_path, {}).read()
    assert isinstance(find_reader(tmp_path, {}), CgroupV2Reader)
    assert (sample.limit_bytes, sample.high_bytes, sample.used_bytes) == (192 * MIB, 160 * MIB, 64 * MIB)
    assert sample.pressure_limit_bytes == 160 * MIB
    assert (sample.oom_kills, sample.refaults, sample.major_faults) == (2, 11, 4)
    assert sample.source == "cgroup2"


@pytest.mark.parametrize(
    "path",
    [
        f"{POD_SYSTEMD}/cri-containerd-c0ffee.scope",
        f"{POD}/c0ffee",
        "system.slice/docker-9c1f.scope",
        "user.slice/user-1000.slice/user@1000.service/app.slice/run-u1.scope",
    ],
)
def test_v2_host_namespace(tmp_path: Path, path: str) -> None:
    proc(tmp_path, f"0::/{path}", v2_mount())
    v2_group(tmp_path, f"/sys/fs/cgroup/{path}", "max", 70 * MIB)
    v2_group(tmp_path, f"/sys/fs/cgroup/{Path(path).parent}", 128 * MIB, 90 * MIB, high=100 * MIB)
    sample = find_reader(tmp_path, {}).read()
    assert (sample.limit_bytes, sample.current_bytes, sample.high_bytes) == (128 * MIB, 90 * MIB, 100 * MIB)


def test_v2_bind_mount_of_the_own_folder_in_the_host_namespace(tmp_path: Path) -> None:
    proc(tmp_path, f"0::/{POD}/c0ffee/inner", v2_mount(f"/{POD}/c0ffee"))
    v2_group(tmp_path, "/sys/fs/cgroup", 300 * MIB, 90 * MIB)
    v2_group(tmp_path, "/sys/fs/cgroup/inner", 200 * MIB, 80 * MIB)
    assert find_reader(tmp_path, {}).read().limit_bytes == 200 * MIB


def test_v2_group_without_the_memory_controller_is_charged_to_its_parent(tmp_path: Path) -> None:
    proc(tmp_path, "0::/app/leaf", v2_mount())
    v2_group(tmp_path, "/sys/fs/cgroup/app", 77 * MIB, 20 * MIB)
    write(tmp_path, "/sys/fs/cgroup/app/leaf/cgroup.procs", "1")
    assert find_reader(tmp_path, {}).read().limit_bytes == 77 * MIB


def test_hybrid_memory_on_v1(tmp_path: Path) -> None:
    proc(
        tmp_path,
        "9:name=systemd:/a\n4:memory:/a\n0::/a",
        v2_mount(point="/sys/fs/cgroup/unified"),
        v1_mount(),
    )
    v1_group(tmp_path, "/sys/fs/cgroup/memory/a", 64 * MIB, 30 * MIB)
    write(tmp_path, "/sys/fs/cgroup/unified/a/cgroup.procs", "1")
    assert find_reader(tmp_path, {}).read().source == "cgroup1"


def test_hybrid_memory_on_v2(tmp_path: Path) -> None:
    proc(tmp_path, "3:cpu,cpuacct:/a\n0::/a", v1_mount(controllers="cpu,cpuacct"), v2_mount())
    v2_group(tmp_path, "/sys/fs/cgroup/a", 64 * MIB, 30 * MIB)
    assert find_reader(tmp_path, {}).read().source == "cgroup2"


def test_removed_group_is_still_parsed(tmp_path: Path) -> None:
    proc(tmp_path, "0::/a (deleted)", v2_mount())
    v2_group(tmp_path, "/sys/fs/cgroup/a", 64 * MIB, 30 * MIB)
    assert find_reader(tmp_path, {}).limit_bytes() == 64 * MIB


def test_nothing_at_all_reads_the_process(tmp_path: Path) -> None:
    reader = find_reader(tmp_path, {})
    sample = reader.read()
    assert (sample.limit_bytes, reader.limit_bytes(), sample.source) == (None, None, "process")
    assert sample.used_bytes == sample.process_bytes > MIB


def test_own_process_size_is_read_from_proc() -> None:
    sample = ProcessReader().read()
    held = bytearray(32 * MIB)
    grown = ProcessReader().read()
    assert 30 * MIB < grown.used_bytes - sample.used_bytes < 40 * MIB
    assert grown.anon_bytes > len(held)


def test_the_limit_is_never_remembered(tmp_path: Path) -> None:
    proc(tmp_path, "0::/", v2_mount())
    v2_group(tmp_path, "/sys/fs/cgroup", 192 * MIB, 80 * MIB)
    reader = find_reader(tmp_path, {})
    assert reader.limit_bytes() == 192 * MIB
    with open(tmp_path / "sys/fs/cgroup/memory.max", "w") as file:
        file.write("402653184\n")
    assert reader.limit_bytes() == reader.read().limit_bytes == 384 * MIB
    with open(tmp_path / "sys/fs/cgroup/memory.max", "w") as file:
        file.write("max\n")
    assert reader.limit_bytes() is None


def test_old_kernels_name_refaults_and_kernel_memory_otherwise(tmp_path: Path) -> None:
    proc(tmp_path, "0::/", v2_mount())
    v2_group(tmp_path, "/sys/fs/cgroup", "max", 80 * MIB)
    text = f"anon {30 * MIB}\nfile {40 * MIB}\ninactive_file 0\nworkingset_refault 6\npgmajfault 1"
    write(tmp_path, "/sys/fs/cgroup/memory.stat", text)
    sample = find_reader(tmp_path, {}).read()
    assert (sample.refaults, sample.kernel_bytes) == (6, 10 * MIB)


def test_pressure_is_the_groups_own(tmp_path: Path) -> None:
    proc(tmp_path, "0::/", v2_mount())
    v2_group(tmp_path, "/sys/fs/cgroup", "max", 80 * MIB)
    some = "some avg10=12.34 avg60=1.00 avg300=0.10 total=987654\nfull avg10=5.00 avg60=0.00 avg300=0.00 total=1"
    write(tmp_path, "/sys/fs/cgroup/memory.pressure", some)
    sample = find_reader(tmp_path, {}).read()
    assert (sample.psi_some_avg10, sample.psi_some_us) == (12.34, 987654)


def test_etlkit_cgroup_names_a_folder_whose_files_are_replaced(tmp_path: Path) -> None:
    fake = FakeCgroup(tmp_path / "group", limit_bytes=100 * MIB, used_bytes=40 * MIB)
    reader = find_reader(environ=fake.environ)
    assert (reader.read().limit_bytes, reader.read().used_bytes) == (100 * MIB, 40 * MIB)
    fake.set_limit(200 * MIB)
    fake.set_usage(anon_bytes=50 * MIB, inactive_file_bytes=30 * MIB, dirty_bytes=MIB)
    fake.set_oom_kills(1)
    sample = reader.read()
    assert (sample.limit_bytes, sample.used_bytes, sample.current_bytes) == (200 * MIB, 50 * MIB, 80 * MIB)
    assert (sample.dirty_bytes, sample.oom_kills) == (MIB, 1)


def test_without_a_limit_the_jobs_own_size_is_the_process(tmp_path: Path) -> None:
    """The group is the whole machine's then: `show` reported everybody's memory as the peak of the run."""
    fake = FakeCgroup(tmp_path / "group", limit_bytes=None, used_bytes=1 << 50)
    reader = find_reader(environ=fake.environ)
    sample = reader.read()
    assert (sample.limit_bytes, sample.used_bytes, sample.own_bytes) == (None, 1 << 50, sample.process_bytes)
    assert MIB < sample.own_bytes < 1 << 45
    fake.set_limit(1 << 51)
    assert reader.read().own_bytes == 1 << 50


def test_etlkit_cgroup_may_hold_no_more_than_limit_and_use(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    sample = find_reader(environ={"ETLKIT_CGROUP": str(tmp_path)}).read()
    assert (sample.limit_bytes, sample.used_bytes, sample.anon_bytes) == (1000000, 500000, 500000)


def test_etlkit_cgroup_that_is_no_group_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"memory\.current") as caught:
        find_reader(environ={"ETLKIT_CGROUP": str(tmp_path)})
    assert "ETLKIT_CGROUP" in str(caught.value) and caught.value.remedy


def test_a_file_that_goes_away_names_itself(tmp_path: Path) -> None:
    fake = FakeCgroup(tmp_path / "group", limit_bytes=MIB)
    reader = find_reader(environ=fake.environ)
    (tmp_path / "group/memory.current").unlink()
    with pytest.raises(EtlkitError, match=r"memory\.current cannot be read"):
        reader.read()


def test_cpu_v1_takes_the_smallest_quota_on_the_way_up(tmp_path: Path) -> None:
    cpu = v1_mount(point="/sys/fs/cgroup/cpu,cpuacct", controllers="cpu,cpuacct")
    proc(tmp_path, f"3:cpu,cpuacct:/{POD}/c0ffee", cpu)
    base = f"/sys/fs/cgroup/cpu,cpuacct/{POD}"
    for name, quota in ((base, 150000), (f"{base}/c0ffee", -1)):
        write(tmp_path, f"{name}/cpu.cfs_quota_us", quota)
        write(tmp_path, f"{name}/cpu.cfs_period_us", 100000)
        write(tmp_path, f"{name}/cpu.stat", "nr_periods 10\nnr_throttled 2\nthrottled_time 2500000000")
        write(tmp_path, f"{name}/cpuacct.usage", 7_000_000_000)
    sample = find_cpu_reader(tmp_path, {}).read()
    assert (sample.quota_cores, sample.usage_s, sample.throttled_s) == (1.5, 7.0, 2.5)


def test_cpu_v2(tmp_path: Path) -> None:
    proc(tmp_path, "0::/a", v2_mount())
    write(tmp_path, "/sys/fs/cgroup/a/cpu.max", "50000 100000")
    write(tmp_path, "/sys/fs/cgroup/a/cpu.stat", "usage_usec 3000000\nuser_usec 1\nthrottled_usec 500000")
    sample = find_cpu_reader(tmp_path, {}).read()
    assert (sample.quota_cores, sample.usage_s, sample.throttled_s) == (0.5, 3.0, 0.5)


def test_cpu_of_a_fake_group_and_of_none(tmp_path: Path) -> None:
    fake = FakeCgroup(tmp_path / "group")
    fake.set_cpu(2.0, usage_s=1.5, throttled_s=0.25)
    sample = find_cpu_reader(environ=fake.environ).read()
    assert (sample.quota_cores, sample.usage_s, sample.throttled_s) == (2.0, 1.5, 0.25)
    alone = find_cpu_reader(tmp_path / "nowhere", {}).read()
    assert alone.quota_cores is None and alone.usage_s > 0
