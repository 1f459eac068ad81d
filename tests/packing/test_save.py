"""Writing a packed file: whole or not at all."""

import errno
import os

import pytest

from flexor_search.errors import RunError, VerificationError
from flexor_search.packing import load, pack, save, to_bytes
from flexor_search.planning import Allocation, LayerSpec

from .models import digits_case


@pytest.fixture(scope="module")
def case():
    return digits_case()


@pytest.fixture(scope="module")
def packed(case):
    return pack(case.model, case.allocation)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_or_read_only_disk_leaves_nothing(tmp_path, monkeypatch, case, packed, failing, code):
    def fails(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(failing, fails)
    with pytest.raises(RunError, match=f"cannot write .*model.safetensors: {os.strerror(code)}.*another folder"):
        save(packed, case.allocation, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path, monkeypatch, case, packed):
    path = tmp_path / "model.safetensors"
    save(packed, case.allocation, path)
    before = path.read_bytes()

    def fails(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(RunError):
        save(packed, case.allocation, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_or_is_a_file(tmp_path, case, packed):
    (tmp_path / "file").touch()
    for folder in ("nowhere", "file"):
        with pytest.raises(RunError, match="cannot write"):
            save(packed, case.allocation, tmp_path / folder / "model.safetensors")
    with pytest.raises(RunError, match="cannot write"):
        save(packed, case.allocation, tmp_path)


def test_saving_replaces_and_leaves_one_file(tmp_path, case, packed):
    path = tmp_path / "model.safetensors"
    path.write_text("an older file")
    save(packed, case.allocation, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == to_bytes(packed, case.allocation)
    assert load(path).folded == ("1",)


def test_another_allocations_size_is_noticed_before_anything_is_written(tmp_path, case, packed):
    wrong = Allocation.of(case.allocation.model, case.allocation.layers | {"3": LayerSpec(n_in=7, n_out=7)})
    with pytest.raises(VerificationError, match=r"wrote \d+ bytes where \d+ were predicted"):
        save(packed, wrong, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
