"""What a run reports of its scheduler."""

import diffusers
import pytest
import torch

from audioscope import Apply, PatchText
from audioscope.tracing import Row, _sigmas

BETAS = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}  # AudioLDM2's


def test_a_ddim_schedulers_noise_levels_are_noise_over_signal():
    """As its own add_noise mixes them; and as diffusers' Euler scheduler, which says its levels, has them for the same steps."""
    ddim = diffusers.DDIMScheduler(**BETAS)
    ddim.set_timesteps(7)
    one, zero = torch.ones(7, 1), torch.zeros(7, 1)
    mixed = ddim.add_noise(zero, one, ddim.timesteps) / ddim.add_noise(one, zero, ddim.timesteps)
    torch.testing.assert_close(_sigmas(ddim), mixed[:, 0], rtol=1e-4, atol=1e-6)
    euler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")
    euler.set_timesteps(7)
    assert euler.timesteps.tolist() == ddim.timesteps.tolist()
    torch.testing.assert_close(_sigmas(ddim), _sigmas(euler)[:7], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("before", [2, 10])
def test_an_edit_of_late_steps_is_told_the_noise_level_of_its_own_run(tiny, before):
    """Also if nothing acts in earlier steps, and the scheduler is still set to a run of another length."""
    seen = []
    late = Apply(3, lambda output, here: seen.append(here.sigma) or output, steps=(3, 4))
    tiny.run([Row("music", 0)], **tiny.sampling(before, 1.0, None), decode=False)
    run = tiny.run([Row("music", 0, (late,))], **tiny.sampling(4, 1.0, None), decode=False)
    assert seen == pytest.approx([float(run.sigmas[3])])
    tiny.run([Row("music", 0)], **tiny.sampling(before, 1.0, None), decode=False)
    tiny.run([Row("music", 0, (PatchText(3, "a fast song", steps=(3, 4)),))], **tiny.sampling(4, 1.0, None), decode=False)


def test_a_run_of_audioldm2_says_the_levels_of_its_steps(audioldm2):
    run = audioldm2.run([Row("music", 0)], **audioldm2.sampling(3, 1.0, None), decode=False)
    kept = audioldm2.pipe.scheduler.alphas_cumprod[audioldm2.pipe.scheduler.timesteps]
    assert run.sigmas.tolist() == pytest.approx([(1 / float(a) - 1) ** 0.5 for a in kept], rel=1e-4)
    assert (run.sigmas.diff() < 0).all() and run.sigmas[0] > 1, "from noise to signal"
