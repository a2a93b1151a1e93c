import json

import pytest

from adet_ext.errors import UserError
from adet_ext.nas.report import write_report

from .test_statistics import HEADER, entry

GRAPH = {"nodes": [["c", "C5"], ["n", "concat"]], "edges": [["c", "n", "deformable"]]}


def write_journal(path, entries, **header):
    lines = [{"format": 1, "round": 2, **HEADER, **header}, *entries]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def journal(tmp_path):
    entries = [entry(i, (i % 2, i % 3), float(i), graph=GRAPH, metrics={"loss": 1.5}) for i in range(120)]
    return write_journal(tmp_path / "journal.jsonl", entries)


def test_the_page_has_every_part(journal, tmp_path):
    page = open(write_report(str(tmp_path / "report"), journal)).read()
    for heading in ("Reward", "Best architectures", "What the sampler prefers", "Where the time went"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("class='chart graph'") == 3
    assert "deformable" in page and "architecture 119" in page


def test_the_json_has_the_figures_of_the_page(journal, tmp_path):
    write_report(str(tmp_path), journal)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["best"][0]["index"] == 119 and found["best"][0]["reward"] == 119.0
    assert found["first"]["mean"] == sum(range(50)) / 50 and found["last"]["mean"] == sum(range(70, 120)) / 50


def test_baselines_are_in_the_figure_of_rewards(journal, tmp_path):
    entries = [entry(i, (0, 0), 1.0) for i in range(20)]
    other = write_journal(tmp_path / "other.jsonl", entries, sampler={"name": "evolution"}, seed=7)
    page = open(write_report(str(tmp_path), journal, beside=[other])).read()
    assert "random, seed 3" in page and "evolution, seed 7" in page


def test_a_running_search_is_reported_without_its_torn_last_line(journal, tmp_path):
    with open(journal, "a") as file:
        file.write('{"index": 120, "tok')
    write_report(str(tmp_path), journal)
    assert json.loads((tmp_path / "report.json").read_text())["asked"] == 120


def test_a_search_without_architectures_has_a_report(tmp_path):
    journal = write_journal(tmp_path / "empty.jsonl", [])
    assert "No architecture has been evaluated yet" in open(write_report(str(tmp_path), journal)).read()


def test_names_are_escaped(tmp_path):
    journal = write_journal(tmp_path / "j.jsonl", [entry(0, (0, 0), 1.0)], seed="<script>")
    assert "<script>" not in open(write_report(str(tmp_path), journal)).read()


def test_a_missing_journal_is_said(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        write_report(str(tmp_path), str(tmp_path / "nowhere.jsonl"))


def test_the_verb_writes_the_report_beside_the_journal(journal, tmp_path, capsys):
    from adet_ext.cli.search import main

    assert main(["report", journal]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.json").is_file()
