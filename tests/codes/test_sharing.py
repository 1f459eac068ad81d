import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.codes.sharing import share


@given(st.integers(0, 5000), st.integers(1, 5))
def test_every_unit_is_worked_on_once(size, n_threads):
    done = Counter()
    share(lambda start, stop: done.update(range(start, stop)), size, n_threads)
    assert done == Counter(range(size))


def test_more_threads_than_one_work_and_none_is_waited_for_that_has_not_begun():
    seen, both = set(), threading.Barrier(2, timeout=60)

    def work(start, stop):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            both.wait()

    share(work, 10_000, 2)
    assert len(seen) == 2


def test_what_goes_wrong_in_a_helper_is_told():
    caller, helped = threading.get_ident(), threading.Event()

    def work(start, stop):
        if threading.get_ident() == caller:
            helped.wait(60)
        else:
            helped.set()
            raise RuntimeError("piece")

    with pytest.raises(RuntimeError, match="piece"):
        share(work, 10_000, 2)
