// The CUDA backend as g++ sees it: the programs' numerics link with the library of kernels, and without a usable device there
// is one clear line.

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/cuda.hpp>
#include <blinkbert/train/trainer.hpp>

namespace blinkbert {

// In examples/cuda_instantiations.cpp, whose objects this test is linked with.
extern template class Trainer<PretrainingStage<Cuda<bf16>>>;
extern template class Trainer<FinetuningStage<Cuda<float>>>;

namespace test {
namespace {

TEST_CASE("a device can be made, or one line says why not", "[cuda]") {
  const std::string obstacle = cuda_obstacle();
  INFO("obstacle: " << obstacle);
  CHECK(obstacle.find('\n') == std::string::npos);
  if (obstacle.empty()) {
    Cuda<bf16> device;
    CHECK(device.multiprocessors() > 0);
    return;
  }
  CHECK_THROWS_WITH(Cuda<bf16>(), "CUDA cannot be used: " + obstacle);
  CHECK_THROWS_AS(Cuda<float>(), RunError);
}

TEST_CASE("the trainers on a CUDA device are linked with every kernel", "[cuda]") {
  const auto pretrain = &Trainer<PretrainingStage<Cuda<bf16>>>::train;
  const auto finetune = &Trainer<FinetuningStage<Cuda<float>>>::train;
  CHECK(pretrain != nullptr);
  CHECK(finetune != nullptr);
}

ProductKind some_kind() {
  return {.rows = 30720,
          .columns = 2048,
          .depth = 512,
          .factors = ProductKind::Number::bf16,
          .result = ProductKind::Number::bf16,
          .b_storage = Storage::transposed,
          .epilogue = Epilogue::bias_gelu_kept};
}

TEST_CASE("kinds of products that differ have different names", "[cuda]") {
  CHECK(some_kind().name() == "30720x2048x512 bf16 a*b' bias_gelu_kept align16");
  std::vector<ProductKind> kinds(10, some_kind());
  kinds[1].rows = 1;
  kinds[2].columns = 1;
  kinds[3].depth = 1;
  kinds[4].factors = ProductKind::Number::fp32;
  kinds[5].result = ProductKind::Number::fp32;
  kinds[6].a_storage = Storage::transposed;
  kinds[7].b_storage = Storage::as_is;
  kinds[8].epilogue = Epilogue::none;
  kinds[9].alignment = 2;
  kinds.push_back(kinds[8]);
  kinds.back().adds = true;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    for (std::size_t j = 0; j < kinds.size(); ++j) {
      CHECK((kinds[i].name() == kinds[j].name()) == (i == j));
      CHECK((kinds[i] == kinds[j]) == (i == j));
    }
  }
}

TEST_CASE("nearly as many rows share a plan", "[cuda]") {
  const auto rounded = [](int count, Storage a_storage) {
    ProductKind kind = some_kind();
    kind.a_storage = a_storage;
    (a_storage == Storage::as_is ? kind.rows : kind.depth) = count;
    const ProductKind planned = kind.planned();
    ProductKind back = planned;
    (a_storage == Storage::as_is ? back.rows : back.depth) = count;
    CHECK(back == kind);  // nothing else is rounded
    CHECK(planned.planned() == planned);
    return a_storage == Storage::as_is ? planned.rows : planned.depth;
  };
  for (const Storage a_storage : {Storage::as_is, Storage::transposed}) {
    for (int count = 1; count <= 16; ++count) CHECK(rounded(count, a_storage) == count);
    CHECK(rounded(17, a_storage) == 18);
    CHECK(rounded(1000, a_storage) == 1024);
    CHECK(rounded(1024, a_storage) == 1024);
    CHECK(rounded(1025, a_storage) == 1152);
    CHECK(rounded(30720, a_storage) == 30720);
    CHECK(rounded(30721, a_storage) == 32768);
  }
}

TEST_CASE("a plan is the same after a way through text", "[cuda]") {
  for (const bool does_epilogue : {false, true}) {
    ProductPlan plan;
    plan.does_epilogue = does_epilogue;
    for (std::size_t i = 0; i < 8; ++i) plan.algorithm.data[i] = 0x0123456789abcdefu * (i + 1) + (i << 60);
    const std::string line = plan.spell();
    const std::optional<ProductPlan> read = ProductPlan::parse(line);
    REQUIRE(read.has_value());
    CHECK(read->does_epilogue == does_epilogue);
    CHECK(std::equal(std::begin(plan.algorithm.data), std::end(plan.algorithm.data), read->algorithm.data));
    CHECK(read->spell() == line);
    for (const std::string& spoilt :
         {line + " ", line + "0", line.substr(1), line.substr(0, line.size() - 1), line.substr(0, line.size() - 17),
          "x" + line, std::string(), std::string("bare")}) {
      INFO(spoilt);
      CHECK(!ProductPlan::parse(spoilt));
    }
    std::string not_hexadecimal = line;
    not_hexadecimal.back() = 'g';
    CHECK(!ProductPlan::parse(not_hexadecimal));
  }
}

template <class Value, class Attribute, class Object, class Get>
Value get(Get function, Object object, Attribute which) {
  Value value{};
  std::size_t written = 0;
  REQUIRE(function(&object, which, &value, sizeof(value), &written) == CUBLAS_STATUS_SUCCESS);
  return value;
}

TEST_CASE("cuBLASLt is told of products the way round it counts", "[cuda]") {
  struct Row {
    Epilogue epilogue;
    cublasLtEpilogue_t name;
  };
  const Row rows[] = {{Epilogue::none, CUBLASLT_EPILOGUE_DEFAULT},
                      {Epilogue::bias, CUBLASLT_EPILOGUE_BIAS},
                      {Epilogue::bias_gelu, CUBLASLT_EPILOGUE_GELU_BIAS},
                      {Epilogue::bias_gelu_kept, CUBLASLT_EPILOGUE_GELU_AUX_BIAS},
                      {Epilogue::times_gelu_slope, CUBLASLT_EPILOGUE_DGELU}};
  for (const Row& row : rows) {
    for (const Storage a_storage : {Storage::as_is, Storage::transposed}) {
      for (const Storage b_storage : {Storage::as_is, Storage::transposed}) {
        ProductKind kind = some_kind();
        kind.rows = 7;
        kind.columns = 16;
        kind.depth = 5;
        kind.a_storage = a_storage;
        kind.b_storage = b_storage;
        kind.epilogue = row.epilogue;
        INFO(kind.name());
        ProductCall call(kind, kind.epilogue);
        std::array<float, 16> numbers{};
        call.set({.bias = numbers.data(), .pre_activation = numbers.data()});
        const auto of_product = [&](auto value, cublasLtMatmulDescAttributes_t which) {
          return get<decltype(value)>(cublasLtMatmulDescGetAttribute, call.product, which);
        };
        CHECK(of_product(cublasLtEpilogue_t{}, CUBLASLT_MATMUL_DESC_EPILOGUE) == row.name);
        const bool has_bias = (row.name & CUBLASLT_EPILOGUE_BIAS) != 0, has_aux = (row.name & 128) != 0;
        const void* const nothing = nullptr;
        CHECK((of_product(nothing, CUBLASLT_MATMUL_DESC_BIAS_POINTER) != nothing) == has_bias);
        CHECK((of_product(nothing, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER) != nothing) == has_aux);
        if (has_aux) CHECK(of_product(std::int64_t{}, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD) == 16);

        // op(A) op(B) is the transpose of what is wanted: A is b [5, 16], B is a [7, 5].
        const auto extents_of = [](const cublasLtMatrixLayoutOpaque_t& matrix) {
          const auto extent = [&](auto value, cublasLtMatrixLayoutAttribute_t which) {
            return static_cast<int>(get<decltype(value)>(cublasLtMatrixLayoutGetAttribute, matrix, which));
          };
          return std::array{extent(std::uint64_t{}, CUBLASLT_MATRIX_LAYOUT_ROWS),
                            extent(std::uint64_t{}, CUBLASLT_MATRIX_LAYOUT_COLS),
                            extent(std::int64_t{}, CUBLASLT_MATRIX_LAYOUT_LD)};
        };
        const bool b_is_turned = b_storage == Storage::transposed, a_is_turned = a_storage == Storage::transposed;
        CHECK(extents_of(call.a) == (b_is_turned ? std::array{5, 16, 5} : std::array{16, 5, 16}));
        CHECK(extents_of(call.b) == (a_is_turned ? std::array{7, 5, 7} : std::array{5, 7, 5}));
        CHECK(extents_of(call.d) == std::array{16, 7, 16});
        CHECK(of_product(cublasOperation_t{}, CUBLASLT_MATMUL_DESC_TRANSA) ==
              (b_is_turned ? CUBLAS_OP_T : CUBLAS_OP_N));
        CHECK(of_product(cublasOperation_t{}, CUBLASLT_MATMUL_DESC_TRANSB) ==
              (a_is_turned ? CUBLAS_OP_T : CUBLAS_OP_N));
      }
    }
  }
}

}  // namespace
}  // namespace test
}  // namespace blinkbert
