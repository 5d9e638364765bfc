"""What ships beside the atlas of `tiny` for its page: its steered clips are those that the shipped table measured."""

import json
import re

import numpy as np
import pytest
import torch

import audioscope
from audioscope import datasets
from audioscope.atlas.published import NAMES
from audioscope.cli.main import main
from audioscope.pages.shipped import HEARD, with_sound
from audioscope.scoring.scorers import listener_scorer


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["fast", "drums"])
def test_steered_clips_score_as_the_table_says(tiny, tmp_path, axis):
    """Made again from the shipped vector, each clip has the judge's scores that ship for it."""
    sweep = with_sound(tiny, axis, tmp_path, progress=False)
    rows = sweep.table[sweep.table["clip"] != ""]
    cells = [cell for cell in HEARD if cell in sweep.cells]
    assert len(cells) >= 2 and set(rows["cell"]) == set(cells)
    clips = [audioscope.Clip.load(tmp_path / name) for name in rows["clip"]]
    found = listener_scorer("judge")(torch.from_numpy(np.stack([clip.samples for clip in clips])), clips[0].rate)
    named = [name for name in found.columns if f"scored {name}" in rows]
    kept = rows[[f"scored {name}" for name in named]].to_numpy()
    difference = np.abs(found[named].to_numpy() - kept)
    # 16 bits, and batches of another size
    assert len(named) > 20 and np.quantile(difference, 0.99) < 0.3 and np.median(difference) < 0.05
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.flac")}
    with_sound(tiny, axis, tmp_path, progress=False)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.flac")} == before, "what is there is not made again"


def test_steering_of_other_weights_is_refused(stable_audio_3, tmp_path):
    with pytest.raises(ValueError, match="made with weights"):
        with_sound(stable_audio_3, "fast", tmp_path)


def test_shipped_vectors_are_those_of_the_table(tiny):
    """Their facts say what the shipped sweep says of the vector it used."""
    for axis in audioscope.datasets.steering_table()["concept"].unique():
        vector, settings = datasets.vector(axis), audioscope.datasets.steering(axis).settings
        natural = settings["methods"]["caa all, natural lengths"]
        asked = {name: value for name, value in vector.metadata.items() if name != "halves"}  # comes of the making
        assert natural["vector"] == json.loads(json.dumps(asked)) and natural["at"] == list(vector.paths)


def test_shipped_maps_are_of_this_model(tiny):
    maps = datasets.maps().values()
    assert [(each.settings["when"], each.settings["patch"]) for each in maps] == [
        ("early", "text"),
        ("middle", "text"),
        ("late", "text"),
        (None, "output"),
        *[(None, "output")] * 4,
    ]
    assert [{site.kind for site in each.sites} for each in maps] == [{"cross"}] * 4 + [
        {"cross.memory"},
        {"cross.heads"},
        {"feed_forward"},
        {"block"},
    ]
    for each in maps:
        assert each.settings["fingerprint"] == tiny.fingerprint and len(each.concepts) == 21
        inside = each.sites[0].kind != "cross"
        assert each.table.loc[each.table["clip"].ne(""), "concept"].nunique() == 6 * inside and len(each.examples()) == 6 * inside
        assert not each.settings["swaps_all_text"] and each.additivity()["all_together"].isna().all()


@pytest.mark.slow
def test_the_atlas_command_ends_in_the_whole_page(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("audioscope.pages.features.POOL", 12)  # clips to search, which take most of the time
    out, one = tmp_path / "atlas", tmp_path / "one.html"
    asked = ["atlas", "--concepts", "fast", "--pairs", "2", "--steps", "1", "--out", str(out), "--html", str(one)]
    passing = [site for site in datasets.saes() if "cross" in site and datasets.sae(site).report["passes"]]  # others have no page
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert str(out / "index.html") in said and str(one) in said and one.stat().st_size <= 12_000_000
    for page in (out / "index.html", one):
        data = json.loads(re.search(r'id="atlas">(.*?)</script>', page.read_text(), re.S)[1])
        assert [each["model"] for each in data["maps"]] == ["tiny"] * (1 + len(datasets.maps())) + list(NAMES)
        assert data["charts"][-1]["map"] is None and [axis["title"] for axis in data["steering"]] == ["slow ↔ fast"]
        assert len(data["saes"]) == len(passing) and {name[0] for name in data["packs"]} == {"m", "s", *("f" if passing else "")}
