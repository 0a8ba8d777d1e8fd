#pragma once

#include <cstdint>

namespace icd {

/// Elementary functions over a vector of floats, for any instruction set: a fixed sequence of
/// IEEE operations and fused multiply-adds, so the bits are the same on all of them. They are
/// templates over `Isa` (see cpu_kernels_impl.h): Float and Int, vectors of kLanes floats or
/// 32-bit integers in GCC's vector notation; broadcast(x); fma(a, b, c).
///
/// Polynomials: least maximum error over the reduced interval (Lawson's iteration in double,
/// coefficients then rounded to float). NaN gives NaN.

/// 1.5 * 2^23: adding it to |x| < 2^22 leaves round(x) in the low bits of the sum.
inline constexpr float kRoundingBias = 12582912.0F;
inline constexpr std::int32_t kRoundingBiasBits = 0x4B400000;

/// e^x within 1.2 ulp, denormal results too; 0 below -104, infinity above 88.73.
template <typename Isa>
inline typename Isa::Float exp(typename Isa::Float x) {
  using Float = typename Isa::Float;
  using Int = typename Isa::Int;
  x = x > Isa::broadcast(90.0F) ? Isa::broadcast(90.0F) : x;
  x = x < Isa::broadcast(-105.0F) ? Isa::broadcast(-105.0F) : x;
  const Float biased = Isa::fma(x, Isa::broadcast(1.44269504F), Isa::broadcast(kRoundingBias));
  const Float n = biased - kRoundingBias;
  Float r = Isa::fma(n, Isa::broadcast(-0.693359375F), x);  // ln 2 in two parts: n times the
  r = Isa::fma(n, Isa::broadcast(2.12194440e-4F), r);       // first, of 10 bits, is exact
  Float q = Isa::broadcast(0.0013814581F);
  q = Isa::fma(q, r, Isa::broadcast(0.008368724F));
  q = Isa::fma(q, r, Isa::broadcast(0.04166839F));
  q = Isa::fma(q, r, Isa::broadcast(0.16666521F));
  q = Isa::fma(q, r, Isa::broadcast(0.49999994F));
  const Float p = Isa::fma(r * r, q, r) + 1.0F;
  // 2^n in two factors, because n runs from -151 to 130. Only the second product rounds.
  const Int exponent = reinterpret_cast<Int>(biased) - kRoundingBiasBits;
  const Int half = exponent >> 1;
  return p * reinterpret_cast<Float>((half + 127) << 23) *
         reinterpret_cast<Float>((exponent - half + 127) << 23);
}

/// 2^x within 1.2 ulp for x <= 127; 2^-126 for all x below -126. The scan's decay:
/// fewer operations than exp, by the factor ln 2 that A carries already.
template <typename Isa>
inline typename Isa::Float exp2_normal(typename Isa::Float x) {
  using Float = typename Isa::Float;
  using Int = typename Isa::Int;
  x = x < Isa::broadcast(-126.0F) ? Isa::broadcast(-126.0F) : x;
  const Float biased = x + kRoundingBias;
  const Float f = x - (biased - kRoundingBias);
  Float q = Isa::broadcast(0.00015353359F);
  q = Isa::fma(q, f, Isa::broadcast(0.0013398877F));
  q = Isa::fma(q, f, Isa::broadcast(0.009618438F));
  q = Isa::fma(q, f, Isa::broadcast(0.055503324F));
  q = Isa::fma(q, f, Isa::broadcast(0.24022648F));
  q = Isa::fma(q, f, Isa::broadcast(0.6931472F));
  const Float p = Isa::fma(q, f, Isa::broadcast(1.0F));
  const Int scale = (reinterpret_cast<Int>(biased) + (127 - kRoundingBiasBits)) << 23;
  return p * reinterpret_cast<Float>(scale);
}

/// |x|, of NaN too.
template <typename Isa>
inline typename Isa::Float magnitude(typename Isa::Float x) {
  using Int = typename Isa::Int;
  return reinterpret_cast<typename Isa::Float>(reinterpret_cast<Int>(x) & 0x7FFFFFFF);
}

/// x / (1 + e^-x). Within 3 ulp for x > -87; below, within 4e-38. -0 at minus infinity.
template <typename Isa>
inline typename Isa::Float silu(typename Isa::Float x) {
  using Float = typename Isa::Float;
  x = x < Isa::broadcast(-105.0F) ? Isa::broadcast(-105.0F) : x;  // -infinity * 0 would be NaN
  const Float e = exp<Isa>(-magnitude<Isa>(x));                   // <= 1: never overflows
  const Float one = Isa::broadcast(1.0F);
  return x * ((x < Isa::broadcast(0.0F) ? e : one) / (one + e));
}

/// log(1 + e^x) within 3 ulp, denormal results too.
template <typename Isa>
inline typename Isa::Float softplus(typename Isa::Float x) {
  using Float = typename Isa::Float;
  const Float u = exp<Isa>(-magnitude<Isa>(x));
  // log(1 + u) = 2 artanh(s), s = u / (2 + u) <= 1/3
  const Float s = u / (u + 2.0F);
  const Float z = s * s;
  Float p = Isa::broadcast(0.24300939F);
  p = Isa::fma(p, z, Isa::broadcast(0.21427657F));
  p = Isa::fma(p, z, Isa::broadcast(0.28616884F));
  p = Isa::fma(p, z, Isa::broadcast(0.39998877F));
  p = Isa::fma(p, z, Isa::broadcast(0.66666675F));
  const Float log1p = Isa::fma(s * z, p, s + s);
  const Float zero = Isa::broadcast(0.0F);
  return (x < zero ? zero : x) + log1p;  // keeps a NaN
}

}  // namespace icd
