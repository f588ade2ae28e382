"""Nearest neighbours and the counts of KSG by plain calls of public packages.

Each k-NN function takes float64 rows and k and returns distances (N, k), the row itself left out
by position as such code does. Each KSG function takes two blocks of float64 rows and returns the
joint radii in the maximum norm and the strict counts in the blocks, the row itself left out.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.spatial import cKDTree

THREADS = torch.get_num_threads()


def ckdtree(x: np.ndarray, k: int) -> np.ndarray:
    return cKDTree(x).query(x, k + 1, workers=THREADS)[0][:, 1:]


def _sklearn(x: np.ndarray, k: int, algorithm: str) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=k + 1, algorithm=algorithm, n_jobs=THREADS).fit(x)
    return index.kneighbors(x)[0][:, 1:]


def balltree(x: np.ndarray, k: int) -> np.ndarray:
    return _sklearn(x, k, "ball_tree")


def kdtree(x: np.ndarray, k: int) -> np.ndarray:
    return _sklearn(x, k, "kd_tree")


def brute(x: np.ndarray, k: int) -> np.ndarray:
    return _sklearn(x, k, "brute")


def faiss(x: np.ndarray, k: int) -> np.ndarray:
    import faiss as library

    rows = x.astype(np.float32)
    index = library.IndexFlatL2(rows.shape[1])
    index.add(rows)
    return np.sqrt(index.search(rows, k + 1)[0][:, 1:])


def torch_gemm(x: np.ndarray, k: int) -> np.ndarray:
    rows = torch.from_numpy(x).float()
    parts = [
        torch.cdist(part, rows).topk(k + 1, largest=False).values[:, 1:]
        for part in rows.split(2048)
    ]
    return torch.cat(parts).double().numpy()


KNN = {
    "cKDTree": ckdtree,
    "BallTree": balltree,
    "KDTree": kdtree,
    "sklearn brute": brute,
    "faiss-cpu": faiss,
    "torch f32": torch_gemm,
}


def ksg_scipy(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """One cKDTree for radii and counts."""
    joint = np.hstack([x, y])
    radii = cKDTree(joint).query(joint, k + 1, p=np.inf, workers=THREADS)[0][:, -1]
    inside = np.nextafter(radii, 0)
    counts = [
        cKDTree(z).query_ball_point(z, inside, p=np.inf, return_length=True, workers=THREADS) - 1
        for z in (x, y)
    ]
    return radii, counts


def ksg_sklearn(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scikit-learn's KDTree for radii and counts, in one thread, as in NPEET."""
    from sklearn.neighbors import KDTree

    joint = np.hstack([x, y])
    radii = KDTree(joint, metric="chebyshev").query(joint, k + 1)[0][:, -1]
    inside = np.nextafter(radii, 0)
    counts = [
        KDTree(z, metric="chebyshev").query_radius(z, inside, count_only=True) - 1 for z in (x, y)
    ]
    return radii, counts


def ksg_threads(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """cKDTree for the radii, KDTree counts in threads: the fastest mixture known."""
    from sklearn.neighbors import KDTree

    joint = np.hstack([x, y])
    radii = cKDTree(joint).query(joint, k + 1, p=np.inf, workers=THREADS)[0][:, -1]
    inside = np.nextafter(radii, 0)
    pieces = np.array_split(np.arange(len(x)), 8 * THREADS)
    counts = []
    with ThreadPoolExecutor(THREADS) as pool:
        for z in (x, y):
            tree = KDTree(z, metric="chebyshev")
            found = pool.map(
                lambda rows, z=z, tree=tree: tree.query_radius(
                    z[rows], inside[rows], count_only=True
                ),
                pieces,
            )
            counts.append(np.concatenate(list(found)) - 1)
    return radii, counts


KSG = {"cKDTree": ksg_scipy, "KDTree": ksg_sklearn, "cKDTree + KDTree threads": ksg_threads}
