#pragma once

// What an op reads and writes, from its fields: View<const T> is read, View<T> written, Acc<T> added to. Kernels reach nothing
// else: they write to no const view, and `at` keeps them inside a view.

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <blinkbert/core/dropout.hpp>
#include <blinkbert/core/view.hpp>
#include <tests/branches/access_log.hpp>

namespace blinkbert::test {
namespace fields {

struct Any {
  template <class T>
  operator T() const;
};

template <class Op, std::size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
  return requires { Op{(static_cast<void>(I), Any{})...}; };
}

/// Fields of an aggregate.
template <class Op, std::size_t Count = 24>
constexpr std::size_t count() {
  if constexpr (takes<Op>(std::make_index_sequence<Count>())) {
    return Count;
  } else {
    return count<Op, Count - 1>();
  }
}

/// Calls take(field, ...) with all fields of an aggregate.
template <class Op, class Take>
void all_of(const Op& op, const Take& take) {
  constexpr std::size_t n = count<Op>();
  static_assert(n >= 2 && n <= 18, "one more line");
  // clang-format off
  if constexpr (n == 2) { const auto& [a, b] = op; take(a, b); }
  if constexpr (n == 3) { const auto& [a, b, c] = op; take(a, b, c); }
  if constexpr (n == 4) { const auto& [a, b, c, d] = op; take(a, b, c, d); }
  if constexpr (n == 5) { const auto& [a, b, c, d, e] = op; take(a, b, c, d, e); }
  if constexpr (n == 6) { const auto& [a, b, c, d, e, f] = op; take(a, b, c, d, e, f); }
  if constexpr (n == 7) { const auto& [a, b, c, d, e, f, g] = op; take(a, b, c, d, e, f, g); }
  if constexpr (n == 8) { const auto& [a, b, c, d, e, f, g, h] = op; take(a, b, c, d, e, f, g, h); }
  if constexpr (n == 9) { const auto& [a, b, c, d, e, f, g, h, i] = op; take(a, b, c, d, e, f, g, h, i); }
  if constexpr (n == 10) { const auto& [a, b, c, d, e, f, g, h, i, j] = op; take(a, b, c, d, e, f, g, h, i, j); }
  if constexpr (n == 11) { const auto& [a, b, c, d, e, f, g, h, i, j, k] = op; take(a, b, c, d, e, f, g, h, i, j, k); }
  if constexpr (n == 12) { const auto& [a, b, c, d, e, f, g, h, i, j, k, l] = op; take(a, b, c, d, e, f, g, h, i, j, k, l); }
  if constexpr (n == 13) { const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = op; take(a, b, c, d, e, f, g, h, i, j, k, l, m); }
  if constexpr (n == 14) { const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, o] = op; take(a, b, c, d, e, f, g, h, i, j, k, l, m, o); }
  if constexpr (n == 15) { const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, o, p] = op; take(a, b, c, d, e, f, g, h, i, j, k, l, m, o, p); }
  if constexpr (n == 16) { const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q] = op; take(a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q); }
  if constexpr (n == 17) { const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r] = op; take(a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r); }
  if constexpr (n == 18) { const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s] = op; take(a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s); }
  // clang-format on
}

template <class T, int Rank>
void add(std::vector<Access>& to, const View<T, Rank>& view, Access::Kind kind) {
  if (view && view.size() > 0) {
    to.push_back(
        {kind, reinterpret_cast<const std::byte*>(view.data()), static_cast<std::size_t>(view.size()) * sizeof(T)});
  }
}

template <class T, int Rank>
void visit(std::vector<Access>& to, const View<T, Rank>& view) {
  add(to, view, std::is_const_v<T> ? Access::read : Access::write);
}
template <class T, int Rank>
void visit(std::vector<Access>& to, const Acc<T, Rank>& sum) {
  add(to, sum.view(), Access::add);
}
inline void visit(std::vector<Access>& to, const Dropout& dropout) { add(to, dropout.stream.now, Access::read); }
/// Numbers touch nothing; what has fields of its own is looked into. Another type does not compile.
template <class Field>
void visit(std::vector<Access>& to, const Field& field) {
  if constexpr (!std::is_arithmetic_v<Field> && !std::is_enum_v<Field>) {
    static_assert(std::is_aggregate_v<Field>);
    all_of(field, [&](const auto&... one) { (visit(to, one), ...); });
  }
}

}  // namespace fields

/// What is read comes first: an op may overwrite what it reads.
template <class Op>
std::vector<Access> accesses_of(const Op& op) {
  std::vector<Access> all;
  fields::visit(all, op);
  std::stable_partition(all.begin(), all.end(), [](const Access& one) { return one.kind == Access::read; });
  return all;
}

/// As "blinkbert::LinearForward<float>".
template <class Op>
std::string_view name_of_op() {
  const std::string_view whole = __PRETTY_FUNCTION__;
  const std::size_t first = whole.find("Op = ") + 5;
  return whole.substr(first, whole.find_first_of(";]", first) - first);
}

}  // namespace blinkbert::test
