"""A signal waits for what is unbroken, and no longer."""

import signal
import threading

import pytest

from flexor_search.interrupts import interrupt, orderly, unbroken


@pytest.fixture
def handled():
    """SIGINT and SIGTERM handled as the command line does."""
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in earlier:
        signal.signal(number, interrupt)
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_outermost_block(handled, number):
    done = []

    @unbroken()
    def work():
        with unbroken():
            signal.raise_signal(number)
            done.append("inner")
        done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inner", "outer"]
    with unbroken():  # nothing is left of it
        done.append("later")


def test_outside_a_signal_interrupts_at_once(handled):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    with unbroken():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_two_signals_in_a_block_are_one_interruption(handled):
    @unbroken()
    def work():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
    with unbroken():
        pass


def test_what_goes_wrong_in_a_block_is_not_forgotten(handled):
    @unbroken()
    def work():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("the disk is full")

    with pytest.raises(KeyboardInterrupt) as told:
        work()
    assert isinstance(told.value.__context__, ValueError)
    with pytest.raises(ValueError, match="again"), unbroken():
        raise ValueError("again")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_block_of_another_thread_holds_nothing_up(handled):
    inside, leave = threading.Event(), threading.Event()

    def work():
        with unbroken():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        leave.set()
        thread.join()


def test_a_search_handles_ctrl_c_only_where_nobody_else_does():
    default = signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is default
    with orderly():
        assert signal.getsignal(signal.SIGINT) is interrupt
    assert signal.getsignal(signal.SIGINT) is default
    with pytest.raises(RuntimeError), orderly():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is default
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with orderly():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, default)
