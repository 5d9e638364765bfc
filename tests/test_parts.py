"""A sweep in parts for batch systems: together the same bytes as in one go, and what is missing is named."""

import hashlib
import json
import shutil

import pandas as pd
import pytest

import audioscope
from audioscope.cli.main import main

pytestmark = pytest.mark.slow  # of whole sweeps, in several processes

FEW = {"concepts": ["fast", "drums"], "pairs": 3, "sites": [0, 6], "steps": 1, "progress": False}


def digest(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The folder of a sweep in one go."""
    out = tmp_path_factory.mktemp("whole")
    audioscope.localize(tiny, **FEW, workers=1, out=out)
    return out


@pytest.fixture(scope="module")
def parts(tiny, tmp_path_factory):
    """The folders of its four parts; six units, so that parts differ in size."""
    root = tmp_path_factory.mktemp("parts")
    for number in range(1, 5):
        audioscope.localize(tiny, **FEW, workers=1, out=root / str(number), part=(number, 4))
    return [root / str(number) for number in range(1, 5)]


def test_parts_together_are_the_whole(whole, parts, tmp_path):
    atlas = audioscope.atlas.merge(reversed(parts), tmp_path / "merged")
    assert digest(tmp_path / "merged") == digest(whole)
    assert atlas.impacts().equals(audioscope.Atlas.load(whole).impacts()) and atlas.concepts == ["fast", "drums"]


def test_parts_may_share_a_folder_and_the_whole_resumes_it(tiny, whole, tmp_path):
    for part in ("2/2", "1/2"):
        there = audioscope.localize(tiny, **FEW, workers=1, out=tmp_path, part=part)
        assert there.table.drop_duplicates(["concept", "pair"]).shape[0] == 3
        assert not (tmp_path / "atlas.parquet").exists(), "a part is not the atlas"
    audioscope.atlas.merge(tmp_path, tmp_path)
    (tmp_path / "whole.json").unlink()
    assert digest(tmp_path) == digest(whole)
    shutil.rmtree(tmp_path / "clips" / "fast")
    audioscope.localize(tiny, **FEW, workers=1, out=tmp_path)
    assert digest(tmp_path) == digest(whole)


def test_what_is_missing_is_named_before_anything_is_copied(parts, tmp_path):
    with pytest.raises(ValueError, match=r"3 of 6 units are missing: part 1/4 lacks 2 of 2; part 3/4 lacks 1 of 1\. Run"):
        audioscope.atlas.merge([parts[1], parts[3]], tmp_path / "merged")
    lame = shutil.copytree(parts[0], tmp_path / "lame")
    next((lame / "clips").rglob("patched*.flac"), next((lame / "clips").rglob("*.flac"))).unlink()
    with pytest.raises(ValueError, match="part 1/4 lacks 1 of 2"):
        audioscope.atlas.merge([lame, *parts[1:]], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_clips_that_lead_outside_are_not_copied(parts, tmp_path):
    evil = shutil.copytree(parts[3], tmp_path / "evil" / "4")
    (tmp_path / "evil" / "secret.flac").write_bytes(next((evil / "clips").rglob("*.flac")).read_bytes())
    (unit,) = (evil / "units").iterdir()
    table = pd.read_parquet(unit)
    table.assign(clip="../secret.flac").to_parquet(unit, write_page_checksum=True)
    with pytest.raises(ValueError, match="part 4/4 lacks 1 of 1"):
        audioscope.atlas.merge([*parts[:3], evil], tmp_path / "a" / "merged")
    assert not list((tmp_path / "a").rglob("secret*"))


def test_parts_of_another_sweep_are_refused(tiny, parts, tmp_path):
    audioscope.localize(tiny, **{**FEW, "steps": 2}, workers=1, out=tmp_path / "other", part="1/4")
    with pytest.raises(ValueError, match="other holds a part of a sweep with other settings .steps; steps: 2 there, 1 now"):
        audioscope.atlas.merge([*parts, tmp_path / "other"], tmp_path / "merged")
    audioscope.localize(tiny, **{**FEW, "pairs": 2}, workers=1, out=tmp_path / "fewer", part="1/4")
    with pytest.raises(ValueError, match="fewer holds a part of a sweep with other settings"):
        audioscope.atlas.merge([*parts, tmp_path / "fewer"], tmp_path / "merged")
    with pytest.raises(ValueError, match="kind 'atlas', expected steering"):
        audioscope.steer.merge(parts, tmp_path / "merged")
    with pytest.raises(FileNotFoundError, match="holds no part of a sweep"):
        audioscope.atlas.merge([*parts, tmp_path], tmp_path / "merged")
    newer = shutil.copytree(parts[0], tmp_path / "newer")
    about = json.loads((newer / "whole.json").read_text())
    (newer / "whole.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(ValueError, match="has format 99"):
        audioscope.atlas.merge([newer, *parts], tmp_path / "merged")
    for damage in ('{"kind": "atlas"}', "{", '{"format": 1, "kind": "atlas", "units": 3, "result": [], "parts": "x"}'):
        (newer / "whole.json").write_text(damage)
        with pytest.raises(ValueError, match=r"whole\.json is damaged"):
            audioscope.atlas.merge([newer, *parts], tmp_path / "merged")


@pytest.mark.parametrize("part", ["0/4", "5/4", "3", "a/b", "1/0", (1,), (1.0, 2), (True, 2), 3, "-1/2", "7/7", ["1"], {1: 2}])
def test_what_is_no_part_is_named(tiny, tmp_path, part):
    with pytest.raises(ValueError, match="part is|steps"):
        audioscope.localize(tiny, **FEW, out=tmp_path, part=part)
    assert not any(tmp_path.iterdir())


def test_parts_need_what_they_share(tiny, tmp_path):
    with pytest.raises(ValueError, match="part needs out="):
        audioscope.localize(tiny, **FEW, part="1/2")
    with pytest.raises(ValueError, match="until_stable looks at the whole sweep"):
        audioscope.localize(tiny, **FEW, part="1/2", until_stable=1, out=tmp_path)
    with pytest.raises(ValueError, match="part needs methods=, strengths= and out="):
        audioscope.steer.steering_sweep(tiny, "fast", part="1/2", out=tmp_path)


def test_a_steering_sweep_in_parts(tiny, tmp_path):
    how = {"prompts": 2, "seeds": 1, "steps": 1, "clips": True, "progress": False, "workers": 1}
    vector = audioscope.datasets.vector("fast")
    audioscope.steer.steering_sweep(tiny, "fast", vector, [-1, 1], out=tmp_path / "whole", **how)
    for part in ("1/2", "2/2"):
        audioscope.steer.steering_sweep(tiny, "fast", vector, [-1, 1], out=tmp_path / part[0], part=part, **how)
    audioscope.steer.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    assert digest(tmp_path / "merged") == digest(tmp_path / "whole")


def test_the_command_line_does_parts(tmp_path, capsys):
    atlas = ["atlas", "--concepts", "fast", "--pairs", "2", "--steps", "1", "--workers", "1"]
    for part in ("1/2", "2/2"):
        assert main([*atlas, "--part", part, "--out", str(tmp_path / part[0])]) == 0
        assert f"Part {part}: 1 units" in capsys.readouterr().out
    assert main(["merge", str(tmp_path / "1"), "--out", str(tmp_path / "all")]) == 2
    assert "part 2/2 lacks 1 of 1" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "1"), str(tmp_path / "2"), "--out", str(tmp_path / "all")]) == 0
    assert len(audioscope.Atlas.load(tmp_path / "all").table.drop_duplicates(["pair"])) == 2
    audioscope.datasets.vector("fast").save(tmp_path / "fast")
    steer = ["steer", "--concept", "fast", "--vector", str(tmp_path / "fast"), "--strengths=-1,1", "--steps", "1"]
    for part in ("1/2", "2/2"):
        assert main([*steer, "--part", part, "--out", str(tmp_path / "steer" / part[0])]) == 0
    assert main(["merge", *(str(tmp_path / "steer" / each) for each in "12"), "--out", str(tmp_path / "steer" / "all")]) == 0
    assert not (tmp_path / "steer" / "1" / "vector.safetensors").exists()
    assert main([*steer, "--sites", "cross", "--out", str(tmp_path / "x")]) == 2
    assert "--vector cannot be combined with --sites" in capsys.readouterr().err
