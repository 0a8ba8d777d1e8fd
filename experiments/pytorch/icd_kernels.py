"""libicd_kernels.so on PyTorch tensors, through ctypes.

The library knows pointers, sizes and strides, and nothing of PyTorch: one file serves every version
of it, and every Python. Tensors on a GPU run there, on torch's current stream; tensors on the CPU
run on the CPU. Inference only: results carry no gradient.

    import icd_kernels
    y = icd_kernels.selective_scan(u, dt, A, B, C, D, z=z, softplus=True)

Sequences are (batch, length, channels), with any strides: what lies as (batch, channels, length)
goes in as x.transpose(1, 2), without a copy. Types are float32, float16 and bfloat16, the same for
all sequences of a call; A, D, dt_bias and the states of prefill are float32.

The library is looked for at $ICD_KERNELS, beside this file, in the build folder of this repository,
and where the system's loader looks.
"""

import ctypes
import os
from ctypes import POINTER, byref, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import torch

VERSION = 1  # ICD_KERNELS_VERSION of the structs below
_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_HERE = Path(__file__).resolve().parent


class Error(RuntimeError):
    """One line: the function, the argument at fault, what it is, what was expected."""


class Tensor(ctypes.Structure):
    """icd_tensor: data[b * batch + t * token + c * channel]."""

    _fields_ = [("data", c_void_p), ("batch", c_int64), ("token", c_int64), ("channel", c_int64)]


def _struct(name, **fields):
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


# The structs of icd_kernels.h, field by field.
SelectiveScan = _struct(
    "SelectiveScan", batch=c_int64, length=c_int64, channels=c_int64, states=c_int64, type=c_int32,
    softplus=c_int32, u=Tensor, dt=Tensor, z=Tensor, B=Tensor, C=Tensor, y=Tensor, A=c_void_p,
    D=c_void_p, dt_bias=c_void_p, initial_state=c_void_p, final_state=c_void_p, starts=c_void_p,
    workspace=c_void_p)
CausalConv1d = _struct(
    "CausalConv1d", batch=c_int64, length=c_int64, channels=c_int64, width=c_int64, type=c_int32,
    silu=c_int32, x=Tensor, y=Tensor, weight=c_void_p, bias=c_void_p, initial_state=c_void_p,
    final_state=c_void_p, starts=c_void_p)
CausalConv1dUpdate = _struct(
    "CausalConv1dUpdate", batch=c_int64, channels=c_int64, width=c_int64, type=c_int32,
    silu=c_int32, x=Tensor, y=Tensor, weight=c_void_p, bias=c_void_p, state=c_void_p,
    state_slot=c_int64, state_channel=c_int64, kept=c_int64, slots=c_void_p)
StateUpdate = _struct(
    "StateUpdate", batch=c_int64, channels=c_int64, states=c_int64, type=c_int32, softplus=c_int32,
    state_type=c_int32, state_layout=c_int32, u=Tensor, dt=Tensor, z=Tensor, B=Tensor, C=Tensor,
    y=Tensor, A=c_void_p, D=c_void_p, dt_bias=c_void_p, state=c_void_p, slots=c_void_p,
    active=c_void_p, active_count=c_int64)
HeadStateUpdate = _struct(
    "HeadStateUpdate", batch=c_int64, heads=c_int64, head_dim=c_int64, groups=c_int64,
    states=c_int64, type=c_int32, softplus=c_int32, state_type=c_int32, x=Tensor, dt=Tensor,
    z=Tensor, B=Tensor, C=Tensor, y=Tensor, A=c_void_p, D=c_void_p, dt_bias=c_void_p,
    state=c_void_p, slots=c_void_p)
Ssd = _struct(
    "Ssd", batch=c_int64, length=c_int64, heads=c_int64, head_dim=c_int64, groups=c_int64,
    states=c_int64, type=c_int32, softplus=c_int32, dt_min=c_float, dt_max=c_float, x=Tensor,
    dt=Tensor, z=Tensor, B=Tensor, C=Tensor, y=Tensor, A=c_void_p, D=c_void_p, dt_bias=c_void_p,
    initial_state=c_void_p, final_state=c_void_p, starts=c_void_p, workspace=c_void_p)

_CALLS = {"selective_scan": SelectiveScan, "causal_conv1d": CausalConv1d,
          "causal_conv1d_update": CausalConv1dUpdate, "state_update": StateUpdate,
          "head_state_update": HeadStateUpdate, "ssd": Ssd}
_library = None
_why_not = {}  # torch.device: line


