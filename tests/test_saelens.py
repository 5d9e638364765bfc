"""Files go through the real SAELens and come back the same. Optional: SAELens brings 55 packages, so it has an environment of its own.

python -m venv /tmp/saelens && /tmp/saelens/bin/pip install torch==2.13.0 sae-lens
AUDIOSCOPE_SAELENS=/tmp/saelens/bin/python python -m pytest tests/test_saelens.py
"""

import os
import subprocess

import pytest
import safetensors.torch
import torch
from helpers.browsing import LIMIT

from audioscope import SAE, datasets

PYTHON = os.environ.get("AUDIOSCOPE_SAELENS", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="AUDIOSCOPE_SAELENS does not name a Python with sae-lens")

THERE = """
import sys, json, torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
source, out = sys.argv[1:]
sae = SAE.load_from_disk(source)
x = load_file(out + "/x.safetensors")["x"]
with torch.no_grad():
    features = sae.encode(x)
    save_file({"features": features.contiguous(), "made": sae.decode(features).contiguous()}, out + "/there.safetensors")
sae.save_model(out + "/again")
print(json.dumps([type(sae).__name__, sae.cfg.metadata.audioscope]))
"""


def through(folder, tmp_path, x):
    """What SAELens computes from a folder, and the SAE that it writes."""
    safetensors.torch.save_file({"x": x}, tmp_path / "x.safetensors")
    done = subprocess.run([PYTHON, "-c", THERE, str(folder), str(tmp_path)], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-2000:]
    return (
        safetensors.torch.load_file(tmp_path / "there.safetensors"),
        SAE.from_pretrained(tmp_path / "again"),
        done.stdout.splitlines()[-1],
    )


@pytest.mark.parametrize(("kind", "name"), [("batchtopk", "JumpReLUSAE"), ("topk", "TopKSAE")])
def test_a_round_trip(kind, name, tmp_path):
    sae = SAE(16, 64, 4, kind, seed=5)
    torch.manual_seed(0)
    sae.b_enc.data.normal_(0, 0.1)
    sae.b_dec.data.normal_(0, 0.1)
    sae.threshold.fill_(0.5)
    sae.metadata = {"model": "tiny", "site": "a.b", "branches": ["cond"]}
    sae.requires_grad_(False)
    x = torch.randn(200, 16)
    there, again, said = through(sae.save_pretrained(tmp_path / "here"), tmp_path, x)
    torch.testing.assert_close(there["features"], sae.encode(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(there["made"], sae(x), rtol=1e-5, atol=1e-5)
    assert name in said and '"site": "a.b"' in said
    assert torch.equal(again.encode(x), sae.encode(x)) and again.kind == kind and again.metadata == sae.metadata


def test_the_shipped_saes_are_read_by_saelens(tmp_path):
    assert datasets.saes()
    for number, folder in enumerate(datasets.saes().values()):
        sae = SAE.from_pretrained(folder)
        x = torch.randn(200, sae.d_in, generator=torch.Generator().manual_seed(0)) / sae.d_in**0.5
        place = tmp_path / str(number)
        place.mkdir()
        there, _, _ = through(folder, place, x)
        sae.levels = None  # SAELens sees scaled inputs
        torch.testing.assert_close(there["features"], sae.encode(x), rtol=1e-4, atol=1e-5)
