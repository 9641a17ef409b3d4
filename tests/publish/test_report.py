"""The report: its numbers come from the records alone, gaps are seen, the PDF builds; and the README's table is fresh."""

import json
import re
import shutil
import subprocess

import fake_suite
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from helpers import plotting, settings
from helpers.publish import latex, provenance, report, tex, wording
from helpers.results import deliverables

TEXT = (settings.PROJECT_ROOT / "report.tex").read_text(encoding="utf-8")
BODY = TEXT[TEXT.index(r"\begin{document}") :]
needs_latex = pytest.mark.skipif(shutil.which("latexmk") is None, reason=f"latexmk is not installed: {report.INSTALL}")


@pytest.fixture
def output(tmp_path, monkeypatch):
    """An output folder of the full profile, and the sources that its records came from."""
    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setenv("SUITE_PROFILE", "full")
    monkeypatch.setattr(report, "is_stale", fake_suite.is_stale)
    return folder


def written():
    """The definitions of the generated file, by the name that report.tex looks up."""
    lines = report.write_numbers().read_text().splitlines()
    return dict(re.fullmatch(r"\\expandafter\\def\\csname ([^\\]+)\\endcsname\{(.*)\}", line).groups()
                for line in lines if line.startswith(r"\expandafter"))


def test_numbers_are_those_of_the_record_and_are_flagged_where_they_must_be(output):
    fake_suite.write_record(output, fake_suite.record(fake_suite.entry("q1_a_dset1")))
    cut = {"done": 3000, "planned": 100000, "unit": "updates"}
    fake_suite.write_record(output, fake_suite.record(fake_suite.entry("cifar10_jsd_1"), budget=cut))
    fake_suite.write_record(output, fake_suite.record(fake_suite.entry("q1_a_dset2"), source="0" * 64))
    found = written()
    assert found["val/q1_a_dset1/neg_elbo"] == "4.430"
    assert found["spread/q1_a_dset1/neg_elbo"] == r"\,$\pm$\,0.010"
    assert found["sheet/q1_a_dset1/neg_elbo"] == "4.471"
    assert "target reached" in found["rows/q1_a_dset1"]
    assert found["val/cifar10_jsd_1/fid"] == r"124.5\flag{cifar10_jsd_1}"
    assert "3,000 of 100,000 updates" in found["remark/cifar10_jsd_1"]
    assert "stale" in found["remark/q1_a_dset2"] and "target reached" not in found["rows/q1_a_dset2"]
    assert found["val/q1_a_dset2/kl"].endswith(r"\flag{q1_a_dset2}")
    assert found["config/q1_a_dset1/learning_rate"] == "0.001"


def test_what_was_seen_of_full_or_cut_runs_is_said_of_such_records_alone(output, monkeypatch):
    told = {kind: set(re.findall(rf"\\when{kind}\{{(\w+)\}}", BODY)) for kind in ("full", "cut")}
    assert all(told.values())
    cut = {"done": 995, "planned": 100000, "unit": "updates"}

    def guards(**changes):
        for run_id in told["full"] | told["cut"]:
            fake_suite.write_record(output, fake_suite.record(fake_suite.entry(run_id), **changes))
        return {name for name in written() if name.startswith(("full/", "cut/"))}

    full = {f"full/{run_id}" for run_id in told["full"] | told["cut"]}
    assert guards() == full
    assert guards(budget=cut) == full | {name.replace("full/", "cut/") for name in full}
    monkeypatch.setenv("SUITE_PROFILE", "quick")
    assert guards(profile="quick", budget=cut) == set()
    assert "record/cifar10_w1_2" in written()


def test_a_record_that_is_gone_leaves_a_gap_and_no_old_number(output):
    path = fake_suite.write_record(output, fake_suite.record(fake_suite.entry("q1_a_dset1")))
    assert "val/q1_a_dset1/neg_elbo" in written()
    path.unlink()
    found = written()
    assert not [name for name in found if re.match(r"(val|number|spread|record|config|fig)/q1_a_dset1", name)]
    assert r"\gap{no record yet}" in found["rows/q1_a_dset1"] and r"\gap{no record}" in found["summary/q1_a_dset1"]
    assert found["nofig/q1_a_dset1_train_plot.png"] == "no record yet"
    assert not list((report.build_folder() / "figures").glob("q1_a_dset1*"))


