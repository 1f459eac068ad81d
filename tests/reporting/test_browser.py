"""The report in a real browser: drawn, quiet, alive, and within every width."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexor_search.reporting import write_comparison, write_report

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
    runs = (example(folder / "example"), large(folder / "large"))
    deep = large(folder / "deep", n_trials=20, n_layers=200)
    return {run.folder.name: write_report(run) for run in (*runs, deep)} | {"compared": write_comparison(list(runs))}


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
    for plot in browser.find_elements("css selector", ".plot"):
        if plot.is_displayed():
            drawn(browser, plot)
    browser.execute_script("scrollTo(0, 0)")
    quiet(browser)


def quiet(browser) -> None:
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def drawn(browser, plot) -> None:
    """Scroll to a figure, and wait until it is there."""
    from selenium.webdriver.support.wait import WebDriverWait

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    WebDriverWait(browser, 60).until(lambda _: plot.find_elements("css selector", ".main-svg"))


def count(browser, selector: str) -> int:
    return len(browser.find_elements("css selector", selector))


def test_every_point_is_drawn(browser, reports):
    show(browser, reports["example"])
    # 2 confirmed and 4 searched allocations, a ring in each panel; full precision is a line
    assert count(browser, "#pareto .scatterlayer .point") == 2 + 4 + 2
    assert count(browser, "#pareto .errorbar") == 2
    # 6 trials: 4 finished, one stopped, one failed
    assert count(browser, "#progress-trainings .scatterlayer .point") == 6
    assert count(browser, "#progress-seconds .scatterlayer .point") == 0  # not looked at yet
    click(browser, browser.find_element("css selector", "label[for=progress-1]"))
    drawn(browser, browser.find_element("id", "progress-seconds"))
    assert count(browser, "#progress-seconds .scatterlayer .point") == 6


def test_all_of_500_trials_are_drawn(browser, reports):
    show(browser, reports["large"])
    assert count(browser, "#pareto .scatterlayer .point") == 500 + 4
    assert count(browser, "#progress-trainings .scatterlayer .point") == 500


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


def click(browser, element, on=None) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(browser).move_to_element(element).pause(0.1).click().perform()


def text(browser, selector: str) -> str:
    return browser.find_element("css selector", selector).get_property("textContent")


def test_a_click_selects_a_model_and_shows_its_layers_and_its_export_command(browser, reports):
    from selenium.webdriver.support.wait import WebDriverWait

    show(browser, reports["example"])
    folder = reports["example"].parent
    assert text(browser, "#selected .number") == "10"
    assert text(browser, "#selected code") == f"flexor-search export {folder} --trial 10"
    # the uniform model of the first panel: its most accurate seed is trial 8
    click(browser, browser.find_elements("css selector", "#pareto .scatterlayer path.point[style*='217, 122, 20']")[0])
    WebDriverWait(browser, 10).until(lambda _: text(browser, "#selected .number") == "8")
    assert text(browser, "#selected code") == f"flexor-search export {folder} --trial 8"
    assert "95.00 % validation accuracy" in text(browser, "#selected .facts")
    assert count(browser, "#pareto .scatterlayer .point") == 2 + 4 + 2 + 1  # a ring around it
    # from the table, one with layers, then one that left no model
    click(browser, browser.find_element("css selector", "[data-trial='2']"))
    assert [chip.text for chip in browser.find_elements("css selector", "#selected .chips b")] == [
        "kept",
        "8/20",
        "12/20",
    ]
    assert browser.find_element("css selector", "#selected .command").is_displayed()
    click(browser, browser.find_element("css selector", "[data-trial='5']"))
    assert "stopped early" in text(browser, "#selected .facts")
    assert not browser.find_element("css selector", "#selected .command").is_displayed()
    quiet(browser)


def column(browser, number: int) -> list[str]:
    rows = "return [...document.querySelectorAll('#trials tbody tr')].filter(r => !r.hidden)"
    return browser.execute_script(rows + ".map(r => r.cells[arguments[0]].textContent)", number)


def test_the_table_of_measurements_sorts(browser, reports):
    show(browser, reports["example"])
    heads = browser.find_elements("css selector", "#trials th button")
    titles = [head.get_property("textContent") for head in heads]
    accuracy, bits, rates = (titles.index(name) for name in ("validation %", "bits per weight", "rates"))
    before = column(browser, 0)
    assert before == [str(number) for number in range(13)]
    click(browser, heads[accuracy])  # numbers: the largest first, what has none last
    values = column(browser, accuracy)
    assert values[-1] == ""
    assert [float(value) for value in values[:-1]] == sorted((float(value) for value in values[:-1]), reverse=True)
    click(browser, heads[accuracy])
    again = column(browser, accuracy)
    assert again[-1] == ""
    assert again[:-1] == values[:-1][::-1]
    click(browser, heads[rates])  # text: by the numbers in it
    assert column(browser, rates)[:4] == ["- -", "0/20", "1/20", "3/20"]
    click(browser, heads[bits])
    assert float(column(browser, bits)[0]) == 32.0
    click(browser, heads[0])
    assert column(browser, 0) == before
    quiet(browser)


def test_the_table_of_measurements_filters_by_words_bounds_and_choices(browser, reports):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    show(browser, reports["example"])
    field = browser.find_element("id", "filter")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    for words, trials in (
        ("sadly", ["3"]),
        ("UNIFORM", ["0", "1", "6", "7", "8"]),
        ("uniform validation>93.5", ["7", "8"]),
        ("bits<=0.3", ["1"]),
        ("state=3 x", []),
        ("", [str(number) for number in range(13)]),
    ):
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE, words)
        assert column(browser, 0) == trials, words
    Select(browser.find_element("css selector", "select[data-column=phase]")).select_by_visible_text("confirm")
    assert column(browser, 0) == [str(number) for number in range(6, 13)]
    assert text(browser, "#shown") == "7 of 13 trainings"
    field.send_keys("full")
    assert column(browser, 0) == ["12"]
    quiet(browser)


def test_the_theme_can_be_chosen_and_stays(browser, reports):
    show(browser, reports["example"], scheme="light")
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    try:
        browser.find_element("id", "theme").click()
        dark = browser.execute_script(ground)
        assert dark != light
        browser.refresh()
        assert browser.execute_script(ground) == dark
    finally:
        browser.execute_script("localStorage.clear()")
    show(browser, reports["example"], scheme="dark")
    assert browser.execute_script(ground) == dark


def test_the_text_is_there_before_any_figure(browser, reports):
    show(browser, reports["large"])
    browser.refresh()
    painted = "return performance.getEntriesByName('first-contentful-paint').length"
    loaded = "return window.Plotly !== undefined || document.querySelector('.main-svg') !== null"
    assert browser.execute_script(loaded) is False  # the first figure is far below
    assert browser.find_element("css selector", ".outcome").is_displayed()
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 10).until(lambda _: browser.execute_script(painted) == 1)


def test_compared_runs_are_drawn_over_each_other(browser, reports):
    show(browser, reports["compared"])
    assert count(browser, "#fronts .scatterlayer .point") > 10
    assert count(browser, "#runs tbody tr") == 2
    figure, beside = (browser.find_element("css selector", selector).rect for selector in ("#fronts", "#runs"))
    assert beside["x"] > figure["x"] + figure["width"]  # the table stands beside the figure
    quiet(browser)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        *(("example", 390), ("large", 390), ("large", 800), ("large", 1400), ("deep", 390), ("deep", 1200)),
        *(("compared", 390), ("compared", 1000)),
    ],
)
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


def test_a_page_that_is_printed_unread_has_its_figures(browser, reports):
    show(browser, reports["example"])
    browser.refresh()
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert count(browser, ".main-svg") > 0
    assert all(
        plot.find_elements("css selector", ".main-svg")
        for plot in browser.find_elements("css selector", ".plot")
        if plot.is_displayed()
    )


def test_the_benchmark_of_a_long_run_tells_its_size_its_first_paint_and_a_silent_console(tmp_path):
    from benchmarks.report import made_run, measured

    found = measured(made_run(tmp_path / "run", 500))
    assert found["trainings"] == 512
    assert found["file_bytes"] < 8_000_000
    assert found["console"] == []
    assert 0 < found["first_paint_seconds"] <= found["first_paint_seconds_worst"]
    assert found["first_figure_seconds"] > 0
