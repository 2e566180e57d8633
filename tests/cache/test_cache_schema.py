import errno
import os
import stat

import pytest

from cache import StoreError, replacing, write_json


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "kept.json"
    path.write_text("old")
    return path


def fill_then(error, target):
    with replacing(target) as temporary:
        temporary.write_text("half")
        raise error


def test_what_was_written_takes_the_place_of_the_old_file(target):
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt()])
def test_the_old_file_stays_whole_when_the_writer_raises(target, error):
    with pytest.raises(type(error)):
        fill_then(error, target)
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == [target.name]


def test_a_full_disk_is_named_and_loses_nothing(target, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match=r"kept\.json: No space left"):
        write_json(target, {"new": 1})
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == [target.name]


def test_a_vanished_folder_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"cannot write .*gone.*key\.json"):
        write_json(tmp_path / "gone" / "key.json", {})


def test_bytes_are_durable_before_they_get_their_name_and_the_name_before_success(target, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def syncs(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "bytes")
        fsync(descriptor)

    def renames(source, destination):
        done.append("name")
        replace(source, destination)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(os, "replace", renames)
    write_json(target, {})
    assert done == ["bytes", "name", "folder"]
