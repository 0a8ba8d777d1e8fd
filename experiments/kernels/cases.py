"""What is compared: kernels, shapes, goals, and how ours and a peer's are called on the same values.

A case makes sets of buffers. `ours`, `peer` and `copy` are then lists of calls, one for each set;
`results()` are pairs of what ours and the peer computed. Activations are bf16, weights of the
recurrence f32, as the models have them. Values follow what trained models look like: see each case.
"""
import math
import types

import torch

from interleaved import sets_beyond_cache
from structs import BF16


class Case:
    """name, shape; goal: least ratio of the peer's time to ours; copy_goal: least share of the rate at
    which the device copies as many bytes as the kernel must read and write."""

    peer_name = None
    tolerance = 5e-3  # of two bf16 results of f32 sums, each 1.7e-3 off by its last rounding

    def __init__(self, shape, goal=None, copy_goal=None, quick=False):
        self.shape, self.goal, self.copy_goal, self.quick = shape, goal, copy_goal, quick

    @property
    def name(self):
        return f"{self.kernel} {self.shape}"

    def build(self, library, peer, seed):
        """Buffers and calls; `peer` is the peer's function, or None."""
        self.generator = torch.Generator(device="cuda").manual_seed(seed)
        self.library = library
        count = sets_beyond_cache(self.bytes_moved())
        self.sets = [self.make_set(peer is not None) for _ in range(count)]
        self.ours = [self.our_call(s) for s in self.sets]
        self.peer = [self.peer_call(peer, s) for s in self.sets] if peer else None
        half = self.bytes_moved() // 2
        pairs = [torch.empty(2, half, dtype=torch.uint8, device="cuda").random_(generator=self.generator)
                 for _ in range(count)]
        self.copy = [lambda p=p: p[0].copy_(p[1]) for p in pairs]

    def randn(self, *shape, scale=1.0, shift=0.0, dtype=torch.bfloat16):
        values = torch.randn(shape, generator=self.generator, device="cuda", dtype=torch.float32)
        return values.mul_(scale).add_(shift).to(dtype)

    def uniform(self, low, high, *shape):
        values = torch.rand(shape, generator=self.generator, device="cuda")
        return values.mul_(high - low).add_(low)

    def on_stream(self, name, args, returns):
        """A call of ours on the stream that is current when it is made."""
        def call():
            self.library.call(name, args, torch.cuda.current_stream().cuda_stream)
            return returns
        return call


def nan_like(tensor):
    return torch.full_like(tensor, math.nan)


class SelectiveScan(Case):
    """Mamba-1 prefill with softplus, D, z and the last state. mamba-ssm reads (B, D, L), ours (B, L, D):
    each its own layout, no transposition counted. It also writes the sum before the gate and a state a
    chunk. dt: median softplus(-4.5) = 0.011, which spans 1e-3 to 1e-1; A = -(n + 1) within a factor."""

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
        (b, d, l), n, lib = self.shape, self.states, self.library
        wide = lambda t: lib.tensor(t, l * d, d)
        narrow = lambda t: lib.tensor(t, l * n, n)
        args = lib.args("selective_scan", batch=b, length=l, channels=d, states=n, type=BF16,
                        softplus=1, u=wide(s.u), dt=wide(s.dt), z=wide(s.z), B=narrow(s.B),
                        C=narrow(s.C), y=wide(s.y), A=s.A.data_ptr(), D=s.D.data_ptr(),
                        dt_bias=s.bias.data_ptr(), final_state=s.last.data_ptr())
        s.workspace = workspace(lib, "selective_scan", args)
        return self.on_stream("selective_scan", args, s.y)

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
        (b, d, l), lib = self.shape, self.library
        strides = (d * l, d, 1) if self.layout == "BLD" else (d * l, 1, l)
        args = lib.args("causal_conv1d", batch=b, length=l, channels=d, width=4, type=BF16, silu=1,
                        x=lib.tensor(s.x, *strides), y=lib.tensor(s.y, *strides),
                        weight=s.weight.data_ptr(), bias=s.bias.data_ptr())
        return self.on_stream("causal_conv1d", args, s.y)

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
    """Mamba-2 prefill of the 2.7b model: 80 heads of 64, one group of 128 states, D, softplus, the last
    state; no z, since that model gates in its norm. dt log-uniform in 1e-3 to 1e-1, A in -16 to -1, as
    initialised. The peer is mamba_chunk_scan_combined in chunks of 256, all of its kernels."""

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
        (b, l), h, p, n, lib = self.shape, self.heads, self.head_dim, self.states, self.library
        of = lambda t, channels: lib.tensor(t, l * channels, channels)
        args = lib.args("ssd", batch=b, length=l, heads=h, head_dim=p, groups=1, states=n, type=BF16,
                        softplus=1, x=of(s.x, h * p), dt=of(s.dt, h), B=of(s.B, n), C=of(s.C, n),
                        y=of(s.y, h * p), A=s.A.data_ptr(), D=s.D.data_ptr(),
                        dt_bias=s.bias.data_ptr(), final_state=s.last.data_ptr())
        s.workspace = workspace(lib, "ssd", args)
        return self.on_stream("ssd", args, s.y)

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
    """Mamba-1, one token of the 2.8b model: 5120 channels of 16 states in bf16; shape is the batch."""

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
        b, d, n, lib = self.shape, self.channels, self.states, self.library
        args = lib.args("state_update", batch=b, channels=d, states=n, type=BF16, softplus=1,
                        state_type=BF16, u=lib.tensor(s.u, d), dt=lib.tensor(s.dt, d),
                        z=lib.tensor(s.z, d), B=lib.tensor(s.B, n), C=lib.tensor(s.C, n),
                        y=lib.tensor(s.y, d), A=s.A.data_ptr(), D=s.D.data_ptr(),
                        dt_bias=s.bias.data_ptr(), state=s.state.data_ptr())
        return self.on_stream("state_update", args, s.y)

    def peer_call(self, forward, s):
        def call():
            s.theirs_out = forward(s.their_state, s.u, s.dt, s.A, s.B, s.C, s.D, s.z, s.bias, True)
            return s.theirs_out
        return call

    def results(self):
        s = self.sets[0]
        return {"y": (s.y, s.theirs_out), "state": (s.state, s.their_state)}


class HeadStateUpdate(Case):
    """Mamba-2, one token of the 2.7b model: 80 heads of 64 x 128 states in bf16; shape is the batch. No
    z, as in Ssd. The peer takes what a head has one of as views that repeat it, and knows them."""

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
        b, h, p, n, lib = self.shape, self.heads, self.head_dim, self.states, self.library
        args = lib.args("head_state_update", batch=b, heads=h, head_dim=p, groups=1, states=n,
                        type=BF16, softplus=1, state_type=BF16, x=lib.tensor(s.x, h * p),
                        dt=lib.tensor(s.dt, h), B=lib.tensor(s.B, n), C=lib.tensor(s.C, n),
                        y=lib.tensor(s.y, h * p), A=s.A.data_ptr(), D=s.D.data_ptr(),
                        dt_bias=s.bias.data_ptr(), state=s.state.data_ptr())
        return self.on_stream("head_state_update", args, s.y)

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


def workspace(library, name, args):
    """The workspace a call asks for, if any, set in `args`; to be kept as long as they are."""
    size = library.workspace(name, args)
    if size == 0:
        return None
    memory = torch.empty(size, dtype=torch.uint8, device="cuda")
    args.workspace = memory.data_ptr()
    return memory


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
