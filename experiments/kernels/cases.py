"""What is compared: kernels, shapes, goals, and how both sides are called on the same values.

Ours are called through the C interface, by the structs of experiments/pytorch/icd_kernels.py.

A case makes sets of buffers. `ours`, `peer` and `copy` are then lists of calls, one for each set;
`results()` are pairs of what ours and the peer computed. Activations are bf16, weights of the
recurrence f32, as the models have them. Values follow what trained models look like: see each case.
"""
import ctypes
import math
import pathlib
import sys
import types

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pytorch"))
import icd_kernels
from icd_kernels import tensor
from interleaved import sets_beyond_cache

BF16 = 2  # ICD_BF16


class Case:
    """goal: least ratio of the peer's time to ours; copy_goal: least share of the rate at which the
    device copies as many bytes as the kernel has to read and write."""

    peer_name = None
    tolerance = 5e-3  # of two bf16 results of f32 sums, each 1.7e-3 off by its last rounding

    def __init__(self, shape, goal=None, copy_goal=None, quick=False):
        self.shape, self.goal, self.copy_goal, self.quick = shape, goal, copy_goal, quick

    @property
    def name(self):
        return f"{self.kernel} {self.shape}"

    def build(self, peer, seed):
        """Buffers and calls; `peer` is the peer's function, or None."""
        self.generator = torch.Generator(device="cuda").manual_seed(seed)
        count = sets_beyond_cache(self.bytes_moved())
        self.sets = [self.make_set(peer is not None) for _ in range(count)]
        self.ours = [self.our_call(s) for s in self.sets]
        self.peer = [self.peer_call(peer, s) for s in self.sets] if peer else None
        half = self.bytes_moved() // 2
        pairs = [torch.empty(2, half, dtype=torch.uint8, device="cuda") for _ in range(count)]
        for pair in pairs:
            pair.random_(generator=self.generator)
        self.copy = [lambda p=p: p[0].copy_(p[1]) for p in pairs]

    def randn(self, *shape, scale=1.0, shift=0.0, dtype=torch.bfloat16):
        values = torch.randn(shape, generator=self.generator, device="cuda", dtype=torch.float32)
        return values.mul_(scale).add_(shift).to(dtype)

    def uniform(self, low, high, *shape):
        values = torch.rand(shape, generator=self.generator, device="cuda")
        return values.mul_(high - low).add_(low)



def on_stream(name, args, returns):
    """A call of ours on the stream that is current when it is made."""
    library = icd_kernels.library()
    function = getattr(library, f"icd_{name}")
    def call():
        if function(ctypes.byref(args), torch.cuda.current_stream().cuda_stream) != 0:
            raise icd_kernels.Error(library.icd_kernels_error().decode())
        return returns
    return call


def workspace(name, args):
    """The workspace a call asks for, if any, set in `args`; to be kept as long as they are."""
    size = getattr(icd_kernels.library(), f"icd_{name}_workspace")(ctypes.byref(args))
    if size == 0:
        return None
    memory = torch.empty(size, dtype=torch.uint8, device="cuda")
    args.workspace = memory.data_ptr()
    return memory


def nan_like(tensor):
    return torch.full_like(tensor, math.nan)


