"""Pictures of rare classes more often: repeat factor sampling (Gupta et al. 2019, LVIS, section 4)."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opendetr.data.index import DatasetIndex


def repeat_factors(index: DatasetIndex) -> Float[Tensor, " N"]:
    """How often every picture is shown in an epoch, in the mean: 1 or more before they are brought to one length.

    A class that is in a share f of the pictures has the factor max(1, sqrt(t / f)), and a picture the largest of its
    classes'. LVIS has t = 0.001 for 100,000 pictures; here t is the median class's share, so that it fits any data.
    """
    classes = index.label_map.num_classes
    has = np.zeros((len(index), classes), bool)
    has[np.repeat(np.arange(len(index)), index.counts), index.labels] = True
    shares = has.mean(0)
    if not shares.any():
        return torch.ones(len(index))
    of_class = np.ones(classes)
    seen = shares > 0
    of_class[seen] = np.maximum(1.0, np.sqrt(np.median(shares[seen]) / shares[seen]))
    return torch.from_numpy(np.where(has, of_class, 1.0).max(1)).float()
