"""The site: it says what the records say, nothing in them breaks it, its links lead somewhere, and it works in a browser."""

import base64
import hashlib
import io
import json
import re
import shutil
import urllib.parse
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import fake_suite
import numpy as np
import PIL.Image
import pytest
import torch

from helpers import settings
from helpers.publish.site import assets, curves, flows, pages
from helpers.results import deliverables, records, weights

BROWSER = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]
HOSTILE = "<script>window.broken=1</script>\"'&</script><img src=x onerror=window.broken=1>"
OPENING = (f"# Digits\n\n![a badge](https://example.org/badge.svg) {HOSTILE}\n\n| one | two |\n|---|---|\n| $a<b$ | 2 |\n\n"
           "$$\\mathbb{E}_q[z^2]=\\mu^2+2\\mu\\,\\mathbb{E}_q[z-\\mu]+"
           "\\mathbb{E}_q[(z-\\mu)^2]=\\mu^2+\\sigma^2+0+0+0+0$$\n\n## A part\n")
FLOW, GAN, PLANE = "mila_p3_data_arcs_k8", "cifar10_jsd_3", "mit_p3_analytic"


def write_arrays(folder: Path, run_id: str, arrays: dict, **changes) -> None:
    """Give a record of the copy other arrays, and change its fields."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    (folder / "results" / f"{run_id}.npz").write_bytes(packed.getvalue())

    def change(content):
        content.update(arrays={"sha256": hashlib.sha256(packed.getvalue()).hexdigest()})
        for name, value in changes.items():
            content[name] = content.get(name, {}) | value if isinstance(value, dict) else value

    fake_suite.edit(folder / "results" / f"{run_id}.json", change)


def decoder() -> torch.nn.Module:
    """A model with the decoder of the MIT questions."""
    layers = [layer for pair in pairwise([2, 16, 32, 128, 784]) for layer in (torch.nn.Linear(*pair), torch.nn.ReLU())]
    model = torch.nn.Module()
    model.decoder = torch.nn.Sequential(*layers[:-1])
    return model


def lively(folder: Path) -> torch.nn.Module:
    """Give a copy what the three pages with scripts draw, and texts that would break a page which does not escape them."""
    generator = np.random.default_rng(0)
    write_arrays(folder, FLOW, {
        "path_depths": np.array([0, 4, 8]), "path_points": generator.normal(size=(3, 600, 2)).astype(np.float32),
        "path_half_widths": np.array([3.0, 3.0, 4.0]), "path_densities": generator.random((3, 80, 80)).astype(np.float16),
        "test_nll": generator.random((5, 2)), "test_steps": np.arange(5) * 100, "entropy": np.array(0.5),
    }, config={"data": "arcs", "layers": 8})
    write_arrays(folder, GAN, {
        "samples": generator.integers(0, 256, (100, 32, 32, 3)).astype(np.uint8), "terms": generator.random((50, 5)),
        "terms_every": np.array(60), "evaluations": np.arange(8.0).reshape(4, 2) + 1,
        "evaluation_steps": np.array([0, 1000, 2000, 3000]),
    }, config={"metric": "jsd", "regulariser": HOSTILE}, facts={"evaluated": ["jsd_test", "fid_smallnet"]},
        budget={"done": 3000, "planned": 100000})
    model, path = decoder(), folder / "results" / f"{PLANE}.safetensors"
    path.write_bytes(weights.pack({"decoder": model.decoder}))
    write_arrays(folder, PLANE, {
        "codes": generator.normal(size=(500, 2)).astype(np.float16), "labels": generator.integers(0, 10, 500).astype(np.uint8),
        "grid_codes": generator.normal(size=(64, 2)).astype(np.float32),
        "grid": generator.integers(0, 256, (64, 28, 28)).astype(np.uint8),
    }, weights={"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size})
    fake_suite.edit(folder / "results" / "q1_a_dset1.json", lambda content: content.update(
        dataset=content["dataset"] | {"name": HOSTILE, "note": HOSTILE}, config={"text": HOSTILE}, facts={HOSTILE: HOSTILE},
        environment={"device": HOSTILE}))
    return model


def use(folder: Path, patch) -> None:
    """Let the suite be a copy, with records of its own sources."""
    patch.setenv("SUITE_PROFILE", "full")
    patch.setenv("SUITE_OUTPUT", str(folder))
    patch.setattr(settings, "PROJECT_ROOT", folder)


@pytest.fixture(scope="module")
def built(perfect, tmp_path_factory):
    """The site of a whole copy with lively pages: (its folder, the model behind its latent plane)."""
    folder = shutil.copytree(perfect, tmp_path_factory.mktemp("site") / "copy")
    (folder / "results" / "haifa_q2.json").unlink()
    fake_suite.edit(folder / "results" / "q2_a_dset2.json", lambda content: content.update(source="0" * 64))
    (folder / "figures" / "q1_b_dset1_train_plot.png").write_bytes(fake_suite.png("another"))
    (folder / "report.pdf").write_bytes(b"%PDF-1.4")
    fake_suite.edit(folder / "results" / "q2_a_dset1.json", lambda content: content.update(
        repeats={root: {key: content[key] for key in ("metrics", "spread", "seeds")} for root in "01"}))
    benchmarks = folder / "benchmarks" / "results"
    benchmarks.mkdir(parents=True)
    row = {"what": HOSTILE, "peer": "peer", "peer_version": "1", "ours": 3.0, "theirs": 2.0, "unit": "steps/s", "ratio": 1.5}
    machine = {"processor": "a processor", "device": "CPU", "torch": "2"}
    (benchmarks / "one.json").write_text(json.dumps({"benchmark": "one", "machine": machine, "rows": [row]}), encoding="utf-8")
    fake_suite.edit(folder / "notebooks" / "2_vae_mnist.ipynb", lambda content: content["cells"].insert(0, {
        "cell_type": "markdown", "id": "opening", "metadata": {}, "source": OPENING}))
    model = lively(folder)
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch)
        return pages.build(tmp_path_factory.mktemp("built") / "site").parent, model


class Page(HTMLParser):
    """Addresses, ids and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loaded, self.ids, self.tags, self.text = [], [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        if "href" in attributes:
            (self.links if tag == "a" else self.loaded).append(attributes["href"])
        if "src" in attributes:
            self.loaded.append(attributes["src"])

    def handle_data(self, data):
        self.text += data


def every_page(folder: Path) -> dict[str, Page]:
    """All pages of a site by their address."""
    return {path.relative_to(folder).as_posix(): Page(path) for path in sorted(folder.rglob("*.html"))}


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_outside(built):
    folder, _ = built
    found = every_page(folder)
    assert len(found) == 6 + 1 + 6 + len(deliverables.asked_runs()) - 2  # notebooks, licences, other pages, all runs but one
    for address, page in found.items():
        assert len(page.ids) == len(set(page.ids)), address
        for link in [*page.links, *page.loaded]:
            parts = urllib.parse.urlsplit(link)
            if link in page.links and parts.scheme in ("http", "https"):
                continue  # a paper's address in a notebook: to follow, not to load
            if link == "data:,":
                continue
            assert not parts.scheme and not parts.netloc and not link.startswith("/"), (address, link)
            target = (folder / address).parent / urllib.parse.unquote(parts.path) if parts.path else folder / address
            target = target.resolve()
            assert target.is_relative_to(folder.resolve()) and target.is_file(), (address, link)
            if parts.fragment and target.suffix == ".html":
                ids = found[target.relative_to(folder.resolve()).as_posix()].ids
                assert parts.fragment in ids or urllib.parse.unquote(parts.fragment) in ids, (address, link)


def test_the_index_says_first_what_is_missing_and_partial(built):
    text = (built[0] / "index.html").read_text(encoding="utf-8")
    said, table = text.index('id="said"'), text.index('id="results"')
    first = text[said:table]
    asked = len(deliverables.asked_runs())
    assert f"{asked - 1} of {asked}" in first
    assert "haifa_q2" in first and "q1_choices" in first  # missing, asked for or supporting
    assert "3,000 of 100,000" in first and "1 whose code has changed since" in first and "q2_a_dset2" in first
    assert "q1_b_dset1_train_plot.png" in first and "not the figure that the record names" in first
    rows = re.findall(r'<th scope="row">(?:<a href="runs/(\w+)\.html">)?', text[table:])
    assert rows.count("") == 1 + len(deliverables.supporting_runs())
    row = text[text.index('runs/q1_a_dset1.html">q1_a_dset1', table) :].split("</tr>")[0]
    assert all(part in row for part in ("4.4300 ± 0.0100", "4.4710", "4.4180", "target reached", "780 steps"))


def test_the_page_of_a_repeated_run_says_whose_its_pictures_are(built):
    said = "Curves and pictures are those of the first."
    pages_of = {name: (built[0] / "runs" / f"{name}.html").read_text(encoding="utf-8") for name in ("q2_a_dset1", "q1_a_dset1")}
    assert said in pages_of["q2_a_dset1"] and said not in pages_of["q1_a_dset1"]


def test_a_run_s_page_has_everything_that_its_record_says(built):
    text = Page(built[0] / "runs" / "q1_a_dset2.html").text
    content = fake_suite.record(fake_suite.entry("q1_a_dset2"))
    for part in ("4.4300 ± 0.0100", "4.4429", content["source"], content["arrays"]["sha256"], "learning_rate", "780 of 780 steps",
                 "def train(run, epochs, learning_rate):", "numpy 1.26", "1, 2, 3"):
        assert part in text, part
    page = (built[0] / "runs" / "q1_a_dset2.html").read_text(encoding="utf-8")
    assert 'href="../notebooks/1_vae_2d.html#cell-id=code-3"' in page
    assert 'href="../report.pdf#nameddest=run:q1_a_dset2"' in page
    assert page.count("<img") == 3 and "stale" in (built[0] / "runs" / "q2_a_dset2.html").read_text(encoding="utf-8")


def test_texts_of_records_cannot_break_a_page(built):
    for path in built[0].rglob("*.html"):
        assert "<script>window" not in path.read_text(encoding="utf-8") and "<img src=x" not in path.read_text(encoding="utf-8")
    assert HOSTILE in Page(built[0] / "runs" / "q1_a_dset1.html").text
    assert json.loads(assets.data({"text": HOSTILE})) == {"text": HOSTILE} and "<" not in assets.data(HOSTILE)


def test_what_is_vendored_is_what_was_fetched():
    folder = assets.HERE / "vendor"
    named = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    there = {path.name.removesuffix(".xz") for path in folder.iterdir()}
    assert there == {*named, "SHA256SUMS"} and set(assets.SERVED) == set(named)
    for name, digest in named.items():
        assert hashlib.sha256(assets.vendored(name)).hexdigest() == digest, name


def luminance(colour: str) -> float:
    """Relative luminance of a colour #rrggbb, as WCAG 2 defines it."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_text_can_be_read_in_both_modes():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    css = (assets.HERE / "static" / "site.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S))
    assert light.keys() == dark.keys()
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", re.sub(r":root \{.*?\}", "", css, flags=re.S))) == set()  # no colour elsewhere
    grounds = ("ground", "raised", "paper")
    graphic = {name for name in light if name.startswith("series-")} | {"line"}
    texts = set(light) - set(grounds) - graphic - {"hair"}
    used = set(re.findall(r"[^-]color: var\(--([\w-]+)\)", css))
    assert used - graphic - {"hair"} <= texts and len(texts) >= 9
    for mode in (light, dark):
        for ground in grounds:
            assert {name: contrast(mode[name], mode[ground]) for name in texts if contrast(mode[name], mode[ground]) < 4.5} == {}
            assert {name for name in graphic if contrast(mode[name], mode[ground]) < 3} == set()


def sheet_of_images(seed: int, width: int = 480, height: int = 552) -> PIL.Image.Image:
    """A picture of a hundred small ones, with white between them."""
    values = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), np.uint8).repeat(30, axis=0).repeat(30, axis=1)
    values[::30], values[:, ::30] = 255, 255
    return PIL.Image.fromarray(values).resize((width, height), PIL.Image.Resampling.BICUBIC)


def stored(image: PIL.Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def test_a_notebook_s_smaller_copy_of_a_figure_is_that_figure(tmp_path):
    site = assets.Site(tmp_path / "site")
    first, second = (site.picture(stored(sheet_of_images(seed), "png")) for seed in (1, 2))
    assert first != second
    for seed, expected in ((1, first), (2, second)):
        smaller = sheet_of_images(seed).resize((369, 425), PIL.Image.Resampling.LANCZOS)
        assert site.picture(stored(smaller, "jpeg")) == expected
    for image in (sheet_of_images(3, 369, 425), sheet_of_images(1, 425, 369)):  # another picture, and another shape
        assert site.picture(stored(image, "jpeg")) not in (first, second)


def test_curves_are_those_of_the_arrays(tmp_path):
    entry = fake_suite.entry("q1_a_dset1")
    path = fake_suite.write_record(tmp_path, fake_suite.record(entry))
    terms = 4.0 + np.arange(15.0).reshape(5, 3) / 10
    arrays = {"train_terms": np.full((500, 3), 4.5), "test_terms": terms, "test_steps": np.arange(5) * 100}
    write_arrays(tmp_path, "q1_a_dset1", arrays)
    [panel] = curves.panels(records.Record(path), entry)
    found = {line["label"]: line for line in panel["series"]}
    assert found["KL, test"]["y"] == pytest.approx(terms[:, 2], rel=1e-4) and found["KL, test"]["x"] == [0, 100, 200, 300, 400]
    assert found["-ELBO, minibatches"]["y"] == [4.5] * 250 and found["-ELBO, minibatches"]["x"][:2] == [1.0, 3.0]
    assert [level["value"] for level in panel["levels"]] == [4.418, 4.471]
    assert panel["focus"][0] < 4.418 and 4.9 < panel["focus"][1] < 6 and panel["unit"] == "nats per example"
    write_arrays(tmp_path, "q1_a_dset1", {"train_terms": np.full((500, 3), np.nan), "test_terms": terms[:3]})
    [panel] = curves.panels(records.Record(path), entry)  # a gap is no number, and arrays that do not fit are left out
    assert panel["series"][0]["y"] == [None] * 250 and len(panel["series"]) == 3
    json.dumps(panel, allow_nan=False)


def test_every_real_record_with_a_history_has_curves():
    histories = ("train_terms", "steps", "test_steps", "loss", "evaluations", "curve_k2", "vqvae_train", "alternating_radius")
    for path in (settings.PROJECT_ROOT / "results").glob("*.json"):
        record = records.Record(path)
        found = curves.panels(record, deliverables.entry(record.id))
        assert found or not set(histories) & set(record.arrays), record.id
        assert all(len(line["x"]) == len(line["y"]) > 0 for panel in found for line in panel["series"]), record.id


def test_with_weights_the_slider_has_every_layer(tmp_path):
    from helpers.work.definitions import definitions

    notebook = definitions("5_planar_flows")
    stack = notebook.PlanarFlow(3, [1, 2])
    path = fake_suite.write_record(tmp_path, fake_suite.record(fake_suite.entry("mila_p3_data_arcs_k2")))
    arrays = {"path_depths": np.array([0, 3]), "path_points": np.zeros((2, 600, 2)), "path_half_widths": np.ones(2),
              "path_densities": np.zeros((2, 80, 80))}
    write_arrays(tmp_path, "mila_p3_data_arcs_k2", arrays, config={"data": "arcs", "layers": 3})
    assert flows.stages(records.Record(path))["depths"] == [0, 3]
    packed = weights.pack({"flow": stack})
    path.with_suffix(".safetensors").write_bytes(packed)
    fake_suite.edit(path, lambda content: content.update(weights={"sha256": hashlib.sha256(packed).hexdigest()}, shown=1))
    stages = flows.stages(records.Record(path))
    assert stages["depths"] == [0, 1, 2, 3] and stages["every"]
    points = np.frombuffer(base64.b64decode(stages["points"]), "<f2").reshape(4, 600, 2).astype(np.float32)
    back, _ = notebook.member(stack, 1).transform(torch.from_numpy(points[3].copy())[None])
    assert np.allclose(back[0].detach(), points[0], atol=1e-2)  # the flow maps the last stage to the base


def test_a_folder_with_something_else_is_left_alone_and_the_size_has_a_limit(copy, monkeypatch, tmp_path):
    use(copy, monkeypatch)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years", encoding="utf-8")
    with pytest.raises(assets.SiteError, match="holds something else"):
        pages.build(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text(encoding="utf-8") == "years"
    for path in [*(copy / "results").glob("*.json"), *(copy / "notebooks").glob("*.ipynb")]:
        path.unlink()
    first = pages.build(tmp_path / "empty")  # without a record, a figure or a notebook it says so
    assert f"0 of {len(deliverables.asked_runs())}" in first.read_text(encoding="utf-8")
    assert "is missing here: no record yet" in (first.parent / "latent.html").read_text(encoding="utf-8")
    pages.build(tmp_path / "empty")  # its own folder is written anew
    (copy / "report.pdf").write_bytes(bytes(5 * 2**20))
    first = pages.build(tmp_path / "empty")
    assert (first.parent / "report.pdf").exists() and 'href="report.pdf"' in first.read_text(encoding="utf-8")
    monkeypatch.setattr(assets, "LIMIT", 4 * 2**20)  # the pages fit, the report does not
    pages.build(tmp_path / "empty")
    assert not (first.parent / "report.pdf").exists() and "report.pdf" not in first.read_text(encoding="utf-8")
    monkeypatch.setattr(assets, "LIMIT", 1000)
    with pytest.raises(assets.SiteError, match="more than"):
        pages.build(tmp_path / "empty")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser with a profile of its own, 360 pixels wide; ``said`` and ``asked`` keep what a page complains of and asks for."""
    if BROWSER is None:
        pytest.skip("Chromium is not installed: bash scripts/browser.sh")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements-dev.txt brings playwright")
    with playwright.sync_playwright() as running:
        page, plain = (running.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=BROWSER, headless=True, args=FLAGS, java_script_enabled=scripts,
            viewport={"width": 360, "height": 800}, reduced_motion="reduce").pages[0] for scripts in (True, False))
        page.said, page.asked, page.without_scripts = [], [], plain
        page.on("console", lambda message: page.said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        yield page
        page.context.close(), plain.context.close()


def opened(browser, folder: Path, address: str):
    """Open a page of the site."""
    browser.goto((folder / address).as_uri())
    return browser


@pytest.mark.slow
def test_every_page_opens_without_a_complaint_and_asks_for_nothing_outside(built, browser):
    folder, _ = built
    browser.said.clear(), browser.asked.clear()
    for address in every_page(folder):
        page = opened(browser, folder, address)
        assert not browser.said, address
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{address} is wider than a telephone"
        assert not page.evaluate("'broken' in window"), address
    inside = (folder.as_uri(), "data:", "blob:")
    assert [url for url in browser.asked if not url.startswith(inside)] == [] and len(browser.asked) > 100


@pytest.mark.slow
def test_a_notebook_is_typeset_with_its_formulas(built, browser):
    page = opened(browser, built[0], "notebooks/2_vae_mnist.html")
    page.wait_for_selector("mjx-container svg")
    assert page.locator("mjx-container").count() == 2 and page.locator("main table").count() > 1
    assert page.inner_text("h1").startswith("Digits") and HOSTILE.split("'")[0] in page.inner_text("main")
    assert page.get_attribute(".contents a", "href") == "#cell-id=opening" and "a badge" in page.inner_text("main")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_the_table_sorts_and_filters_by_keyboard(built, browser):
    page = opened(browser, built[0], "index.html")
    value = "rows => rows.map(row => row.cells[3].dataset.value).filter(Boolean).map(Number)"
    names = "rows => rows.filter(row => !row.hidden).map(row => row.cells[0].textContent)"
    before = page.eval_on_selector_all("#results tbody tr", names)
    page.focus("#results th:nth-child(4) button")
    page.keyboard.press("Enter")
    values = page.eval_on_selector_all("#results tbody tr", value)
    assert values == sorted(values) and page.get_attribute("#results th:nth-child(4)", "aria-sort") == "ascending"
    page.keyboard.press("Enter")
    values = page.eval_on_selector_all("#results tbody tr", value)
    assert values == sorted(values, reverse=True) and len(values) > 30
    page.click("#results th:nth-child(1) button")
    assert sorted(page.eval_on_selector_all("#results tbody tr", names)) == sorted(before)
    page.fill("#filter", "mila20 3.4 sine")
    assert page.eval_on_selector_all("#results tbody tr", names) == [f"mila_p3_data_sine_k{k}" for k in (2, 8, 32)]


@pytest.mark.slow
def test_the_slider_moves_points_and_density(built, browser):
    page = opened(browser, built[0], "flow.html")
    picture = "document.getElementById('picture').toDataURL()"
    seen = [page.evaluate(picture)]
    page.focus("#stage")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
        seen.append(page.evaluate(picture))
    assert len(set(seen)) == 3 and "8 of 8 layers" in page.inner_text("#where")
    for box in ("#points", "#density"):
        page.uncheck(box)
        seen.append(page.evaluate(picture))
    assert len(set(seen)) == 5


@pytest.mark.slow
def test_curves_can_be_zoomed_switched_off_and_drawn_on_a_log_scale(built, browser):
    page = opened(browser, built[0], f"runs/{FLOW}.html")
    picture = "document.querySelector('.curves canvas').toDataURL()"
    page.wait_for_selector(".curves canvas")
    seen = [page.evaluate(picture)]
    for act, target in ((page.click, ".tools button >> nth=0"), (page.click, "text=reset"), (page.check, "text=log scale"),
                        (page.uncheck, ".tools input >> nth=0")):
        act(target)
        page.wait_for_timeout(50)
        seen.append(page.evaluate(picture) if page.query_selector(".curves canvas") else "")
    assert seen[0] == seen[2] and len(set(seen)) == 4


@pytest.mark.slow
def test_both_metrics_follow_the_slider(built, browser):
    page = opened(browser, built[0], "gans.html")
    page.wait_for_selector("#fid canvas")
    cells = f"[...document.querySelector('[data-run={GAN}]').cells].slice(2).map(cell => cell.textContent)"
    assert page.evaluate(cells) == ["3,000", "8", "7"]
    page.fill("#updates", "1500")
    assert page.evaluate(cells) == ["1,000", "4", "3"]
    page.uncheck("#runs input >> nth=0")
    assert page.is_hidden(f"[data-samples={GAN}]")


@pytest.mark.slow
def test_the_decoder_in_the_page_is_the_recorded_one(built, browser):
    folder, model = built
    page = opened(browser, folder, "latent.html")
    page.hover("#plane", position={"x": 80, "y": 60})
    assert page.inner_text("#source") == "Decoded in this page."
    z = page.evaluate("[...document.querySelectorAll('#first, #second')].map(slider => Number(slider.value))")
    assert z[0] < 0 < z[1]
    expected = model.decoder(torch.tensor(z)).clamp(0, 1) * 255
    shown = page.evaluate("[...document.getElementById('decoded').getContext('2d').getImageData(0, 0, 28, 28).data]")[::4]
    assert expected.std() > 5 and np.abs(np.array(shown) - expected.detach().numpy()).max() < 2
    page.focus("#plane")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("Number(document.getElementById('first').value)") > z[0]


@pytest.mark.slow
@pytest.mark.parametrize(("address", "wanted"), [
    ("index.html", "target reached"), (f"runs/{GAN}.html", "3,000 of 100,000"), ("gans.html", GAN),
    ("flow.html", "needs a script"), ("speed.html", "1.50 times the peer"), ("latent.html", "needs a script"),
    ("notebooks/1_vae_2d.html", "The least possible value"),
])
def test_all_text_is_there_without_a_script(built, browser, address, wanted):
    page = opened(browser.without_scripts, built[0], address)
    assert wanted in page.inner_text("main")
    assert page.locator(".scripted:visible").count() == 0  # and nothing that would do nothing