class SelectiveScan(Case):
    """Mamba-1 prefill with softplus, D, z and the last state. mamba-ssm reads (B, D, L), ours
    (B, L, D): each its own layout, no transposition counted. It also writes the sum before the gate
    and a state a chunk. dt has a median of softplus(-4.5) = 0.011 and spans 1e-3 to 1e-1;
    A = -(n + 1) within a factor."""

    kernel, peer_name, states = "selective_scan", "selective_scan", 16

    def bytes_moved(self):
        b, d, l = self.shape
        return b * l * (4 * d + 2 * self.states) * 2

    def make_set(self, with_peer):
        (b, d, l), n = self.shape, self.states
        s = types.SimpleNamespace()
        s.u, s.z = self.randn(b, l, d), self.randn(b, l, d)
        s.dt = self.randn(b, l, d, scale=0.5)
        s.B, s.C = self.randn(b, l, n), self.randn(b, l, n)
        ladder = torch.arange(1, n + 1, device="cuda", dtype=torch.float32)
        s.A = -ladder * torch.exp(self.randn(d, n, scale=0.3, dtype=torch.float32))
        s.D = self.randn(d, dtype=torch.float32)
        s.bias = self.randn(d, scale=0.5, shift=-4.5, dtype=torch.float32)
        s.y = nan_like(s.u)
        s.last = torch.full((b, d, n), math.nan, device="cuda")
        if with_peer:
            s.theirs = [t.transpose(1, 2).contiguous() for t in (s.u, s.dt, s.z)]
            s.theirs_BC = [t.transpose(1, 2).contiguous().unsqueeze(1) for t in (s.B, s.C)]
        return s

    def our_call(self, s):
        b, d, l = self.shape
        args = icd_kernels.SelectiveScan(
            batch=b, length=l, channels=d, states=self.states, type=BF16, softplus=1,
            u=tensor(s.u), dt=tensor(s.dt), z=tensor(s.z), B=tensor(s.B), C=tensor(s.C),
            y=tensor(s.y), A=s.A.data_ptr(), D=s.D.data_ptr(), dt_bias=s.bias.data_ptr(),
            final_state=s.last.data_ptr())
        s.workspace = workspace("selective_scan", args)
        return on_stream("selective_scan", args, s.y)

    def peer_call(self, forward, s):
        u, dt, z = s.theirs
        B, C = s.theirs_BC
        def call():
            s.theirs_out = forward(u, dt, s.A, B, C, s.D, z, s.bias, True)
            return s.theirs_out
        return call

    def results(self):
        s = self.sets[0]
        _, x, out_z = s.theirs_out
        return {"y": (s.y, out_z.transpose(1, 2)), "last state": (s.last, x[:, :, -1, 1::2])}


class Conv(Case):
    """Causal convolution of width 4 with bias and SiLU; `layout` is that of both sides."""

    kernel, peer_name, layout = "causal_conv1d", "causal_conv1d", "BLD"

    @property
    def name(self):
        return f"{self.kernel} {self.shape} {self.layout}"

    def bytes_moved(self):
        return 2 * 2 * math.prod(self.shape)

    def make_set(self, with_peer):
        b, d, l = self.shape
        s = types.SimpleNamespace()
        s.x = self.randn(b, l, d) if self.layout == "BLD" else self.randn(b, d, l)
        s.weight, s.bias = self.randn(d, 4, scale=0.5), self.randn(d)
        s.y = nan_like(s.x)
        return s

    def our_call(self, s):
        b, d, l = self.shape
        as_BLD = (lambda t: t) if self.layout == "BLD" else (lambda t: t.transpose(1, 2))
        args = icd_kernels.CausalConv1d(
            batch=b, length=l, channels=d, width=4, type=BF16, silu=1, x=tensor(as_BLD(s.x)),
            y=tensor(as_BLD(s.y)), weight=s.weight.data_ptr(), bias=s.bias.data_ptr())
        return on_stream("causal_conv1d", args, s.y)

    def peer_call(self, forward, s):
        x = s.x.transpose(1, 2) if self.layout == "BLD" else s.x  # (B, D, L) by its strides
        def call():
            s.theirs_out = forward(x, s.weight, s.bias, activation="silu")
            return s.theirs_out
        return call

    def results(self):
        s = self.sets[0]
        theirs = s.theirs_out.transpose(1, 2) if self.layout == "BLD" else s.theirs_out
        return {"y": (s.y, theirs)}


class ConvChannelFirst(Conv):
    layout = "BDL"


