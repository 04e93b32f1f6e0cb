#pragma once

// h = x W^T + b and the tanh form of GELU, as plain loops.

#include <cmath>
#include <vector>

namespace blinkbert::oracle {

/// x [T, in], weight [out, in], bias [out] -> [T, out].
template <class Number>
std::vector<Number> linear(const std::vector<Number>& x, const std::vector<Number>& weight,
                           const std::vector<Number>& bias, int T, int in, int out) {
  std::vector<Number> y(T * out);
  for (int t = 0; t < T; ++t) {
    for (int o = 0; o < out; ++o) {
      Number sum = bias[o];
      for (int i = 0; i < in; ++i) sum += x[t * in + i] * weight[o * in + i];
      y[t * out + o] = sum;
    }
  }
  return y;
}

/// h/2 (1 + tanh(sqrt(2/pi) (h + 0.044715 h^3))).
template <class Number>
Number gelu(const Number& h) {
  using std::tanh;
  const Number u = Number(0.797884560802865355879892L) * (h + Number(0.044715L) * h * h * h);
  return h / Number(2) * (Number(1) + tanh(u));
}

template <class Number>
std::vector<Number> gelu(const std::vector<Number>& h) {
  std::vector<Number> y;
  for (const Number& element : h) y.push_back(gelu(element));
  return y;
}

}  // namespace blinkbert::oracle