def test_only_figures_that_their_record_names_are_shown(output):
    fake_suite.write_record(output, fake_suite.record(fake_suite.entry("q1_a_dset1")))
    (output / "figures" / "q1_a_dset1_train_plot.png").write_bytes(fake_suite.png("another"))
    (output / "figures" / "q1_a_dset1_sample_with_noise.png").unlink()
    found = written()
    assert found["nofig/q1_a_dset1_train_plot.png"] == "not the figure that the record names"
    assert found["nofig/q1_a_dset1_sample_with_noise.png"] == "the figure is missing"
    assert found["fig/q1_a_dset1_sample_without_noise.png"].startswith("figures/")


def test_a_small_profile_shows_its_figures_as_they_are(output, monkeypatch):
    monkeypatch.setenv("SUITE_PROFILE", "quick")
    fake_suite.write_record(output, fake_suite.record(fake_suite.entry("q1_a_dset1"), profile="quick"))
    shown = report.build_folder() / written()["fig/q1_a_dset1_train_plot.png"]
    assert shown.samefile(output / "figures" / "q1_a_dset1_train_plot.png")
    assert not list((report.build_folder() / "figures").glob("*"))


def test_the_report_asks_for_what_the_sheets_ask_for_and_for_nothing_else():
    entries = {entry["id"]: entry for entry in deliverables.asked_runs()}
    critics = {f"cifar10_{name}" for name in ("jsd_1", "jsd_2", "jsd_3", "w1_2", "w1_3")}  # columns of one table
    assert {metric for name in critics for metric in entries[name]["metrics"]} <= set(re.findall(r"\{(\w+)\}", " ".join(
        re.findall(r"\\ganrow.*", BODY))))
    tabulated = sorted(name for name, entry in entries.items() if entry.get("metrics") and name not in critics)
    assert sorted(re.findall(r"\\resultrows\{(\w+)\}", BODY)) == tabulated  # each once
    assert {name for name, entry in entries.items() if "verdicts" in entry} == set(re.findall(r"\\csname verdicts/(\w+)", BODY))
    shown = set(re.findall(r"\\(?:fig|thumb)\{([\w.]+)\}", BODY))
    shown |= {name for pair in re.findall(r"\\pair\{([\w.]+)\}\{([\w.]+)\}", BODY) for name in pair}
    assert shown == {figure for entry in entries.values() for figure in entry["figures"]}
    for run_id, metric in re.findall(r"\\(?:val|meas|sheet|target|bound)\{(\w+)\}\{(\w+)\}", BODY):
        if run_id in {entry["id"] for entry in deliverables.supporting_runs()}:
            continue  # no sheet asks for their metrics
        asked = re.sub(r"^(sheet_setting|course|plain)_", "", metric)
        assert asked in entries[run_id]["metrics"], (run_id, metric)
    assert {sheet for sheet in deliverables.sheets() if rf"\summaryof{{{sheet}}}" in TEXT} == {
        entry["sheet"] for entry in entries.values()}
    keys = set(re.findall(r"^@\w+\{(\w+),", (settings.PROJECT_ROOT / "references.bib").read_text(), flags=re.M))
    assert {key for group in re.findall(r"\\citep\{([^}]+)\}", TEXT) for key in group.split(",")} == keys


def arguments(command: str, text: str) -> list[str]:
    """The first argument of each use of a LaTeX command, inner braces and all."""
    found = []
    for match in re.finditer(rf"\\{command}\{{", text):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            end += 1
        found.append(text[match.end() : end - 1])
    return found


def test_every_question_has_an_answer_that_opens_with_its_conclusion():
    subsections = [part for part in re.split(r"\\(?:sub)?section\{", BODY) if r"\asked{" in part]
    assert len(subsections) > 20
    for part in subsections:
        title = part.partition("}")[0]
        answers = arguments("answerto", part)
        assert len(answers) == 1, title
        assert len(answers[0].split()) <= 40, (title, len(answers[0].split()))
        assert answers[0].endswith(".") and not re.search(r"[.?!] [A-Z]", answers[0]), (title, "is not one sentence")
        assert not re.match(r"(?i)(where|if|when|the lines|as|see)\b", answers[0]), title


