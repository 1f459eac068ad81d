"""The report of a long run: size of the file, time to write it, and time to its first paint in headless Chromium.

    python -m benchmarks.report --json

The run is made up (500 search trials of 21 layers, four budgets confirmed with three seeds), since only its size
matters. First paint is the browser's own first-contentful-paint, the median of several loads; without Debian's chromium
and chromium-driver it is null.
"""

import argparse
import json
import math
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import hardware, versions
from flexor_search.planning import LayerSpec
from flexor_search.reporting import write_report
from flexor_search.runs import CONFIRM, DONE, SEARCH, Measurement, Run

TRIALS, LAYERS, SEEDS, LOADS = 500, 21, 3, 5
BUDGETS = {"0.3bpw": 6, "0.5bpw": 10, "0.7bpw": 14, "0.9bpw": 18}
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,900"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--trials", type=int, default=TRIALS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measured(made_run(Path(folder) / "run", options.trials))
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(*(f"{name}: {value}" for name, value in result.items()), sep="\n")


def measured(run: Run) -> dict[str, Any]:
    """Write the report, load it, and tell both."""
    write_report(run)  # the first time reads plotly's library
    started = time.perf_counter()
    path = write_report(run)
    seconds = time.perf_counter() - started
    return {
        "trainings": len(run.measurements),
        "file_bytes": path.stat().st_size,
        "write_seconds": round(seconds, 3),
        **loaded(path),
        "hardware": hardware(),
        "versions": versions("plotly", "pandas"),
    }


def loaded(path: Path) -> dict[str, Any]:
    """First paint, time until the first figure is drawn, and what the console said."""
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver_path):
        return {"first_paint_seconds": None, "first_figure_seconds": None, "console": None}
    from selenium import webdriver

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver_path))
        try:
            paints, figures = zip(*(_load(browser, path) for _ in range(LOADS)), strict=True)
            console = [line["message"] for line in browser.get_log("browser")]
            version = browser.capabilities["browserVersion"]
        finally:
            browser.quit()
    return {
        "first_paint_seconds": round(statistics.median(paints), 3),
        "first_paint_seconds_worst": round(max(paints), 3),
        "first_figure_seconds": round(statistics.median(figures), 3),
        "console": console,
        "chromium": version,
    }


def _load(browser: Any, path: Path) -> tuple[float, float]:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(path.as_uri())
    entry = "const e = performance.getEntriesByName('first-contentful-paint')[0]; return e ? e.startTime : null"
    paint = WebDriverWait(browser, 30).until(lambda _: browser.execute_script(entry))
    drawn = browser.execute_async_script(
        "const done = arguments[0], plot = document.querySelector('.plot'), begun = performance.now();"
        "plot.scrollIntoView(); (function wait() {"
        "plot.querySelector('.main-svg') ? done(performance.now() - begun) : setTimeout(wait, 5) })()"
    )
    return paint / 1000, drawn / 1000


def made_run(folder: Path, trials: int) -> Run:
    """A run of so many trials, finished, with a summary."""
    numbers = random.Random(0)
    run = Run.start(folder, {"workload": "made", "budgets": list(BUDGETS), "seed": 0}, {"model": "made"})
    for number in range(trials):
        rates = [numbers.randrange(2, 21) for _ in range(LAYERS)]
        run.append(_measurement(number, rates, SEARCH, numbers))
    entries = []
    for budget, n_in in BUDGETS.items():
        found = [_measurement(len(run.measurements) + i, [n_in] * LAYERS, CONFIRM, numbers) for i in range(SEEDS)]
        for measurement in found:
            run.append(measurement)
        entries.append(_entry(budget, found))
    run.write_summary({"state": "complete", "budgets": entries})
    return run


def _measurement(number: int, rates: list[int], phase: str, numbers: random.Random) -> Measurement:
    bits = sum(rates) / 20 / len(rates)
    accuracy = 0.95 - 0.2 * math.exp(-4 * bits) + numbers.gauss(0, 0.004)
    layers = {f"stage{i // 7}.{i % 7}.conv": LayerSpec(n_in=n_in).to_json() for i, n_in in enumerate(rates)}
    return Measurement(
        number=number,
        phase=phase,
        kind="proposed",
        digest=f"{hash(tuple(rates)) & 0xFFFFFFFFFFFFFFFF:016x}",
        label=" ".join(f"{n_in}/20" for n_in in rates),
        allocation=json.dumps({"kept_dtype": "float16", "layers": layers, "not_searched": []}),
        budget="0.9bpw",
        bits_per_weight=round(bits, 3),
        nominal_bits_per_weight=round(bits, 4),
        payload_bits=int(270_000 * bits),
        file_bytes=int(4_000 + 33_750 * bits),
        seed=number,
        epochs=8,
        images=50_000,
        state=DONE,
        val_accuracy=accuracy,
        val_loss=2 * (1 - accuracy),
        rungs="",
        train_seconds=60.0,
        reason="",
    )


def _entry(budget: str, found: list[Measurement]) -> dict[str, Any]:
    first = found[0]
    accuracies = [m.val_accuracy for m in found]
    mean = statistics.mean(accuracies)
    spread = {"mean": mean, "std": statistics.stdev(accuracies), "seeds": [m.seed for m in found]}
    body = {
        "bits_per_weight": first.bits_per_weight,
        "nominal_bits_per_weight": first.nominal_bits_per_weight,
        "payload_bits": first.payload_bits,
        "file_bytes": first.file_bytes,
        "val_accuracy": spread,
        "test_accuracy": spread,
        "test_accuracy_shipped": mean,
        "verified": True,
        "allocation": json.loads(first.allocation),
    }
    return {"budget": budget, **body, "uniform": body, "full_precision": None}


if __name__ == "__main__":
    main()
