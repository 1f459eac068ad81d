"""A reader never sees half a file, and nothing is left lying about."""

import errno
import os
from pathlib import Path

import pytest

from flexor_search.errors import RunError
from flexor_search.files import write_atomically, write_json


@pytest.mark.parametrize("content", [b"", b"one", bytes(range(256)) * 1000])
def test_what_was_written_is_there_and_nothing_else(tmp_path, content):
    path = tmp_path / "file"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def fail(*_args, **_more):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["fsync", "open", "replace"])
@pytest.mark.parametrize("old", [None, b"what was there before"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch, where, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(os if where == "fsync" else Path, where, fail)
        with pytest.raises(RunError, match=f"cannot write {path}: No space left on device; .*another folder"):
            write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if old is not None else [])
    assert old is None or path.read_bytes() == old


def test_the_file_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    path, events = tmp_path / "file", []
    fsync, replace = os.fsync, Path.replace

    def watched_sync(descriptor):
        events.append(("sync", Path(f"/proc/self/fd/{descriptor}").resolve().read_bytes(), path.exists()))
        fsync(descriptor)

    def watched_replace(self, target):
        events.append(("rename", self.parent == path.parent, target))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_atomically(path, b"all of it")
    assert events == [("sync", b"all of it", False), ("rename", True, path)]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(RunError, match="No such file or directory"):
        write_atomically(tmp_path / "absent" / "file", b"")


def test_json_that_others_could_not_read_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "file.json", {"accuracy": float("nan")})
    assert list(tmp_path.iterdir()) == []
