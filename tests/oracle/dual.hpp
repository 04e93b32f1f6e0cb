#pragma once

// Dual: a value and one derivative. Run on duals, a plain-loop forward function gives the exact derivative (to rounding)
// with respect to the one input element whose derivative was set to 1. Source: Wengert 1964, doi:10.1145/355586.364791.

#include <cmath>
#include <type_traits>

namespace blinkbert::oracle {

template <class Number>
struct Dual {
  Number value = 0;
  Number derivative = 0;

  Dual() = default;
  Dual(Number value_, Number derivative_) : value(value_), derivative(derivative_) {}
  /// A constant.
  template <class Plain>
  requires(std::is_arithmetic_v<Plain> || std::is_same_v<Plain, Number>) Dual(Plain constant)
      : value(static_cast<Number>(constant)) {}

  friend Dual operator+(const Dual& a, const Dual& b) { return {a.value + b.value, a.derivative + b.derivative}; }
  friend Dual operator-(const Dual& a, const Dual& b) { return {a.value - b.value, a.derivative - b.derivative}; }
  friend Dual operator-(const Dual& a) { return {-a.value, -a.derivative}; }
  friend Dual operator*(const Dual& a, const Dual& b) {
    return {a.value * b.value, a.derivative * b.value + a.value * b.derivative};
  }
  friend Dual operator/(const Dual& a, const Dual& b) {
    const Number quotient = a.value / b.value;
    return {quotient, (a.derivative - quotient * b.derivative) / b.value};
  }
  Dual& operator+=(const Dual& other) { return *this = *this + other; }
  Dual& operator-=(const Dual& other) { return *this = *this - other; }
  Dual& operator*=(const Dual& other) { return *this = *this * other; }

  friend bool operator<(const Dual& a, const Dual& b) { return a.value < b.value; }
  friend bool operator>(const Dual& a, const Dual& b) { return a.value > b.value; }
  friend bool operator<=(const Dual& a, const Dual& b) { return a.value <= b.value; }
  friend bool operator>=(const Dual& a, const Dual& b) { return a.value >= b.value; }

  friend Dual exp(const Dual& a) {
    using std::exp;
    const Number value = exp(a.value);
    return {value, value * a.derivative};
  }
  friend Dual log(const Dual& a) {
    using std::log;
    return {log(a.value), a.derivative / a.value};
  }
  friend Dual tanh(const Dual& a) {
    using std::tanh;
    const Number value = tanh(a.value);
    return {value, (1 - value * value) * a.derivative};
  }
  friend Dual sqrt(const Dual& a) {
    using std::sqrt;
    const Number value = sqrt(a.value);
    return {value, a.derivative / (2 * value)};
  }
};

/// The larger of two; b where they are equal.
template <class Number>
Number larger(const Number& a, const Number& b) {
  return a > b ? a : b;
}

}  // namespace blinkbert::oracle