class Ssd(Case):
    """Mamba-2 prefill of the 2.7b model: 80 heads of 64, one group of 128 states, D, softplus, the
    last state; no z, since that model gates in its norm. dt log-uniform in 1e-3 to 1e-1, A in -16
    to -1, as initialised. The peer is mamba_chunk_scan_combined in chunks of 256, all its kernels.
    """

    kernel, peer_name = "ssd 2.7b", "ssd"
    heads, head_dim, states, chunk = 80, 64, 128, 256
    tolerance = 2e-2  # both round operands of their matrix products to bf16, in different places

    def bytes_moved(self):
        b, l = self.shape
        return b * l * (2 * self.heads * self.head_dim + self.heads + 2 * self.states) * 2

    def make_set(self, with_peer):
        (b, l), h, p, n = self.shape, self.heads, self.head_dim, self.states
        s = types.SimpleNamespace()
        s.x = self.randn(b, l, h, p)
        s.dt = self.randn(b, l, h, scale=0.5)
        s.B, s.C = self.randn(b, l, 1, n), self.randn(b, l, 1, n)
        s.A = -self.uniform(1, 16, h)
        s.D = self.randn(h, dtype=torch.float32)
        dt = torch.exp(self.uniform(math.log(1e-3), math.log(1e-1), h))
        s.bias = dt + torch.log(-torch.expm1(-dt))
        s.y = nan_like(s.x)
        s.last = torch.full((b, h, p, n), math.nan, device="cuda")
        return s

    def our_call(self, s):
        b, l = self.shape
        by_channel = lambda t: tensor(t.flatten(2))  # a view: what it is of stays in s
        args = icd_kernels.Ssd(
            batch=b, length=l, heads=self.heads, head_dim=self.head_dim, groups=1,
            states=self.states, type=BF16, softplus=1, x=by_channel(s.x), dt=tensor(s.dt),
            B=by_channel(s.B), C=by_channel(s.C), y=by_channel(s.y), A=s.A.data_ptr(),
            D=s.D.data_ptr(), dt_bias=s.bias.data_ptr(), final_state=s.last.data_ptr())
        s.workspace = workspace("ssd", args)
        return on_stream("ssd", args, s.y)

    def peer_call(self, forward, s):
        def call():
            s.theirs_out = forward(s.x, s.dt, s.A, s.B, s.C, self.chunk, D=s.D, dt_bias=s.bias,
                                   dt_softplus=True, return_final_states=True)
            return s.theirs_out
        return call

    def results(self):
        s = self.sets[0]
        y, last = s.theirs_out
        return {"y": (s.y, y), "last state": (s.last, last)}


class StateUpdate(Case):
    """Mamba-1, one token of the 2.8b model: 5120 channels of 16 bf16 states; shape is the batch."""

    kernel, peer_name = "state_update 2.8b", "state_update"
    channels, states = 5120, 16

    def bytes_moved(self):
        d, n = self.channels, self.states
        return self.shape * 2 * (2 * d * n + 4 * d + 2 * n)

    def make_set(self, with_peer):
        b, d, n = self.shape, self.channels, self.states
        s = types.SimpleNamespace()
        s.u, s.z, s.dt = self.randn(b, d), self.randn(b, d), self.randn(b, d, scale=0.5)
        s.B, s.C = self.randn(b, n), self.randn(b, n)
        ladder = torch.arange(1, n + 1, device="cuda", dtype=torch.float32)
        s.A = -ladder * torch.exp(self.randn(d, n, scale=0.3, dtype=torch.float32))
        s.D = self.randn(d, dtype=torch.float32)
        s.bias = self.randn(d, scale=0.5, shift=-4.5, dtype=torch.float32)
        s.state, s.y = self.randn(b, d, n), nan_like(s.u)
        s.their_state = s.state.clone() if with_peer else None
        return s

    def our_call(self, s):
        args = icd_kernels.StateUpdate(
            batch=self.shape, channels=self.channels, states=self.states, type=BF16, softplus=1,
            state_type=BF16, u=tensor(s.u), dt=tensor(s.dt), z=tensor(s.z), B=tensor(s.B),
            C=tensor(s.C), y=tensor(s.y), A=s.A.data_ptr(), D=s.D.data_ptr(),
            dt_bias=s.bias.data_ptr(), state=s.state.data_ptr())
        return on_stream("state_update", args, s.y)

    def peer_call(self, forward, s):
        def call():
            s.theirs_out = forward(s.their_state, s.u, s.dt, s.A, s.B, s.C, s.D, s.z, s.bias, True)
            return s.theirs_out
        return call

    def results(self):
        s = self.sets[0]
        return {"y": (s.y, s.theirs_out), "state": (s.state, s.their_state)}