def library():
    """The loaded library. Raises Error where it is not found or is another version."""
    global _library
    if _library is not None:
        return _library
    named = os.environ.get("ICD_KERNELS")
    places = [named] if named else [
        str(place) for place in (_HERE / "libicd_kernels.so",
                                 _HERE.parents[1] / "build" / "libicd_kernels.so")
        if place.exists()] + ["libicd_kernels.so.1"]
    try:
        found = ctypes.CDLL(places[0])
    except OSError as error:
        raise Error(f"libicd_kernels.so: {error}; build it (experiments/pytorch/README.md) and set "
                    "ICD_KERNELS to its path") from None
    found.icd_kernels_error.restype = ctypes.c_char_p
    found.icd_kernels_why_no_device.restype = ctypes.c_char_p
    version = found.icd_kernels_version()
    if version != VERSION:
        raise Error(f"{places[0]}: version is {version}, expected {VERSION}")
    for name, struct in _CALLS.items():
        getattr(found, f"icd_{name}").argtypes = [POINTER(struct), c_void_p]
    for name in ("selective_scan", "ssd"):
        workspace = getattr(found, f"icd_{name}_workspace")
        workspace.argtypes = [POINTER(_CALLS[name])]
        workspace.restype = c_int64
    _library = found
    return found


def why_no_device():
    """Empty if kernels can run on the current GPU, else one line."""
    return library().icd_kernels_why_no_device().decode()


def tensor(t):
    """A (batch, length, channels) or (batch, channels) torch tensor as the library sees it."""
    if t is None:
        return Tensor()
    batch, *token, channel = t.stride()
    return Tensor(t.data_ptr(), batch, token[0] if token else 0, channel)


class _Call:
    """One call: what its arguments have to be, and the run."""

    def __init__(self, name, first_name, first):
        if not isinstance(first, torch.Tensor):
            raise Error(f"{name}: {first_name} is {type(first).__name__}, expected a torch tensor")
        if first.dtype not in _TYPES:
            raise Error(f"{name}: {first_name} is {first.dtype}, expected torch.float32, "
                        "torch.float16 or torch.bfloat16")
        self.name = name
        self.first_name = first_name
        self.device = first.device
        self.dtype = first.dtype
        self.kept = []  # tensors that have to outlive the call
        if self.device.type not in ("cpu", "cuda"):
            raise Error(f"{name}: {first_name} is on {self.device}, expected cpu or cuda")
        if self.device.type == "cuda":
            if self.device not in _why_not:
                with torch.cuda.device(self.device):
                    _why_not[self.device] = why_no_device()
            if _why_not[self.device]:
                raise Error(f"{name}: {first_name} is on {self.device}, but "
                            f"{_why_not[self.device]}")

    def sizes(self, name, t, *axes):
        """The sizes of a tensor with these axes."""
        if not isinstance(t, torch.Tensor):
            raise Error(f"{self.name}: {name} is {type(t).__name__}, expected a torch tensor")
        if t.dim() != len(axes):
            raise Error(f"{self.name}: shape of {name} is {tuple(t.shape)}, expected "
                        f"({', '.join(axes)})")
        return t.shape

    def check(self, name, t, shape, dtype):
        """Raises Error unless t is a tensor of that shape (names and sizes) and type."""
        self.sizes(name, t, *shape)
        if t.device != self.device:
            raise Error(f"{self.name}: {name} is on {t.device}, expected {self.device}, where "
                        f"{self.first_name} is")
        if dtype is not None and t.dtype != dtype:
            raise Error(f"{self.name}: {name} is {t.dtype}, expected {dtype}")
        if tuple(t.shape) != tuple(shape.values()):
            raise Error(f"{self.name}: shape of {name} is {tuple(t.shape)}, expected "
                        f"({', '.join(shape)}) = {tuple(shape.values())}")
        if t.requires_grad and torch.is_grad_enabled():
            raise Error(f"{self.name}: {name} requires a gradient, which these kernels do not "
                        "make; call them under torch.no_grad()")
        self.kept.append(t)
        return t

    def sequence(self, name, t, **shape):
        return Tensor() if t is None else tensor(self.check(name, t, shape, self.dtype))

    def by_heads(self, name, t, **shape):
        """(..., heads, head_dim) as (..., channels): a view wherever there is one."""
        if t is None:
            return Tensor()
        flat = self.check(name, t, shape, self.dtype).flatten(-2)
        self.kept.append(flat)
        return tensor(flat)

    def array(self, name, t, dtype=torch.float32, **shape):
        """The address of a packed array, of a copy if t is not one; None for None."""
        if t is None:
            return None
        packed = self.check(name, t, shape, dtype).contiguous()
        self.kept.append(packed)
        return packed.data_ptr()

    def state(self, name, t, **shape):
        """The address of an array that is updated in place."""
        self.check(name, t, shape, None)
        if t.dtype not in _TYPES:
            raise Error(f"{self.name}: {name} is {t.dtype}, expected torch.float32, torch.float16 "
                        "or torch.bfloat16")
        if not t.is_contiguous():
            raise Error(f"{self.name}: strides of {name} are {t.stride()}, expected it contiguous")
        return t.data_ptr()

    def empty(self, *shape, dtype=None):
        made = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        self.kept.append(made)
        return made

    def run(self, args):
        lib = library()
        stream = None
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device).cuda_stream
            if hasattr(args, "workspace"):
                needed = getattr(lib, f"icd_{self.name}_workspace")(byref(args))
                if needed > 0:
                    args.workspace = self.empty(needed, dtype=torch.uint8).data_ptr()
        if getattr(lib, f"icd_{self.name}")(byref(args), stream) != 0:
            raise Error(lib.icd_kernels_error().decode())


