"""Mirror of targets/host.py, on made-up files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvmopt.targets import host


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four hardware threads on two cores, which share a level 2."""
    for cpu in range(4):
        base = tmp_path / "cpus" / f"cpu{cpu}"
        siblings = "0,2" if cpu % 2 == 0 else "1,3"
        _write(
            base / "topology",
            physical_package_id="0",
            die_id="0",
            core_id=str(cpu % 2),
            thread_siblings_list=siblings,
        )
        for number, (level, kind, size, sharers) in enumerate(
            [
                ("1", "Data", "48K", siblings),
                ("1", "Instruction", "32K", siblings),
                ("2", "Unified", "2M", "0-3"),
                ("3", "Unified", "12288K", "0-3"),
            ]
        ):
            _write(
                base / "cache" / f"index{number}",
                level=level,
                type=kind,
                size=size,
                shared_cpu_list=sharers,
            )
    monkeypatch.setattr(host, "_CPUS", tmp_path / "cpus")
    monkeypatch.setattr(host, "_QUOTAS", (tmp_path / "cpu.max", tmp_path / "quota"))
    monkeypatch.setattr(host, "_PERIOD", tmp_path / "period")
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    return tmp_path


def test_two_threads_of_one_core_count_once(machine: Path) -> None:
    assert machine.exists()
    assert host.usable_cores() == 2


def test_affinity_is_heeded(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.exists()
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _pid: {0, 2})
    assert host.usable_cores() == 1


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("max 100000", 2), ("x", 2)])
def test_a_container_s_quota_is_heeded(machine: Path, quota: str, cores: int) -> None:
    (machine / "cpu.max").write_text(quota)
    assert host.usable_cores() == cores


def test_the_older_quota_files_are_heeded(machine: Path) -> None:
    (machine / "quota").write_text("100000")
    (machine / "period").write_text("100000")
    assert host.usable_cores() == 1
    (machine / "quota").write_text("-1")
    assert host.usable_cores() == 2


def test_a_shared_level_2_is_divided_among_cores(machine: Path) -> None:
    assert machine.exists()
    assert host.caches() == host.Caches(l1d=48 * 1024, l2=1024 * 1024, l3=12 * 1024 * 1024)


def test_nothing_is_known_where_nothing_is_told(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_CPUS", machine / "nowhere")
    assert host.caches() == host.Caches()
    assert host.usable_cores() == 4  # each thread by itself
    assert host.arm_features() == frozenset()


def test_arm_names_become_llvm_s(machine: Path) -> None:
    (machine / "cpuinfo").write_text("processor : 0\nFeatures : fp asimd asimddp asimdhp x\n")
    assert host.arm_features() == {"neon", "dotprod", "fullfp16"}
