/* The kernels of icd as a plain C interface: no PyTorch, no C++ in the way, one shared library.
 *
 * Every function takes one struct of plain pointers, sizes and strides, and a CUDA stream (a
 * cudaStream_t; NULL is the default stream). All pointers of a call lie on one device, or all in
 * host memory: then the call runs on the CPU, in the plain loops of the reference, and returns when
 * it is done. On a device a call allocates nothing, waits for nothing and can be captured in a
 * graph. It returns 0, or what icd_kernels_error() explains.
 *
 * Strides are in elements. Sizes and offsets are 64 bits wide; any size may be 0 or 1. Sums are
 * kept in f32 whatever the type of the tensors; NaN and infinity come out as in the reference.
 *
 * A field that is called optional may be NULL. Zero-initialise a struct, then set what you need.
 */
#ifndef ICD_KERNELS_H_
#define ICD_KERNELS_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a struct or the meaning of a function changes. */
#define ICD_KERNELS_VERSION 1

/* Element types. */
#define ICD_F32 0
#define ICD_F16 1
#define ICD_BF16 2

/* (batch, token, channel) elements of a tensor, at data[b * batch + t * token + c * channel].
 * Kernels are fastest where channel is 1, the others are multiples of 8, and data of 16 bytes. */
typedef struct icd_tensor {
  void* data;
  int64_t batch;
  int64_t token;
  int64_t channel;
} icd_tensor;

/* Mamba-1, prefill. For every sequence, channel d and state n, from h = initial_state or 0:
 *   dt' = softplus(dt + dt_bias) or dt + dt_bias;  h = exp(dt' A) h + dt' B u
 *   y = (sum over n of C h + D u) * (z given ? silu(z) : 1)
 * Source: Gu and Dao, arXiv 2312.00752, algorithm 2; mamba-ssm, selective_scan_ref. */
typedef struct icd_selective_scan_args {
  int64_t batch;
  int64_t length;
  int64_t channels;
  int64_t states; /* 1 to 256; 16 is fast */
  int32_t type;   /* of u, dt, z, B, C and y */
  int32_t softplus;
  icd_tensor u;               /* (batch, length, channels) */
  icd_tensor dt;              /* as u */
  icd_tensor z;               /* as u, optional */
  icd_tensor B;               /* (batch, length, states); its channels are states */
  icd_tensor C;               /* as B */
  icd_tensor y;               /* as u; may be u, dt or z itself */
  const float* A;             /* (channels, states): -exp(A_log) */
  const float* D;             /* (channels), optional */
  const float* dt_bias;       /* (channels), optional */
  const float* initial_state; /* (batch, channels, states), optional */
  float* final_state;         /* as initial_state, optional; may be initial_state itself */
  const int32_t* starts;      /* (batch + 1), optional: sequence b is the tokens starts[b] to
                                 starts[b + 1] - 1; length is the tokens of all of them, and the
                                 batch strides of tensors are not used */
  void* workspace;            /* icd_selective_scan_workspace() bytes, aligned to 256 */
} icd_selective_scan_args;

/* 0 for calls that need none, and in host memory. Pointers need not be set. */
int64_t icd_selective_scan_workspace(const icd_selective_scan_args* args);
int icd_selective_scan(const icd_selective_scan_args* args, void* stream);

/* Causal depthwise convolution, prefill: y[t] = act(bias + sum over k of weight[k] x[t - W + 1 +
 * k]), where x ahead of the sequence is initial_state or 0. Source: Dao, causal-conv1d,
 * causal_conv1d_ref. */
typedef struct icd_causal_conv1d_args {
  int64_t batch;
  int64_t length;
  int64_t channels;
  int64_t width; /* W, 1 to 8; 2 to 4 are fast */
  int32_t type;  /* of x, y, weight, bias and the states */
  int32_t silu;
  icd_tensor x;              /* (batch, length, channels), any strides */
  icd_tensor y;              /* as x; does not overlap x */
  const void* weight;        /* (channels, W) */
  const void* bias;          /* (channels), optional */
  const void* initial_state; /* (batch, channels, W - 1), oldest first, optional */
  void* final_state;         /* as initial_state, optional; may be initial_state itself */
  const int32_t* starts;     /* as in icd_selective_scan_args, optional */
} icd_causal_conv1d_args;

int icd_causal_conv1d(const icd_causal_conv1d_args* args, void* stream);

/* The same for one more token: shifts x into the state, y from the state. */
typedef struct icd_causal_conv1d_update_args {
  int64_t batch;
  int64_t channels;
  int64_t width; /* W, 1 to 8 */
  int32_t type;  /* of all tensors */
  int32_t silu;
  icd_tensor x;       /* (batch, channels); its token stride is not used */
  icd_tensor y;       /* as x; may be x itself */
  const void* weight; /* (channels, W) */
  const void* bias;   /* (channels), optional */
  void* state;        /* (slots, channels, kept), oldest first; kept >= W - 1, the last are used */
  int64_t state_slot; /* strides of the state */
  int64_t state_channel;
  int64_t kept;         /* mamba-ssm and transformers keep W */
  const int32_t* slots; /* (batch), optional: the state of sequence b is at slots[b]; a negative
                           slot is padding: nothing is read and y not written */
} icd_causal_conv1d_update_args;

