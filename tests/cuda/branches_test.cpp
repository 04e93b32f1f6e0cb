// The two branches of a CUDA device, on a card that is none and that knows which events lie between two accesses (fake_card.hpp).

#include <catch2/catch.hpp>

#include <tests/cuda/fake_card.hpp>

#include <blinkbert/cuda/cublaslt.hpp>

namespace blinkbert::test {
namespace {

struct FreshCard {
  FreshCard() {
    fake_card() = FakeCard{};
    fake_card().algorithms[CUBLASLT_EPILOGUE_DEFAULT] = {{.id = 1}};
  }
};

/// The gradients of a linear layer, T = 4 rows, E = 8 wide: the weight's beside, the input's not.
struct Layer : FreshCard {
  static constexpr int T = 4, E = 8;

  Cuda<float> gpu;
  CudaMemory dy, x, dx, weight, dweight;

  Layer() {
    for (CudaMemory* memory : {&dy, &x, &dx, &weight, &dweight}) {
      *memory = gpu.allocate(E * E * sizeof(float));
      zero(*memory);
    }
  }
  void zero(const CudaMemory& memory) { gpu.zero(memory.data(), E * E * sizeof(float)); }
  static View<float, 2> view(const CudaMemory& memory, int rows) {
    return {reinterpret_cast<float*>(memory.data()), {rows, E}};
  }

  void weight_gradient() {
    const MatrixProduct<float> product{.d = view(dweight, E),
                                       .a = view(dy, T),
                                       .b = view(x, T),
                                       .a_storage = Storage::transposed,
                                       .c = view(dweight, E)};
    const bool is_done = multiply(gpu, product, [] {});
    REQUIRE(is_done);
  }
  void input_gradient() {
    const MatrixProduct<float> product{.d = view(dx, T), .a = view(dy, T), .b = view(weight, E)};
    const bool is_done = multiply(gpu, product, [] {});
    REQUIRE(is_done);
  }
  void backward() {
    zero(dy);  // the gradient comes to be
    gpu.beside([&] { weight_gradient(); });
    input_gradient();
  }
  /// Plans are made and all is done: from here on no host that waits stands in for an event.
  void warm_up() {
    backward();
    gpu.wait();
    fake_card().streams_of_runs.clear();
    fake_card().waits = 0;
  }
};

TEST_CASE("what runs beside is ordered by events alone, on a stream and with a workspace of its own", "[cuda]") {
  Layer layer;
  layer.warm_up();
  for (int step = 0; step < 3; ++step) {
    layer.backward();
    layer.gpu.beside([&] { layer.weight_gradient(); });  // after the one before
    layer.gpu.join();
    layer.gpu.join();  // nothing to do
  }
  CHECK(fake_card().waits == 0);
  const auto& streams = fake_card().streams_of_runs;
  REQUIRE(streams.size() == 9);
  for (std::size_t i = 0; i < 9; ++i) CHECK((streams[i] == layer.gpu.stream()) == (i % 3 == 1));
}

TEST_CASE("without a join nothing beside may be disturbed", "[cuda]") {
  Layer layer;
  layer.warm_up();
  layer.backward();
  CHECK_THROWS_AS(layer.zero(layer.x), BranchFault);        // is read
  CHECK_THROWS_AS(layer.zero(layer.dweight), BranchFault);  // is written
  CHECK_THROWS_AS(layer.weight_gradient(), BranchFault);
  CHECK_NOTHROW(layer.zero(layer.weight));
  layer.gpu.join();
  layer.zero(layer.x);
  layer.weight_gradient();
}

TEST_CASE("who waits for the device waits for both branches", "[cuda]") {
  Layer layer;
  layer.warm_up();
  layer.backward();
  float number = 1;
  layer.gpu.download(reinterpret_cast<std::byte*>(&number), layer.dweight.data(), sizeof(number));
  CHECK(number == 0);
  layer.backward();
  layer.gpu.wait();
  layer.zero(layer.x);
}

TEST_CASE("with one branch all is in the order of the calls", "[cuda]") {
  Layer layer;
  layer.warm_up();
  layer.backward();
  layer.gpu.use_one_branch();
  for (int step = 0; step < 2; ++step) {
    layer.backward();
    layer.zero(layer.x);
  }
  CHECK(fake_card().streams_of_runs.size() == 6);
  for (std::size_t i = 1; i < 6; ++i) CHECK(fake_card().streams_of_runs[i] == layer.gpu.stream());
  CHECK(matrix_products(layer.gpu).plans().size() == 2);
}

TEST_CASE("each branch has its workspace", "[cuda]") {
  Layer layer;
  Cuda<float>& gpu = layer.gpu;
  const auto room = [&](int count) { return gpu.template workspace<float>(count).data(); };
  const float* const first = room(8);
  const float* second = nullptr;
  gpu.beside([&] {
    second = room(8);
    CHECK(second == room(4));
    CHECK_THROWS_AS(gpu.beside([] {}), ContractViolation);
    CHECK_THROWS_AS(gpu.join(), ContractViolation);
  });
  CHECK(first != second);
  CHECK(first == room(8));
  const int allocations = fake_card().allocations;
  gpu.beside([&] { CHECK(room(9) != second); });
  CHECK(first == room(8));
  CHECK(fake_card().allocations == allocations + 1);
}

TEST_CASE("what is thrown beside leaves the first branch", "[cuda]") {
  Layer layer;
  layer.warm_up();
  const cudaStream_t first = layer.gpu.stream();
  cudaStream_t second = first;
  const auto fail = [&] {
    second = layer.gpu.stream();
    throw RunError("stop");
  };
  CHECK_THROWS_AS(layer.gpu.beside(fail), RunError);
  CHECK(second != first);
  CHECK(layer.gpu.stream() == first);
}

TEST_CASE("no graph begins, ends or runs with a branch that is not joined", "[cuda]") {
  Layer layer;
  layer.warm_up();
  const CudaGraph graph = layer.gpu.capture([&] {
    layer.backward();
    layer.gpu.join();
  });
  CHECK_THROWS_AS(layer.gpu.capture([&] { layer.backward(); }), ContractViolation);
  CHECK_FALSE(fake_card().is_capturing);
  cudaDeviceSynchronize();
  layer.backward();
  CHECK_THROWS_AS(layer.gpu.replay(graph), ContractViolation);
  CHECK_THROWS_AS(layer.gpu.capture([] {}), ContractViolation);
  CHECK_FALSE(fake_card().is_capturing);
  layer.gpu.join();
  layer.gpu.replay(graph);
}

TEST_CASE("nothing else runs while ways to multiply are timed", "[cuda]") {
  Layer layer;
  for (int i = 0; i < 2; ++i) layer.gpu.beside([&] { layer.weight_gradient(); });  // the second is under way
  const AccessLog::Clock under_way = fake_card().log.record(1);
  CHECK(fake_card().log.record(0)[1] < under_way[1]);
  layer.input_gradient();  // is timed
  CHECK(fake_card().log.record(0)[1] == under_way[1]);
}

}  // namespace
}  // namespace blinkbert::test
