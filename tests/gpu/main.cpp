// gpu_tests: the tests of ops and whole training runs on a card. Without a card it says why it skipped and leaves with 77.

#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include <blinkbert/cuda.hpp>

int main(int argc, char** argv) {
  const std::string obstacle = blinkbert::cuda_obstacle();
  const bool only_lists = argc > 1 && std::string_view(argv[1]).starts_with("--list");
  if (!obstacle.empty() && !only_lists) {
    std::cout << "skipped: " << obstacle << '\n';
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
