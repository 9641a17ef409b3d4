"""The courses' generated datasets, their densities, and what no model's loss on them can go below.

The sets of notebook 1 come from numpy's legacy generator, seeded anew in each call, so that they are the courses' own
numbers (numpy keeps that stream fixed). Points are rows (N, 2) or (N, 3), float32; densities are float64, in nats.
"""

from __future__ import annotations

import math

import numpy as np

LOG_2PI = math.log(2 * math.pi)
HALF_ROOT = math.sqrt(2) / 2
ROTATION = np.array([[HALF_ROOT, HALF_ROOT], [-HALF_ROOT, HALF_ROOT]])  # points @ ROTATION turns rows by 45 degrees

# name -> centre, standard deviations along the two axes, and whether the axes are rotated
GAUSSIANS = {
    "berkeley24_a1": ((1.0, 2.0), (5.0, 1.0), True),
    "berkeley24_a2": ((-1.0, 2.0), (1.0, 5.0), True),
    "berkeley24_b1": ((1.0, 2.0), (5.0, 1.0), False),
    "berkeley24_b2": ((-1.0, 2.0), (1.0, 5.0), False),
    "berkeley19_1": ((1.0, 2.0), (5.0, 1.0), False),
    "berkeley19_2": ((1.0, 2.0), (5.0, 1.0), True),
}
CLUSTER_SIZE = 33333  # points in each of the three clusters of berkeley19 1.2
CLUSTER_CENTRES = ((-1.5, 2.5), (1.5, 2.5))  # of the two round ones; the third is an arc
CLUSTER_DEVIATION = 0.2

ARCS_HALF_WIDTH = 5.0  # the arcs density has less than 1e-11 of its mass outside [-5, 5]^2
SINE_HALF_WIDTH = 5.0  # data_sine has z1 in [-5, 5]
SINE_DEVIATION = 0.4


def _gaussian(name: str, number: int) -> np.ndarray:
    """Points (number, 2) float64 of one of ``GAUSSIANS``."""
    centre, deviations, rotated = GAUSSIANS[name]
    offsets = np.random.RandomState(0).randn(number, 2) * np.array(deviations)
    return np.array(centre) + (offsets @ ROTATION if rotated else offsets)


