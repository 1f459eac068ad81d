"""What `import flexor_search as fs` offers: every name is there, none is hidden, none imported before its time."""

import pkgutil
import subprocess
import sys

import pytest

import flexor_search as fs


def test_every_name_is_there_and_documented():
    assert sorted(name for names in fs._HOMES.values() for name in names) == sorted(fs.__all__) == fs.__dir__()
    for name in fs.__all__:
        assert getattr(fs, name).__doc__, name


def test_no_module_hides_a_name():
    assert not {module.name for module in pkgutil.iter_modules(fs.__path__)} & set(fs.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'flexor_search' has no attribute 'serach'"):
        fs.serach  # noqa: B018


def test_errors_are_typed():
    for name in fs.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(fs, name), fs.FlexorError)
    assert issubclass(fs.UsageError, ValueError)


def test_names_that_need_no_torch_come_without_it():
    names = "fs.Question('1bpw'); fs.read_config; fs.DataError"
    code = f"import sys, flexor_search as fs; {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
