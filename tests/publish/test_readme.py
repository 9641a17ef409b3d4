"""The generated tables of README.md and docs/: fresh, following the records, never lost."""

import fake_suite
import pytest

from helpers import settings
from helpers.publish import cost, readme
from helpers.results import deliverables


def test_the_tables_of_the_project_are_fresh():
    assert not readme.update(check=True), "stale: run python -m helpers readme"
    table = readme.table()
    assert all(f"`{entry['id']}`" in table for entry in deliverables.asked_runs())  # recorded, without a headline, or missing


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """A project of empty pages."""
    monkeypatch.setattr(settings, "PROJECT_ROOT", tmp_path)
    for name, marks in readme.PAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        body = "".join(f"<!-- {mark}:begin -->\nold\n<!-- {mark}:end -->\n" for mark in marks)
        (tmp_path / name).write_text(f"# Title\n{body}The end.\n")
    return tmp_path


def test_tables_follow_the_records_and_the_rest_of_a_page_stays(pages):
    assert readme.update(check=True) == list(readme.PAGES)
    assert "old" in (pages / "README.md").read_text()
    readme.update()
    assert not readme.update(check=True)
    record = fake_suite.write_record(pages, fake_suite.record(fake_suite.entry("q1_a_dset1")))
    assert {"README.md", "docs/results.md"} <= set(readme.update())
    text = (pages / "docs" / "results.md").read_text()
    assert "| `q1_a_dset1` | neg_elbo | 4.4300 ± 0.0100 | 3 | 4.4710 | 4.4300 | 4.4180 | target reached |" in text
    assert text.startswith("# Title\n") and text.endswith("The end.\n")
    assert ("| Berkeley 2024 | 1(a), data set 1 | negative ELBO | 4.430 ± 0.010 | 3 | 4.471 | target reached |"
            in (pages / "README.md").read_text())
    fake_suite.edit(record, lambda content: content["metrics"].update(neg_elbo=4.44))
    assert "docs/results.md" in readme.update(check=True)


def test_a_run_with_a_bound_and_no_aim_is_not_counted_as_one_with_an_aim(pages):
    fake_suite.write_record(pages, fake_suite.record(fake_suite.entry("q1_a_dset1")))
    without = fake_suite.entry("mila_p3_density_sine")
    assert not any({"sheet", "target"} & facts.keys() for facts in without["metrics"].values())
    fake_suite.write_record(pages, fake_suite.record(without))
    assert readme.short_table().endswith("\n1 of 1 runs with an aim reach it.")


def test_a_page_without_its_marks_is_named_and_nothing_is_written(pages):
    (pages / "docs" / "speed.md").write_text("no marks")
    with pytest.raises(ValueError, match="docs/speed.md needs <!-- speed:begin -->"):
        readme.update()
    assert "old" in (pages / "README.md").read_text()


def test_costs_are_the_hours_of_the_records(pages):
    assert cost.spent() == {} and cost.gpu_hours() == 0.0
    for run_id, device, seconds in (("q1_a_dset1", "CPU, 1 threads", 1800.0), ("q1_b_dset1", "NVIDIA H200", 3600.0)):
        content = fake_suite.record(fake_suite.entry(run_id), seconds=seconds)
        content["environment"]["device"] = device
        fake_suite.write_record(pages, content)
    assert cost.spent() == {"CPU": (1, 0.5), "NVIDIA H200": (1, 1.0)}
    assert f"| the records, once | 1.5 | {0.5 * cost.CORE_HOUR + cost.GPU_HOUR:.2f} |" in cost.table()
