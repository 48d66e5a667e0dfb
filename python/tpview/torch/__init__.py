"""tpview for PyTorch: fetched tensors, slices recorded from a model's own loader, loading and updating."""

from .publish import publish_state_dict
from .record import Recorded, record
from .tensors import dtype_name, dtype_of, empty, tensors
from .weights import load_weight_remote, update_weight_remote

__all__ = ["Recorded", "dtype_name", "dtype_of", "empty", "load_weight_remote", "publish_state_dict", "record", "tensors",
           "update_weight_remote"]
