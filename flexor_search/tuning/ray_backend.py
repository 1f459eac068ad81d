"""Ray Tune as a team: it places trials on the nodes of a cluster, and tries those again whose node was lost.

Tune wants to call for trials, and a search wants to hand them out and wait. So Tune runs in a thread of its own; what
it asks for its next trial and tells of an end is a `Bridge` to the search in the main thread, which stays the same
for every backend: the same proposals, budgets, baselines, early stopping, confirmation, and the same run folder. Of
Tune's own state, in RUN/ray while the run goes on, only two things are used on resuming: what had ended before its line
was written, and where trainings under way have come to.
"""

import io
import json
import pickle
import shutil
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from ray import tune

from flexor_search.errors import FormatError, RunError
from flexor_search.files import write_atomically
from flexor_search.packing import load, verify_file
from flexor_search.runs import DONE, FAILED, Measurement, Run
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.ray_bridge import MOST_FAILURES, Bridge, CutOff, Ended, Ends, Source, bridge_for_unpickling
from flexor_search.tuning.ray_cluster import Resources
from flexor_search.tuning.ray_trial import PACKED, PACKING, RaySetup, key_of, train_trial
from flexor_search.tuning.trial import Trial
from flexor_search.tuning.worker import save_data

_END_SECONDS = 30.0


class RayTeam:
    """Trials placed by Ray Tune.

    Args:
        measurer: of the run.
        resources: of a trial.
        width: trials on their way that keep the cluster busy.
        observer: is told of what is gone on with.
    """

    def __init__(self, measurer: Measurer, resources: Resources, width: int, observer: Observer) -> None:
        self.width = width
        self._measurer, self._resources, self._observer = measurer, resources, observer
        self._folder = (measurer.run.folder / "ray").resolve()
        self._bridge = Bridge()
        try:
            build = pickle.dumps(measurer.build)
        except Exception as error:
            raise RunError(f"the model cannot be sent to other processes: {error}") from error
        data = io.BytesIO()
        save_data(measurer.data, data)
        setup = RaySetup(
            build=build,
            path=sys.path,
            recipe=measurer.recipe,
            model_name=measurer.model_name,
            own=measurer.own,
            checkpoint_seconds=measurer.checkpoint_seconds,
            device="cuda" if resources.gpus else "cpu",
            threads=max(1, int(resources.cpus)),
            data=data.getvalue(),
            teachers=str((measurer.teachers or measurer.run.folder / "trained").resolve()),
            measured=frozenset(m.key for m in measurer.run.measurements if _is_whole(measurer.run, m)),
        )
        demand = {"cpu": resources.cpus} | ({"gpu": resources.gpus} if resources.gpus else {})
        self._trainable = tune.with_resources(tune.with_parameters(train_trial, setup=setup), demand)
        self._restored_tuner = self._restored()
        if self._restored_tuner is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._thread = threading.Thread(target=self._fit, name="ray tune", daemon=True)
        self._thread.start()

    def submit(self, trial: Trial, number: int) -> "_Placed":
        """Hand a trial to Tune; its files get that number."""
        return _Placed(self._bridge.submit(trial), trial, number, self)

    def stop(self) -> None:
        """Let Tune end: in order where nothing is under way, else as it is, to be gone on with."""
        is_done = self._bridge.close()
        self._thread.join(_END_SECONDS)
        if is_done:
            shutil.rmtree(self._folder, ignore_errors=True)  # all of it is in the run folder

    def written(self, ended: Ended, trial: Trial, number: int) -> Measurement:
        """The measurement of a trial that has ended, its files in the run folder."""
        if ended.error:
            raise RunError(f"a trial failed on Ray: {ended.error}")
        if ended.line is None:
            return self._measurer.failed(trial, number, f"its process was lost {MOST_FAILURES + 1} times")
        found = replace(Measurement.from_row(json.loads(ended.line)), number=number, worker="ray")
        if found.state == DONE:
            run = self._measurer.run
            if not run.trained_path(number).exists() and ended.folder is not None:
                write_atomically(run.packing_path(number), (ended.folder / PACKING).read_bytes())
                write_atomically(run.trained_path(number), (ended.folder / PACKED).read_bytes())
                verify_file(run.trained_path(number))
        return found

    def _new(self) -> tune.Tuner:
        for path in self._folder.glob("tune/experiment_state-*.json"):  # what has ended keeps its files
            path.unlink()
        return tune.Tuner(
            self._trainable,
            tune_config=tune.TuneConfig(
                search_alg=Source(self._bridge),
                num_samples=-1,
                reuse_actors=True,  # a new process takes seconds to import torch
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._folder),
                callbacks=[Ends(self._bridge)],
                failure_config=tune.FailureConfig(max_failures=MOST_FAILURES),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                verbose=0,
            ),
        )

    def _restored(self) -> tune.Tuner | None:
        """What an earlier process has left; None if there is nothing, or nothing that Tune can read."""
        path = self._folder / "tune"
        if not path.exists():
            return None
        with bridge_for_unpickling(self._bridge):
            try:
                if not any(path.glob("experiment_state-*.json")):  # `can_restore` does not look for it
                    raise RunError("it was never written")
                tuner = tune.Tuner.restore(str(path), self._trainable, resume_unfinished=True)
                trials = [trial for trial in tune.ExperimentAnalysis(str(path)).trials or [] if "key" in trial.config]
            except Exception as error:  # it died before its first state was written, or while it was
                self._say_that_it_begins_anew(error)
                return None
        for trial in trials:  # what has ended with nothing to show for it is handed out again when its turn comes
            ended = Ended.of(trial)
            if ended is not None and ended.line and _has_files(ended):
                self._bridge.known_before(key_of(trial.config), ended)
            elif not trial.is_finished():
                self._bridge.known_before(key_of(trial.config), None)
        self._observer.message(f"Ray goes on with {len(trials)} trials of an earlier process")
        return tuner

    def _say_that_it_begins_anew(self, error: BaseException) -> None:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        self._observer.message(f"Ray's own state cannot be gone on with ({reason}); its trials begin anew")

    def _fit(self) -> None:
        restored = self._restored_tuner
        try:
            with bridge_for_unpickling(self._bridge):
                if restored is not None:
                    try:
                        restored.fit()
                    except Exception as error:  # what only shows when it is used
                        if self._bridge.is_cut_off:
                            raise
                        self._say_that_it_begins_anew(error)
                        self._bridge.begin_anew()
                        restored = None
                if restored is None:
                    self._new().fit()
        except BaseException as error:  # without the frames, which hold on to processes and what they take of nodes
            self._bridge.fail(CutOff() if self._bridge.is_cut_off else error.with_traceback(None))
        else:
            self._bridge.fail(RunError("Ray Tune ended before the search did"))