int icd_causal_conv1d_update(const icd_causal_conv1d_update_args* args, void* stream);

/* How the state of a channel and the states of all channels lie. */
#define ICD_STATE_DN 0 /* (slots, channels, states), as mamba-ssm */
#define ICD_STATE_ND 1 /* (slots, states, channels), as TensorRT-LLM */

/* Mamba-1, one token: the equations of icd_selective_scan on a state that is updated in place. */
typedef struct icd_state_update_args {
  int64_t batch;
  int64_t channels;
  int64_t states; /* 1 to 256 */
  int32_t type;   /* of u, dt, z, B, C and y */
  int32_t softplus;
  int32_t state_type;
  int32_t state_layout;  /* ICD_STATE_DN or ICD_STATE_ND */
  icd_tensor u;          /* (batch, channels); token strides are not used */
  icd_tensor dt;         /* as u */
  icd_tensor z;          /* as u, optional */
  icd_tensor B;          /* (batch, states) */
  icd_tensor C;          /* as B */
  icd_tensor y;          /* as u; may be u, dt or z itself */
  const float* A;        /* (channels, states) */
  const float* D;        /* (channels), optional */
  const float* dt_bias;  /* (channels), optional */
  void* state;           /* contiguous, in state_layout */
  const int32_t* slots;  /* (batch), optional; negative: padding, as in the convolution */
  const int32_t* active; /* (active_count), optional: only these channels are updated and written */
  int64_t active_count;
} icd_state_update_args;

int icd_state_update(const icd_state_update_args* args, void* stream);

/* Mamba-2, one token: a head has one dt, A and D, its P channels share B and C of its group.
 * state: (slots, heads, head_dim, states). Channel c of a (batch, channels) tensor is head c / P.
 */
typedef struct icd_head_state_update_args {
  int64_t batch;
  int64_t heads;
  int64_t head_dim; /* P */
  int64_t groups;   /* divides heads */
  int64_t states;   /* 1 to 256 */
  int32_t type;     /* of x, dt, z, B, C and y */
  int32_t softplus;
  int32_t state_type;
  icd_tensor x;         /* (batch, heads P); token strides are not used */
  icd_tensor dt;        /* (batch, heads) */
  icd_tensor z;         /* as x, optional */
  icd_tensor B;         /* (batch, groups states) */
  icd_tensor C;         /* as B */
  icd_tensor y;         /* as x; may be x or z itself */
  const float* A;       /* (heads) */
  const float* D;       /* (heads), optional */
  const float* dt_bias; /* (heads), optional */
  void* state;          /* contiguous */
  const int32_t* slots; /* (batch), optional; negative: padding, as in the convolution */
} icd_head_state_update_args;

int icd_head_state_update(const icd_head_state_update_args* args, void* stream);

/* Mamba-2, prefill, in chunks (state space duality). For every head, from h = initial_state or 0:
 *   dt' = clamp(softplus(dt + dt_bias), dt_min, dt_max);  h = exp(dt' A) h + dt' x B^T
 *   y = (h C + D x) * (z given ? silu(z) : 1)
 * Source: Dao and Gu, arXiv 2405.21060, section 6; mamba-ssm, ssd_chunk_scan_combined_ref. */
typedef struct icd_ssd_args {
  int64_t batch;
  int64_t length;
  int64_t heads;
  int64_t head_dim; /* P, 1 to 256; 64 is fast */
  int64_t groups;   /* divides heads */
  int64_t states;   /* N, 1 to 256; 128 is fast */
  int32_t type;     /* of x, dt, z, B, C and y */
  int32_t softplus;
  float dt_min;
  float dt_max;               /* 0: no limits */
  icd_tensor x;               /* (batch, length, heads P) */
  icd_tensor dt;              /* (batch, length, heads) */
  icd_tensor z;               /* as x, optional */
  icd_tensor B;               /* (batch, length, groups N) */
  icd_tensor C;               /* as B */
  icd_tensor y;               /* as x; does not overlap the others */
  const float* A;             /* (heads): -exp(A_log) */
  const float* D;             /* (heads), optional */
  const float* dt_bias;       /* (heads), optional */
  const float* initial_state; /* (batch, heads, P, N), optional */
  float* final_state;         /* as initial_state, optional; may be initial_state itself */
  const int32_t* starts;      /* as in icd_selective_scan_args, optional */
  void* workspace;            /* icd_ssd_workspace() bytes, aligned to 256 */
} icd_ssd_args;

/* 0 for calls that need none, and in host memory. Pointers need not be set, except that starts
 * is NULL or not. */
int64_t icd_ssd_workspace(const icd_ssd_args* args);
int icd_ssd(const icd_ssd_args* args, void* stream);

