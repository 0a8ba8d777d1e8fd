"""Runs the kernels of libicd_kernels.so on PyTorch tensors beside the same equations written in
PyTorch, on the CPU and on every GPU that torch sees, in float32 and bfloat16. Prints the largest
relative error of each; exits with 1 if one is larger than its type explains.

    python experiments/pytorch/example.py
"""

import sys

import torch
import torch.nn.functional as F

import icd_kernels

BATCH, LENGTH, CHANNELS, STATES, WIDTH = 2, 100, 96, 16, 4
HEADS, HEAD_DIM, GROUPS = 6, 16, 2

# Relative error in the l2 norm: f32 sums in another order, and one rounding to the type.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-3}


def scan_in_torch(u, dt, A, B, C, D, z, dt_bias, state):
    """icd_selective_scan_args, token by token, in float64; updates state."""
    u, dt, A, B, C, D, z, dt_bias = (t.double() for t in (u, dt, A, B, C, D, z, dt_bias))
    ys = []
    for t in range(u.shape[1]):
        step = F.softplus(dt[:, t] + dt_bias)
        state.mul_(torch.exp(step[..., None] * A))
        state.add_((step * u[:, t])[..., None] * B[:, t, None])
        ys.append(((state * C[:, t, None]).sum(-1) + D * u[:, t]) * F.silu(z[:, t]))
    return torch.stack(ys, 1)


def heads_in_torch(x, dt, A, B, C, D, z, dt_bias, state):
    """icd_ssd_args, token by token, in float64; updates state."""
    x, dt, A, B, C, D, z, dt_bias = (t.double() for t in (x, dt, A, B, C, D, z, dt_bias))
    B, C = (t.repeat_interleave(HEADS // GROUPS, dim=2) for t in (B, C))
    ys = []
    for t in range(x.shape[1]):
        step = F.softplus(dt[:, t] + dt_bias)[..., None]
        state.mul_(torch.exp(step * A[:, None])[..., None])
        state.add_((step * x[:, t])[..., None] * B[:, t, :, None])
        y = (state * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t]
        ys.append(y * F.silu(z[:, t]))
    return torch.stack(ys, 1)


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def compare(device, dtype):
    """The error of every function, by name."""
    torch.manual_seed(1)
    errors = {}

    def normal(*shape, like=dtype):
        return torch.randn(*shape).to(device, like)

    def parameter(*shape):
        return normal(*shape, like=torch.float32)

    # The channels of a Mamba-1 mixer, as slices of one projection: no slice is contiguous.
    u, z, dt = normal(BATCH, LENGTH, 3 * CHANNELS).chunk(3, dim=-1)
    B, C = normal(BATCH, LENGTH, 2 * STATES).chunk(2, dim=-1)
    A = -torch.exp(parameter(CHANNELS, STATES))
    D, dt_bias = parameter(CHANNELS), parameter(CHANNELS)
    memory = torch.zeros(BATCH, CHANNELS, STATES, dtype=torch.float64, device=device)
    expected = scan_in_torch(u, dt, A, B, C, D, z, dt_bias, memory)
    y, state = icd_kernels.selective_scan(u, dt, A, B, C, D, z=z, dt_bias=dt_bias, softplus=True,
                                          return_state=True)
    errors["selective_scan"] = relative_error(y, expected)
    errors["selective_scan, state"] = relative_error(state, memory)

    # The same as mamba-ssm lays it out, (batch, channels, length): a view, not a copy.
    u_channels_first = u.transpose(1, 2).contiguous()
    y = icd_kernels.selective_scan(u_channels_first.transpose(1, 2), dt, A, B, C, D, z=z,
                                   dt_bias=dt_bias, softplus=True)
    errors["selective_scan, (B, D, L)"] = relative_error(y, expected)

    # One more token.
    u1, z1, dt1 = normal(BATCH, 3 * CHANNELS).chunk(3, dim=-1)
    B1, C1 = normal(BATCH, 2 * STATES).chunk(2, dim=-1)
    memory.copy_(state)
    y = icd_kernels.state_update(state, u1, dt1, A, B1, C1, D, z=z1, dt_bias=dt_bias, softplus=True)
    expected = scan_in_torch(*(t[:, None] for t in (u1, dt1)), A, B1[:, None], C1[:, None], D,
                             z1[:, None], dt_bias, memory)
    errors["state_update"] = relative_error(y, expected[:, 0])
    errors["state_update, state"] = relative_error(state, memory)

    # Convolution: torch's own, with zeros ahead of the sequence; then token by token.
    weight, bias = normal(CHANNELS, WIDTH), normal(CHANNELS)
    padded = F.pad(u.double().transpose(1, 2), (WIDTH - 1, 0))
    expected = F.silu(F.conv1d(padded, weight.double()[:, None], bias.double(), groups=CHANNELS))
    expected = expected.transpose(1, 2)
    y = icd_kernels.causal_conv1d(u, weight, bias, silu=True)
    errors["causal_conv1d"] = relative_error(y, expected)
    taps = torch.zeros(BATCH, CHANNELS, WIDTH - 1, dtype=dtype, device=device)
    ys = [icd_kernels.causal_conv1d_update(u[:, t], taps, weight, bias, silu=True)
          for t in range(LENGTH)]
    errors["causal_conv1d_update"] = relative_error(torch.stack(ys, 1), expected)

    # Mamba-2.
    x = normal(BATCH, LENGTH, HEADS, HEAD_DIM)
    z = normal(BATCH, LENGTH, HEADS, HEAD_DIM)
    dt = normal(BATCH, LENGTH, HEADS)
    B = normal(BATCH, LENGTH, GROUPS, STATES)
    C = normal(BATCH, LENGTH, GROUPS, STATES)
    A = -torch.exp(parameter(HEADS))
    D, dt_bias = parameter(HEADS), parameter(HEADS)
    memory = torch.zeros(BATCH, HEADS, HEAD_DIM, STATES, dtype=torch.float64, device=device)
    expected = heads_in_torch(x, dt, A, B, C, D, z, dt_bias, memory)
    y, state = icd_kernels.ssd(x, dt, A, B, C, D, z=z, dt_bias=dt_bias, softplus=True,
                               return_state=True)
    errors["ssd"] = relative_error(y, expected)
    errors["ssd, state"] = relative_error(state, memory)
    memory.copy_(state)
    expected = heads_in_torch(*(t[:, :1] for t in (x, dt)), A, B[:, :1], C[:, :1], D, z[:, :1],
                              dt_bias, memory)
    y = icd_kernels.head_state_update(state, x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], D, z=z[:, 0],
                                      dt_bias=dt_bias, softplus=True)
    errors["head_state_update"] = relative_error(y, expected[:, 0])
    return errors


def main():
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, "
          f"GPU: {icd_kernels.why_no_device() or torch.cuda.get_device_name()}")
    devices = [torch.device("cpu")]
    if torch.cuda.is_available() and not icd_kernels.why_no_device():
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    disagree = 0
    for device in devices:
        for dtype, tolerance in TOLERANCE.items():
            for name, error in compare(device, dtype).items():
                # ssd multiplies on tensor cores, in the type of its inputs.
                agrees = error <= tolerance * (2 if name.startswith("ssd") else 1)
                disagree += not agrees
                print(f"{str(device):8} {str(dtype)[6:]:9} {name:26} {error:.1e}"
                      f"{'' if agrees else '  DISAGREES'}")
    return 1 if disagree else 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
