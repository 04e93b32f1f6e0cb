#include <catch2/catch.hpp>

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/layers/parameters.hpp>
#include <tests/oracle/dropout.hpp>

namespace blinkbert {
namespace {

TEST_CASE("initial values are functions of seed, ordinal and element") {
  constexpr std::uint64_t seed = 0x900000001ull;
  for (std::uint32_t ordinal : {0u, 3u}) {
    for (std::uint32_t element = 0; element < 9; ++element) {
      const auto words = oracle::philox(seed, element / 4, ordinal, 0, 1, 0);
      INFO("ordinal " << ordinal << ", element " << element);
      CHECK(Init::constant(0.7).value(seed, ordinal, element) == 0.7);
      const double unit = words[element % 4] / 4294967296.0;
      CHECK(Init::uniform(0.5).value(seed, ordinal, element) == Approx(unit - 0.5).margin(1e-15));
      // Box-Muller: a pair of words gives the cosine, then the sine.
      const std::size_t first = element % 4 < 2 ? 0 : 2;
      const double radius = std::sqrt(-2 * std::log((words[first] + 0.5) / 4294967296.0));
      const double angle = 2 * std::acos(-1.0) * words[first + 1] / 4294967296.0;
      const double normal = radius * (element % 2 == 0 ? std::cos(angle) : std::sin(angle));
      CHECK(Init::normal(0.02).value(seed, ordinal, element) == Approx(0.02 * normal).margin(1e-15));
    }
  }
  CHECK(Init::xavier_uniform(8, 24).amount == Approx(std::sqrt(6.0 / 32)));
  CHECK(Init::fan_in_uniform(16).amount == 0.25);
}

TEMPLATE_TEST_CASE("parameters lie one after the other, aligned, with zeros between", "", float, double) {
  Cpu<TestType> device(1);
  ParameterSet<Cpu<TestType>> set;
  const auto first = set.add("first", {3, 5}, Init::uniform(1), Decay::yes);
  set.enter_group(2);
  const auto second = set.add("second", {130}, Init::constant(4), Decay::no);
  const auto mean = set.add_statistic("mean", 3, 0), variance = set.add_statistic("variance", 2, 1);
  CHECK(first);
  CHECK_FALSE(Parameter<Cpu<TestType>>{});
  set.allocate(device, 5);

  REQUIRE(set.entries().size() == 2);
  CHECK(set.entries()[0].begin == 0);
  CHECK(set.entries()[0].count == 15);
  CHECK(set.entries()[1].begin == 128);
  CHECK(set.values().size() == 384);
  CHECK(set.segments()[0].group == 0);
  CHECK(set.segments()[1].group == 2);
  CHECK(set.segments()[1].begin == 128);
  CHECK(set.segments()[1].end == 258);
  CHECK(set.segments()[0].decays);
  CHECK_FALSE(set.segments()[1].decays);
  for (int i = 0; i < 384; ++i) {
    INFO("element " << i);
    const auto wanted = i < 15 ? static_cast<TestType>(Init::uniform(1).value(5, 0, static_cast<std::uint32_t>(i)))
                               : static_cast<TestType>(i >= 128 && i < 258 ? 4 : 0);
    CHECK(set.values()(i) == wanted);
    CHECK(set.gradients()(i) == 0);
  }

  const auto weight = first.template working<2>();
  CHECK(weight.extents() == std::array<int, 2>{3, 5});
  CHECK(weight.data() == first.template value<2>().data());  // one memory where both types are the same
  first.template gradient<2>()(2, 4) += 3;
  CHECK(set.gradients()(14) == 3);
  CHECK(second.template value<1>().data() == set.values().data() + 128);
  CHECK_THROWS_AS(first.template value<1>(), ContractViolation);

  CHECK(mean.value().extent(0) == 3);
  CHECK(mean.value()(2) == 0);
  CHECK(variance.value()(1) == 1);
  CHECK(variance.value().data() == set.statistics().data() + 128);

  CHECK_THROWS_AS(set.add("late", {1}, Init::constant(0), Decay::no), ContractViolation);
  CHECK_THROWS_AS(set.add_statistic("late", 1, 0), ContractViolation);
}

TEST_CASE("a parameter without elements, or of more than 2^31, is refused") {
  ParameterSet<Cpu<float>> set;
  CHECK_THROWS_AS(set.add("none", {3, 0}, Init::constant(0), Decay::no), ContractViolation);
  CHECK_THROWS_AS(set.add("many", {65536, 65536}, Init::constant(0), Decay::no), ContractViolation);
}

}  // namespace
}  // namespace blinkbert
