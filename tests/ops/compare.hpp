#pragma once

// Inputs for op tests, and comparison with the oracle under a derived tolerance.
//
//   tolerance of a tensor = 2 x the worst error of the oracle run in the backend's precision  (rounding of any reasonable order)
//                         + 4 ulp of the largest value                                        (rounding of sums)
//                         + 4 ulp of the largest term, where terms nearly cancel              (rounding before the difference)
//   ulp in the type that sums are kept in
//
// Float is compared with the oracle in double, double with the oracle in long double. For bf16 the low precision is float
// arithmetic that rounds where kernels store (oracle/rounded.hpp); test values are floats that bf16 represents exactly.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iomanip>
#include <iostream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/core/bf16.hpp>
#include <blinkbert/core/random.hpp>
#include <tests/oracle/dropout.hpp>
#include <tests/oracle/gradient.hpp>
#include <tests/oracle/rounded.hpp>

namespace blinkbert::test {

using oracle::converted;
using oracle::joined;
using oracle::Tensors;

/// The type the reference is computed in.
template <class Real>
using Exact = std::conditional_t<std::is_same_v<Real, double>, long double, double>;

/// The type the oracle is run in for the tolerance: as precise as kernels on Real are.
template <class Real>
using Low = std::conditional_t<std::is_same_v<Real, bf16>, oracle::Rounded<bf16>, Real>;

/// The values as the backend stores them; exact for `random_values<Real>`.
template <class Real>
std::vector<Real> narrowed(const std::vector<Wide<Real>>& values) {
  return converted<Real>(values);
}

/// Numbers from -scale to scale around `middle` that Real represents exactly, another sequence for each `key`.
template <class Real>
std::vector<Wide<Real>> random_values(int count, std::uint64_t key, double scale = 1, double middle = 0) {
  const RandomStream stream{.seed = key, .purpose = Purpose::simulator, .layer = 99, .step = 0};
  std::vector<Wide<Real>> values;
  for (int i = 0; i < count; ++i) {
    const RandomWords words = stream.words(static_cast<std::uint32_t>(i), 0);
    const double unit = unit_interval(words[0]) + unit_interval(words[1]) * 0x1p-32;
    values.push_back(static_cast<Wide<Real>>(static_cast<Real>(middle + scale * (2 * unit - 1))));
  }
  return values;
}

/// `values` [rows, width] with NaN in the rows where `keep` is 0.
template <class Real>
std::vector<Real> poisoned(std::vector<Real> values, const std::vector<int>& keep) {
  const std::size_t width = keep.empty() ? 0 : values.size() / keep.size();
  for (std::size_t row = 0; row < keep.size(); ++row) {
    if (keep[row] != 0) continue;
    std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(row * width), width,
                std::numeric_limits<Real>::quiet_NaN());
  }
  return values;
}

/// `values` [rows, width] with zeros in the rows where `keep` is 0.
template <class Real>
std::vector<Real> zeroed(std::vector<Real> values, const std::vector<int>& keep) {
  const std::size_t width = keep.empty() ? 0 : values.size() / keep.size();
  for (std::size_t row = 0; row < keep.size(); ++row) {
    if (keep[row] == 0) std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(row * width), width, Real(0));
  }
  return values;
}

/// 1 for real rows, 0 for padded ones: [B L].
inline std::vector<int> real_rows(const std::vector<int>& lengths, int L) {
  std::vector<int> real;
  for (const int length : lengths) {
    for (int l = 0; l < L; ++l) real.push_back(l < length ? 1 : 0);
  }
  return real;
}

/// The library's dropout of a test's description; default-constructed where nothing is dropped. With `now` it is left to
/// the device to say which step it is.
inline Dropout library_dropout(const oracle::DropoutCase& how, View<const StepValues, 1> now = {}) {
  if (how.drop_probability == 0) return {};
  return {RandomStream{.seed = how.seed,
                       .purpose = static_cast<Purpose>(how.purpose),
                       .layer = how.layer,
                       .step = now ? 0 : how.step,
                       .now = now},
          how.first_sequence, how.drop_probability};
}

/// What a tensor must be: reference values of some elements (all where `elements` counts every one), and how far off it may be.
template <class Real>
struct Expected {
  std::size_t count = 0;
  std::vector<std::size_t> elements;
  std::vector<Exact<Real>> values;
  Exact<Real> tolerance = 0;
};

/// The distance of `value` to the next larger number of the type that sums over Real are kept in.
template <class Real>
Exact<Real> ulp(Exact<Real> value) {
  if (value == 0) return 0;
  return std::ldexp(static_cast<Exact<Real>>(std::numeric_limits<Wide<Real>>::epsilon()), std::ilogb(value));
}

/// `expected` with room for 4 ulp of the largest term of the difference that its values are.
template <class Real>
Expected<Real> with_largest_term(Expected<Real> expected, Exact<Real> term) {
  expected.tolerance += 4 * ulp<Real>(term);
  return expected;
}

