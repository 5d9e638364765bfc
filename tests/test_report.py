"""The heatmap and the page: every cell drawn, nothing undefined coloured, nothing fetched, nothing unescaped."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import soundfile

from audioscope.charts import chart_theme, heatmap, impact_table, reading
from audioscope.report import _bundle, _swapped, write_page

LAYERS = 4
EVIL = "<script>alert(1)</script>"
CONCEPTS = {"rap": "voice", "choir": "voice", "fast": "tempo", EVIL: ""}
UNDEFINED = "choir"


def site(layer):
    return f"transformer.transformer_blocks.{layer}.cross_attn"


@pytest.fixture
def impacts():
    rows = []
    for concept, group in CONCEPTS.items():
        for layer in range(LAYERS):
            impact = 0.9 if layer == 2 else -0.01
            known = concept != UNDEFINED
            rows.append({
                "concept": concept, "group": group, "site": site(layer), "layer": layer,
                "impact": impact if known else np.nan, "low": impact - 0.1 if known else np.nan,
                "high": impact + 0.1 if known else np.nan, "numerator": 3 * impact, "denominator": 3.0 if known else 0.1,
                "denominator_low": 2.5 if known else -0.4, "denominator_high": 3.5 if known else 0.6,
                "control": 0.05, "pairs": 8, "defined": known,
            })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def means(impacts):
    mean = impacts[impacts.defined].groupby(["site", "layer"], as_index=False).impact.mean()
    return mean.assign(
        low=mean.impact - 0.1,
        high=mean.impact + 0.1,
        control=0.05,
        threshold=2.5 / LAYERS,
        functional=mean.impact >= 2.5 / LAYERS,
    )


@pytest.fixture
def atlas(impacts, means, tmp_path):
    folder = tmp_path / "run"
    (folder / "clips").mkdir(parents=True)
    rows = []
    for number, concept in enumerate(name for name in CONCEPTS if name != UNDEFINED):
        row = {
            "concept": concept, "site": site(2), "layer": 2, "impact": 0.9, "pair": number, "seed": 0,
            "clean_prompt": f'a "loud" {concept} song & more', "corrupted_prompt": 'a "loud" </script><img src="https://x.y/z"> song & more',
            "clean_score": 3.0, "corrupted_score": -40.0, "patched_score": 2.5,
        }  # fmt: skip
        for version in ("clean", "corrupted", "patched"):
            row[version] = f"clips/{number} {version}#.wav"
            soundfile.write(folder / row[version], np.zeros(80), 8000)
        rows.append(row)
    return SimpleNamespace(
        settings={
            "model": f"tiny {EVIL}", "patch": "text", "steps": 16, "guidance": 4.0, "seconds": 4.0, "pairs": 8, "seeds": [0, 1], "note": EVIL
        },
        impacts=lambda scale="score": impacts,
        layer_means=lambda scale="score": means,
        functional=[site(2)],
        examples=lambda: pd.DataFrame(rows),
        folder=folder,
    )  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text of every element."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.scripts, self.styles, self.inside = [], [], [], "", None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside == "style":
            self.styles += data
        else:
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def layers(spec):
    """Every single view of a spec, with the rows its filters leave."""
    for panel in spec["vconcat"]:
        for layer in panel.get("layer", [panel]):
            data = layer.get("data", panel.get("data", {})).get("name")
            filters = [step["filter"] for step in panel.get("transform", []) + layer.get("transform", []) if "filter" in step]
            yield layer, filters, spec["datasets"].get(data, [])


def test_heatmap_holds_every_cell_and_colours_only_the_defined(impacts, means):
    spec = heatmap(impacts, means).to_dict()
    coloured = [
        (filters, rows) for layer, filters, rows in layers(spec) if layer["encoding"].get("color", {}).get("field") == "impact"
    ]
    cells = {(row["concept"], row["site"]): row for _, rows in coloured for row in rows}
    assert set(cells) == {(concept, site(layer)) for concept in CONCEPTS for layer in range(LAYERS)}
    assert all(filters == ["datum.defined"] for filters, _ in coloured)
    for (concept, _), row in cells.items():
        assert row["defined"] == (concept != UNDEFINED)
        assert (row["impact"] is None) == (concept == UNDEFINED)
    hatched = [(layer, filters) for layer, filters, _ in layers(spec) if layer["mark"].get("style") == "hatch"]
    assert hatched and all(filters == ["!datum.defined"] and "color" not in layer["encoding"] for layer, filters in hatched)


def test_heatmap_scale_is_centred_on_zero(impacts, means):
    spec = heatmap(impacts, means).to_dict()
    scales = [
        layer["encoding"]["color"]["scale"] for layer, _, _ in layers(spec) if "scale" in layer["encoding"].get("color", {})
    ]
    assert scales and all(scale["domain"] == [-1, 1] and scale["domainMid"] == 0 and scale["clamp"] for scale in scales)
    for dark in (False, True):
        assert len(chart_theme(dark)["range"]["diverging"]["scheme"]) % 2 == 1  # zero has a colour of its own


def test_heatmap_marks_functional_layers_without_colour(impacts, means):
    spec = heatmap(impacts, means).to_dict()
    triangles = [(f, rows) for layer, f, rows in layers(spec) if layer["encoding"].get("text", {}).get("value") == "▲"]
    assert len(triangles) == 1
    filters, rows = triangles[0]
    assert filters == ["datum.functional"] and [row["layer"] for row in rows if row["functional"]] == [2]
    assert "Functional layers: 2." in spec["description"] and f"Undefined: {UNDEFINED}." in spec["description"]


def test_heatmap_of_nothing_says_so(impacts, means):
    with pytest.raises(ValueError, match="no impacts"):
        heatmap(impacts.head(0), means)


def test_heatmap_with_every_concept_undefined_still_draws(impacts, means):
    nothing = impacts.assign(defined=False, impact=np.nan, low=np.nan, high=np.nan)
    empty = means.assign(impact=np.nan, low=np.nan, high=np.nan, functional=False)
    assert "Functional layers: none." in heatmap(nothing, empty).to_dict()["description"]


def test_reading():
    assert reading(0.43, 0.31, 0.55) == "0.43 [0.31, 0.55]"
    assert reading(-0.001, -0.2, 0.2) == "0.00 [−0.20, 0.20]"
    assert reading(float("nan"), 0, 0) == "undefined"


def test_impact_table_keeps_order_and_gaps(impacts):
    table = impact_table(impacts)
    assert list(table.index) == list(CONCEPTS) and list(table.columns) == [site(layer) for layer in range(LAYERS)]
    assert table.loc[UNDEFINED].isna().all() and table.loc["rap", site(2)] == 0.9


def test_swapped_words():
    assert _swapped("a rap song", "a folk song") == [("a", False), ("rap", True), ("song", False)]
    assert _swapped("a song", "a sad song") == [("a", False), ("song", False)]


def test_page_fetches_nothing(atlas, tmp_path):
    page = Page(write_page(atlas, tmp_path / "page"))
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert not re.match(r"\s*(\w+:|//)", attrs.get(name) or ""), (tag, attrs)
    assert not page.all("link") and not page.all("iframe") and not page.all("img")
    assert "@import" not in page.styles and "url(" not in page.styles
    own = [script for script in page.scripts if len(script) < len(_bundle()) // 2]
    assert not any(re.search(r"\bimport\b\s*[('\"{]|\bfetch\(", script) for script in own)
    policy = next(attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "http" not in policy


def test_page_escapes_what_people_wrote(atlas, tmp_path):
    page = Page(write_page(atlas, tmp_path / "page"))
    assert len(page.scripts) == 4  # spec, themes, bundle, ours: none came in through a prompt or a name
    assert not any(script.strip() == "alert(1)" for script in page.scripts)
    assert any(EVIL in text for text in page.text)
    spec, themes = (json.loads(script) for script in page.scripts[:2])
    assert any(row["concept"] == EVIL for rows in spec["datasets"].values() for row in rows if "concept" in row)
    assert len(themes) == 2 and "config" not in spec


def test_every_player_has_a_name_and_a_clip(atlas, tmp_path):
    path = write_page(atlas, tmp_path / "page")
    players = Page(path).all("audio")
    assert len(players) == 3 * (len(CONCEPTS) - 1)
    for player in players:
        assert (path.parent / unquote(player["src"])).is_file() and player["aria-label"] and player["preload"] == "none"


def test_clips_under_the_folder_are_linked_not_copied(atlas):
    path = write_page(atlas, atlas.folder)
    assert len(list(atlas.folder.rglob("*.wav"))) == len(Page(path).all("audio"))
    assert sorted(file.name for file in atlas.folder.iterdir()) == ["clips", "index.html"]  # and no temporary file is left


def test_a_missing_clip_is_named(atlas, tmp_path):
    (atlas.folder / "clips" / "0 clean#.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"0 clean#\.wav"):
        write_page(atlas, tmp_path / "page")


def test_page_marks_undefined_concepts_and_has_headings_in_order(atlas, tmp_path):
    path = write_page(atlas, tmp_path / "page")
    page, text = Page(path), path.read_text(encoding="utf-8")
    assert f"<li>{UNDEFINED}</li>" in text and text.count('<td class="none">undefined</td>') == LAYERS
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert page.all("html")[0]["lang"] == "en"
    names = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(names) == len(set(names))


def test_page_without_examples_or_functional_layers(atlas, means, tmp_path):
    atlas.functional, atlas.examples = [], lambda: pd.DataFrame()
    atlas.layer_means = lambda scale="score": means.assign(functional=False)
    text = write_page(atlas, tmp_path / "page").read_text(encoding="utf-8")
    assert "No layer" in text and "nothing to play" in text


def test_page_with_every_concept_undefined(atlas, impacts, means, tmp_path):
    nan = dict.fromkeys(("impact", "low", "high", "control"), np.nan)
    nothing, empty = impacts.assign(defined=False, **nan), means.assign(functional=False, **nan)
    atlas.functional, atlas.examples = [], lambda: pd.DataFrame()
    atlas.impacts, atlas.layer_means = lambda scale="score": nothing, lambda scale="score": empty
    text = write_page(atlas, tmp_path / "page").read_text(encoding="utf-8")
    assert text.count('<td class="none">undefined</td>') == LAYERS * len(CONCEPTS) and " nan" not in text.split("<script")[0]
