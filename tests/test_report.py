"""The heatmap and the page: every cell drawn, nothing undefined coloured, nothing fetched, nothing unescaped."""

import json
import re
import warnings
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from helpers.tones import EVIL, GROUPS, PAIRS, ROWS, atlas_of_tones, steering_of_tones, tone

from audioscope import Clip
from audioscope.atlas.charts import _runs, heatmap, impact_table, orders, side_by_side
from audioscope.datasets import published
from audioscope.pages.atlas_data import code_of, name_of, names_of, swapped
from audioscope.pages.html import LOUDNESS, sound, vega
from audioscope.theme import chart_theme, reading

LAYERS = 4
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
    assert all(filters[-1] == "datum.defined && !datum.censored" for filters, _ in coloured)
    for (concept, _), row in cells.items():
        assert row["defined"] == (concept != UNDEFINED)
        assert (row["impact"] is None) == (concept == UNDEFINED)
    hatched = [(layer, filters) for layer, filters, _ in layers(spec) if layer["mark"].get("style") == "hatch"]
    assert hatched and all(filters[-1] == "!datum.defined" and "color" not in layer["encoding"] for layer, filters in hatched)


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
    brackets = [rows for layer, _, rows in layers(spec) if layer["mark"].get("style") == "bracket"]
    assert len(brackets) == 3 and all(
        [(row["words"], row["first"], row["last"]) for row in rows] == [("2", site(2), site(2))] for rows in brackets
    )
    outlines = [layer for layer, _, _ in layers(spec) if layer["mark"].get("style") == "outline"]
    assert len(outlines) == 1 and not outlines[0]["mark"]["filled"], (
        "a filled outline would take the clicks of the cells under it"
    )
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


def test_neighbouring_functional_layers_share_a_bracket(impacts, means):
    spec = heatmap(impacts, means.assign(functional=[True, True, False, True])).to_dict()
    rows = next(rows for layer, _, rows in layers(spec) if layer["mark"].get("style") == "bracket")
    assert [row["words"] for row in rows] == ["0–1", "3"]
    both = pd.concat(
        [means.assign(functional=True), means.assign(site=means["site"].str.replace("cross", "self"), functional=False)]
    )
    found = _runs(both.sort_values("layer", kind="stable", ignore_index=True))
    assert list(found["words"]) == ["0", "1", "2", "3"] and (found["first"] == found["last"]).all(), (
        "self-attention between them is not functional"
    )


def test_orders_are_three_permutations():
    """Groups stay together; peaks rise; concepts with like impacts are neighbours, and undefined ones come last."""
    values = {"a": [0.9, 0, 0, 0], "b": [0, 0, 0.8, 0], "c": [0.8, 0.1, 0, 0], "d": [0, 0, 0.9, 0.1], "e": [np.nan] * 4}
    groups = dict(zip("abcde", ["x", "y", "x", "x", "y"], strict=True))
    rows = [{"concept": c, "group": groups[c], "site": site(i), "layer": i, "impact": v, "defined": c != "e"} for c, line in values.items()
            for i, v in enumerate(line)]  # fmt: skip
    found = orders(pd.DataFrame(rows))
    by = {name: list(found.sort_values(name)["concept"]) for name in ("group", "peak", "similarity")}
    assert by["group"] == ["a", "c", "d", "b", "e"]
    assert by["peak"] == ["a", "c", "d", "b", "e"]
    assert by["similarity"][-1] == "e" and {frozenset(by["similarity"][:2]), frozenset(by["similarity"][2:4])} == {
        frozenset("ac"),
        frozenset("bd"),
    }


def test_models_stand_side_by_side_by_relative_depth():
    papers = {name: published(name) for name in ("ace-step", "audioldm2-large")}
    spec = side_by_side(papers).to_dict()
    panels = spec["hconcat"]
    widths = [panel["vconcat"][1]["width"] for panel in panels]
    assert widths == pytest.approx([220, 220])
    rows = [row for rows in spec["datasets"].values() for row in rows if "by_group" in row]
    places = {}
    for row in rows:
        places.setdefault(row["concept"], set()).add((row["by_group"], row["by_peak"], row["by_similarity"]))
    assert all(len(each) == 1 for each in places.values()), "a concept stands in the same line of every panel"
    assert len({next(iter(each))[0] for each in places.values()}) == len(places)
    with pytest.raises(ValueError, match="at least one atlas"):
        side_by_side({})


