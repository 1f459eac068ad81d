"""The report as a page: self-contained, escaped, bounded in size, and alive in a real browser."""

import json
import re
import shutil
from pathlib import Path

import pytest

from flexor_search.reporting import page, write_report

from .made_run import QUESTION, example, made_run, measured

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,1800"
)


def own_text(text: str) -> str:
    """The page without the plotly library."""
    return re.sub(r"<script>/\*\*.*?</script>", "", text, count=1, flags=re.DOTALL)


def test_it_needs_nothing_from_outside(tmp_path):
    text = own_text(page(example(tmp_path)))
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", text)
    assert "@import" not in text
    assert len(text) < 200_000


def test_names_from_users_are_escaped(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    run = made_run(tmp_path, [measured(0, 0.9, 0.5, label=evil, kind=evil)], QUESTION | {"workload": evil})
    text = own_text(page(run))
    assert "<img" not in text
    assert "</script><img" not in text


def test_every_budget_gets_a_card_and_its_rows(tmp_path):
    run = example(tmp_path)
    body = json.loads((tmp_path / "summary.json").read_text())
    body["budgets"].append(body["budgets"][0] | {"budget": "48KiB"})
    run.write_summary(body)
    text = own_text(page(run))
    assert text.count('class="card"') == 2
    assert text.count('<tr class="chosen">') == 2
    assert "+2.00 ± 1.29 points over uniform" in text


def test_500_trials_stay_small(tmp_path):
    run = made_run(tmp_path, [])
    run._measurements.extend(measured(i, 0.5 + i / 2000, 0.2 + i / 1000, label="20/20 " * 18) for i in range(500))
    assert len(page(run)) < 8_000_000


@pytest.fixture
def browser(tmp_path):
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("needs Debian's chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=str(shutil.which("chromedriver")))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def _open(browser, path: Path) -> None:
    browser.get(path.resolve().as_uri())


@pytest.mark.browser
def test_it_is_alive_in_chromium(browser, tmp_path):
    _open(browser, write_report(example(tmp_path / "run")))
    assert browser.get_log("browser") == []
    # 4 search trials, 2 confirmed; full precision is a line, not a point
    assert len(browser.find_elements("css selector", "#pareto .scatterlayer .point")) == 6
    cells = browser.find_elements("css selector", "#rates .heatmaplayer image, #rates .heatmap-label")
    assert len(cells) >= 3
    browser.execute_script("Plotly.Fx.hover('pareto', [{curveNumber: 1, pointNumber: 0}])")
    shown = browser.find_element("css selector", "#pareto .hoverlayer").text
    assert "/20" in shown
    assert "bits per weight" in shown


@pytest.mark.browser
def test_it_does_not_overflow_a_phone(browser, tmp_path):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    _open(browser, write_report(example(tmp_path / "run")))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
