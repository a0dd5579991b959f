"""Selections of bmdal_reg 3.0.2, in an interpreter that has it (NumPy < 2): POOL.npy TRAIN.npy METHOD N DTYPE.

Prints one line of JSON: seconds and picks. The paper's modes: MaxDet-P without noise, MaxDist-TP and LCMD-TP.
"""

import json
import os
import sys
import time

import numpy as np
import torch
from bmdal_reg.bmdal.feature_data import TensorFeatureData
from bmdal_reg.bmdal.feature_maps import IdentityFeatureMap
from bmdal_reg.bmdal.features import Features
from bmdal_reg.bmdal.selection import (
    LargestClusterMaxDistSelectionMethod,
    MaxDetSelectionMethod,
    MaxDiagSelectionMethod,
    MaxDistSelectionMethod,
)

METHODS = {
    "MaxDiag": MaxDiagSelectionMethod,
    "MaxDet": MaxDetSelectionMethod,
    "MaxDist": MaxDistSelectionMethod,
    "LCMD": LargestClusterMaxDistSelectionMethod,
}


def load(path: str, dtype: torch.dtype) -> Features:
    """Read a matrix as features."""
    matrix = torch.from_numpy(np.load(path)).to(dtype)
    return Features(IdentityFeatureMap(n_features=matrix.shape[1]), TensorFeatureData(matrix))


pool_path, train_path, method, count, precision = sys.argv[1:]
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
pool, train = (load(path, getattr(torch, precision)) for path in (pool_path, train_path))
started = time.perf_counter()
if method == "MaxDiag":
    picked = METHODS[method](pool).select(int(count))
else:
    picked = METHODS[method](pool, train).select(int(count))
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "picked": [int(i) for i in picked]}))