def test_swapped_words():
    assert swapped("a rap song", "a folk song") == [1]
    assert swapped("a song", "a sad song") == [] and swapped("a sad slow song", "a song") == [1, 2]


def test_names_say_what_differs(tmp_path):
    base = {"model": "m", "patch": "text", "direction": "sufficient", "sites": [{"kind": "cross"}]}
    assert name_of(base | {"patch": "output", "sites": [{"kind": "self"}]}) == "m: output patch, self-attention"
    assert name_of(base) == "m: text swap"
    assert (
        name_of(base | {"patch": "output", "direction": "necessary", "when": "late"})
        == "m: output patch, into the clean run, late third of the steps"
    )
    folder = tmp_path / "run"
    same = [atlas_of_tones(folder, 0), atlas_of_tones(folder, 0), atlas_of_tones(folder, 0, pairs=9)]
    assert names_of(same) == ["tones: text swap, 4 pairs (1)", "tones: text swap, 4 pairs (2)", "tones: text swap, 9 pairs"]
    code = code_of(
        base
        | {"direction": "necessary", "when": "late", "window": [7, 10], "steps": 10, "guidance": 3.0, "negative_prompt": "noise"}
    )
    assert (
        "PatchText(«site», corrupted, steps=(7, 10))" in code
        and "(clean, patch)" in code
        and "'noise'" in code
        and "'steps': 10" in code
    )


def test_clips_of_a_page_are_equally_loud():
    wave = np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)[None].astype("float32")
    for level in (0.5, 0.02):
        made = sound(Clip(level * wave, 16000))
        louder = Clip(level * wave * 10 ** (made["gain"] / 20), 16000)
        assert louder.loudness == pytest.approx(LOUDNESS, abs=0.1)
    click = np.zeros((1, 32000), "float32")
    click[0, 8000:8100] = 0.9
    assert abs(click).max() * 10 ** (sound(Clip(click, 16000))["gain"] / 20) <= 1.0001, "no gain takes a peak beyond full scale"
    assert sound(Clip(np.zeros((1, 32000), "float32"), 16000))["gain"] == 0.0
    assert sound(tone(440.0))["sound"].startswith("data:audio/mpeg;base64,") and sound(tone(440.0))["picture"].startswith(
        "data:image/webp;base64,"
    )


@pytest.fixture
def tones(tmp_path):
    return atlas_of_tones(tmp_path / "run")


def pack(path):
    """The name and the content of a pack."""
    name, content = re.fullmatch(r"audioscopePack\((\".*?\"),(.*)\);\n", path.read_text(), re.S).groups()
    return json.loads(name), json.loads(content)


