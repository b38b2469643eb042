"""The page as a document: whole, self-contained, escaped, with words for every figure."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from eval.report.page import render_page, write_page
from eval.report.views import repeat_command
from eval.results import ReplayReport
from router_service.cli import app
from router_service.errors import ConfigError
from tests.eval.report.sample import HOSTILE, report, row

VOID = {"meta", "input", "br", "img", "link"}


class Document(HTMLParser):
    """Notes what a page is made of, and that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(report())


@pytest.fixture(scope="module")
def document(page) -> Document:
    return Document(page)


def test_the_page_is_well_formed_and_ids_are_its_own(document):
    assert document.open == []
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_link_leads_somewhere_within_the_page(document):
    ids = {attributes.get("id") for _, attributes in document.elements}
    links = [value for _, a in document.elements for name, value in a.items() if name == "href"]
    assert links
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    clips = re.findall(r"url\(#([^)]+)\)", " ".join(str(a.get("clip-path")) for _, a in document.elements))
    assert clips
    assert set(clips) <= ids


def test_nothing_is_fetched(page, document):
    assert not document.all("link")
    assert not any("src" in attributes for _, attributes in document.elements)
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    (policy,) = [a["content"] for a in document.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_names_from_the_report_cannot_run(page, document):
    assert not document.all("img")
    assert "<img src=x" not in page
    assert HOSTILE in "".join(document.texts)


def test_every_figure_is_told_in_words(document):
    figures = document.all("svg")
    assert len(figures) == len(document.all("figure")) >= 6
    assert all(figure["role"] == "img" and len(figure["aria-label"] or "") > 40 for figure in figures)


def test_the_figures_take_the_colours_of_the_page(page):
    assert "var(--series-0)" in page
    assert "#0a0a" not in page
    assert "#0a0b" not in page


def test_points_tell_what_they_are_when_pointed_at(document):
    told = "".join(document.texts)
    assert "symbolic + majority, k = 3: 45.0 % (41.0 to 49.0), 3.00 calls a question" in told


@pytest.mark.parametrize(
    "said",
    [
        "cannot be told from it on",
        "knn + weighted, k = free",
        "unknown",
        "looks at the judged questions: a bound",
        "none of 200 questions of test has the normalised text",
        "q7 has the text of q1",
        "modality (no expert sees images)",
        "The same strategies fitted on grades that were shuffled",
        "a remark about",
        "knn, APGR 0.500",
        "never",
    ],
)
def test_the_page_says(said, document):
    assert said in " ".join("".join(document.texts).split())


def test_the_judgement_is_told_by_more_than_a_colour(page):
    assert re.search(r'class="num better"[^>]*><span class="mark" aria-label="better">▲</span>', page)
    assert re.search(r'class="num worse"[^>]*><span class="mark" aria-label="worse">▼</span>', page)


def test_tables_know_what_to_sort_by(document):
    values = [a["data-v"] for a in document.all("td") if "data-v" in a]
    assert values
    for value in values:
        assert value == "" or float(value) == float(value)


def test_the_same_report_makes_the_same_page(page):
    assert render_page(report()) == page


def test_a_report_of_one_bare_row_is_a_page_too():
    bare = row("knn", 0.5, cost_usd_per_1k=None, vs_best_single=None, vs_fixed=None)
    document = Document(render_page(ReplayReport(settings=report().settings, rows=(bare,))))
    assert document.open == []
    assert "This was not audited." in " ".join(document.texts)


def test_a_report_without_rows_is_refused():
    empty = ReplayReport(settings=report().settings, rows=(row("knn", 0.5, is_shuffled=True),))
    with pytest.raises(ConfigError, match="holds no rows"):
        render_page(empty)


def test_the_page_is_written_where_asked(tmp_path, page):
    write_page(report(), tmp_path / "deep" / "report.html")
    assert (tmp_path / "deep" / "report.html").read_text(encoding="utf-8") == page


def test_the_command_to_repeat_it_is_one_the_command_line_takes():
    import typer

    command = repeat_command(report()).split()
    assert command[:3] == ["enlist", "eval", "replay"]
    known = typer.main.get_command(app).commands["eval"].commands["replay"].params  # type: ignore[attr-defined]
    options = {name for parameter in known for name in parameter.opts}
    assert {word for word in command if word.startswith("--")} <= options
    assert "--seeds 2 --seed 0" in " ".join(command)
    assert "--fit-on fit+extra --split test --shuffled-control" in " ".join(command)
