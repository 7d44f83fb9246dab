"""The kind of disk a folder is on: the mount nearest to it says so."""

from __future__ import annotations

from pathlib import Path

from bursar.disk import ephemeral_type, open_to_all

MOUNTS = r"""
22 1 0:1 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/a
23 22 8:1 / /var/lib rw shared:2 master:3 - ext4 /dev/sda1 rw
24 22 0:3 / /run rw - tmpfs tmpfs rw
25 24 8:2 / /run/kept rw - xfs /dev/sdb rw
26 22 0:4 / /mnt/a\040b rw - ext4 /dev/sdc rw
27 22 0:5 / /mnt/a\040b rw - tmpfs tmpfs rw
""".lstrip()


def test_the_nearest_mount_decides_and_of_two_at_one_place_the_later(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    kinds = {
        "/data": "overlay",
        "/var/library": "overlay",
        "/var/lib/bursar": "",
        "/run/bursar": "tmpfs",
        "/run/kept/bursar": "",
        "/mnt/a b/c": "tmpfs",
    }
    assert {each: ephemeral_type(Path(each), mounts=mounts) for each in kinds} == kinds


def test_a_system_that_does_not_say_is_not_warned_of(tmp_path: Path) -> None:
    assert ephemeral_type(Path("/data"), mounts=tmp_path / "absent") == ""


def test_who_may_replace_a_file_is_told_by_the_folders_mode(tmp_path: Path) -> None:
    modes = {0o750: False, 0o770: False, 0o777: True, 0o1777: False}
    for mode, replaced in modes.items():
        tmp_path.chmod(mode)
        assert open_to_all(tmp_path) is replaced, oct(mode)
