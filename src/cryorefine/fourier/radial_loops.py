"""The loops of ``radial``, in numba, over a range of sections; each has its own sums."""

import math

import numpy as np

from cryorefine.compiled import compiled

__all__ = ["divide", "multiply", "products", "random_phases", "totals"]


@compiled
def multiply(begin, end, values, k, table, out):
    """Multiply by a table over |k|²."""
    for z in range(begin, end):
        for y in range(values.shape[1]):
            r2 = k[z] * k[z] + k[y] * k[y]
            for x in range(values.shape[2]):
                # numba makes a complex number of a real factor: four products instead of two.
                value, factor = values[z, y, x], table[r2 + x * x]
                out[z, y, x] = complex(value.real * factor, value.imag * factor)


@compiled
def divide(begin, end, values, weights, k, gain, floor, out):
    """Write ``values * gain / (weights + floor)``."""
    for z in range(begin, end):
        for y in range(values.shape[1]):
            r2 = k[z] * k[z] + k[y] * k[y]
            for x in range(values.shape[2]):
                i = r2 + x * x
                value, factor = values[z, y, x], gain[i] / (weights[z, y, x] + floor[i])
                out[z, y, x] = complex(value.real * factor, value.imag * factor)


@compiled(fastmath=True)
def products(begin, end, a, b, k, shell_of, out):
    """Sum Re(a b*), |a|² and |b|² by shell, as far as ``out`` (z, 3, s) has shells."""
    n_x, n_shells = a.shape[2], out.shape[2]
    last_is_own_mate = k.shape[0] % 2 == 0
    for z in range(begin, end):
        part = out[z]
        for y in range(a.shape[1]):
            r2 = k[z] * k[z] + k[y] * k[y]
            for x in range(n_x):
                shell = shell_of[r2 + x * x]
                if shell >= n_shells:
                    continue
                weight = 1.0 if x == 0 or (last_is_own_mate and x == n_x - 1) else 2.0
                p, q = a[z, y, x], b[z, y, x]
                part[0, shell] += weight * (p.real * q.real + p.imag * q.imag)
                part[1, shell] += weight * (p.real * p.real + p.imag * p.imag)
                part[2, shell] += weight * (q.real * q.real + q.imag * q.imag)


@compiled(fastmath=True)
def totals(begin, end, values, k, shell_of, total, count):
    """Sum values and count points by shell, as far as the sums (z, s) have shells."""
    n_shells = total.shape[1]
    for z in range(begin, end):
        for y in range(values.shape[1]):
            r2 = k[z] * k[z] + k[y] * k[y]
            for x in range(values.shape[2]):
                shell = shell_of[r2 + x * x]
                if shell < n_shells:
                    total[z, shell] += values[z, y, x]
                    count[z, shell] += 1.0


_PHASES = 4096
"""Random phases that there are: twelve bits of the generator. Their steps of 0.09° are far below
what an FSC of randomised phases could show, and the table stays in the cache."""

_PHASORS = np.exp(2j * np.pi * (np.arange(_PHASES) + 0.5) / _PHASES).astype(np.complex64)


@compiled(inner=True)
def _random_phasor(seed, index):
    # Steele, Lea & Flood (2014) OOPSLA, SplitMix64: a counter in, 64 well-mixed bits out.
    u = np.uint64(seed) + np.uint64(index + 1) * np.uint64(0x9E3779B97F4A7C15)
    u = (u ^ (u >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    u = (u ^ (u >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    u = u ^ (u >> np.uint64(31))
    return _PHASORS[np.int64(u & np.uint64(_PHASES - 1))]


@compiled
def random_phases(begin, end, half, k, from_r2, seed, out):
    """Replace phases beyond a radius; see ``radial.random_phases``."""
    n, n_x = half.shape[0], half.shape[2]
    last_is_own_mate = n % 2 == 0
    for z in range(begin, end):
        for y in range(n):
            r2 = k[z] * k[z] + k[y] * k[y]
            mate = ((n - z) % n) * n + (n - y) % n
            for x in range(n_x):
                value = half[z, y, x]
                if r2 + x * x < from_r2:
                    out[z, y, x] = value
                    continue
                modulus = math.sqrt(value.real * value.real + value.imag * value.imag)
                place, sign = z * n + y, 1.0
                if x == 0 or (last_is_own_mate and x == n_x - 1):
                    # These planes hold both mates of each pair.
                    if place == mate:
                        out[z, y, x] = value
                        continue
                    if mate < place:
                        place, sign = mate, -1.0
                phasor = _random_phasor(seed, place * n_x + x)
                out[z, y, x] = complex(modulus * phasor.real, sign * modulus * phasor.imag)
