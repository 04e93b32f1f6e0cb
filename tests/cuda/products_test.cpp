// How products are planned and described to cuBLASLt, on a card that is none (fake_card.hpp).

#include <catch2/catch.hpp>

#include <tests/cuda/fake_card.hpp>

#include <blinkbert/cuda/cublaslt.hpp>

namespace blinkbert::test {
namespace {

constexpr std::uint64_t bare = 1, fused = 2;

/// One algorithm for the bare product and one for each epilogue.
void reset_card() {
  fake_card() = FakeCard{};
  fake_card().algorithms[CUBLASLT_EPILOGUE_DEFAULT] = {{.id = bare, .milliseconds = 2}};
  for (const auto epilogue : {CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                              CUBLASLT_EPILOGUE_DGELU}) {
    fake_card().algorithms[epilogue] = {{.id = fused, .milliseconds = 2}};
  }
}

template <class Real>
std::vector<Real> numbers(int count, int seed) {
  std::vector<Real> values;
  for (int i = 0; i < count; ++i) values.push_back(Real(static_cast<float>((i * 37 + seed * 11) % 17 - 8) / 8));
  return values;
}

/// The memory of one product [M, N] of depth K.
template <class Real, class Sum = Real>
struct Case {
  int M, N, K;
  alignas(16) std::vector<Real> a = numbers<Real>(M * K, 1), b = numbers<Real>(K * N, 2), bias = numbers<Real>(N, 3),
                                h = numbers<Real>(M * N, 4);
  std::vector<Sum> c = numbers<Sum>(M * N, 5), d = numbers<Sum>(M * N, 6);

