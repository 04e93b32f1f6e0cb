// The CUDA backend as g++ sees it: the programs' numerics link with the library of kernels, and without a usable device there
// is one clear line.

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
  kinds[4].factors = ProductKind::Number::wide;
  kinds[5].result = ProductKind::Number::wide;
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

}  // namespace
}  // namespace test
}  // namespace blinkbert
