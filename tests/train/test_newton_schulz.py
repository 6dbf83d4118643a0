"""Orthogonalised updates against singular value decompositions."""

import pytest
import torch

from congling.train.newton_schulz import orthogonalise

SHAPES = [(3, 8, 24), (1, 24, 8), (2, 16, 16), (1, 64, 128)]


def with_spectrum(shape, singular):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    return (u * singular) @ v, u @ v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_near_to_the_nearest(shape, dtype):
    """Singular values over a factor of 50, of any length, come out near 1 with the same vectors."""
    spectrum = torch.logspace(-1.7, 0, min(shape[1:]))
    for length in (1e-4, 1.0, 1e3):
        x, nearest = with_spectrum(shape, length * spectrum)
        found = orthogonalise(x, dtype)
        singular = torch.linalg.svdvals(found)
        assert found.dtype == torch.float32
        assert singular.min() > 0.85
        assert singular.max() < 1.16
        cosine = (found * nearest).sum((1, 2)) / (found.norm(dim=(1, 2)) * nearest.norm(dim=(1, 2)))
        assert cosine.min() > 0.99


def test_each_matrix_of_a_batch_is_alone():
    x = torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(1))
    scaled = orthogonalise(x * torch.tensor([1e-3, 1.0, 50.0])[:, None, None], torch.float32)
    torch.testing.assert_close(scaled, orthogonalise(x, torch.float32), rtol=0, atol=1e-3)
    torch.testing.assert_close(orthogonalise(x.mT, torch.float32), orthogonalise(x, torch.float32).mT)


def test_small_directions_never_overshoot_and_zero_stays_zero():
    x, _ = with_spectrum((1, 16, 32), torch.logspace(-7, 0, 16))
    assert torch.linalg.svdvals(orthogonalise(x, torch.float32)).max() < 1.16
    assert not orthogonalise(torch.zeros(1, 4, 6), torch.bfloat16).any()