def selective_scan(u, dt, A, B, C, D=None, z=None, dt_bias=None, softplus=False,
                   initial_state=None, return_state=False):
    """Mamba-1 over whole sequences: y, or (y, final state) with return_state.

    u, dt, z (batch, length, channels); A (channels, states); B, C (batch, length, states);
    D, dt_bias (channels); states (batch, channels, states).
    """
    call = _Call("selective_scan", "u", u)
    batch, length, channels = call.sizes("u", u, "batch", "length", "channels")
    _, states = call.sizes("A", A, "channels", "states")
    y = call.empty(batch, length, channels)
    memory = dict(batch=batch, channels=channels, states=states)
    final = call.empty(*memory.values(), dtype=torch.float32) if return_state else None
    like_u = dict(batch=batch, length=length, channels=channels)
    like_B = dict(batch=batch, length=length, states=states)
    call.run(SelectiveScan(
        batch=batch, length=length, channels=channels, states=states, type=_TYPES[u.dtype],
        softplus=softplus, u=call.sequence("u", u, **like_u), dt=call.sequence("dt", dt, **like_u),
        z=call.sequence("z", z, **like_u), B=call.sequence("B", B, **like_B),
        C=call.sequence("C", C, **like_B), y=tensor(y),
        A=call.array("A", A, channels=channels, states=states),
        D=call.array("D", D, channels=channels),
        dt_bias=call.array("dt_bias", dt_bias, channels=channels),
        initial_state=call.array("initial_state", initial_state, **memory),
        final_state=final.data_ptr() if return_state else None))
    return (y, final) if return_state else y


def causal_conv1d(x, weight, bias=None, silu=False, initial_state=None, return_state=False):
    """Depthwise causal convolution: y, or (y, final state) with return_state.

    x (batch, length, channels); weight (channels, width); bias (channels); states
    (batch, channels, width - 1), oldest first; all of one type.
    """
    call = _Call("causal_conv1d", "x", x)
    batch, length, channels = call.sizes("x", x, "batch", "length", "channels")
    _, width = call.sizes("weight", weight, "channels", "width")
    y = call.empty(batch, length, channels)
    memory = {"batch": batch, "channels": channels, "width - 1": width - 1}
    final = call.empty(*memory.values()) if return_state else None
    call.run(CausalConv1d(
        batch=batch, length=length, channels=channels, width=width, type=_TYPES[x.dtype],
        silu=silu, x=call.sequence("x", x, batch=batch, length=length, channels=channels),
        y=tensor(y), weight=call.array("weight", weight, x.dtype, channels=channels, width=width),
        bias=call.array("bias", bias, x.dtype, channels=channels),
        initial_state=call.array("initial_state", initial_state, x.dtype, **memory),
        final_state=final.data_ptr() if return_state else None))
    return (y, final) if return_state else y


def causal_conv1d_update(x, state, weight, bias=None, silu=False):
    """One more token: y; state (batch, channels, kept) moves on in place.

    x (batch, channels); weight (channels, width); kept is width - 1 or more.
    """
    call = _Call("causal_conv1d_update", "x", x)
    batch, channels = call.sizes("x", x, "batch", "channels")
    _, width = call.sizes("weight", weight, "channels", "width")
    *_, kept = call.sizes("state", state, "batch", "channels", "kept")
    y = call.empty(batch, channels)
    address = call.state("state", state, batch=batch, channels=channels, kept=kept)
    if state.dtype != x.dtype:
        raise Error(f"causal_conv1d_update: state is {state.dtype}, expected {x.dtype}")
    call.run(CausalConv1dUpdate(
        batch=batch, channels=channels, width=width, type=_TYPES[x.dtype], silu=silu,
        x=call.sequence("x", x, batch=batch, channels=channels), y=tensor(y),
        weight=call.array("weight", weight, x.dtype, channels=channels, width=width),
        bias=call.array("bias", bias, x.dtype, channels=channels), state=address,
        state_slot=channels * kept, state_channel=kept, kept=kept))
    return y


