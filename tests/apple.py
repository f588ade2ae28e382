"""A stand-in for tensors on Apple's MPS, which has no float64."""

import torch
from torch import nn
from torch.utils._pytree import tree_map

_NO_FLOAT64 = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it"


class OnMps(torch.Tensor):
    """A tensor that says it is on MPS, computes on the CPU, and refuses float64 as MPS does.

    A copy to the CPU that also changes the dtype to float64 is refused too: MPS converts first.
    """

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device="mps"
        )

    def __init__(self, here):
        self.here = here.detach()

    def __repr__(self):
        return f"OnMps({self.here})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        # both ask for a guard of the device, which is not there
        if func is torch.Tensor.__getitem__:
            tensor, index = tree_map(cls._plain, args)
            return cls._wrapped(tensor[index])
        if func is torch.Tensor.to and "mps" in map(_kind, args):
            return args[0]
        with torch._C.DisableTorchFunctionSubclass():  # a copy on the CPU stays an ordinary tensor
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        target = kwargs.get("device")
        home = target is not None and torch.device(target).type == "cpu"
        if target is not None and not home:
            kwargs["device"] = torch.device("cpu")
        if kwargs.get("dtype") == torch.float64:
            raise TypeError(_NO_FLOAT64)
        args, kwargs = tree_map(cls._plain, (args, kwargs))
        out = func(*args, **kwargs)
        return out if home else tree_map(cls._wrapped, out)

    @classmethod
    def _plain(cls, value):
        return value.here if isinstance(value, cls) else value

    @classmethod
    def _wrapped(cls, value):
        if not isinstance(value, torch.Tensor):
            return value
        if value.dtype == torch.float64:
            raise TypeError(_NO_FLOAT64)
        return cls(value)


def _kind(value):
    return value.type if isinstance(value, torch.device) else value


def on_mps(model):
    """The model with frozen parameters on the stand-in; autograd knows no device of its kind."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(OnMps(parameter), requires_grad=False)
    return model
