"""How many cores are counted: affinity, hyper-threads, and control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.engine.threads import (
    allowed_cpus,
    cpu_quota,
    parse_cpu_max,
    parse_groups,
    physical_cores,
    usable_cores,
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def siblings(root: Path, *groups: str) -> None:
    for group in groups:
        for number in group.split(","):
            path = root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
            write(path, f"{group}\n")


class TestPhysicalCores:
    def test_hyper_threads_count_once(self, tmp_path: Path) -> None:
        siblings(tmp_path, "0,4", "1,5", "2,6", "3,7")
        assert physical_cores(range(8), tmp_path) == 4

    def test_only_the_allowed_ones(self, tmp_path: Path) -> None:
        siblings(tmp_path, "0,4", "1,5", "2,6", "3,7")
        assert physical_cores({0, 4, 5}, tmp_path) == 2

    def test_without_a_topology_each_cpu_is_a_core(self, tmp_path: Path) -> None:
        (tmp_path / "sys/devices/system/cpu").mkdir(parents=True)
        assert physical_cores({0, 1, 2}, tmp_path) == 3

    def test_a_system_that_does_not_tell(self, tmp_path: Path) -> None:
        assert physical_cores(range(8), tmp_path) == 4
        assert physical_cores({0}, tmp_path) == 1


class TestQuota:
    def test_none(self, tmp_path: Path) -> None:
        assert cpu_quota(tmp_path) is None
        write(tmp_path / "proc/self/cgroup", "0::/\n")
        assert cpu_quota(tmp_path) is None

    @pytest.mark.parametrize(("text", "quota"), [("250000 100000\n", 2.5), ("max 100000\n", None)])
    def test_version_2(self, tmp_path: Path, text: str, quota: float | None) -> None:
        write(tmp_path / "proc/self/cgroup", "0::/\n")
        write(tmp_path / "sys/fs/cgroup/cpu.max", text)
        assert cpu_quota(tmp_path) == quota

    def test_the_least_on_the_way_up(self, tmp_path: Path) -> None:
        write(tmp_path / "proc/self/cgroup", "0::/outer/inner\n")
        write(tmp_path / "sys/fs/cgroup/outer/cpu.max", "300000 100000")
        write(tmp_path / "sys/fs/cgroup/outer/inner/cpu.max", "800000 100000")
        assert cpu_quota(tmp_path) == 3

    @pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
    def test_version_1(self, tmp_path: Path, mount: str) -> None:
        write(tmp_path / "proc/self/cgroup", "5:memory:/a\n4:cpu,cpuacct:/a\n")
        write(tmp_path / f"sys/fs/cgroup/{mount}/a/cpu.cfs_quota_us", "50000\n")
        write(tmp_path / f"sys/fs/cgroup/{mount}/a/cpu.cfs_period_us", "100000\n")
        assert cpu_quota(tmp_path) == 0.5

    def test_in_a_container_the_limit_is_at_the_root(self, tmp_path: Path) -> None:
        write(tmp_path / "proc/self/cgroup", "4:cpu,cpuacct:/docker/0123\n")
        write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
        write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
        assert cpu_quota(tmp_path) is None
        write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n")
        assert cpu_quota(tmp_path) == 2

    def test_a_group_outside_the_namespace(self, tmp_path: Path) -> None:
        write(tmp_path / "proc/self/cgroup", "0::/../other\n")
        write(tmp_path / "sys/fs/cgroup/cpu.max", "100000 100000")
        write(tmp_path / "sys/fs/other/cpu.max", "700000 100000")
        assert cpu_quota(tmp_path) == 1


def test_lines_that_say_nothing_of_the_cpu() -> None:
    assert parse_groups("3:cpuset:/a\n2:name=systemd:/b\n\n") == []


def test_a_period_that_is_not_given_is_the_kernels_default() -> None:
    assert parse_cpu_max("150000") == 1.5


class TestUsableCores:
    def machine(self, root: Path, quota: str) -> None:
        siblings(root, *(str(number) for number in allowed_cpus()))
        write(root / "proc/self/cgroup", "0::/\n")
        write(root / "sys/fs/cgroup/cpu.max", quota)

    def test_a_quota_is_rounded_down_but_not_to_nothing(self, tmp_path: Path) -> None:
        self.machine(tmp_path, "50000 100000")
        assert usable_cores(tmp_path) == 1
        self.machine(tmp_path, "199999 100000")
        assert usable_cores(tmp_path) == 1

    def test_no_more_than_there_are(self, tmp_path: Path) -> None:
        self.machine(tmp_path, "99900000 100000")
        assert usable_cores(tmp_path) == len(allowed_cpus())

    def test_this_machine(self) -> None:
        assert 1 <= usable_cores() <= len(allowed_cpus())
