"""What the prose claims: every result number is one that the shipped tables give, and none stands there unmarked."""

import json
import re

import check_claims as checker
import claims as made
import pandas as pd
import pytest
from claims import MARK, digests, filled, listed, marked, number, recompute_claims, with_interval

RESULT = re.compile(
    r"(?<![\w.])(?:[+−-]?\d*\.\d+|\d+ ?%|\d+ of \d+|\d+ (?:cells?|axes|axis)|layers? \d+(?:(?:, \d+)* (?:and|or) \d+)?|on \d+)(?![\w]|\.\d)"
)
# The layers whose SAEs ship are named in what is said of these; they are no finding.
OF_SAES = {
    "findings.md": r"[Ii]n layer [06]|(second:|baseline\);|\n) *layer [06]",
    "06": r"[Ii]n layer [06]",
    "07": r"([Ii]n|of) layer [06]",
}
# What is no result: sources, versions, definitions and borders, sizes, and what the paper published.
EXEMPT = (
    r"arXiv \d{4}\.\d+", r"Python 3\.\d+|older than 3\.\d+", r"(Stable Audio Open|ACE-Step) 1\.\d", r"2\.5 (/|over)", r"threshold of \.10", r"below \.2\b",
    r"\d\.\d million tokens", r"\.5 is chance", r"8 of 256", r"Layer 12 of 24 and layer 6 of 12", r"^# \.011 \(ACE-Step, happy\), one unit of rounding is 9 %",
    r"\.011 \(ACE-Step, happy\)", r"one unit of rounding is 9 %", r"(up to|within) 5 %", r"ACE-Step gained 39 % by localizing, Stable Audio Open 8 %",
    r"95 % intervals?", r"18 axes", r"never through layer 3", r"choose \*fast\* and layer 1 or 2",
)  # fmt: skip


@pytest.fixture(scope="module")
def values():
    return recompute_claims()


def words(path):
    """The prose of a Markdown file, or of a percent script's text cells, without marks, code and addresses."""
    text = path.read_text()
    if path.suffix == ".py":
        cells = re.split(r"^# %%(.*)$", text, flags=re.M)
        text = "\n".join(
            re.sub(r"^# ?", "", body, flags=re.M)
            for head, body in zip(cells[1::2], cells[2::2], strict=True)
            if "[markdown]" in head
        )
    for pattern in (
        MARK,
        re.compile(r"```.*?```", re.S),
        re.compile(r"`[^`]*`"),
        re.compile(r"\]\([^)]*\)"),
        re.compile(r"<[^>]+>"),
    ):
        text = pattern.sub("", text)
    return text


def unmarked(text, *more):
    for pattern in EXEMPT + more:
        text = re.sub(pattern, "", text)
    return RESULT.findall(text)


@pytest.mark.slow
def test_the_prose_says_what_the_tables_give(values):
    assert checker.differences(values, digests()) == []
    names = [name for file in checker.prose() for name, _ in marked(file.read_text())]
    assert len(set(names)) > 60 and {"findings.md", "teaching.md", "03_concept_atlas.py"} <= {
        f.name for f in checker.prose() if marked(f.read_text())
    }


@pytest.mark.slow
def test_one_wrong_digit_is_found(values, tmp_path, monkeypatch):
    file = tmp_path / "README.md"
    file.write_text("Layer 0 has <!--=atlas.top-->.25 [.24, .27]<!--/--> and <!--=atlas.gone-->3<!--/-->.")
    monkeypatch.setattr(checker, "prose", lambda: [file])
    found = {name: now for name, _, now, _ in checker.differences(values, digests())}
    assert found == {"atlas.top": values["atlas.top"], "atlas.gone": "no such claim"}
    assert filled(file.read_text(), values).startswith(f"Layer 0 has <!--=atlas.top-->{values['atlas.top']}<!--/-->")


@pytest.mark.slow
def test_one_other_value_of_a_table_is_found(values, tmp_path, monkeypatch):
    """Also one that moves no claim: the digests are of all that the tables hold."""
    folder = tmp_path / "results"
    folder.mkdir()
    table = pd.DataFrame({"concept": ["a", "b"], "auc": [0.5, 0.25]})
    table.to_parquet(folder / "some.parquet")
    monkeypatch.setattr(made, "data_folder", lambda: tmp_path)
    before = digests()
    assert list(before) == ["results/some.parquet"]
    table.to_parquet(folder / "some.parquet", compression="gzip")
    assert digests() == before, "the same values in another file are the same table"
    for changed in (table.assign(auc=[0.5, 0.2500001]), table.rename(columns={"auc": "area"}), table[::-1]):
        changed.to_parquet(folder / "some.parquet")
        assert digests() != before
    stored = tmp_path / "claims.json"
    stored.write_text(json.dumps({"claims": values, "tables": before}))
    monkeypatch.setattr(checker, "STORED", stored)
    monkeypatch.setattr(checker, "prose", list)
    assert [name for name, *_ in checker.differences(values, digests())] == ["results/some.parquet"]


def test_no_result_stands_unmarked(root):
    pages = [root / "README.md", root / "docs" / "findings.md", root / "docs" / "teaching.md", root / "docs" / "course.md"]
    for file in [*pages, *sorted((root / "notebooks").glob("*.py"))]:
        name = next((name for name in OF_SAES if file.name.startswith(name)), None)
        assert unmarked(words(file), *([OF_SAES[name]] if name else [])) == [], file.name
    assert unmarked("an impact of .31, 75 % of draws, 16 of 18 layers") == [".31", "75 %", "16 of 18"]
    assert unmarked("on 16 axes, in 24 cells, in layers 1 and 2, on 4") == ["on 16", "24 cells", "layers 1 and 2", "on 4"]
    assert unmarked("at least 2.5 / L (arXiv 2602.11910)") == []


def test_numbers_read_as_prose_has_them():
    assert [number(value) for value in (0.25, -0.031, 1.4, 0.0)] == [".25", "−.03", "1.40", ".00"]
    assert with_interval(0.25, -0.1, 1.2) == ".25 [−.10, 1.20]" and number(12.6, 0) == "13"
    assert [listed(range(n)) for n in range(4)] == ["none", "0", "0 and 1", "0, 1 and 2"]


def test_no_mark_begins_a_line(root):
    """In Markdown, a comment at the beginning of a line ends the paragraph: what the mark encloses would stand apart."""
    found = [f"{path.name}:{number}" for path in checker.prose() for number, line in enumerate(path.read_text().splitlines(), 1)
             if re.match(r"(# )?<!--=", line)]  # fmt: skip
    assert not found
