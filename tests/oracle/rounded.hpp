#pragma once

// Arithmetic as kernels on a narrow type do it: sums and products in float, rounded to the narrow type only where a kernel
// stores. Oracles mark those places with `stored`, which does nothing for any other number type.

#include <cmath>
#include <type_traits>

#include <tests/oracle/dual.hpp>

namespace blinkbert::oracle {

template <class Narrow>
struct Rounded {
  float value = 0;

  Rounded() = default;
  template <class Plain>
  requires(std::is_arithmetic_v<Plain>) Rounded(Plain plain) : value(static_cast<float>(plain)) {}
  explicit operator float() const { return value; }
  explicit operator double() const { return static_cast<double>(value); }
  explicit operator Narrow() const { return Narrow(value); }

  friend Rounded operator+(Rounded a, Rounded b) { return a.value + b.value; }
  friend Rounded operator-(Rounded a, Rounded b) { return a.value - b.value; }
  friend Rounded operator-(Rounded a) { return -a.value; }
  friend Rounded operator*(Rounded a, Rounded b) { return a.value * b.value; }
  friend Rounded operator/(Rounded a, Rounded b) { return a.value / b.value; }
  Rounded& operator+=(Rounded other) { return *this = *this + other; }
  Rounded& operator-=(Rounded other) { return *this = *this - other; }
  Rounded& operator*=(Rounded other) { return *this = *this * other; }
  friend bool operator<(Rounded a, Rounded b) { return a.value < b.value; }
  friend bool operator>(Rounded a, Rounded b) { return a.value > b.value; }
  friend bool operator<=(Rounded a, Rounded b) { return a.value <= b.value; }
  friend bool operator>=(Rounded a, Rounded b) { return a.value >= b.value; }
  friend bool operator==(Rounded a, Rounded b) { return a.value == b.value; }
  friend Rounded exp(Rounded a) { return std::exp(a.value); }
  friend Rounded log(Rounded a) { return std::log(a.value); }
  friend Rounded tanh(Rounded a) { return std::tanh(a.value); }
  friend Rounded sqrt(Rounded a) { return std::sqrt(a.value); }
  friend Rounded abs(Rounded a) { return std::abs(a.value); }
};

/// What a kernel reads again of a value that it stored in its own number type.
template <class Number>
Number stored(const Number& number) {
  return number;
}
template <class Narrow>
Rounded<Narrow> stored(const Rounded<Narrow>& number) {
  return static_cast<float>(Narrow(number.value));
}
template <class Narrow>
Dual<Rounded<Narrow>> stored(const Dual<Rounded<Narrow>>& number) {
  return {stored(number.value), stored(number.derivative)};
}

}  // namespace blinkbert::oracle
