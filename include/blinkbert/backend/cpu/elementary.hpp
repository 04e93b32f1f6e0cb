#pragma once

// exp and GELU of whole packs.

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <blinkbert/backend/cpu/pack.hpp>

namespace blinkbert::cpu_detail {

/// e^x to about one unit in the last place; x below -87 counts as -87, above 88 as 88; NaN stays NaN.
/// x = n ln 2 + r with |r| <= ln 2 / 2, e^r by a polynomial, 2^n by the exponent bits.
inline Pack<float> exponential(Pack<float> x) {
  using Whole = Pack<std::int32_t>;
  const Pack<float> low = Pack<float>{} - 87.0f, high = Pack<float>{} + 88.0f;
  const Pack<float> above = x < low ? low : x;
  const Pack<float> inside = above > high ? high : above;  // NaN stays: it reaches the result through r
  const Pack<float> number = x > low ? inside : low;       // NaN does not: it has no n
  const Whole n = __builtin_convertvector(number * 1.44269504088896341f + 128.5f, Whole) - 128;
  const Pack<float> whole = __builtin_convertvector(n, Pack<float>);
  // ln 2 in two parts, the first short enough that whole * part is exact (Cody, Waite 1980).
  const Pack<float> r = (inside - whole * 0.693359375f) + whole * 2.12194440e-4f;
  // (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2]: Moshier, Cephes Mathematical Library, expf.
  Pack<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Pack<float> e = (p * r * r + r) + 1.0f;
  return e * std::bit_cast<Pack<float>>((n + 127) << 23);
}

/// double is there to check gradients: exact, one at a time.
inline Pack<double> exponential(Pack<double> x) {
  for (int i = 0; i < pack_size<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

/// 1/d for d >= 1. Floats: by one step of Newton from the processor's estimate (14 bits) where there is one, to about one unit
/// in the last place; a division takes as long as all the rest of GELU.
template <class Real>
Pack<Real> reciprocal(Pack<Real> d) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Real, float>) {
    const auto estimate = std::bit_cast<Pack<float>>(_mm512_rcp14_ps(std::bit_cast<__m512>(d)));
    return estimate + estimate * (1.0f - d * estimate);
  }
#endif
  return Real(1) / d;
}

inline constexpr double root_2_over_pi = 0.79788456080286535588;
inline constexpr double gelu_cubic = 0.044715;

/// (1 + tanh u)/2 = 1 / (1 + e^(-2u)), which loses nothing where u is far below 0.
template <class Real>
Pack<Real> gelu_share(Pack<Real> h) {
  const Pack<Real> u = static_cast<Real>(root_2_over_pi) * (h + static_cast<Real>(gelu_cubic) * h * h * h);
  return reciprocal<Real>(Real(1) + exponential(Real(-2) * u));
}

/// gelu(h) = h/2 (1 + tanh u).
template <class Real>
Pack<Real> gelu(Pack<Real> h) {
  return h * gelu_share<Real>(h);
}

/// gelu'(h) = (1 + tanh u)/2 + h/2 (1 - tanh^2 u) u',  with 1 - tanh^2 u = 4 share (1 - share).
template <class Real>
Pack<Real> gelu_slope(Pack<Real> h) {
  const Pack<Real> share = gelu_share<Real>(h);
  const Pack<Real> slope_of_u =
      static_cast<Real>(root_2_over_pi) * (Real(1) + static_cast<Real>(3 * gelu_cubic) * h * h);
  return share + Real(2) * h * share * (Real(1) - share) * slope_of_u;
}

}  // namespace blinkbert::cpu_detail
