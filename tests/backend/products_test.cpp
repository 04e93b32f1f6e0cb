// Products by oneDNN and by the matrix units, in float and in bf16, and weights that are kept packed, against the portable
// products.

#include <memory>
#include <string>
#include <vector>

#include <tests/ops/backends.hpp>
#include <tests/ops/compare.hpp>

namespace blinkbert::test {
namespace {

struct Sizes {
  int T, in, out;
};
// Rows, columns and depths that fill up blocks of 192, panels of 64, tiles of 16 and steps of 32, and that do not; few rows
// (columns are split over threads), many rows, several blocks per thread, a sliver that is left to float,
// results of more than 4 MiB for one thread with rows that begin at a line of memory, and that do not.
constexpr Sizes sizes[] = {{1, 32, 32},      {0, 32, 40},     {30, 64, 192},  {31, 33, 65},  {32, 64, 64},
                           {7, 130, 70},     {193, 96, 64},   {450, 70, 66},  {900, 32, 96}, {1920, 64, 64},
                           {64, 256, 1500},  {64, 1500, 256}, {70, 40, 31},   {70, 31, 40},  {33, 200, 180},
                           {450, 400, 350},  {5, 200, 180},   {17, 256, 130}, {97, 96, 100}, {40, 1100, 64},
                           {1100, 64, 1024}, {1100, 1000, 64}};

/// Who multiplies, and how.
struct Way {
  Products most;
  bool in_bf16;
};
constexpr Way portable{Products::portable, false};
/// All that is there; where something is not, what comes before it multiplies.
std::vector<Way> ways() {
  std::vector<Way> all{portable, {Products::onednn, false}, {Products::amx, false}};
  if (Cpu<float>::bf16_obstacle().empty()) all.push_back({Products::amx, true});
#if defined(BLINKBERT_WITH_ONEDNN)
  if (cpu_detail::Bf16Factors::obstacle().empty()) all.push_back({Products::onednn, true});
#endif
  return all;
}
std::vector<Way> ways_in_bf16() {
  std::vector<Way> some = ways();
  std::erase_if(some, [](const Way& way) { return !way.in_bf16; });
  if (some.empty()) WARN("skipped: " << Cpu<float>::bf16_obstacle());  // which ctest takes for a skip
  return some;
}
std::string name(const Way& way) {
  return text("products ", static_cast<int>(way.most), way.in_bf16 ? " in bf16" : " in float");
}

/// Multiples of 1/4 up to 2: bf16 holds them, and sums of fewer than 2^18 products of two are exact in float, in any order.
std::vector<float> quarters(int count, std::uint64_t key) {
  std::vector<float> values = random_values<float>(count, key, 8.49);
  for (float& value : values) value = std::nearbyint(value) / 4;
  return values;
}

void set_products(Cpu<float>& cpu, const Way& way) {
  cpu.limit_products(way.most);
  if (way.in_bf16) cpu.multiply_in_bf16();
}

struct Results {
  std::vector<float> y, activated, kept, with_kept, dx, dh, sum, added, dweight, dbias;
};

/// Every product of a linear layer.
Results run_linear(const Way& way, int threads, const Sizes& size, const std::vector<float>& x,
                   const std::vector<float>& weight, const std::vector<float>& dy) {
  const auto [T, in, out] = size;
  Stage<Cpu<float>> stage(threads);
  set_products(stage.device, way);
  const auto input = stage.input(x, T, in);
  const auto w = stage.input(weight, out, in);
  const auto gradient = stage.input(dy, T, out);
  const auto before = stage.input(quarters(T * in, 4), T, in);
  Results results;

  LinearForward<float> forward{.y = stage.template output<float>(T, out),
                               .pre_activation = {},
                               .x = input,
                               .weight = w,
                               .bias = stage.input(quarters(out, 5), out)};
  stage.run_twice(forward);
  results.y = stage.values(forward.y);
  forward.activation = Activation::gelu;
  stage.run_twice(forward);
  results.activated = stage.values(forward.y);
  forward.pre_activation = stage.template output<float>(T, out);
  stage.run_twice(forward);
  results.kept = stage.values(forward.pre_activation);
  results.with_kept = stage.values(forward.y);

  LinearInputGradient<float> backward{.dx = stage.template output<float>(T, in), .dy = gradient, .weight = w};
  stage.run_twice(backward);
  results.dx = stage.values(backward.dx);
  backward.pre_activation = before;
  stage.run_twice(backward);
  results.dh = stage.values(backward.dx);
  backward.pre_activation = {};
  backward.residual = before;
  stage.run_twice(backward);
  results.sum = stage.values(backward.dx);
  backward.dx = stage.in_and_out(quarters(T * in, 4), T, in);
  backward.residual = backward.dx;
  stage.run_twice(backward);
  results.added = stage.values(backward.dx);

  const LinearWeightGradient<float> weights{.dweight = stage.sum(quarters(out * in, 6), out, in),
                                            .dbias = stage.sum(quarters(out, 7), out),
                                            .dy = gradient,
                                            .x = input};
  stage.run_twice(weights);
  results.dweight = stage.values(weights.dweight);
  results.dbias = stage.values(weights.dbias);
  return results;
}

/// x W^T alone, on two threads.
std::vector<float> product_of(const Way& way, const Sizes& size, const std::vector<float>& x,
                              const std::vector<float>& weight) {
  const auto [T, in, out] = size;
  Stage<Cpu<float>> stage(2);
  set_products(stage.device, way);
  const LinearForward<float> forward{.y = stage.output<float>(T, out),
                                     .x = stage.input(x, T, in),
                                     .weight = stage.input(weight, out, in),
                                     .bias = stage.input(std::vector<float>(static_cast<std::size_t>(out)), out)};
  stage.run_twice(forward);
  return stage.values(forward.y);
}

void require_same(const Results& a, const Results& b) {
  CHECK(a.y == b.y);
  CHECK(a.activated == b.activated);
  CHECK(a.kept == b.kept);
  CHECK(a.with_kept == b.with_kept);
  CHECK(a.dx == b.dx);
  CHECK(a.dh == b.dh);
  CHECK(a.sum == b.sum);
  CHECK(a.added == b.added);
  CHECK(a.dweight == b.dweight);
  CHECK(a.dbias == b.dbias);
}

TEST_CASE("all products are the portable ones where nothing is rounded") {
  for (const Sizes& size : sizes) {
    for (const int threads : {1, 2, 3}) {
      const auto x = quarters(size.T * size.in, 1), weight = quarters(size.out * size.in, 2),
                 dy = quarters(size.T * size.out, 3);
      const Results expected = run_linear(portable, threads, size, x, weight, dy);
      for (const Way& way : ways()) {
        INFO("T " << size.T << ", in " << size.in << ", out " << size.out << ", threads " << threads << ", "
                  << name(way));
        require_same(run_linear(way, threads, size, x, weight, dy), expected);
      }
    }
  }
}

TEST_CASE("a product of floats is off by no more than its rounding") {
  // One product in each sum, so that nothing hides how it was made. What the matrix units leave out is below 2^-23 of it, and
  // the sum of the pieces is rounded six times, by 2^-24 of it at most.
  const Sizes size{192, 256, 160};
  const auto values = random_values<float>(size.T, 1), weight = random_values<float>(size.out * size.in, 2);
  std::vector<float> x(static_cast<std::size_t>(size.T * size.in), 0.0f);
  const auto place = [&](int t) { return static_cast<std::size_t>(t * size.in + t * 7 % size.in); };
  for (int t = 0; t < size.T; ++t) x[place(t)] = values[static_cast<std::size_t>(t)];
  for (const Way& way : ways()) {
    if (way.in_bf16) continue;
    INFO(name(way));
    const std::vector<float> y = product_of(way, size, x, weight);
    double worst = 0;
    for (int t = 0; t < size.T; ++t) {
      for (int o = 0; o < size.out; ++o) {
        const double exact =
            static_cast<double>(x[place(t)]) * weight[static_cast<std::size_t>(o * size.in + t * 7 % size.in)];
        const double error = y[static_cast<std::size_t>(t * size.out + o)] - exact;
        if (exact != 0) worst = std::max(worst, std::abs(error / exact));
      }
    }
    CHECK(worst <= 0x1p-23 + 6 * 0x1p-24);
  }
}

TEST_CASE("products of tiny floats are off by what bf16 cannot hold") {
  const Sizes size{40, 256, 160};
  std::vector<float> x(static_cast<std::size_t>(size.T * size.in), 0.0f);
  for (int t = 0; t < size.T; ++t) x[static_cast<std::size_t>(t * size.in + t)] = std::ldexp(1.37f, -90 - t);
  const std::vector<float> ones(static_cast<std::size_t>(size.out * size.in), 1.0f);
  for (const Way& way : ways()) {
    if (way.in_bf16) continue;
    INFO(name(way));
    const std::vector<float> sums = product_of(way, size, x, ones);
    for (int t = 0; t < size.T; ++t) {
      const double exact = x[static_cast<std::size_t>(t * size.in + t)];
      CHECK(std::abs(sums[static_cast<std::size_t>(t * size.out)] - exact) <= 0x1p-22 * exact + 0x1p-126);
    }
  }
}

TEST_CASE("products in bf16 round their factors to the nearest") {
  const Sizes size{200, 96, 80};
  const auto rounded = [](std::vector<float> values) {
    for (float& value : values) value = static_cast<float>(bf16(value));
    return values;
  };
  auto x = random_values<float>(size.T * size.in, 1), weight = random_values<float>(size.out * size.in, 2),
       dy = random_values<float>(size.T * size.out, 3);
  x[0] = 1 + 0x1p-8f, x[1] = 1 + 3 * 0x1p-8f, x[2] = -1 - 0x1p-8f;  // ties, to even
  x[3] = 0x1p-130f;
  for (const Way& way : ways_in_bf16()) {
    INFO(name(way));
    const Results results = run_linear(way, 2, size, x, weight, dy);
    Results of_rounded = run_linear(way, 2, size, rounded(x), rounded(weight), rounded(dy));
    of_rounded.dbias = results.dbias;  // a sum, and no product: nothing is rounded
    require_same(results, of_rounded);
    CHECK(results.y != run_linear(portable, 2, size, x, weight, dy).y);
  }
}

TEST_CASE("products hand on what is not finite") {
  const Sizes size{40, 256, 160};
  auto x = quarters(size.T * size.in, 1);
  const auto weight = quarters(size.out * size.in, 2), dy = quarters(size.T * size.out, 3);
  x[5] = std::bit_cast<float>(0x7fffffffu);  // a NaN that rounding up would turn into -0
  x[static_cast<std::size_t>(size.in) + 7] = std::numeric_limits<float>::infinity();
  for (const Way& way : ways()) {
    INFO(name(way));
    const std::vector<float> y = run_linear(way, 2, size, x, weight, dy).y;
    for (int column = 0; column < size.out; ++column) {
      CHECK(std::isnan(y[static_cast<std::size_t>(column)]));
      CHECK_FALSE(std::isfinite(y[static_cast<std::size_t>(size.out + column)]));
    }
  }
}

TEST_CASE("weights that stay are packed once, by whichever device comes first") {
  for (const Way& way : ways()) {
    for (const Sizes& size : {Sizes{30, 64, 192}, Sizes{450, 70, 66}, Sizes{450, 200, 180}}) {
      INFO("T " << size.T << ", " << name(way));
      const auto [T, in, out] = size;
      const auto kept = std::make_shared<KeptWeights>();
      std::vector<float> weight = quarters(out * in, 2), bias = quarters(out, 5);
      const std::vector<float> x = quarters(T * in, 1);
      const auto product = [&, T = T, in = in, out = out](int threads, bool keeps) {
        Cpu<float> cpu(threads);
        set_products(cpu, way);
        if (keeps) cpu.keep_weights(kept);
        std::vector<float> y(static_cast<std::size_t>(T * out));
        run(cpu, LinearForward<float>{.y = {y.data(), {T, out}},
                                      .x = {x.data(), {T, in}},
                                      .weight = {weight.data(), {out, in}},
                                      .bias = {bias.data(), {out}}});
        return y;
      };
      const std::vector<float> plain = product(2, false);
      CHECK(product(2, true) == plain);
      weight.assign(weight.size(), 0);  // what is kept is no longer what lies there
      CHECK(product(1, true) == plain);
      CHECK(product(3, true) == plain);
      CHECK(product(2, false) != plain);
    }
  }
}

}  // namespace
}  // namespace blinkbert::test