class HeadStateUpdate(Case):
    """Mamba-2, one token of the 2.7b model: 80 heads of 64 x 128 bf16 states; shape is the batch.
    No z, as in Ssd. The peer takes what a head has one of as views that repeat it, and knows them.
    """

    kernel, peer_name = "state_update 2.7b", "state_update"
    heads, head_dim, states = 80, 64, 128

    def bytes_moved(self):
        h, p, n = self.heads, self.head_dim, self.states
        return self.shape * 2 * (2 * h * p * n + 2 * h * p + h + 2 * n)

    def make_set(self, with_peer):
        b, h, p, n = self.shape, self.heads, self.head_dim, self.states
        s = types.SimpleNamespace()
        s.x, s.dt = self.randn(b, h, p), self.randn(b, h, scale=0.5)
        s.B, s.C = self.randn(b, 1, n), self.randn(b, 1, n)
        s.A = -self.uniform(1, 16, h)
        s.D = self.randn(h, dtype=torch.float32)
        dt = torch.exp(self.uniform(math.log(1e-3), math.log(1e-1), h))
        s.bias = dt + torch.log(-torch.expm1(-dt))
        s.state, s.y = self.randn(b, h, p, n), nan_like(s.x)
        s.their_state = s.state.clone() if with_peer else None
        return s

    def our_call(self, s):
        by_channel = lambda t: tensor(t.flatten(1))  # a view: what it is of stays in s
        args = icd_kernels.HeadStateUpdate(
            batch=self.shape, heads=self.heads, head_dim=self.head_dim, groups=1,
            states=self.states, type=BF16, softplus=1, state_type=BF16, x=by_channel(s.x),
            dt=tensor(s.dt), B=by_channel(s.B), C=by_channel(s.C), y=by_channel(s.y),
            A=s.A.data_ptr(), D=s.D.data_ptr(), dt_bias=s.bias.data_ptr(),
            state=s.state.data_ptr())
        return on_stream("head_state_update", args, s.y)

    def peer_call(self, forward, s):
        b, h, p, n = self.shape, self.heads, self.head_dim, self.states
        dt = s.dt[:, :, None].expand(b, h, p)
        A = s.A[:, None, None].expand(h, p, n)
        D, bias = (t[:, None].expand(h, p) for t in (s.D, s.bias))
        def call():
            s.theirs_out = forward(s.their_state, s.x, dt, A, s.B, s.C, D, None, bias, True)
            return s.theirs_out
        return call

    def results(self):
        s = self.sets[0]
        return {"y": (s.y, s.theirs_out), "state": (s.state, s.their_state)}


CASES = [  # goals: issue 6, "Goals on one H200"
    SelectiveScan((8, 5120, 2048), goal=2.8),
    SelectiveScan((64, 1536, 512), goal=2.7),
    SelectiveScan((8, 1536, 2048), goal=2.3, quick=True),
    SelectiveScan((1, 5120, 2048), goal=1.8),
    SelectiveScan((1, 1536, 2048), goal=1.4, quick=True),
    SelectiveScan((1, 5120, 16384), goal=2.2),
    SelectiveScan((1, 1536, 16384), goal=1.5),
    *(layout(shape, goal=1.0, copy_goal=0.75, quick=shape == (8, 1536, 2048))
      for shape in ((8, 1536, 2048), (8, 5120, 2048), (1, 5120, 2048))
      for layout in (Conv, ConvChannelFirst)),
    StateUpdate(64, copy_goal=0.80, quick=True),
    HeadStateUpdate(64),
    Ssd((8, 2048), goal=1.5, quick=True),
    Ssd((1, 2048)),
    Ssd((1, 16384)),
]