def prose(cell: str) -> str:
    """The first paragraph of a markdown cell's source after a title of bold type, in one line."""
    paragraphs = re.split(r"\n\n+", "\n".join(line.removeprefix("#").strip() for line in cell.splitlines()).strip())
    opening = " ".join(paragraphs[0].split())
    if re.fullmatch(r"\*\*[^*]+[.?]\*\*", opening) and opening.startswith("**Answer"):
        opening = " ".join(paragraphs[1].split())
    return re.sub(r"^\*\*Answer[^*]*\*\*", "", opening).strip().removeprefix("**")


@pytest.mark.parametrize("answer", deliverables.answers(), ids=lambda answer: answer["id"])
def test_every_answer_of_the_notebooks_opens_with_its_conclusion(answer):
    source = (settings.PROJECT_ROOT / "notebooks" / f"{answer['notebook']}.py").read_text(encoding="utf-8")
    cell = source.split(f'tags=["answer:{answer["id"]}"]\n')[1].partition("\n# %%")[0]
    conclusion = re.split(r"(?<=\.)(?:\*\*)? (?=[A-Z*$])", prose(re.sub(r"^# ##+ .*\n#\n", "", cell)))[0]
    assert 5 < len(conclusion.split()) <= 40, conclusion
    assert not re.match(r"(?i)(where|if|when|the lines|as|see)\b", conclusion), conclusion


def test_every_figure_has_a_caption_that_names_its_runs():
    """The macro that shows a figure notes its run; a picture by another way would have no source."""
    figures = re.findall(r"\\begin\{figure\}.*?\\end\{figure\}", BODY, flags=re.S)
    assert all(r"\caption{" in figure for figure in figures)
    assert r"\includegraphics" not in BODY
    assert r"\plaincaption{#1\figsources}" in TEXT


def significant(number: str) -> int:
    """Digits of a number without leading zeros and, in whole numbers, without those at the end."""
    digits = number.replace(".", "").lstrip("0")
    return len(digits if "." in number else digits.rstrip("0"))


def test_no_number_of_the_project_has_more_than_five_significant_digits(monkeypatch):
    monkeypatch.setenv("SUITE_PROFILE", "full")
    monkeypatch.delenv("SUITE_OUTPUT", raising=False)
    found = latex.numbers(report.find, lambda record: False, {}, {}, {}, {})
    assert "csname array/b19_1b/final_train.neg_elbo" in found
    asked = {f"{run_id}/{name}" for run_id, name in re.findall(r"\\fact\{(\w+)\}\{([\w.]+)\}", BODY)}
    shown = [text for name, text in re.findall(r"csname facts/(\S+?)\\endcsname\{(.*)\}", found) if name in asked]
    shown += re.findall(r"csname (?:val|spread|sheet|target|bound|array)/\S+?endcsname\{(.*)\}", found)
    shown += re.findall(r"csname (?:rows|summary)/.*?endcsname\{(.*)\}", found)
    assert len(shown) > 500
    too_long = {number for text in shown for number in re.findall(r"\d+(?:\.\d+)?", text.replace(r"\,", "").replace(",", ""))
                if significant(number) > 5}
    assert not too_long


@pytest.mark.parametrize(("name", "words"), [
    ("neg_elbo", "negative ELBO"), ("valid_neg_elbo", "validation negative ELBO"), ("loss_k32", "loss, k = 32"),
    ("neg_iwae100_first100", "negative bound, 100 samples, 100 points"), ("unheard_of", "unheard of"),
])
def test_metrics_are_named_in_words(name, words):
    assert wording.metric(name) == words


@pytest.mark.parametrize(("value", "expected"), [
    (4.4184, "4.418"), (10173.7, "10,174"), (0.00012, "1.2e-04"), (0, "0"), (None, "-"), (-91.318, "-91.32"), (128.0, "128.0"),
])
def test_numbers_have_four_digits(value, expected):
    assert wording.number(value) == expected


