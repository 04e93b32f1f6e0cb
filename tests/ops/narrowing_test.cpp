#include <blinkbert/layers/parameters.hpp>
#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>

namespace blinkbert::test {
namespace {

/// The nearest of what Real holds, found without its own rounding: `spacing` is the distance between neighbours around x.
double nearest(double x, double spacing) {
  const double below = std::floor(x / spacing), off = x / spacing - below;
  const bool is_odd = std::fmod(below, 2) != 0;
  return spacing * (below + (off > .5 || (off == .5 && is_odd) ? 1 : 0));
}

TEMPLATE_LIST_TEST_CASE("narrowing", "[narrowing]", Backends) {
  using Real = typename TestType::Real;
  for (const int P : {0, 1, 7, 8, 9, 15, 16, 17, 255, 1000, 2047, 2048, 2049, 100003}) {
    std::vector<Wide<Real>> x = random_values<Wide<Real>>(P, 1, 100);
    // Halfway between two bf16 of even and of odd last bit, and a little beyond.
    const double special[] = {1 + 0x1p-8,     1 + 0x3p-8,     -1 - 0x1p-8, -1 - 0x3p-8,
                              1 + 0x1.001p-8, 1 + 0x2.fffp-8, 0x1.fep127,  0};
    for (std::size_t i = 0; i < std::size(special) && i < x.size(); ++i) x[i] = static_cast<Wide<Real>>(special[i]);
    std::vector<double> wanted;
    for (const Wide<Real> value : x) {
      const auto exact = static_cast<double>(value);
      const bool is_narrower = !std::is_same_v<Real, Wide<Real>> && exact != 0;
      wanted.push_back(is_narrower ? nearest(exact, std::ldexp(1, std::ilogb(exact) - 7)) : exact);
    }
    for (const int threads : thread_counts<TestType>()) {
      INFO("P " << P << ", threads " << threads);
      Stage<TestType> stage(threads);
      Narrowing<Real> op{.y = stage.template output<Real>(P), .x = stage.input(x, P)};
      stage.run_twice(op);
      const std::vector<Real> y = stage.values(op.y);
      std::size_t wrong = 0;
      for (std::size_t p = 0; p < y.size(); ++p) {
        wrong += static_cast<double>(static_cast<Wide<Real>>(y[p])) == wanted[p] ? 0 : 1;
      }
      CHECK(wrong == 0);
      if constexpr (std::is_same_v<Real, Wide<Real>>) {
        op.y = stage.in_and_out(x, P);
        op.x = op.y;
        stage.run_twice(op);
        CHECK((stage.values(op.y) == x));
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("narrowing keeps what is not finite", "[narrowing]", Backends) {
  using Real = typename TestType::Real;
  using Number = Wide<Real>;
  const Number infinity = std::numeric_limits<Number>::infinity();
  Stage<TestType> stage(1);
  const Narrowing<Real> op{
      .y = stage.template output<Real>(4),
      .x = stage.input(std::vector<Number>{infinity, -infinity, std::numeric_limits<Number>::quiet_NaN(),
                                           std::numeric_limits<Number>::max()},
                       4)};
  stage.run_twice(op);
  const std::vector<Real> y = stage.values(op.y);
  CHECK(static_cast<Number>(y[0]) == infinity);
  CHECK(static_cast<Number>(y[1]) == -infinity);
  CHECK(std::isnan(static_cast<Number>(y[2])));
  // The largest float is nearer to the power of two that bf16 has no number for.
  CHECK(static_cast<Number>(y[3]) == (std::is_same_v<Real, Number> ? std::numeric_limits<Number>::max() : infinity));
}

TEMPLATE_LIST_TEST_CASE("a parameter set narrows its values into the working block", "[narrowing]", Backends) {
  using Real = typename TestType::Real;
  TestType device(1);
  ParameterSet<TestType> set;
  set.add("first", {3, 5}, Init::uniform(1), Decay::yes);
  set.add("second", {130}, Init::normal(.02), Decay::no);
  set.allocate(device, 5);
  std::vector<Wide<Real>> values(static_cast<std::size_t>(set.values().size()));
  std::vector<Real> working(values.size());
  download(device, values.data(), set.values());
  download(device, working.data(), set.working());
  CHECK(values[14] != 0);
  CHECK(working == narrowed<Real>(values));
}

TEMPLATE_LIST_TEST_CASE("narrowing refuses wrong shapes", "[narrowing]", Backends) {
  using Real = typename TestType::Real;
  Stage<TestType> stage(1);
  using Op = Narrowing<Real>;
  const Op op{.y = stage.template output<Real>(9), .x = stage.template output<Wide<Real>>(9)};
  check_rejects(stage.device, op, "y too short", [&](Op& o) { o.y = stage.template output<Real>(8); });
  check_rejects(stage.device, op, "no x", [&](Op& o) { o.x = {}; });
}

}  // namespace
}  // namespace blinkbert::test
