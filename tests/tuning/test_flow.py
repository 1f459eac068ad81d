"""Several trials at a time: the same lines and files as one at a time, and an end in order whatever happens."""

import contextlib
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from flexor_search.interrupts import orderly
from flexor_search.runs import CONFIRM, DONE, FAILED, SEARCH, STOPPED, Run
from flexor_search.tuning import SearchPlan, search
from flexor_search.tuning.flow import Flow, Streams
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.rungs import Halving
from flexor_search.tuning.team import choose_team, models_that_fit, trials_ahead
from flexor_search.tuning.trial import Candidate, Trial
from flexor_search.tuning.workers import Workers, _Future
from flexor_search.workloads import Own

from .models import RECIPE, FakeMeasurer, Recorder, budgets, measurer_in, small_net, space_of, uniform_at

SPACE = space_of()
HOPELESS = Halving(dict.fromkeys(range(2000), (2.0,) * 4))


def trials(*n_ins, phase=SEARCH, weak=None, space=SPACE):
    return [Trial(Candidate(uniform_at(space, n_in), "uniform", "0.7bpw"), phase, 0, weak) for n_in in n_ins]


def through(measurer, team, *wanted):
    with Flow(measurer, team) as flow:
        for trial in wanted:
            flow.begin(trial)
        return [flow.end()[0] for _ in wanted]


def without_time(measurements):
    return [replace(m, train_seconds=0.0, worker="") for m in measurements]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(workers):
    return workers._processes.pids


