import torch

from cryorefine.evaluate.contrast import is_dark


def two_balls(size_px: int = 40) -> torch.Tensor:
    axis = torch.arange(size_px, dtype=torch.float32) - size_px // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    near = (z - 4) ** 2 + y**2 + x**2 < 25
    far = (z + 5) ** 2 + (y - 3) ** 2 + x**2 < 36
    return (near | far).float()


def test_a_white_particle_is_not_dark_and_its_negative_is_whatever_the_scale():
    density = two_balls()
    for scale, offset in ((1.0, 0.0), (1e-3, 5.0), (40.0, -7.0)):
        assert not is_dark(scale * density + offset, voxel_A=4.0)
        assert is_dark(-scale * density + offset, voxel_A=4.0)


def test_noise_and_a_constant_are_not_dark():
    for seed in range(6):
        noise = torch.randn(40, 40, 40, generator=torch.Generator().manual_seed(seed))
        assert not is_dark(noise, voxel_A=4.0)
    assert not is_dark(torch.ones(40, 40, 40), voxel_A=4.0)