/* Mamba-3, SISO (rank 1) and MIMO, prefill or one token (length 1). For every head, with k and q
 * the rows of B + B_bias and C + C_bias turned by the head's phases, which first move on by
 * pi tanh(angles) dt, and v = x mimo_x (SISO: x):
 *   h = exp(decay) h + (1 - trap) dt exp(decay) k' v'^T + trap dt k v^T, summed over the ranks,
 *   k', v' those of the token before; y = sum over ranks of mimo_o (q h + D v) silu(z mimo_z).
 * B and C are normalised, dt, decay and trap final: see kernels/mamba3.h.
 * Source: state-spaces/mamba, modules/mamba3.py, and the step references in its tests/ops. */
typedef struct icd_mamba3_args {
  int64_t batch;
  int64_t length;
  int64_t heads;
  int64_t head_dim;    /* P, 1 to 256 */
  int64_t groups;      /* divides heads */
  int64_t states;      /* N, 1 to 256 */
  int64_t rank;        /* R, 1 to 8 */
  int64_t angles;      /* pairs of states that turn; at most N / 2 */
  int32_t type;        /* of x, z, B, C and y */
  int32_t is_mimo;     /* pairs are (i, i + N / 2), else (2 i, 2 i + 1) */
  icd_tensor x;        /* (batch, length, heads P) */
  icd_tensor z;        /* as x, optional */
  icd_tensor B;        /* (batch, length, R groups N), rank outermost */
  icd_tensor C;        /* as B */
  icd_tensor y;        /* as x; does not overlap the others */
  icd_tensor dt;       /* (batch, length, heads), f32 */
  icd_tensor decay;    /* as dt: dt A, at most 0 */
  icd_tensor trap;     /* as dt, 0 to 1 */
  icd_tensor turn;     /* (batch, length, angles), f32: pi tanh(angles) */
  const float* B_bias; /* (heads, R, N) */
  const float* C_bias; /* as B_bias */
  const float* D;      /* (heads), optional */
  const float* mimo_x; /* (heads, R, P); the three are NULL in SISO */
  const float* mimo_z;
  const float* mimo_o;
  const float* norm; /* (heads, P), optional: a norm of each head's bracket before the gate */
  float norm_eps;
  float* state;  /* (batch, heads, P, N), optional: read first, written last */
  float* last_k; /* (batch, heads, R, N): as state, given exactly where state is */
  float* last_v; /* (batch, heads, R, P): as state */
  float* phase;  /* (batch, heads, angles): as state, in -pi to pi */
} icd_mamba3_args;

int icd_mamba3(const icd_mamba3_args* args, void* stream);

/* y = x / rms(x) * weight over groups of a row, and with a gate z
 *   y = rmsnorm(x * silu(z))      norm_before_gate = 0
 *   y = rmsnorm(x) * silu(z)      norm_before_gate = 1
 * With residual: x + residual is what is normalised, and is written to residual_out.
 * With order: y[c] is what column order[c] would have had, a norm that also permutes. */
typedef struct icd_rms_norm_args {
  int64_t rows;
  int64_t columns;
  int64_t group; /* columns that share a mean square; divides columns; 0: all of them */
  int32_t type;  /* of x, z and y */
  int32_t residual_type;
  int32_t norm_before_gate;
  float eps;
  const void* x; /* (rows, columns) */
  int64_t x_row; /* strides of rows; columns are contiguous */
  const void* z; /* optional */
  int64_t z_row;
  const void* residual; /* (rows, columns) contiguous, optional */
  void* residual_out;   /* as residual, which it may be; optional */
  void* y;
  int64_t y_row;
  const float* weight;  /* (columns), optional */
  const int32_t* order; /* (columns), gather form, optional */
} icd_rms_norm_args;

int icd_rms_norm(const icd_rms_norm_args* args, void* stream);

/* y = W x where x has many zeros: columns of W that meet a zero are not fetched, as far as the
 * layout allows. */
typedef struct icd_skip_zero_gemv_args {
  int64_t rows;
  int64_t columns;
  int32_t type;        /* of W, x and y */
  int32_t input_major; /* 0: W is (rows, columns); 1: (columns, rows) */
  const void* W;       /* contiguous, aligned to 16 bytes */
  const void* x;       /* (columns) */
  void* y;             /* (rows) */
  void* workspace;     /* icd_skip_zero_gemv_workspace() bytes, aligned to 256 */
} icd_skip_zero_gemv_args;

int64_t icd_skip_zero_gemv_workspace(const icd_skip_zero_gemv_args* args);
int icd_skip_zero_gemv(const icd_skip_zero_gemv_args* args, void* stream);

/* ICD_KERNELS_VERSION of the library that was loaded. */
int icd_kernels_version(void);

/* Empty if kernels can run on the current device, else one line that says what is in the way. */
const char* icd_kernels_why_no_device(void);

/* One line for the status that this thread's last call returned, and what to do about it. */
const char* icd_kernels_error(void);

#ifdef __cplusplus
}
#endif

#endif