def berkeley24(part: str, dataset_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Berkeley 2024, homework on VAEs, question 1: one Gaussian.

    The test points are the first 2500 train points: the course draws both sets with the same seed. Kept as it is.

    Args:
        part: ``a`` (axes at 45 degrees) or ``b`` (axes along the coordinates).
        dataset_id: 1 or 2.

    Returns:
        train (10000, 2) and test (2500, 2), float32.
    """
    name = f"berkeley24_{part}{dataset_id}"
    if name not in GAUSSIANS:
        raise ValueError(f"part {part!r}, dataset {dataset_id!r}: the parts are 'a' and 'b', the datasets 1 and 2")
    return _gaussian(name, 10000).astype(np.float32), _gaussian(name, 2500).astype(np.float32)


def berkeley19_pair(dataset_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Berkeley 2019, homework on VAEs, question 1.1: one Gaussian, the first 80% for training.

    Args:
        dataset_id: 1 (axes along the coordinates) or 2 (axes at 45 degrees).

    Returns:
        train (80000, 2) and test (20000, 2), float32.
    """
    name = f"berkeley19_{dataset_id}"
    if name not in GAUSSIANS:
        raise ValueError(f"dataset {dataset_id!r}: the datasets are 1 and 2")
    points = _gaussian(name, 100000).astype(np.float32)
    return points[:80000], points[80000:]


def berkeley19_clusters() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Berkeley 2019, homework on VAEs, question 1.2: two round clusters (labels 0, 1) and an arc below them (label 2).

    Returns:
        x_train (79999, 2) float32, y_train (79999,) int64, x_test (20000, 2), y_test (20000,).
    """
    random = np.random.RandomState(0)
    means = [np.array(centre) for centre in CLUSTER_CENTRES] + [_arc(np.linspace(0, np.pi, CLUSTER_SIZE))]
    points = np.concatenate([mean + CLUSTER_DEVIATION * random.randn(CLUSTER_SIZE, 2) for mean in means])
    order = random.permutation(3 * CLUSTER_SIZE)
    points, labels = points[order].astype(np.float32), np.repeat(np.arange(3), CLUSTER_SIZE)[order]
    return points[:79999], labels[:79999], points[79999:], labels[79999:]


def _arc(angle: np.ndarray) -> np.ndarray:
    """The curve (N, 2) that the third cluster follows, at angles (N,) from 0 to pi."""
    return np.stack([2 * np.cos(angle), -np.sin(angle)], axis=1)


def true_neg_log_density(points: np.ndarray, name: str) -> np.ndarray:
    """Minus the log-density of the distribution that a set of notebook 1 was drawn from, at any points.

    Its mean over a set is the loss of a perfect model there: a bound for every model, up to the sample's noise.

    Args:
        points: (N, 2).
        name: one of ``GAUSSIANS``, or ``berkeley19_clusters``.

    Returns:
        (N,) float64, in nats.
    """
    points = np.asarray(points, dtype=np.float64)
    if name == "berkeley19_clusters":
        return _clusters_neg_log_density(points)
    centre, deviations, rotated = GAUSSIANS[name]
    offsets = points - np.array(centre)
    offsets = (offsets @ ROTATION.T if rotated else offsets) / np.array(deviations)
    return 0.5 * (offsets**2).sum(axis=1) + LOG_2PI + math.log(math.prod(deviations))


def _clusters_neg_log_density(points: np.ndarray) -> np.ndarray:
    """Minus the log of (two Gaussians and a Gaussian smeared along the arc) / 3; (N, 2) -> (N,).

    The integral over the arc's angle is a Gauss-Legendre sum: a mixture of 100 Gaussians on it, exact to rounding.
    """
    nodes, weights = np.polynomial.legendre.leggauss(100)
    centres = np.concatenate([np.array(CLUSTER_CENTRES), _arc(np.pi / 2 * (nodes + 1))])
    log_weights = np.log(np.concatenate([[1.0, 1.0], weights / 2]) / 3)
    log_scale = LOG_2PI + 2 * math.log(CLUSTER_DEVIATION)
    neg_log_density = np.empty(len(points))
    for start in range(0, len(points), 10000):  # so that (points x centres) stays small
        part = slice(start, start + 10000)
        squares = ((points[part, None] - centres) ** 2).sum(axis=2)
        exponents = log_weights - squares / (2 * CLUSTER_DEVIATION**2)
        neg_log_density[part] = log_scale - np.logaddexp.reduce(exponents, axis=1)
    return neg_log_density


def torus(number: int = 3000, major: float = 1.0, minor: float = 0.5) -> np.ndarray:
    """Points on a torus, uniform in its two angles (so denser inside than outside), as MIT's homework draws them.

    Args:
        number: how many.
        major: radius of the circle in the tube's middle.
        minor: radius of the tube.

    Returns:
        (number, 3) float32.
    """
    u = np.random.RandomState(1234).uniform(0, 2 * np.pi, number)
    v = np.random.RandomState(1235).uniform(0, 2 * np.pi, number)
    ring = major + minor * np.cos(v)
    return np.stack([ring * np.cos(u), ring * np.sin(u), minor * np.sin(v)], axis=1).astype(np.float32)


def torus_distance(points: np.ndarray, major: float = 1.0, minor: float = 0.5) -> np.ndarray:
    """Distance of points (N, 3) to the torus's surface; (N,) float64, 0 on it."""
    points = np.asarray(points, dtype=np.float64)
    to_circle = np.hypot(np.hypot(points[:, 0], points[:, 1]) - major, points[:, 2])
    return np.abs(to_circle - minor)


def arcs_energy(z):
    """Energy U = -log p~ of the two arcs, not normalised.

    U = ((||z|| - 2) / 0.4)^2 / 2 - log(exp(-((z1 - 2) / 0.6)^2 / 2) + exp(-((z1 + 2) / 0.6)^2 / 2))

    Args:
        z: torch tensor (N, 2).

    Returns:
        (N,), in nats.

    References:
        Rezende and Mohamed 2015, Variational Inference with Normalizing Flows, Table 1, U1 (arXiv:1505.05770).
    """
    import torch

    ring = ((z.norm(dim=-1) - 2) / 0.4) ** 2 / 2
    return ring - torch.logaddexp(-(((z[..., 0] - 2) / 0.6) ** 2) / 2, -(((z[..., 0] + 2) / 0.6) ** 2) / 2)


def sine_energy(z):
    """Energy U = ((z2 - sin(2 pi z1 / 4)) / 0.4)^2 / 2 of the sine band: no density, since z1 is not bounded.

    Args:
        z: torch tensor (N, 2).

    Returns:
        (N,), in nats.

    References:
        Rezende and Mohamed 2015, Variational Inference with Normalizing Flows, Table 1, U2 (arXiv:1505.05770).
    """
    return ((z[..., 1] - (math.pi / 2 * z[..., 0]).sin()) / SINE_DEVIATION) ** 2 / 2


def arcs_log_normaliser_and_entropy(cells: int = 1000) -> tuple[float, float]:
    """log Z = log of the integral of exp(-U), and the entropy log Z + E[U], of the two arcs by quadrature.

    Args:
        cells: along each side of [-5, 5]^2; the midpoint rule converges at once for so smooth a function.

    Returns:
        log Z and the entropy, in nats: 1.8775 and 2.660.
    """
    import torch

    axis = ((torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1) * ARCS_HALF_WIDTH
    energy = arcs_energy(torch.cartesian_prod(axis, axis))
    log_normaliser = torch.logsumexp(-energy, dim=0) + 2 * math.log(2 * ARCS_HALF_WIDTH / cells)
    mean_energy = (torch.softmax(-energy, dim=0) * energy).sum()
    return float(log_normaliser), float(log_normaliser + mean_energy)


def sine_entropy() -> float:
    """Entropy of :func:`data_sine`'s distribution, a uniform and a Gaussian of deviation 0.4: 2.805 nats."""
    return math.log(2 * SINE_HALF_WIDTH) + 0.5 * (LOG_2PI + 1) + math.log(SINE_DEVIATION)


def data_arcs(number: int = 10000, seed: int = 43) -> np.ndarray:
    """Samples of the normalised arcs density, by rejection from the uniform distribution on [-5, 5]^2.

    Args:
        number: how many; the first ones are the same whatever the number.
        seed: 43 for training; another one for held-out samples.

    Returns:
        (number, 2) float32.
    """
    import torch

    random, kept, missing = np.random.RandomState(seed), [], number
    while missing > 0:
        proposals = random.uniform(-ARCS_HALF_WIDTH, ARCS_HALF_WIDTH, (65536, 2))
        density = torch.exp(-arcs_energy(torch.from_numpy(proposals))).numpy()  # 1.0000000003 at most
        kept.append(proposals[random.uniform(0, 1.000001, len(proposals)) < density])
        missing -= len(kept[-1])
    return np.concatenate(kept or [np.empty((0, 2))])[:number].astype(np.float32)


def data_sine(number: int = 10000, seed: int = 43) -> np.ndarray:
    """Points z1 uniform on [-5, 5], z2 = sin(pi z1 / 2) + 0.4 N(0, 1).

    Args:
        number: how many.
        seed: 43 for training; another one for held-out samples.

    Returns:
        (number, 2) float32.
    """
    random = np.random.RandomState(seed)
    z1 = random.uniform(-SINE_HALF_WIDTH, SINE_HALF_WIDTH, number)
    z2 = np.sin(np.pi / 2 * z1) + SINE_DEVIATION * random.randn(number)
    return np.stack([z1, z2], axis=1).astype(np.float32)
