"""The page of a report: self-contained, safe with any text in it, small and quick to make."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser

import pytest
from report_sample import HOSTILE, empty_report, sample_report

from recov_graph.report.content import NOT_ROUTED, OUTCOMES, STOP, Report
from recov_graph.report.embed import LIMITS, MOST_BYTES, as_json, case_data, cleaned
from recov_graph.report.page import SCRIPTS, STATIC, STEPS, render_page, summary
from recov_graph.report.style import hues, shape
from recov_graph.report.wording import visible

CITED = "https://arxiv.org/abs/2606.05145"
VOID = {"meta", "br", "link", "img", "input", "hr"}
REPORTS = {
    "normal": sample_report(black_box=True),
    "nothing failed": sample_report(0),
    "empty": empty_report(),
    "tiny": sample_report(1, length=4),
    "hostile": sample_report(12, hostile=True),
    "texts not stored": sample_report(20, stored=False, length=900),
    "two features": sample_report(5, cases=0, black_box=True),
}


class Parsed(HTMLParser):
    """Elements of a page, with the text of its scripts, and what is left open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)

    def attribute(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render_page(report) for name, report in REPORTS.items()}


@pytest.mark.parametrize("name", REPORTS)
def test_it_is_well_formed_and_needs_nothing_else(pages: dict[str, str], name: str) -> None:
    parsed = Parsed(pages[name])
    assert parsed.open == []
    assert pages[name].lstrip().startswith("<!doctype html>")
    links = parsed.attribute("href") + parsed.attribute("src")
    assert [link for link in links if not link.startswith("#")] == [CITED]
    tags = {tag for tag, _ in parsed.elements}
    assert tags & {"link", "iframe", "object", "embed", "base", "img"} == set()
    assert "url(" not in re.findall(r"<style>(.*?)</style>", pages[name], re.S)[0]
    ids = parsed.attribute("id")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", REPORTS)
def test_only_its_own_scripts_may_run(pages: dict[str, str], name: str) -> None:
    parsed = Parsed(pages[name])
    metas = [attrs for tag, attrs in parsed.elements if tag == "meta"]
    policies = [m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    policy = policies[0] or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    allowed = policy.split(";")[1].split()[1:]
    data, *scripts = parsed.scripts
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    assert allowed == [f"'sha256-{base64.b64encode(d).decode()}'" for d in digests]
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split(";")[1]
    json.loads(data)
    assert not [attrs for _, attrs in parsed.elements if any(n.startswith("on") for n in attrs)]


def test_hostile_texts_stay_texts(pages: dict[str, str]) -> None:
    parsed = Parsed(pages["hostile"])
    outside = pages["hostile"].replace(parsed.scripts[0], "")
    for text in HOSTILE[:2]:
        assert text not in pages["hostile"]
    assert len(parsed.scripts) == 1 + len(SCRIPTS)
    assert "img" not in {tag for tag, _ in parsed.elements}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", outside)
    assert set("<>&\u2028\u2029\u202e\x1b") & set(parsed.scripts[0]) == set()
    words = "".join(parsed.words)
    assert visible(HOSTILE[0]) in words
    assert visible(HOSTILE[4]) in words


def test_the_data_comes_out_as_it_went_in(pages: dict[str, str]) -> None:
    report = REPORTS["hostile"]
    data = json.loads(Parsed(pages["hostile"]).scripts[0])
    (found,) = data["maps"]
    keys = found["named"]["key"]
    assert [keys["names"][i] for i in keys["at"]] == [visible(key) for key in report.maps[0].key]
    names = found["named"]["outcome"]["names"]
    assert tuple(names[i] for i in found["named"]["outcome"]["at"]) == report.maps[0].outcome
    assert found["z"][0] == pytest.approx(report.maps[0].z[0], abs=0.006)
    strip, drawn = report.cases[0].strips[0], data["cases"][0]["strips"][0]
    assert drawn["junction"] == strip.junction
    pieces = [piece for part in drawn["parts"] for piece in part["pieces"]]
    assert pieces == [visible(piece) for piece in strip.pieces or ()]
    assert set(data["charts"]) == {
        id for id in Parsed(pages["hostile"]).attribute("id") if id in data["charts"]
    }


def test_texts_that_are_not_stored_are_said_to_be_missing(pages: dict[str, str]) -> None:
    assert "text not stored" in pages["texts not stored"]
    data = json.loads(Parsed(pages["texts not stored"]).scripts[0])
    assert all("pieces" not in part for part in data["cases"][0]["strips"][0]["parts"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "empty",
            "No problem has been run yet. There is nothing to report on yet. recov-graph demo",
        ),
        ("nothing failed", "recov-graph demo makes some that do"),
        (
            "normal",
            "Of 200 problems 84 failed at first; 36 of them were rescued, with 38,724 tokens",
        ),
        ("tiny", "Of 117 problems 1 failed at first"),
    ],
)
def test_it_says_what_matters_first(pages: dict[str, str], name: str, said: str) -> None:
    assert said in " ".join("".join(Parsed(pages[name]).words).split())