def dying_net():
    """The process ends at once where a layer has few stored bits, as if its memory had been used up."""

    class Dying(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def forward(self, images):
            layer = self.net[3]
            if hasattr(layer, "parametrizations") and layer.parametrizations.weight.original0.numel() < 640:
                print("the last words")
                os.kill(os.getpid(), signal.SIGKILL)
            return self.net(images)

    return Dying()


def assert_same_files(found, *measurers):
    """Packed files of all that finished, byte for byte."""
    for m in found:
        paths = [measurer.run.trained_path(m.number) for measurer in measurers]
        assert all(path.exists() == (m.state == DONE) for path in paths)
        if m.state == DONE:
            assert len({path.read_bytes() for path in paths}) == 1


def test_processes_come_to_the_same_lines_and_files(tmp_path):
    recipe = replace(RECIPE, epochs=4, search_epochs=4)
    wanted = [*trials(14, 8), *trials(10, weak=HOPELESS), *trials(12, phase=CONFIRM)]
    alone, together = (measurer_in(tmp_path / name, recipe=recipe) for name in ("alone", "together"))
    found = through(alone, None, *wanted)
    with Workers(together, 2) as workers:
        assert without_time(through(together, workers, *wanted)) == without_time(found)
        running = pids(workers)
        assert len(running) == 2
        assert through(together, workers, *wanted) == list(together.run.measurements)  # looked up
    assert not any(map(is_running, running))
    assert [m.state for m in found] == [DONE, DONE, STOPPED, DONE]
    assert without_time(Run.open(tmp_path / "together").measurements) == without_time(found)
    assert_same_files(found, alone, together)


def test_a_process_that_dies_fails_its_trial_only(tmp_path):
    space, measurer = space_of(dying_net), measurer_in(tmp_path, dying_net)
    with Workers(measurer, 2) as workers:
        first = pids(workers)
        found = through(measurer, workers, *trials(14, 4, 16, 12, space=space))
        assert workers.seconds_per_image(uniform_at(space, 14)) > 0  # of both, so that there are both again
        assert len(set(pids(workers)) - set(first)) == 1
        running = {*first, *pids(workers)}
    assert [m.state for m in found] == [DONE, FAILED, DONE, DONE]
    assert found[1].reason.startswith("its process ended by signal 9")
    assert [m.number for m in found] == [0, 1, 2, 3]
    assert not any(map(is_running, running))


def test_an_interruption_keeps_what_has_finished_and_leaves_nothing_behind(tmp_path):
    slow = replace(RECIPE, search_epochs=2000, epochs=2000)
    measurer = measurer_in(tmp_path, recipe=slow)
    workers = Workers(measurer, 2)
    running = pids(workers)
    with contextlib.suppress(KeyboardInterrupt), Flow(measurer, workers) as flow:
        flow.begin(trials(14)[0])  # goes on for minutes
        flow.begin(trials(8, weak=HOPELESS)[0])
        flow._begun[1].training.result()
        raise KeyboardInterrupt
    assert [(m.number, m.state) for m in measurer.run.measurements] == [(1, STOPPED)]
    assert not any(map(is_running, running))
    assert [path.name for path in (tmp_path / "trained").iterdir()] == []
    assert measurer.free_numbers(2) == [0, 2]


def test_an_error_of_the_model_comes_through(tmp_path):
    measurer = measurer_in(tmp_path)
    with Workers(measurer, 1) as workers:
        wrong = Trial(Candidate(space_of(dying_net).cheapest, "uniform"), SEARCH, 0)
        with pytest.raises(Exception, match="it was made for another model"):
            through(measurer, workers, wrong)


def test_what_cannot_be_sent_trains_here_with_a_message(tmp_path):
    observer = Recorder()
    measurer = measurer_in(tmp_path, lambda: small_net())
    assert choose_team(measurer, SPACE.dearest, 2, 1.0, 1e9, observer) is None
    ((text,),) = observer.of("message")
    assert text.startswith("one training at a time: model and data cannot be sent to other processes: ")


def test_processes_are_for_runs_that_are_long_and_gain_by_them(tmp_path, monkeypatch):
    observer, measurer = Recorder(), measurer_in(tmp_path)
    monkeypatch.setattr("flexor_search.tuning.team.n_processors", lambda: 2)
    assert choose_team(measurer, SPACE.dearest, 1, 1.0, 1e9, observer) is None
    assert choose_team(measurer, SPACE.dearest, 0, 1.0, 3.0, observer) is None
    assert observer.of("message") == []
    assert choose_team(measurer, SPACE.dearest, 0, 1e-9, 1e9, observer) is None
    assert observer.of("message")[0][0].endswith("2 processes would be 0.00 times as fast")
    team = choose_team(measurer, SPACE.dearest, 0, 1e9, 1e9, observer)
    assert isinstance(team, Workers)
    assert observer.of("message")[1][0].startswith("2 trainings at a time, a process each: measured to be")
    team.stop()


def test_how_far_proposals_run_ahead(monkeypatch):
    monkeypatch.setattr("flexor_search.tuning.team.n_processors", lambda: 4)
    assert [trials_ahead(jobs, "cpu") for jobs in (0, 1, 2, 9)] == [4, 0, 2, 9]
    assert [trials_ahead(jobs, "cuda:0") for jobs in (0, 1, 32)] == [7, 0, 32]
    monkeypatch.setattr("flexor_search.tuning.team.n_processors", lambda: 1)
    assert trials_ahead(0, "cpu") == 0


@pytest.mark.parametrize(
    ("free", "each", "most", "fit"), [(100, 10, 32, 8), (100, 10, 4, 4), (1, 10, 4, 1), (9, 0, 3, 3)]
)
def test_as_many_models_as_fit(free, each, most, fit):
    assert models_that_fit(free, each, most) == fit


def test_streams_come_to_the_same_lines_and_files(tmp_path):
    recipe = replace(RECIPE, epochs=4, search_epochs=4)
    wanted = [*trials(14, 8), *trials(10, weak=HOPELESS)]
    alone, together = (measurer_in(tmp_path / name, recipe=recipe) for name in ("alone", "together"))
    found = through(alone, None, *wanted)
    beside = through(together, Streams(together, 8), *wanted)
    assert [m.state for m in beside] == [DONE, DONE, STOPPED]
    assert without_time(beside) == without_time(found)
    assert without_time(Run.open(tmp_path / "together").measurements) == without_time(found)
    assert_same_files(beside, alone, together)


def test_a_model_that_fails_on_its_stream_fails_alone(tmp_path):
    def net():
        model = small_net()
        if not first:
            model[0].weight.data.fill_(torch.nan)
        first.clear()
        return model

    first = [1]
    measurer = measurer_in(tmp_path, net)
    good, bad = through(measurer, Streams(measurer, 2), *trials(14, 8))
    assert (good.state, bad.state) == (DONE, FAILED)
    assert bad.reason == "the loss is nan in epoch 1, step 1"


def test_what_waits_trains_as_many_at_a_time_as_the_streams_are(tmp_path, monkeypatch):
    sizes, measurer = [], measurer_in(tmp_path)
    together = Measurer.attempt_together

    def counted(self, some, numbers):
        sizes.append(len(some))
        return together(self, some, numbers)

    monkeypatch.setattr(Measurer, "attempt_together", counted)
    found = through(measurer, Streams(measurer, 2), *trials(14, 8, 10))
    assert [m.state for m in found] == [DONE] * 3
    assert sizes == [2, 1]


def test_trainings_that_memory_does_not_hold_are_halved(tmp_path, monkeypatch):
    sizes, real = [], measurer_in(tmp_path)
    from flexor_search.tuning import measurer as module

    train_together = module.train_together

    def limited(models, *args, **more):
        sizes.append(len(models))
        if len(models) > 2:
            raise torch.OutOfMemoryError("no")
        return train_together(models, *args, **more)

    monkeypatch.setattr(module, "train_together", limited)
    found = through(real, Streams(real, 8), *trials(14, 8, 10, 12))
    assert [m.state for m in found] == [DONE] * 4
    assert [m.number for m in found] == [0, 1, 2, 3]
    assert sizes == [4, 2, 2]


def test_a_killed_search_takes_up_each_training_from_its_own_file(tmp_path):
    """Three that trained side by side; the second call trains them in another company and to the same lines."""
    recipe = replace(RECIPE, search_epochs=3)
    alone, killed = (measurer_in(tmp_path / name, recipe=recipe) for name in ("alone", "killed"))
    wanted, written, told = trials(14, 8, 10), [], []
    found = through(alone, None, *wanted)

    def interrupt():
        written.append(1)
        if len(written) == 20:
            raise KeyboardInterrupt

    checkpoint = Measurer.checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            *(Measurer, "checkpoint"),
            lambda self, trial: replace(checkpoint(self, trial), every_seconds=0.0, written=interrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            through(killed, Streams(killed, 3), *wanted)
    assert not killed.run.measurements
    again = Measurer(*(Run.open(tmp_path / "killed"), small_net, killed.data, recipe, "", "cpu"), tell=told.append)
    assert without_time(through(again, Streams(again, 2), *wanted)) == without_time(found)
    assert [text.endswith(": its training goes on from there") for text in told] == [True] * 3
    assert not list((tmp_path / "killed").rglob("unfinished-*"))


@pytest.mark.parametrize(("jobs", "most"), [(0, 16), (3, 3), (40, 40)])
def test_on_a_gpu_streams_train_as_many_as_were_asked_for_or_keep_it_busy(tmp_path, monkeypatch, jobs, most):
    observer, measurer = Recorder(), replace(measurer_in(tmp_path), device="cuda")
    monkeypatch.setattr("flexor_search.tuning.team.models_at_a_time", lambda *args: args[-1])
    team = choose_team(measurer, SPACE.dearest, jobs, 1.0, 1e9, observer)
    assert isinstance(team, Streams)
    assert team.width == most
    assert observer.of("message") == [(f"up to {most} trainings at a time, each on a stream of its own",)]
    own = Own(train=lambda model, train, validation, recipe, seed, report: None)
    assert choose_team(replace(measurer, own=own), SPACE.dearest, jobs, 1.0, 1e9, observer) is None
    assert observer.of("message")[1] == ("one training at a time: a loop of your own trains",)


def accuracy(allocation):
    return round(0.5 + 0.4 * random.Random(allocation.digest).random(), 6)


class FakeTeam:
    """Two threads that measure in a random time; may be interrupted."""

    def __init__(self, measurer, interrupt_at=None):
        self.width, self._measurer, self._interrupt_at = 3, measurer, interrupt_at
        self._pool = ThreadPoolExecutor(2)

    def submit(self, trial, number):
        if number == self._interrupt_at:
            raise KeyboardInterrupt

        def attempt():
            time.sleep(random.random() / 100)
            return self._measurer.attempt(trial, number)

        return _Future(self._pool.submit(attempt))

    def stop(self):
        self._pool.shutdown(cancel_futures=True)


class Countable(FakeMeasurer):
    def free_numbers(self, count, taken=()):
        used = {m.number for m in self.run.measurements} | set(taken)
        return [number for number in range(999) if number not in used][:count]

    def attempt(self, trial, number):
        other = FakeMeasurer(self.run.folder / f"at-{number}", self._accuracy)
        return replace(other.measure(trial.candidate, trial.phase, trial.seed), number=number)


def test_a_line_that_was_being_written_when_the_interruption_came_is_written_once(tmp_path, monkeypatch):
    measurer = Countable(tmp_path, accuracy)
    synced, fsync = [], os.fsync

    def interrupted(descriptor):
        fsync(descriptor)
        synced.append(descriptor)
        if len(synced) == 1:
            signal.raise_signal(signal.SIGINT)

    with contextlib.suppress(KeyboardInterrupt), orderly(), Flow(measurer, FakeTeam(measurer)) as flow:
        for trial in trials(14, 8):
            flow.begin(trial)
        flow._begun[1].training.result()
        flow._begun[0].training.result()
        monkeypatch.setattr(os, "fsync", interrupted)
        flow.end()
        pytest.fail("it was not interrupted")
    assert [m.number for m in measurer.run.measurements] == [0, 1]
    assert Run.open(tmp_path).measurements == measurer.run.measurements


@pytest.mark.parametrize("lost", [(), (7,), (8, 10)])
@pytest.mark.parametrize("interrupt_at", [3, 9, 13])
def test_a_search_comes_to_the_same_whoever_trains_and_whenever_it_is_interrupted(tmp_path, interrupt_at, lost):
    plan = SearchPlan(space_of(keep=[]), budgets("0.7bpw,0.4bpw"), 16, 0, 1e9, ahead=2)
    alone = FakeMeasurer(tmp_path / "alone", accuracy)
    search(plan, alone, Recorder())
    measurer = Countable(tmp_path / "run", accuracy)
    with pytest.raises(KeyboardInterrupt):
        search(plan, measurer, Recorder(), FakeTeam(measurer, interrupt_at))
    path = measurer.run.folder / "measurements.csv"
    lines = path.read_text().splitlines(keepends=True)
    # As if training these had taken longer than all others: only what was on its way at the end can be missing.
    last = len(lines) - 1
    path.write_text(
        "".join(line for line in lines if not any(line.startswith(f"{n},") and n >= last - 2 for n in lost))
    )
    again = Countable(tmp_path / "run", accuracy)
    observer = Recorder()
    search(plan, again, observer, FakeTeam(again))
    found = sorted(again.run.measurements, key=lambda m: m.number)
    assert found == list(alone.run.measurements)
    assert [m.number for m, _ in observer.of("measured")] == list(range(16))