def _is_whole(run: Run, measurement: Measurement) -> bool:
    """Whether a measurement in the run folder has ended for good, with its packed file where it came to one."""
    if measurement.state != DONE:
        return measurement.state == FAILED  # a stopped one may have to train to its end
    try:
        return bool(load(run.trained_path(measurement.number)))
    except FormatError:
        return False


def _has_files(ended: Ended) -> bool:
    """Whether a training has ended for good, and its files are there where it came to any."""
    state = Measurement.from_row(json.loads(ended.line or "{}")).state
    if state != DONE:
        return state == FAILED
    return ended.folder is not None and all((ended.folder / name).exists() for name in (PACKED, PACKING))


@dataclass(frozen=True)
class _Placed:
    future: Future[Ended]
    trial: Trial
    number: int
    team: RayTeam

    def result(self) -> Measurement:
        """Wait for it."""
        return self.team.written(self.future.result(), self.trial, self.number)

    def finished(self) -> Measurement | None:
        """What it came to; None if it has not ended, or not well."""
        if not self.future.done() or self.future.exception() is not None or self.future.result().error:
            return None
        return self.team.written(self.future.result(), self.trial, self.number)


def _folder_name(trial: Any) -> str:
    return "-".join(map(str, (*key_of(trial.config), trial.trial_id)))
