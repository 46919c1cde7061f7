"""Rotations: ZYZ Euler angles, matrices, rotation vectors and quaternions.

A pose's matrix ``A`` takes object coordinates (x, y, z) to image coordinates; its third row is
the viewing direction in the object. The Fourier slice of an image samples the object's transform
at ``A.T @ (kx, ky, 0)``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "euler_from_matrix",
    "geodesic_angle",
    "matrix_from_euler",
    "matrix_from_quaternion",
    "matrix_from_rotvec",
    "quaternion_from_matrix",
    "random_rotations",
    "rotvec_from_matrix",
]


def matrix_from_euler(euler_rad: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Return the matrix of ZYZ Euler angles as RELION and Xmipp define them.

    ``A = Rz(psi) Ry(tilt) Rz(rot)`` with passive elementary rotations, by rows
    ``Rz(a) = (c, s, 0), (-s, c, 0), (0, 0, 1)`` and ``Ry(a) = (c, 0, -s), (0, 1, 0), (s, 0, c)``.

    Parameters
    ----------
    euler_rad
        (rot, tilt, psi) in radians.

    Returns
    -------
    Object-to-image rotation matrices.
    """
    rot, tilt, psi = euler_rad.unbind(-1)
    ca, sa, cb, sb, cg, sg = rot.cos(), rot.sin(), tilt.cos(), tilt.sin(), psi.cos(), psi.sin()
    rows = [
        cg * cb * ca - sg * sa,
        cg * cb * sa + sg * ca,
        -cg * sb,
        -sg * cb * ca - cg * sa,
        -sg * cb * sa + cg * ca,
        sg * sb,
        sb * ca,
        sb * sa,
        cb,
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def euler_from_matrix(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Return ZYZ Euler angles (rot, tilt, psi) in radians; inverse of :func:`matrix_from_euler`.

    tilt lies in [0, π], rot and psi in (-π, π]. At the poles, where only rot ± psi is
    defined, rot is 0.
    """
    sin_tilt = torch.hypot(matrix[..., 2, 0], matrix[..., 2, 1])
    tilt = torch.atan2(sin_tilt, matrix[..., 2, 2])
    rot = torch.atan2(matrix[..., 2, 1], matrix[..., 2, 0])
    rot = torch.where(sin_tilt < 4 * torch.finfo(matrix.dtype).eps, torch.zeros_like(rot), rot)
    # The second column of A Rz(-rot) is (sin psi, cos psi, 0): near the poles, where rounding
    # makes rot uncertain, psi makes up for it.
    column = rot.cos()[..., None] * matrix[..., :2, 1] - rot.sin()[..., None] * matrix[..., :2, 0]
    psi = torch.atan2(column[..., 0], column[..., 1])
    return torch.stack([rot, tilt, psi], -1)


def matrix_from_rotvec(rotvec_rad: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Return the active rotation by ``|rotvec_rad|`` radians about ``rotvec_rad`` (Rodrigues)."""
    angle2 = (rotvec_rad * rotvec_rad).sum(-1)[..., None, None]
    angle = angle2.sqrt()
    small = angle2 < 1e-8
    safe = torch.where(small, torch.ones_like(angle), angle)
    a = torch.where(small, 1 - angle2 / 6, safe.sin() / safe)
    b = torch.where(small, 0.5 - angle2 / 24, (1 - safe.cos()) / (safe * safe))
    x, y, z = rotvec_rad.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    eye = torch.eye(3, dtype=rotvec_rad.dtype, device=rotvec_rad.device)
    return eye + a * cross + b * (cross @ cross)


def quaternion_from_matrix(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Return unit quaternions (w, x, y, z), w ≥ 0, of active rotation matrices."""
    m = matrix
    # Four times the outer product of the quaternion with itself: stable for every rotation.
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    k = torch.stack(
        [
            1 + xx + yy + zz,
            m[..., 2, 1] - m[..., 1, 2],
            m[..., 0, 2] - m[..., 2, 0],
            m[..., 1, 0] - m[..., 0, 1],
            m[..., 2, 1] - m[..., 1, 2],
            1 + xx - yy - zz,
            m[..., 0, 1] + m[..., 1, 0],
            m[..., 0, 2] + m[..., 2, 0],
            m[..., 0, 2] - m[..., 2, 0],
            m[..., 0, 1] + m[..., 1, 0],
            1 - xx + yy - zz,
            m[..., 1, 2] + m[..., 2, 1],
            m[..., 1, 0] - m[..., 0, 1],
            m[..., 0, 2] + m[..., 2, 0],
            m[..., 1, 2] + m[..., 2, 1],
            1 - xx - yy + zz,
        ],
        -1,
    ).unflatten(-1, (4, 4))
    best = torch.diagonal(k, dim1=-2, dim2=-1).argmax(-1)
    q = torch.gather(k, -2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def matrix_from_quaternion(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Return active rotation matrices of (w, x, y, z); the quaternion need not have unit length."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def rotvec_from_matrix(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Return rotation vectors (radians, length ≤ π); inverse of :func:`matrix_from_rotvec`."""
    q = quaternion_from_matrix(matrix)
    sine = q[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, q[..., :1])
    scale = torch.where(sine < 1e-12, torch.full_like(sine, 2.0), angle / sine.clamp_min(1e-12))
    return q[..., 1:] * scale


def geodesic_angle(a: Float[Tensor, "*b 3 3"], b: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Return the angle in radians, 0 to π, of the rotation that takes ``a`` to ``b``.

    Computed from the chord ``|a - b|``, which keeps full precision near zero where the arc
    cosine of the trace loses half its digits.
    """
    chord = (a - b).flatten(-2).norm(dim=-1) / (2 * 2**0.5)
    return 2 * torch.asin(chord.clamp(max=1.0))


def random_rotations(n: int, generator: torch.Generator) -> Float[Tensor, "{n} 3 3"]:
    """Draw ``n`` rotations uniformly from SO(3), float64, reproducibly from ``generator``."""
    return matrix_from_quaternion(torch.randn(n, 4, dtype=torch.float64, generator=generator))