def state_update(state, u, dt, A, B, C, D=None, z=None, dt_bias=None, softplus=False):
    """Mamba-1, one token: y; state (batch, channels, states), of any type, moves on in place.

    u, dt, z (batch, channels); A (channels, states); B, C (batch, states); D, dt_bias (channels).
    """
    call = _Call("state_update", "u", u)
    batch, channels = call.sizes("u", u, "batch", "channels")
    _, states = call.sizes("A", A, "channels", "states")
    y = call.empty(batch, channels)
    like_u = dict(batch=batch, channels=channels)
    like_B = dict(batch=batch, states=states)
    address = call.state("state", state, **like_u, states=states)
    call.run(StateUpdate(
        batch=batch, channels=channels, states=states, type=_TYPES[u.dtype], softplus=softplus,
        state_type=_TYPES[state.dtype], u=call.sequence("u", u, **like_u),
        dt=call.sequence("dt", dt, **like_u), z=call.sequence("z", z, **like_u),
        B=call.sequence("B", B, **like_B), C=call.sequence("C", C, **like_B), y=tensor(y),
        A=call.array("A", A, channels=channels, states=states),
        D=call.array("D", D, channels=channels),
        dt_bias=call.array("dt_bias", dt_bias, channels=channels), state=address))
    return y


def head_state_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, softplus=False):
    """Mamba-2, one token: y; state (batch, heads, head_dim, states) moves on in place.

    x, z (batch, heads, head_dim); dt (batch, heads); A, D, dt_bias (heads);
    B, C (batch, groups, states).
    """
    call = _Call("head_state_update", "x", x)
    batch, heads, head_dim = call.sizes("x", x, "batch", "heads", "head_dim")
    _, groups, states = call.sizes("B", B, "batch", "groups", "states")
    y = call.empty(batch, heads, head_dim)
    like_x = dict(batch=batch, heads=heads, head_dim=head_dim)
    like_B = dict(batch=batch, groups=groups, states=states)
    address = call.state("state", state, **like_x, states=states)
    call.run(HeadStateUpdate(
        batch=batch, heads=heads, head_dim=head_dim, groups=groups, states=states,
        type=_TYPES[x.dtype], softplus=softplus, state_type=_TYPES[state.dtype],
        x=call.by_heads("x", x, **like_x), dt=call.sequence("dt", dt, batch=batch, heads=heads),
        z=call.by_heads("z", z, **like_x), B=call.by_heads("B", B, **like_B),
        C=call.by_heads("C", C, **like_B), y=tensor(y.flatten(1)),
        A=call.array("A", A, heads=heads), D=call.array("D", D, heads=heads),
        dt_bias=call.array("dt_bias", dt_bias, heads=heads), state=address))
    return y


def ssd(x, dt, A, B, C, D=None, z=None, dt_bias=None, softplus=False, dt_limit=None,
        initial_state=None, return_state=False):
    """Mamba-2 over whole sequences: y, or (y, final state) with return_state.

    x, z (batch, length, heads, head_dim); dt (batch, length, heads); A, D, dt_bias (heads);
    B, C (batch, length, groups, states); states (batch, heads, head_dim, states);
    dt_limit (least, most) of dt after softplus.
    """
    call = _Call("ssd", "x", x)
    batch, length, heads, head_dim = call.sizes("x", x, "batch", "length", "heads", "head_dim")
    *_, groups, states = call.sizes("B", B, "batch", "length", "groups", "states")
    y = call.empty(batch, length, heads, head_dim)
    memory = dict(batch=batch, heads=heads, head_dim=head_dim, states=states)
    final = call.empty(*memory.values(), dtype=torch.float32) if return_state else None
    like_x = dict(batch=batch, length=length, heads=heads, head_dim=head_dim)
    like_B = dict(batch=batch, length=length, groups=groups, states=states)
    least, most = dt_limit or (0, 0)
    call.run(Ssd(
        batch=batch, length=length, heads=heads, head_dim=head_dim, groups=groups, states=states,
        type=_TYPES[x.dtype], softplus=softplus, dt_min=least, dt_max=most,
        x=call.by_heads("x", x, **like_x),
        dt=call.sequence("dt", dt, batch=batch, length=length, heads=heads),
        z=call.by_heads("z", z, **like_x), B=call.by_heads("B", B, **like_B),
        C=call.by_heads("C", C, **like_B), y=tensor(y.flatten(2)),
        A=call.array("A", A, heads=heads), D=call.array("D", D, heads=heads),
        dt_bias=call.array("dt_bias", dt_bias, heads=heads),
        initial_state=call.array("initial_state", initial_state, **memory),
        final_state=final.data_ptr() if return_state else None))
    return (y, final) if return_state else y