def test_the_page_fetches_nothing(tones, tmp_path):
    for path in (
        tones.save_html(tmp_path / "deep" / "one.html", progress=False),
        tones.save_site(tmp_path / "site", progress=False),
    ):
        page = Page(path)
        for tag, attrs in page.tags:
            for name in ("src", "href", "srcset", "data", "action", "poster"):
                assert not re.match(r"\s*(\w+:|//)", attrs.get(name) or ""), (tag, attrs)
        assert not page.all("link") and not page.all("iframe")
        assert "@import" not in page.styles and "url(" not in page.styles
        own = [script for script in page.scripts if len(script) < len(vega()) // 2]
        assert not any(re.search(r"\bfetch\(|XMLHttpRequest|from \"https?:", script) for script in own)
        policy = next(attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in policy and "http" not in policy and "unsafe-eval" not in policy


def test_the_page_escapes_what_people_wrote(tones, tmp_path):
    path = tones.save_site(tmp_path / "site", steering=[steering_of_tones(tmp_path / "run")], progress=False)
    page = Page(path)
    assert len(page.scripts) == 3  # data, Vega, ours: none came in through a prompt or a name
    assert not any(script.strip() == "window.evil=1" for script in page.scripts) and not page.all("img")[-1].get("onerror")
    assert any(EVIL in text for text in page.text)
    data = json.loads(page.scripts[0])
    assert EVIL in data["maps"][0]["concepts"] and "config" not in data["charts"][0]["spec"] and len(data["themes"]) == 2


def test_a_site_holds_every_clip_once_and_leaves_no_older_sound(tones, tmp_path):
    path = tones.save_site(tmp_path / "site", progress=False)
    (version,) = (path.parent / "packs").iterdir()
    packs = dict(pack(file) for file in version.iterdir())
    assert len(packs) == len(GROUPS) * PAIRS and all(len(content) == len(ROWS) for content in packs.values())
    data = json.loads(Page(path).scripts[0])
    assert data["folder"] == f"packs/{version.name}"
    assert {name: set(content) for name, content in packs.items()} == {name: set(names) for name, names in data["packs"].items()}
    for mine in ("mine", "20240101"):
        (path.parent / "packs" / mine).mkdir()
    tones.table.loc[tones.table["row"] == "clean", "score"] += 0.5
    again = tones.save_site(path.parent, progress=False)
    names = {folder.name for folder in (again.parent / "packs").iterdir()}
    assert {"mine", "20240101"} < names and version.name not in names and len(names) == 3, (
        "a page never plays the sound of another one"
    )
    assert sorted(file.name for file in again.parent.iterdir()) == ["index.html", "packs"]


@pytest.mark.slow
def test_one_file_keeps_to_its_size_and_holds_the_best(tones, tmp_path):
    whole = tones.save_html(tmp_path / "whole.html", progress=False)
    assert whole.stat().st_size < 12_000_000
    clips = lambda path: sum(len(json.loads(s)) for s in Page(path).scripts if s.startswith('{"') and "audio/mpeg" in s)  # noqa: E731
    assert clips(whole) == len(GROUPS) * len(ROWS) * PAIRS, "where there is room, all of it"
    every = clips(whole)
    for share in (0.9, 0.5, 0.25, 0.15):
        sound_of = sum(len(s) for s in Page(whole).scripts if "audio/mpeg" in s)
        size = whole.stat().st_size - round(sound_of * (1 - share))
        path = tones.save_html(tmp_path / "small.html", size=size, progress=False)
        assert size - 60_000 < path.stat().st_size <= size
        data = json.loads(Page(path).scripts[0])
        best = {row.concept: row for row in tones.examples().itertuples()}
        for name, held in data["packs"].items():
            concept = tones.concepts[int(name.split("-")[1][1:])]
            if concept in best:
                assert {"clean", "corrupted", str(best[concept].layer)} <= set(held)
        assert 0 < clips(path) < every
    with pytest.raises(ValueError, match="without any sound"):
        tones.save_html(tmp_path / "none.html", size=1000, progress=False)


@pytest.mark.slow
def test_steering_leaves_room_for_cells(tones, tmp_path):
    sweep = steering_of_tones(tmp_path / "run")
    full = tones.save_html(tmp_path / "full.html", steering=[sweep] * 30, progress=False).stat().st_size
    data = json.loads(
        Page(tones.save_html(tmp_path / "some.html", steering=[sweep] * 30, size=full - 400_000, progress=False)).scripts[0]
    )
    axes = sum(name[0] == "s" for name in data["packs"])
    examples = sum(len(names) for name, names in data["packs"].items() if name[0] == "m")
    assert 0 < axes < 30 and examples >= 3 * (len(GROUPS) - 1)


def test_numbers_that_are_not_known_are_not_written(tmp_path):
    """JSON has no NaN: a failed clip has no score, and a curve without a distance no point."""
    atlas = atlas_of_tones(tmp_path / "run")
    failed = (atlas.table["pair"] == 0) & (atlas.table["row"] == "clean")
    atlas.table.loc[failed, ["score", "clip", "failed"]] = [np.nan, "", True]
    sweep = steering_of_tones(tmp_path / "run")
    sweep.table.loc[sweep.table["strength"] == -2.0, "distance"] = np.inf
    sweep.table.loc[(sweep.table["cell"] == "caa all") & (sweep.table["strength"] == 4.0), "clip"] = ""
    path = atlas.save_site(tmp_path / "site", steering=[sweep], progress=False)
    data = json.loads(Page(path).scripts[0], parse_constant=lambda name: pytest.fail(name))
    metadata = data["maps"][0]
    assert metadata["scores"]["rap"]["clean"][0] is None and metadata["units"]["choir"][0]["pair"] == 1, (
        "what can be heard is shown first"
    )
    assert [unit["example"] for unit in metadata["units"]["choir"]] == [False] * 3
    (axis,) = data["steering"]
    assert [method["cell"] for method in axis["methods"]] == ["caa own", "caa random layers"] and "caa all" in axis["left_out"]
    assert axis["methods"][0]["points"][0][0] is None
    assert [method["at"] for method in axis["methods"]] == [[site(1)], [site(0)]]


def test_seeds_of_a_pair_are_told_apart(tmp_path):
    atlas = atlas_of_tones(tmp_path / "run")
    again = atlas.table.assign(seed=atlas.table["seed"] + 1000)
    atlas.table = pd.concat([atlas.table, again], ignore_index=True)
    data = json.loads(Page(atlas.save_site(tmp_path / "site", progress=False)).scripts[0])
    units = data["maps"][0]["units"]["rap"]
    assert (
        len(units) == 2 * PAIRS
        and all(unit["again"] for unit in units)
        and len({(unit["pair"], unit["seed"]) for unit in units}) == 2 * PAIRS
    )
    assert sum(unit["shown"] for unit in units) == 1


@pytest.mark.slow
def test_long_clips_are_cut_in_one_file_alone(tmp_path):
    wave = (0.1 * np.sin(2 * np.pi * 440 * np.arange(20 * 16000) / 16000))[None].astype("float32")
    short, whole = sound(Clip(wave, 16000), 12.0), sound(Clip(wave, 16000))
    assert len(short["sound"]) == pytest.approx(0.6 * len(whole["sound"]), rel=0.1)
    atlas = atlas_of_tones(tmp_path / "run", seconds=20.0)
    assert "are cut to their first 12 s" in atlas.save_html(tmp_path / "one.html", progress=False).read_text()
    assert "cut to their first" not in atlas.save_site(tmp_path / "site", progress=False).read_text()


def test_warnings_are_heard_after_a_page_was_written(tones, tmp_path):
    """Silencing a library in several threads at once can leave all warnings silenced for good."""
    before = list(warnings.filters)
    tones.save_site(tmp_path / "site", progress=False)
    assert warnings.filters == before


def test_a_missing_clip_is_named(tones, tmp_path):
    (tones.folder / "clips" / "0 1#" / "clean.flac").unlink()
    with pytest.raises(FileNotFoundError, match=r"0 1#.clean\.flac"):
        tones.save_site(tmp_path / "page", progress=False)
    assert not (tmp_path / "page" / "index.html").exists()


def test_the_page_marks_undefined_concepts_and_has_headings_in_order(tones, tmp_path):
    path = tones.save_site(tmp_path / "page", steering=[steering_of_tones(tmp_path / "run")], progress=False)
    page, text = Page(path), path.read_text(encoding="utf-8")
    assert f"<li>{UNDEFINED}</li>" in text and text.count('<td class="none">undefined</td>') == LAYERS
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert page.all("html")[0]["lang"] == "en"
    names = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(names) == len(set(names))


def test_a_page_without_clips_steering_or_defined_concepts(tmp_path):
    atlas = atlas_of_tones(tmp_path / "run", 0)
    atlas.table["score"] = 0.01 * np.random.default_rng(1).standard_normal(len(atlas.table))
    path = atlas.save_site(tmp_path / "page", progress=False)
    text = path.read_text()
    assert "No layer is functional" in text and text.count('<td class="none">undefined</td>') == LAYERS * len(GROUPS)
    assert (
        " nan" not in text.split("<script")[0]
        and not list((path.parent / "packs").glob("*/*"))
        and 'data-view="steering"' not in text
    )
    data = json.loads(Page(path).scripts[0])
    assert not data["maps"][0]["heard"] and all(len(units) == 1 for units in data["maps"][0]["units"].values())
    for paper in ("ace-step", "audioldm2-large"):
        assert published(paper).save_html(tmp_path / f"{paper}.html", progress=False).exists()
