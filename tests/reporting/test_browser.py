"""The report in a real browser: drawn, quiet, alive, and within every width."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexor_search.reporting import write_report

from .made_run import example, large

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,1800"
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    return {run.folder.name: write_report(run) for run in (example(folder / "example"), large(folder / "large"))}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from selenium import webdriver

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
        try:
            yield driver
        finally:
            driver.quit()


def show(browser, path: Path, width: int = 1200, scheme: str = "light") -> None:
    """Open a report; nothing may be said in the console, and nothing asked for outside the file."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme_feature]})
    browser.get(path.resolve().as_uri())
    assert [line for line in browser.get_log("browser") if line["level"] in ("SEVERE", "WARNING")] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def count(browser, selector: str) -> int:
    return len(browser.find_elements("css selector", selector))


def test_every_point_is_drawn(browser, reports):
    show(browser, reports["example"])
    # 2 confirmed and 4 searched allocations, a ring in each panel; full precision is a line
    assert count(browser, "#pareto .scatterlayer .point") == 2 + 4 + 2
    assert count(browser, "#pareto .errorbar") == 2
    # 6 trials: 4 finished, one stopped, one failed
    assert count(browser, "#progress .scatterlayer .point") == 6


def test_all_of_500_trials_are_drawn(browser, reports):
    show(browser, reports["large"])
    assert count(browser, "#pareto .scatterlayer .point") == 500 + 4
    assert count(browser, "#progress .scatterlayer .point") == 500


def test_pointing_at_a_model_names_it(browser, reports):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    show(browser, reports["example"])
    point = browser.find_element("css selector", "#pareto .scatterlayer .point")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(browser).move_to_element(point).perform()
    text = "return document.querySelector('#pareto .hoverlayer').textContent"
    hover = WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(text))
    for part in ("8/20 12/20", "3 seeds", "96.00 ± 1.00 %", "0.5 bits per weight"):
        assert part in hover


@pytest.mark.parametrize(("name", "width"), [("example", 390), ("large", 390), ("large", 800), ("large", 1400)])
def test_nothing_overflows(browser, reports, name, width):
    show(browser, reports[name], width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # what may be wider than the page scrolls by itself; all else ends where the page does
    beyond = browser.execute_script(
        "const end = document.querySelector('main').getBoundingClientRect().right;"
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('.plot') &&"
        " e.getBoundingClientRect().right > end + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert beyond == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(browser, reports, scheme):
    show(browser, reports["example"], scheme=scheme)
    for selector in (
        "h1",
        ".lead",
        "td",
        "figcaption",
        ".rate:not(.kept)",
        "#pareto .ytick text",
        "#pareto .annotation-text",
    ):
        ratio = browser.execute_script(CONTRAST, browser.find_element("css selector", selector))
        assert ratio > 4.5, selector


CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function light(color) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  const part = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
}
let element = arguments[0];
const text = element.closest('svg') ? getComputedStyle(element).fill : getComputedStyle(element).color;
while (element.parentElement && /^(rgba\\(0, 0, 0, 0\\)|transparent)$/.test(getComputedStyle(element).backgroundColor))
  element = element.parentElement;
const [a, b] = [light(text), light(getComputedStyle(element).backgroundColor)];
return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
"""


def test_figures_fit_the_paper_when_printed(browser, reports):
    show(browser, reports["example"])
    widths = browser.execute_script(
        "const width = () => +document.querySelector('#pareto .main-svg').getAttribute('width');"
        "const before = width(); dispatchEvent(new Event('beforeprint')); const printed = width();"
        "dispatchEvent(new Event('afterprint')); return [before, printed, width()]"
    )
    assert widths[1] < 700 < widths[0] == widths[2]