def test_a_run_leads_to_its_record_and_notebook_where_the_repository_has_an_address(output, monkeypatch):
    fake_suite.write_record(output, fake_suite.record(fake_suite.entry("q1_a_dset1")))
    here = r"\hyperlink{run:q1_a_dset1}"
    monkeypatch.setattr(provenance.stamping, "setting", lambda: "")
    assert written()["source/q1_a_dset1"].startswith(here) and "href" not in written()["source/q1_a_dset1"]
    monkeypatch.setattr(provenance.stamping, "setting", lambda: "owner/name")
    monkeypatch.setattr(provenance, "commit", lambda: "abc")
    linked = written()["source/q1_a_dset1"]
    assert linked.startswith(here)
    assert "https://github.com/owner/name/blob/abc/results/q1_a_dset1.json" in linked
    assert re.search(r"owner/name/blob/abc/notebooks/1_vae_2d.py\\#L\d+", linked)


def test_a_run_is_found_in_its_notebook_by_its_name_or_by_its_function():
    entries = {entry["id"]: entry for entry in (*deliverables.asked_runs(), *deliverables.supporting_runs())}
    for run_id, function in (("q1_choices", "run_choices"), ("q1_a_dset1", "run_gaussian")):
        cell, line = provenance.place(entries[run_id], function)
        text = (settings.PROJECT_ROOT / "notebooks" / "1_vae_2d.py").read_text(encoding="utf-8").splitlines()
        assert run_id in text[line - 1] or f"def {function}(" in text[line - 1]
        assert cell == sum(row.startswith("# %%") for row in text[:line])


def test_no_measured_number_is_typed_by_hand():
    prose = re.sub(r"\\(?:fig|pair|thumb|extrafigure|hspace|resultrows|includegraphics)\{[^}]*\}(?:\{[^}]*\})*", "", BODY)
    assert re.findall(r"\d*\.\d{3,}", prose) == ["0.998"]  # the sheet's averaging constant
    known = {wording.number(value) for entry in deliverables.asked_runs() for facts in entry.get("metrics", {}).values()
             for name, value in facts.items() if name != "better" and value}
    assert not {number for number in known if len(number) > 4 and number in prose}


@pytest.mark.parametrize(("text", "expected"), [
    ("50% of a_b & #1 {x}", r"50\% of a\_b \& \#1 \{x\}"),
    ("a\\b^c~d", r"a\textbackslash{}b\textasciicircum{}c\textasciitilde{}d"),
    ("4.43 ± 0.01", r"4.43 $\pm$ 0.01"), ("日本", "??"),
])
def test_texts_of_records_cannot_break_the_report(text, expected):
    assert tex.escape(text) == expected


@pytest.mark.parametrize(("value", "expected"), [
    (20, "20"), (10000, r"10\,000"), (0.002, "0.002"), (True, "True"),
    (1e-5, r"\ensuremath{10^{-5}}"), (2e-5, r"\ensuremath{2\times10^{-5}}"), (4.418420483, "4.418420483"),
    ("median_seed", r"median\_seed"),
])
def test_values_of_a_configuration_read_well(value, expected):
    assert tex.plain(value) == expected


def pdf_text(path):
    return subprocess.run(["pdftotext", "-layout", str(path), "-"], capture_output=True, text=True, check=True).stdout


@needs_latex
def test_the_pdf_builds_without_records_and_shows_gaps(output):
    path, complaints = report.build()
    assert complaints == []
    assert path == output / "report.pdf"
    if shutil.which("pdftotext"):
        text = pdf_text(path)
        assert text.count("no record") > 100
        assert "??" not in text


def add_metric(content, name):
    """Give a record a metric that it lacks."""
    content["metrics"].setdefault(name, 1.0)
    content["spread"].setdefault(name, {"std": 0.0, "min": 1.0, "max": 1.0, "n": 1})