def test_a_summary_says_only_what_is_known() -> None:
    full = REPORTS["normal"]
    unpriced = tuple(figure for figure in full.headline if figure.name != "saved")
    told = Report(**{**vars(full), "headline": unpriced})
    assert summary(told).endswith("36 of them were rescued, with 38,724 tokens.")
    assert summary(Report(**{**vars(full), "headline": ()})) == (
        "Of 200 problems 84 failed at first."
    )


@pytest.mark.slow
def test_ten_thousand_points_and_twenty_long_cases_fit() -> None:
    report = sample_report(10_000, cases=20, length=3000, hostile=True)
    render_page(REPORTS["tiny"])  # the template is read once
    start = time.perf_counter()
    made = render_page(report)
    took = time.perf_counter() - start
    assert len(made.encode()) < 3_000_000
    assert took < 6  # about 1.5 on an idle core
    found, _ = case_data(report.cases)
    assert sum(len(as_json(case)) for case in found) < MOST_BYTES


def test_a_long_trace_keeps_its_junction_and_an_overview_of_the_rest() -> None:
    report = sample_report(40, cases=1, length=5000)
    (case,), limits = case_data(report.cases)
    assert limits == LIMITS[0]
    for strip, drawn in zip(report.cases[0].strips, case["strips"], strict=True):
        assert any(p["start"] <= strip.junction < p["start"] + len(p["J"]) for p in drawn["parts"])
        assert sum(len(part["J"]) for part in drawn["parts"]) < 1000
        assert len(drawn["overview"]["J"]) <= 400
        assert max(drawn["overview"]["J"]) == pytest.approx(max(strip.pressure), abs=0.01)
        assert all(any(p["start"] <= m[0] < p["start"] + len(p["J"]) for p in drawn["parts"])
                   for m in drawn["marks"])  # fmt: skip


def test_what_cannot_be_seen_is_shown() -> None:
    assert visible("a\x1b[0m\u202eb\n\tc") == "a⟨U+001B⟩[0m⟨U+202E⟩b\n\tc"
    assert visible("\x7f\x85\u200b\ud800\U000e0041") == "⟨U+007F⟩⟨U+0085⟩⟨U+200B⟩\ufffd⟨U+E0041⟩"
    assert cleaned({"a": [float("nan"), float("inf"), 0.123456, 1234.56789, "\x00"]}) == {
        "a": [None, None, 0.123, 1234.568, "⟨U+0000⟩"]
    }


def test_every_route_and_outcome_has_its_own_look() -> None:
    routes = ("dense_steer", "sparse_steer", "sparse_steer_random", "local_temp", "retry")
    routes += ("temp_lift", "extend", "replan", "escalate", STOP, NOT_ROUTED, "somebody's own")
    assert len(set(hues(routes).values())) == len(routes)
    assert len({shape(outcome) for outcome in OUTCOMES}) == len(OUTCOMES)


def test_every_colour_that_is_named_is_there(pages: dict[str, str]) -> None:
    made = pages["hostile"]
    css = re.findall(r"<style>(.*?)</style>", made, re.S)[0]
    used = set(re.findall(r"var\((--[\w-]+)\)", css + Parsed(made).scripts[0]))
    used |= set(hues(("retry", STOP, "own")).values())
    names = {name.removeprefix("var(").removesuffix(")") for name in used}
    light, dark = css.split("prefers-color-scheme: dark", 1)
    assert {name for name in names if f"{name}:" not in light} == set()
    assert {name for name in names - {"--j0"} if dark.count(f"{name}:") != 2} == set()


def test_shades_of_tokens_are_as_many_as_are_explained() -> None:
    script = (STATIC / "report.js").read_text(encoding="utf-8")
    found = re.search(r"const STEPS = \[(.*?)\]", script)
    assert found is not None
    assert len(found.group(1).split(",")) + 1 == len(STEPS)
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script


def test_what_others_wrote_is_named_with_its_licence() -> None:
    named = (STATIC / "LICENSES.txt").read_text(encoding="utf-8")
    for name, version in (("vega", "6.4.0"), ("vega-lite", "6.4.3"), ("vega-interpreter", "2.3.2")):
        assert f"{name} {version}" in named
    assert named.count("Redistribution and use in source and binary forms") >= 3
    for name in SCRIPTS[:3]:
        text = (STATIC / name).read_text(encoding="utf-8")
        assert name in named
        assert "</script" not in text.lower()
        assert "<!--" not in text
        assert "sourceMappingURL" not in text
    assert '"6.4.0"' in (STATIC / "vega.min.js").read_text(encoding="utf-8")
    assert '"6.4.3"' in (STATIC / "vega-lite.min.js").read_text(encoding="utf-8")
