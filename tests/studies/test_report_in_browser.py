"""The page of a study in a real browser: what one touches, what one reads, on a desk and on a phone."""

import re
import shutil

import numpy as np
import pytest
from small_studies import TINY

from npk.studies import run_study, write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives a browser, is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.standard_dtypes,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: on Debian, apt-get install chromium"),
]
DESK, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    run_study(TINY, folder)
    return write_report(folder)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, report):
    """A page of a size and colours, and all that the browser says of it, which must be nothing."""
    said, contexts = [], []

    def open_page(size=DESK, scheme="light", **options):
        context = browser.new_context(viewport=size, color_scheme=scheme, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_load_state("load")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def part(page, name):
    return page.locator(f'#explorer [data-part="{name}"]')


def colours(page):
    return part(page, "map").evaluate("map => map.toDataURL()")


def gates(report, stage):
    with (
        np.load(report.parent / "kernels" / f"stage-{stage}.npz") as arrays,
        np.load(report.parent / "samples.npz") as samples,
    ):
        units, shown = arrays["units"], samples["shown"]
        layers = [np.unpackbits(arrays[f"open/{i}"], axis=1)[:, :n].astype(int) for i, n in enumerate(units)]
        return layers, arrays["npk"][np.ix_(shown, shown)]


def test_an_entry_under_the_pointer_shows_both_samples_h_and_the_units_open_for_both(opened, report):
    page = opened()
    assert part(page, "map").is_visible()
    layers, kernel = gates(report, 3)
    n = len(kernel)
    part(page, "map").scroll_into_view_if_needed()
    box = part(page, "map").bounding_box()
    i, j = n - 2, 1
    page.mouse.move(box["x"] + (j + 0.5) / n * box["width"], box["y"] + (i + 0.5) / n * box["height"])
    rows = part(page, "overlaps").locator("div").all_inner_texts()
    counts = [(layer @ layer.T)[i, j] for layer in layers]
    assert rows == [f"layer {k + 1}: {c} of {layers[k].shape[1]} open for both" for k, c in enumerate(counts)]
    said = part(page, "said").inner_text()
    value, cosine = (float(number) for number in re.fullmatch(r"H = (\S+), cosine (\S+)", said).groups())
    assert value == pytest.approx(kernel[i, j], rel=1e-2, abs=float(np.ptp(kernel)) / 60000)
    assert cosine == pytest.approx(kernel[i, j] / np.sqrt(kernel[i, i] * kernel[j, j]), abs=2e-3)
    assert part(page, "first-class").inner_text() == "class 9" and part(page, "second-class").inner_text() == "class 0"
    assert page.evaluate("document.querySelector('[data-part=first]').width") == 8


def test_the_slider_goes_through_the_stages_by_keyboard_and_the_kernels_by_choice(opened, report):
    page = opened()
    slider = part(page, "stage")
    last = colours(page)
    slider.focus()
    slider.press("Home")
    assert part(page, "name").inner_text().startswith("stage 0, training accuracy")
    assert slider.get_attribute("aria-valuetext").startswith("stage 0")
    first = colours(page)
    assert first != last
    page.keyboard.press("ArrowRight")
    assert part(page, "name").inner_text().startswith("stage 1,")
    layers, kernel = gates(report, 1)
    part(page, "map").focus()
    for key, moves in (("ArrowUp", len(kernel)), ("ArrowRight", len(kernel)), ("ArrowLeft", 2)):
        for _ in range(moves):
            page.keyboard.press(key)
    i, j = 0, len(kernel) - 3
    assert (
        part(page, "overlaps")
        .locator("div")
        .first.inner_text()
        .startswith(f"layer 1: {(layers[0] @ layers[0].T)[i, j]} of")
    )
    before = colours(page)
    page.get_by_label("Kⱽ").check()
    assert colours(page) != before and "Kⱽ" in part(page, "map").get_attribute("aria-label")


def test_curves_tell_their_values_under_the_pointer(opened, report):
    page = opened()
    figure = page.locator('svg[aria-label="Test accuracy of the network and of its gates"]')
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    marks = figure.evaluate("svg => JSON.parse(svg.dataset.marks)")
    x, y, where, value = next(one for one in marks if one["name"] == "network")["points"][2]
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    tip = page.locator(".tip")
    assert tip.is_visible()
    lines = tip.locator("div").all_inner_texts()
    assert tip.locator("b").inner_text() == where and f"network: {value}" in lines and len(lines) == 2
    assert re.fullmatch(r"network: \d+\.\d% \[\d+\.\d%, \d+\.\d%\]", lines[0])
    page.mouse.move(box["x"] - 5, box["y"] - 40)
    assert not tip.is_visible()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_text_is_too_faint_to_read(opened, size, scheme):
    """WCAG's 4.5 for every piece of text, letters of figures too, against what lies behind it."""
    page = opened(size, scheme)
    faint = page.evaluate(CONTRASTS)
    assert faint == []


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_is_hidden_at_the_side(opened, size):
    page = opened(size)
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    hidden = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert page.locator("figure .scroll, .cards li, p, figcaption, .equation").evaluate_all(hidden) == 0
    letters = page.locator("figure svg").evaluate_all(
        "all => all.map(svg => 9 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"
    )
    assert min(letters) >= 8, "letters of nine points stay as large as eight pixels"
    slider = part(page, "stage").bounding_box()
    assert slider["width"] >= 120 and slider["x"] + slider["width"] <= size["width"]


def test_every_figure_has_a_title_and_says_what_it_shows(opened):
    page = opened()
    named = page.locator("figure svg").evaluate_all(
        """all => all.map(svg => [svg.getAttribute("role"), svg.getAttribute("aria-label"),
                                  document.getElementById(svg.getAttribute("aria-describedby"))?.textContent])"""
    )
    assert named and all(role == "img" and label and text and len(text) > 20 for role, label, text in named)
    assert len({label for _, label, _ in named}) == len(named)


def test_without_scripts_the_figures_stand_and_nothing_asks_to_be_touched(opened):
    page = opened(java_script_enabled=False)
    assert not page.locator("#explorer").is_visible()
    assert page.locator("figure svg").count() >= 6 and page.locator("figure svg").first.is_visible()


# Of every element with letters of its own: colours as drawn, one over the other, and the ratio of their luminances.
CONTRASTS = """() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, under) => [0, 1, 2].map((c) => top[c] * top[3] + under[c] * (1 - top[3]));
  const behind = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const light = (color) => {
    const [r, g, b] = color.map((v) => ((v /= 255), v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((p, q) => p - q);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  for (const node of document.querySelectorAll("main *")) {
    if (!node.checkVisibility() || node.closest("svg")) continue;
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own) continue;
    const paper = behind(node), ink = over(parse(getComputedStyle(node).color), paper);
    if (ratio(ink, paper) < 4.5) found.push([node.tagName, node.textContent.trim().slice(0, 40), ratio(ink, paper)]);
  }
  // Letters of figures are outlines: Matplotlib comments each group of them with its text, on the card or on a bar.
  for (const group of document.querySelectorAll("main svg g[id*='text_']")) {
    const glyphs = group.querySelector("use");
    if (!glyphs) continue;
    group.scrollIntoView({ block: "center" });  // what is not in view lies on nothing
    const ink = parse(getComputedStyle(glyphs).fill), box = glyphs.getBoundingClientRect();
    const paper = behind(group.closest("figure"));
    const under = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2)
      .filter((one) => ["path", "use"].includes(one.tagName) && !group.contains(one))
      .filter((one) => getComputedStyle(one).fill !== "none")
      .map((one) => parse(getComputedStyle(one).fill));
    const ground = under.length && under[0][3] === 1 ? under[0].slice(0, 3) : paper;
    if (ratio(ink.slice(0, 3), ground) < 4.5) found.push([group.id, ink.join(), ground.join()]);
  }
  return found;
}"""
