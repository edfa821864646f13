"""What the whole suite needs."""

import hashlib
import signal
from collections import OrderedDict
from functools import wraps

import onnx_ir as ir
from hypothesis import settings
from torch import Tensor, nn

import export.trace
from segvit.model import Size

# How long an example takes is the machine's affair: speed is never asserted.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Started in the background by a shell, pytest ignores Ctrl-C, and so would the commands whose
# answer to it is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Tracing takes seconds, and many tests build the same few models: each is traced once a process.
# Whoever asks gets a copy of the graph; weights are shared, since passes replace them.
_KEPT_GRAPHS = 12
_trace_model = export.trace.trace_model
_graphs: OrderedDict[tuple[str, Size, int | None], ir.Model] = OrderedDict()


def _hash_module(model: nn.Module) -> str:
    digest, common = hashlib.sha256(), vars(nn.Module())
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in common}
        tensors = {**dict(module._parameters), **dict(module._buffers)}
        tensors |= {key: value for key, value in own.items() if isinstance(value, Tensor)}
        plain = sorted((key, repr(value)) for key, value in own.items() if key not in tensors)
        digest.update(repr((name, type(module), plain, sorted(tensors))).encode())
        for key in sorted(tensors):
            if (tensor := tensors[key]) is not None:
                digest.update(tensor.detach().contiguous().numpy())
    return digest.hexdigest()


@wraps(_trace_model)
def _trace_once(model: nn.Module, size: Size, batch: int | None) -> ir.Model:
    key = (_hash_module(model), size, batch)
    if key not in _graphs:
        _graphs[key] = _trace_model(model, size, batch)
        if len(_graphs) > _KEPT_GRAPHS:
            _graphs.popitem(last=False)
    _graphs.move_to_end(key)
    return _graphs[key].clone()


export.trace.trace_model = _trace_once  # before anything imports it by name