/// A bound of |rstd gamma dy|, the first term of a norm's dx = rstd (g - mean(g) - xhat mean(g xhat)), g = gamma dy.
/// dy is [rows, width].
template <class Real>
Exact<Real> largest_norm_term(const std::vector<Exact<Real>>& rstd, const std::vector<Wide<Real>>& gamma,
                              const std::vector<Wide<Real>>& dy) {
  Exact<Real> largest_rstd = 0, largest_g = 0;
  for (const Exact<Real> element : rstd) largest_rstd = std::max(largest_rstd, element);
  for (std::size_t i = 0; i < dy.size(); ++i) {
    largest_g = std::max(largest_g,
                         std::abs(static_cast<Exact<Real>>(gamma[i % gamma.size()]) * static_cast<Exact<Real>>(dy[i])));
  }
  return largest_rstd * largest_g;
}

/// From the oracle's values in both precisions, for a tensor of type T.
template <class T, class LowNumber>
Expected<T> expect(std::size_t count, std::vector<std::size_t> elements, std::vector<Exact<T>> values,
                   const std::vector<LowNumber>& low) {
  using std::abs;
  Exact<T> worst = 0, largest = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    worst = std::max(worst, abs(static_cast<Exact<T>>(static_cast<T>(low[i])) - values[i]));
    largest = std::max(largest, abs(values[i]));
  }
  return {count, std::move(elements), std::move(values), 2 * worst + 4 * ulp<T>(largest)};
}

/// function(inputs), every element. A backend on Real computes it and keeps it as T.
template <class Real, class T = Real, class Function>
Expected<T> expect_values(const Function& function, const Tensors<Wide<Real>>& inputs) {
  std::vector<Exact<T>> values = function(converted<Exact<T>>(inputs));
  const std::size_t count = values.size();
  return expect<T>(count, oracle::some_elements(count, count), std::move(values),
                   function(converted<Low<Real>>(inputs)));
}

/// start + d dot(function(inputs), weights) / d inputs[with_respect_to]; at most about `most` elements. An empty start is 0.
/// A backend on Real computes it and keeps it as T.
template <class Real, class T = Real, class Function>
Expected<T> expect_gradient(const Function& function, const Tensors<Wide<Real>>& inputs, std::size_t with_respect_to,
                            const std::vector<Wide<Real>>& weights, const std::vector<Wide<Real>>& start = {},
                            std::size_t most = 150) {
  const std::size_t count = inputs[with_respect_to].size();
  const std::vector<std::size_t> elements = oracle::some_elements(count, most);
  std::vector<Exact<T>> values =
      oracle::gradient(function, converted<Exact<T>>(inputs), with_respect_to, converted<Exact<T>>(weights), elements);
  std::vector<Low<Real>> low = oracle::gradient(function, converted<Low<Real>>(inputs), with_respect_to,
                                                converted<Low<Real>>(weights), elements);
  for (std::size_t i = 0; i < elements.size() && !start.empty(); ++i) {
    values[i] += static_cast<Exact<T>>(start[elements[i]]);
    low[i] += static_cast<Low<Real>>(start[elements[i]]);
  }
  return expect<T>(count, elements, std::move(values), low);
}

/// Compares tensors and prints, per tensor, the worst error and the largest share of the tolerance over all cases.
class Comparison {
 public:
  Comparison(std::string op, std::string backend) : op_(std::move(op)), backend_(std::move(backend)) {}
  Comparison(const Comparison&) = delete;
  Comparison& operator=(const Comparison&) = delete;

  ~Comparison() {
    for (const auto& [tensor, worst] : worst_) {
      std::ostringstream line;
      line << std::left << std::setw(20) << op_ << std::setw(12) << backend_ << std::setw(17) << tensor << std::right
           << "worst error " << std::scientific << std::setprecision(2) << worst.error << ", " << std::fixed
           << std::setw(4) << std::setprecision(0) << 100 * worst.share << " % of the tolerance, " << worst.tensors
           << " tensors\n";
      std::cout << line.str() << std::flush;
    }
  }

  template <class Real>
  void operator()(const std::string& tensor, const std::vector<Real>& actual, const Expected<Real>& expected) {
    INFO("tensor " << tensor);
    REQUIRE(actual.size() == expected.count);
    Worst& worst = worst_[tensor];
    worst.tensors += 1;
    std::size_t wrong = 0;
    std::ostringstream first;
    for (std::size_t i = 0; i < expected.elements.size(); ++i) {
      const auto value = static_cast<Exact<Real>>(actual[expected.elements[i]]);
      const Exact<Real> error = std::abs(value - expected.values[i]);
      if (!(error <= expected.tolerance)) {
        if (wrong++ == 0) {
          first << "element " << expected.elements[i] << " is " << std::setprecision(10) << value << ", must be "
                << expected.values[i] << " +- " << expected.tolerance;
        }
        continue;
      }
      worst.error = std::max(worst.error, static_cast<double>(error));
      if (error > 0) worst.share = std::max(worst.share, static_cast<double>(error / expected.tolerance));
    }
    if (wrong > 0)
      FAIL_CHECK(tensor << ": " << wrong << " of " << expected.elements.size() << " wrong; " << first.str());
    std::size_t not_finite = 0;
    for (const Real element : actual) not_finite += std::isfinite(static_cast<Wide<Real>>(element)) ? 0 : 1;
    CHECK(not_finite == 0);
  }

 private:
  struct Worst {
    double error = 0, share = 0;
    int tensors = 0;
  };
  std::string op_, backend_;
  std::map<std::string, Worst> worst_;
};

}  // namespace blinkbert::test