@needs_latex
def test_the_pdf_of_a_complete_suite_has_no_gap_and_the_same_bytes_each_time(output, monkeypatch):
    fake_suite.make(output)
    for entry in deliverables.supporting_runs():
        fake_suite.write_record(output, fake_suite.record({**entry, "figures": [], "metrics": {}}))
    arrays = re.findall(r"\\arraymean\{(\w+)\}\{([\w.]+)\}", BODY)
    monkeypatch.setattr(latex, "means", lambda record: [(name, 1.5) for run_id, name in arrays if run_id == record.id])
    for kind, run_id, name in re.findall(r"\\(config|fact)\{(\w+)\}\{([\w.]+)\}", BODY):
        path, field = output / "results" / f"{run_id}.json", {"config": "config", "fact": "facts"}[kind]
        fake_suite.edit(path, lambda content, field=field, name=name: content[field].update({name: 12.5}))
    used = re.findall(r"\\(?:val|meas|difference)\{(\w+)\}\{(\w+)\}", BODY)
    used += re.findall(r"\\difference\{\w+\}\{\w+\}\{(\w+)\}\{(\w+)\}", BODY)
    used += [(run_id, name) for run_id, *both in re.findall(r"\\gapbetween\{(\w+)\}\{(\w+)\}\{(\w+)\}", BODY) for name in both]
    for run_id, metric in used:
        fake_suite.edit(output / "results" / f"{run_id}.json", lambda content, metric=metric: add_metric(content, metric))
    hostile = "a 100% \\input{x} $#_&{~^ name"
    fake_suite.edit(output / "results" / "q1_a_dset1.json", lambda content: content["dataset"].update(name=hostile))
    cut = {"done": 10, "planned": 20, "unit": "steps"}
    fake_suite.edit(output / "results" / "q1_a_dset1.json", lambda content: content.update(budget=cut))
    path, complaints = report.build()
    first = path.read_bytes()
    assert complaints == []
    if shutil.which("pdftotext"):
        text = pdf_text(path)
        assert not re.findall("no record|not the figure|is missing|number missing", text)
        assert "4.430 ± 0.010" in text
        said = " ".join(text.split())
        assert re.search(r"Figure \d+: Question 1\(a\).*? From run 1, run 2\. † ?run 1: 10 of 20 steps\.", said)
        answers = text[: text.index("The code that the sheets name")].replace("\n", " ")
        running, _, appendix = answers.rpartition("How the numbers were made")
        assert not re.findall(r"\b[a-z0-9]+_[a-z0-9_]+\b", running) and "q1_a_dset1" in appendix
    shutil.rmtree(report.build_folder())
    assert report.build()[0].read_bytes() == first


def test_without_latex_the_error_has_the_command_that_installs_it(output, monkeypatch):
    monkeypatch.setattr(report.shutil, "which", lambda name: None)
    with pytest.raises(report.ReportError, match="apt-get install"):
        report.build()


def test_a_broken_record_stops_the_report_with_its_name(output):
    (output / "results").mkdir()
    (output / "results" / "q1_a_dset1.json").write_text(json.dumps({"id": "q1_a_dset1"}))
    with pytest.raises(Exception, match="q1_a_dset1.json is not a readable record"):
        report.write_numbers()


def test_a_noisy_picture_is_prepared_as_a_jpeg(tmp_path):
    """Noise compresses badly: an encoder with a buffer for ordinary pictures breaks on it."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    source = tmp_path / "noise.png"
    Image.fromarray(noise).save(source)
    prepared = report.prepare(source, tmp_path / "prepared")
    assert prepared.suffix == ".jpg"
    with Image.open(prepared) as image:
        assert image.size == (700, 700)


def test_a_thin_line_keeps_its_colour_in_print(tmp_path):
    """On white paper with one large patch of many shades: quantised by frequency, lines would borrow each other's colours."""
    figure, axis = plt.subplots(figsize=(8, 5))
    axis.imshow(np.linspace(0, 1, 10_000).reshape(100, 100), cmap="cividis", extent=(0, 3, 0, 3))
    for height, colour in enumerate(plotting.COLOURS):
        axis.plot([4, 9], [height / 2, height / 2], color=colour, linewidth=1.2)
    axis.set_xlim(0, 10)
    plotting.save(figure, tmp_path / "lines.png")
    picture = Image.open(report.prepare(tmp_path / "lines.png", tmp_path, 0.6)).convert("RGB")
    whole = Image.open(tmp_path / "lines.png").convert("RGB").resize(picture.size, Image.Resampling.LANCZOS)
    wanted, there = (np.asarray(image).astype(int) for image in (whole, picture))
    assert np.mean(there == 255) > 0.3
    coloured = np.ptp(wanted, axis=-1) > 60
    assert np.percentile(np.abs(there - wanted).max(-1)[coloured], 95) < 35
