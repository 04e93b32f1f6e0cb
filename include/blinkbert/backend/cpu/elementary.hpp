#pragma once

// exp and GELU written so that a compiler can vectorise loops over them: no branch, no call.

#include <bit>
#include <cmath>
#include <cstdint>

namespace blinkbert::cpu_detail {

/// e^x to about one unit in the last place; x below -87 counts as -87, above 88 as 88; NaN stays NaN.
/// x = n ln 2 + r with |r| <= ln 2 / 2, e^r by a polynomial, 2^n by the exponent bits.
inline float exponential(float x) {
  const float above = x < -87.0f ? -87.0f : x;
  const float inside = above > 88.0f ? 88.0f : above;                      // NaN stays: it reaches the result through r
  const float scaled = (x > -87.0f ? inside : -87.0f) * 1.44269504088896341f;  // a number in any case
  const std::int32_t n = static_cast<std::int32_t>(scaled + (scaled < 0 ? -0.5f : 0.5f));
  const float whole = static_cast<float>(n);
  // ln 2 in two parts, the first short enough that whole * part is exact (Cody, Waite 1980).
  const float r = (inside - whole * 0.693359375f) + whole * 2.12194440e-4f;
  // (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2]: Moshier, Cephes Mathematical Library, expf.
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float e = (p * r * r + r) + 1.0f;
  const float power = std::bit_cast<float>((n + 127) << 23);
  return e * power;
}

inline double exponential(double x) { return std::exp(x); }

/// tanh u = 2 share - 1 with share = 1 / (1 + e^(-2u)), so gelu(h) = h share: no cancellation where u is far below 0.
template <class Real>
Real gelu_share(Real h) {
  constexpr Real root_2_over_pi = static_cast<Real>(0.797884560802865355879892119868763737L);
  const Real u = root_2_over_pi * (h + static_cast<Real>(0.044715) * h * h * h);
  return 1 / (1 + exponential(-2 * u));
}

/// gelu(h) = h/2 (1 + tanh u).
template <class Real>
Real gelu(Real h) {
  return h * gelu_share(h);
}

/// gelu'(h) = (1 + tanh u)/2 + h/2 (1 - tanh^2 u) u',  where (1 + tanh u)/2 = share and 1 - tanh^2 u = 4 share (1 - share).
template <class Real>
Real gelu_slope(Real h) {
  constexpr Real root_2_over_pi = static_cast<Real>(0.797884560802865355879892119868763737L);
  const Real share = gelu_share(h);
  const Real slope_of_u = root_2_over_pi * (1 + 3 * static_cast<Real>(0.044715) * h * h);
  return share + 2 * h * share * (1 - share) * slope_of_u;
}

}  // namespace blinkbert::cpu_detail
