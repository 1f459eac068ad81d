"""The benchmarks run and print what they promise; how fast anything is, no test says."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from runs.examples import PLAIN

from benchmarks.halving import replay
from flexor_search.runs import rungs_text

ROOT = Path(__file__).parents[1]


def test_the_decode_benchmark_prints_the_promised_keys():
    command = [sys.executable, "-W", "error", "-m", "benchmarks.decode", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    for name in ("packed_over_copy", "packed_over_unpackbits", "float32_over_write"):
        assert list(result[name]) == ["8", "12", "16"]
        assert all(ratio > 0 for ratio in result[name].values())
    for route in ("reference", "numpy_rows", "numba_rows", "torch_rows", "numba_float32", "torch_float32", "roof_copy"):
        assert all(speeds[route] > 0 for speeds in result["weights_per_second"].values())
    prediction = result["first_prediction"]
    assert prediction["packed"]["file_bytes"] < prediction["float32"]["file_bytes"] / 50
    assert all(prediction[kind]["file_to_prediction_seconds"]["best"] > 0 for kind in ("packed", "float32"))
    assert result["threads"] >= 1
    assert set(result["versions"]) >= {"python", "numpy", "numba", "torch"}


def test_the_training_benchmark_prints_the_promised_keys():
    command = [sys.executable, "-m", "benchmarks.train_overhead", "--quick", "--json", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    for mode in ("lenet5 float32", "lenet5 bfloat16"):
        assert result["flexor_over_plain"]["cpu, 1 thread"][mode]["8"] > 0
    assert result["hardware"]


def test_the_stacked_benchmark_prints_the_promised_keys():
    command = [sys.executable, "-W", "error", "-m", "benchmarks.stacked", "--quick", "--json", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    ratios = result["trainings_per_hour_over_one"]["cpu"]["digits"]
    assert set(ratios) == {"one on one thread", "full precision", "1", "2", "processes"}
    assert all(ratio > 0 for ratio in ratios.values())
    details = result["details"]["digits"]
    assert set(details["trainings_per_hour"]) == set(details["peak_memory_mib"]) == {"one", *ratios} - {"1"}
    assert result["hardware"]
    assert result["threads"] >= 1


def test_the_search_efficiency_benchmark_prints_the_promised_keys_and_goes_on_where_it_was(tmp_path):
    some = ["--seeds", "1", "--trainings", "10", "--strategies", "random", "additive", "--folder", str(tmp_path)]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.search_efficiency", "--json", *some]
    stopped = json.loads(
        subprocess.run([*command, "--seconds", "0.5"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )
    assert stopped["seeds"]
    early = (tmp_path / "replays.csv").read_text()
    result = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert (tmp_path / "replays.csv").read_text().startswith(early)
    assert result["seeds"] == {"random": 1, "additive": 1}
    assert set(result["gain_at"]) == {"random", "random, smoothed", "additive", "additive, smoothed"}
    assert set(result["gain_at"]["additive"]) == {"5", "10"}
    assert result["gain_at"]["random"]["5"] == result["gain_at"]["additive"]["5"]  # uniform ones come first
    assert (tmp_path / "search_efficiency.html").stat().st_size > 10**6


def test_direct_is_replayed_from_the_uniform_ones_on_and_its_rules_of_thumb_count(tmp_path):
    some = ["--seeds", "1", "--trainings", "10", "--strategies", "direct", "--folder", str(tmp_path), "--json"]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.search_efficiency", *some]
    result = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert set(result["gain_at"]) == {"direct", "direct, smoothed"}
    uniform, more = result["gain_at"]["direct"].values()
    assert uniform < 0 < more  # the best of five uniform ones is below the curve between them


def test_who_proposes_is_replayed_in_both_worlds():
    some = ["--seeds", "2", "--trials", "11", "--proposers", "model", "--json"]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.proposers", *some]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    gain = json.loads(out[out.index('{\n  "trials"') :])["gain"]
    assert gain.keys() == {"table", "made", "table, model", "made, model"}
    for world in ("table", "made"):
        assert gain[world]["best of all"][0] >= gain[world]["best rule"][0]
        assert gain[f"{world}, model"]["predicted"][0] <= gain[world]["best of all"][0] + 1e-9


def test_the_stored_scores_of_the_shared_network_gain_what_is_said_of_them(tmp_path):
    some = ["--seeds", "1", "--trainings", "0", "--strategies", "supernet", "--folder", str(tmp_path)]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.search_efficiency", "--json", *some]
    result = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    ((cost, gain),) = result["gain_at"]["supernet"].items()
    assert float(cost) == result["supernet_training_equivalents"] <= 3
    assert gain >= 0.55
    assert result["supernet_spearman"]["raw"] >= 0.80
    assert result["supernet_spearman"]["fitted"] >= 0.85


def test_a_replay_that_was_cut_off_or_is_of_something_else_is_made_again(tmp_path):
    some = ["--seeds", "1", "--trainings", "10", "--strategies", "random", "--folder", str(tmp_path), "--json"]
    command = [sys.executable, "-m", "benchmarks.search_efficiency", *some]
    path = tmp_path / "replays.csv"
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    whole = path.read_text()
    digest = whole.splitlines()[-1].rsplit(",", 1)[1]
    for damaged in (whole[: len(whole) * 3 // 4], whole.replace(digest, "0" * 12), ""):
        path.write_text(damaged)
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())


def test_the_image_folder_benchmark_prints_the_promised_keys():
    command = [sys.executable, "-m", "benchmarks.image_folder", "--images", "40", "--classes", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    small, large = json.loads(done.stdout)
    assert (small["images"], large["images"]) == (4, 40)
    for name in ("list_seconds", "images_per_second", "peak_mib", "readers_mib"):
        assert large[name] >= 0


def test_halving_is_replayed_as_it_would_have_gone():
    def trial(number, accuracy, kind="proposed"):
        rungs = rungs_text({epoch: accuracy - 0.01 * (4 - epoch) for epoch in range(1, 4)})
        return replace(
            PLAIN, number=number, kind=kind, epochs=4, bits_per_weight=0.5, val_accuracy=accuracy, rungs=rungs
        )

    done = [trial(number, 0.8 + 0.01 * number, "uniform") for number in range(4)]
    done += [trial(4, 0.9), trial(5, 0.7), trial(6, 0.805)]
    # the last two stop: at half of their epochs, or at three quarters
    assert replay(done, (0.5,)) == {"epochs": round(1 - 4 / 28, 3), "stopped": 2, "of_the_best": 0}
    assert replay(done, (0.75,)) == {"epochs": round(1 - 2 / 28, 3), "stopped": 2, "of_the_best": 0}
    assert replay(done[:5], (0.5,)) == {"epochs": 1.0, "stopped": 0, "of_the_best": 0}
    late = [*done[:4], replace(trial(4, 0.95), rungs=rungs_text({2: 0.1}))]  # it would have caught up
    assert replay(late, (0.5,)) == {"epochs": 0.9, "stopped": 1, "of_the_best": 1}