  MatrixProduct<Real, Sum> product(Storage a_storage, Storage b_storage) {
    const bool a_is_turned = a_storage == Storage::transposed, b_is_turned = b_storage == Storage::transposed;
    return {.d = {d.data(), {M, N}},
            .a = View<const Real, 2>(a.data(), {a_is_turned ? K : M, a_is_turned ? M : K}),
            .b = View<const Real, 2>(b.data(), {b_is_turned ? N : K, b_is_turned ? K : N}),
            .a_storage = a_storage,
            .b_storage = b_storage};
  }
  double element(Storage a_storage, Storage b_storage, int m, int n) const {
    double sum = 0;
    for (int k = 0; k < K; ++k) {
      const float left = a[static_cast<std::size_t>(a_storage == Storage::as_is ? m * K + k : k * M + m)];
      const float right = b[static_cast<std::size_t>(b_storage == Storage::as_is ? k * N + n : n * K + k)];
      sum += static_cast<double>(left) * static_cast<double>(right);
    }
    return sum;
  }
};

template <class Real, class Sum>
void check_products() {
  reset_card();
  Cuda<Real> gpu;
  for (const Storage a_storage : {Storage::as_is, Storage::transposed}) {
    for (const Storage b_storage : {Storage::as_is, Storage::transposed}) {
      for (const int N : {8, 5}) {
        Case<Real, Sum> memory{7, N, 3};
        INFO("storage " << static_cast<int>(a_storage) << static_cast<int>(b_storage) << ", N " << N);
        const auto check = [&](const MatrixProduct<Real, Sum>& product, auto expected) {
          REQUIRE(multiply(gpu, product, [] { FAIL("nothing was left to do"); }));
          for (int m = 0; m < memory.M; ++m) {
            for (int n = 0; n < N; ++n) {
              const auto i = static_cast<std::size_t>(m * N + n);
              const double sum = memory.element(a_storage, b_storage, m, n);
              CHECK(static_cast<double>(static_cast<float>(memory.d[i])) ==
                    Approx(expected(sum, i, static_cast<std::size_t>(n)))
                        .epsilon(sizeof(Sum) == 2 ? 0.01 : 1e-5)
                        .margin(1e-6));
            }
          }
        };
        auto product = memory.product(a_storage, b_storage);
        check(product, [](double sum, std::size_t, std::size_t) { return sum; });
        product.c = {memory.c.data(), {memory.M, N}};
        check(product, [&](double sum, std::size_t i, std::size_t) {
          return sum + static_cast<double>(static_cast<float>(memory.c[i]));
        });
        const auto start = memory.d;
        product.c = product.d;
        check(product, [&](double sum, std::size_t i, std::size_t) {
          return sum + static_cast<double>(static_cast<float>(start[i]));
        });
      }
    }
  }
}

TEST_CASE("cuBLASLt's products are those of rows", "[cuda]") {
  check_products<float, float>();
  check_products<bf16, bf16>();
  check_products<bf16, float>();  // a weight gradient: added to once, however often it was timed
}

TEST_CASE("epilogues are those of the op", "[cuda]") {
  reset_card();
  Cuda<float> gpu;
  for (const Epilogue epilogue :
       {Epilogue::bias, Epilogue::bias_gelu, Epilogue::bias_gelu_kept, Epilogue::times_gelu_slope}) {
    Case<float> memory{7, 16, 3};
    INFO("epilogue " << static_cast<int>(epilogue));
    const auto h_start = memory.h;
    auto product = memory.product(Storage::as_is, Storage::transposed);
    product.epilogue = epilogue;
    if (epilogue != Epilogue::times_gelu_slope) product.bias = View<const float, 1>(memory.bias.data(), {16});
    if (epilogue >= Epilogue::bias_gelu_kept) product.pre_activation = {memory.h.data(), {7, 16}};
    REQUIRE(multiply(gpu, product, [] {}));
    CHECK(fake_card().runs.back() == fused);
    for (int m = 0; m < 7; ++m) {
      for (int n = 0; n < 16; ++n) {
        const auto i = static_cast<std::size_t>(m * 16 + n);
        const double sum = memory.element(Storage::as_is, Storage::transposed, m, n);
        const float h = static_cast<float>(sum) + memory.bias[static_cast<std::size_t>(n)];
        const float expected = epilogue == Epilogue::bias ? h
                               : epilogue == Epilogue::times_gelu_slope
                                   ? static_cast<float>(sum) * fake_gelu_slope(h_start[i])
                                   : fake_gelu(h);
        CHECK(memory.d[i] == Approx(expected).margin(1e-6));
        if (epilogue == Epilogue::bias_gelu_kept) CHECK(memory.h[i] == Approx(h).margin(1e-6));
      }
    }
  }
}

/// A product with a bias, run; the algorithm that was run last, and how often `finish` ran.
struct Outcome {
  bool is_done;
  std::uint64_t algorithm;
  int finished;
};
Outcome run_biased(Cuda<float>& gpu, int M = 7, float milliseconds_to_finish = 1, int offset = 0) {
  static std::vector<float> room(100000);
  Case<float> memory{M, 8, 3};
  auto product = memory.product(Storage::as_is, Storage::transposed);
  float* const d = room.data() + (16 - reinterpret_cast<std::uintptr_t>(room.data()) % 16) % 16 / 4 + offset;
  product.d = {d, {M, 8}};
  product.epilogue = Epilogue::bias;
  product.bias = View<const float, 1>(memory.bias.data(), {8});
  int finished = 0;
  fake_card().runs.clear();
  const bool is_done = multiply(gpu, product, [&] {
    ++finished;
    fake_card().clock += milliseconds_to_finish;
  });
  return {is_done, fake_card().runs.empty() ? 0 : fake_card().runs.back(), finished};
}

TEST_CASE("the fastest way is found once and stays", "[cuda]") {
  reset_card();
  auto& with_bias = fake_card().algorithms[CUBLASLT_EPILOGUE_BIAS];
  with_bias = {{.id = 10, .milliseconds = 5}, {.id = 11, .milliseconds = 2.5f}, {.id = 12, .milliseconds = 4}};
  Cuda<float> gpu;
  CHECK(run_biased(gpu).algorithm == 11);
  const int waits = fake_card().waits, allocations = fake_card().allocations;
  with_bias[0].milliseconds = 0.1f;
  const Outcome again = run_biased(gpu);
  CHECK(again.algorithm == 11);
  CHECK(again.finished == 0);
  CHECK(fake_card().runs.size() == 1);
  CHECK(fake_card().waits == waits);
  CHECK(fake_card().allocations == allocations);
}

TEST_CASE("kernels finish a bare product where that is faster, or the only way", "[cuda]") {
  for (const bool has_epilogue : {true, false}) {
    reset_card();
    fake_card().algorithms[CUBLASLT_EPILOGUE_BIAS][0].milliseconds = 3.5f;
    if (!has_epilogue) fake_card().algorithms.erase(CUBLASLT_EPILOGUE_BIAS);
    Cuda<float> gpu;
    CHECK(run_biased(gpu, 7, 1).algorithm == bare);
    CHECK(run_biased(gpu, 7, 1).finished == 1);
    Cuda<float> other;
    CHECK(run_biased(other, 7, 2).algorithm == (has_epilogue ? fused : bare));  // finishing counts
  }
}

TEST_CASE("without any algorithm nothing is done", "[cuda]") {
  reset_card();
  fake_card().algorithms.clear();
  Cuda<float> gpu;
  CHECK_FALSE(run_biased(gpu).is_done);
  CHECK_FALSE(run_biased(gpu).is_done);
  CHECK(run_biased(gpu).finished == 0);
  CHECK(matrix_products(gpu).plans().empty());
}

TEST_CASE("algorithms without a fixed order, or that need more than there is, are not taken", "[cuda]") {
  reset_card();
  fake_card().algorithms.erase(CUBLASLT_EPILOGUE_DEFAULT);
  fake_card().algorithms[CUBLASLT_EPILOGUE_BIAS] = {
      {.id = 10, .milliseconds = 0.1f, .reduction = CUBLASLT_REDUCTION_SCHEME_INPLACE},
      {.id = 11, .milliseconds = 0.2f, .workspace_bytes = (std::size_t{32} << 20) + 1},
      {.id = 12, .milliseconds = 0.3f, .alignment = 16},
      {.id = 13, .milliseconds = 0.4f, .reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
      {.id = 14, .milliseconds = 0.5f}};
  Cuda<float> gpu;
  CHECK(run_biased(gpu, 7, 1, 1).algorithm == 13);  // d begins 4 bytes behind a multiple of 16
  CHECK(run_biased(gpu, 7, 1, 0).algorithm == 12);
  fake_card().capability = 8;  // 4 MiB of workspace
  fake_card().algorithms[CUBLASLT_EPILOGUE_BIAS][0] = {
      .id = 15, .milliseconds = 0.1f, .workspace_bytes = (std::size_t{4} << 20) + 1};
  Cuda<float> smaller;
  CHECK(run_biased(smaller).algorithm == 12);
}

TEST_CASE("nothing is timed while a graph is captured", "[cuda]") {
  reset_card();
  Cuda<float> gpu;
  fake_card().is_capturing = true;
  CHECK_THROWS_WITH(run_biased(gpu), Catch::Contains("7x8x3 fp32 a*b' bias align") && Catch::Contains("captured"));
  fake_card().is_capturing = false;
  CHECK(run_biased(gpu).is_done);
  fake_card().is_capturing = true;
  CHECK(run_biased(gpu).is_done);
}

TEST_CASE("nearly as many rows take the same plan, unless it cannot do them", "[cuda]") {
  reset_card();
  Cuda<float> gpu;
  CHECK(run_biased(gpu, 1000).algorithm == fused);
  fake_card().is_capturing = true;  // no timing from here on
  CHECK(run_biased(gpu, 1024).algorithm == fused);
  CHECK(run_biased(gpu, 961).algorithm == fused);
  CHECK(matrix_products(gpu).plans().size() == 1);
  fake_card().is_capturing = false;
  fake_card().algorithms.erase(CUBLASLT_EPILOGUE_BIAS);
  CHECK(run_biased(gpu, 1001).algorithm == bare);
  CHECK(matrix_products(gpu).plans().size() == 2);
}

TEST_CASE("plans that are given win over timing, if they can be used", "[cuda]") {
  reset_card();
  auto& with_bias = fake_card().algorithms[CUBLASLT_EPILOGUE_BIAS];
  with_bias = {{.id = 10, .milliseconds = 1}, {.id = 11, .milliseconds = 2}};
  MatrixProducts::Plans slow, fast;
  {
    with_bias[1].milliseconds = 0.5f;
    Cuda<float> gpu;
    CHECK(run_biased(gpu).algorithm == 11);
    slow = matrix_products(gpu).plans();
    CHECK(slow.size() == 1);
    with_bias[1].milliseconds = 2;
  }
  Cuda<float> gpu;
  CHECK(run_biased(gpu).algorithm == 10);
  fast = matrix_products(gpu).plans();
  matrix_products(gpu).use(slow);
  const int waits = fake_card().waits;
  CHECK(run_biased(gpu).algorithm == 11);
  CHECK(fake_card().waits == waits);
  CHECK(matrix_products(gpu).plans() == slow);

  // Unknown to this version of the library; no text of ours; sums in the order of arrival.
  for (const int spoil : {0, 1, 2}) {
    MatrixProducts::Plans plans = slow;
    std::string& line = plans.begin()->second;
    if (spoil == 0) line.replace(line.find(" 000000000000000b"), 17, " 00000000000000ff");
    if (spoil == 1) line = "nonsense";
    if (spoil == 2) line.replace(line.find("b 0000000000000000"), 18, "b 0000000000000001");
    matrix_products(gpu).use(plans);
    CHECK(run_biased(gpu).algorithm == 10);
    CHECK(matrix_products(gpu).plans() == fast);
  }
  CHECK(matrix_products(gpu).device_and_library() == "fake card, 5 multiprocessors, cuBLASLt 130002");
}

}  // namespace
}  // namespace blinkbert::test
