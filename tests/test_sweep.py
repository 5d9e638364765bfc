"""Seeds: every unit has its own noise, and for ever the same; keys of units."""

import pandas as pd
import torch
from conftest import Nearness

import audioscope
from audioscope.concepts import Pair, shipped_concepts
from audioscope.steer.methods import SteeringMethod
from audioscope.store import content_hash, safe_name, seed_of
from audioscope.tracing import Row


def test_seeds_are_those_that_the_results_were_made_with(root):
    """CRC-32 of "concept/pair/number": another rule would make other music of the same settings."""
    assert seed_of("fast", 0, 0) == 930896477 and seed_of("fast", 1, 0) == 918433898
    assert seed_of("fast", 0, 1) == 1081830091 and seed_of("slow", 0, 0) == 1363459298
    shipped = pd.read_parquet(root / "data/atlas/atlas.parquet", columns=["concept", "pair", "seed"]).drop_duplicates()
    assert len(shipped) > 500 and all(seed_of(row.concept, row.pair, 0) == row.seed for row in shipped.itertuples())


def test_no_two_units_share_their_noise():
    """Pairs are the units of every interval: with one noise for all of them the intervals would be too narrow."""
    units = [(c.name, pair.index, number) for c in shipped_concepts().values() for pair in c.pairs for number in range(2)]
    assert len(units) > 5000 and len({seed_of(*unit) for unit in units}) == len(units)


def test_a_sweep_starts_each_pair_and_seed_from_noise_of_its_own(stable_audio, tmp_path):
    """The seeds in its table, and what they do: one prompt from two of them is other music, and from one of them twice the same."""
    pairs = [{"concept": "speed", "clean": f"fast {t}", "corrupted": f"slow {t}"} for t in ("song", "song with drums")]
    atlas = audioscope.localize(
        stable_audio, pd.DataFrame(pairs), pairs=2, seeds=2, scorer=Nearness("speed"), steps=1, guidance=1.0, out=tmp_path, clips=False,
        progress=False,
    )  # fmt: skip
    found = atlas.table.drop_duplicates(["pair", "seed"]).sort_values("pair", kind="stable")
    assert found["seed"].tolist() == [2257388593, 4052366503, 2270129670, 4031274640]
    rows = [Row("song", int(seed)) for seed in (*found["seed"], found["seed"].iloc[0])]
    latents = stable_audio.run(rows, **stable_audio.sampling(1, 1.0, None), decode=False).latents
    torch.testing.assert_close(latents[0], latents[4], rtol=1e-5, atol=1e-5)
    assert all(not torch.allclose(latents[i], latents[j], atol=0.1) for i in range(4) for j in range(i))


def test_what_a_control_draws_differs_from_arm_to_arm_and_seed_to_seed():
    seen: list[int] = []

    def edits(pair, strength, seed):
        seen.append(seed)
        return []

    pair = Pair(0, "test", "a", "b")
    for sites in ("own", "all"):
        assert SteeringMethod("caa", sites, edits).on(pair, 0.0, 7) == (), "strength 0 draws nothing"
        for strength, seed in ((1.0, 7), (-2.0, 7), (1.0, 8)):
            SteeringMethod("caa", sites, edits).on(pair, strength, seed)
    assert seen[0] == seen[1] == 2391889359 and seen[3] == seen[4] == 3447689130, (
        "all strengths of a prompt and seed share a draw"
    )
    assert len(set(seen)) == 4


def test_a_key_depends_on_content_alone():
    assert content_hash({"a": 1, "b": "x"}) == content_hash({"b": "x", "a": 1}) == "ce5c626fb4030742"
    assert content_hash({"a": 1}) != content_hash({"a": 2}) and safe_name('a b/c-d"').startswith("a_b_c-d_-")
