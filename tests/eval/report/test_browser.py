"""The page in a real browser: it fits the window, sorts, filters, and fetches nothing."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from eval.report.page import render_page
from eval.report.wording import strategy_name
from tests.eval.report.sample import report

pytestmark = pytest.mark.slow

PROBE = """
<script>
window.onerror = (message) => { document.body.dataset.error = message; };
const names = (table) => [...table.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[0].textContent.trim());
const table = document.querySelector(".tall table");
const press = (text) => [...table.querySelectorAll("thead button")].find((b) => b.textContent === text).click();
const seen = { width: document.documentElement.scrollWidth, window: innerWidth, before: names(table) };
press("Accuracy, %"); seen.falling = names(table);
press("Accuracy, %"); seen.rising = names(table);
seen.sort = table.querySelector("th[aria-sort]").getAttribute("aria-sort");
press("ECE, P(correct)"); seen.known_first = names(table)[0];
const filter = document.querySelector("input.filter");
filter.value = "SYMBOLIC"; filter.dispatchEvent(new Event("input")); seen.filtered = names(table);
seen.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
seen.scheme = matchMedia("(prefers-color-scheme: dark)").matches;
seen.background = getComputedStyle(document.body).backgroundColor;
seen.ink = getComputedStyle(document.querySelector("figure svg text")).fill;
document.body.dataset.seen = JSON.stringify(seen);
</script>
"""


def opened(tmp_path, *, width: int, is_dark: bool = False) -> dict:
    """What the probe saw in a window of that width."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("NOT TESTED: no chromium on the path; install it (Debian: `apt-get install chromium`)")
    page = tmp_path / "report.html"
    page.write_text(render_page(report()).replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    command += ["--blink-settings=preferredColorScheme=0"] if is_dark else []
    run = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert 'data-error="' not in run.stdout
    found = re.search(r'data-seen="([^"]*)"', run.stdout)
    assert found, run.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_fits_its_window_and_fetches_nothing(tmp_path, width):
    seen = opened(tmp_path, width=width)
    assert seen["width"] <= seen["window"]
    assert seen["fetched"] == []


def test_tables_sort_and_filter(tmp_path):
    seen = opened(tmp_path, width=1280)
    accuracies = {strategy_name(row): row.accuracy for row in report().rows if row.pool == "p" and not row.is_shuffled}
    assert [accuracies[name] for name in seen["falling"]] == sorted(
        (accuracies[name] for name in seen["before"]), reverse=True
    )
    assert [accuracies[name] for name in seen["rising"]] == sorted(accuracies[name] for name in seen["before"])
    assert seen["sort"] == "ascending"
    assert seen["known_first"] == "knn + majority, k = 3"
    assert seen["filtered"] == ["symbolic + majority, k = 3"]


def test_dark_and_light_differ_in_page_and_figures(tmp_path):
    light, dark = (opened(tmp_path, width=1280, is_dark=is_dark) for is_dark in (False, True))
    assert (light["scheme"], dark["scheme"]) == (False, True)
    assert light["background"] != dark["background"]
    assert light["ink"] != dark["ink"]
