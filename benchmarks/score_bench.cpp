// Times scoring one window or a batch of them on random rows.

#include "score_bench.hpp"
#include "devices.hpp"
#include "flags.hpp"

int main(int argc, char** argv) {
  using namespace benchmarks;
  ScoreFlags flags;
  CLI::App app("Times scoring a batch of random windows, from rows on the host to scores on the host", "score_bench");
  add_size_flags(app, flags);
  app.add_option("--last-row", flags.last_row, "0: compute the last block for every row")
      ->check(CLI::Range(0, 1))
      ->capture_default_str();
  add_timing_flags(app, flags, "Time nothing: leave weights, rows and scores of one batch in this folder");
  return programs::run_program(app, argc, argv, [&] {
    on_device(flags, [&]<class Device>(std::type_identity<Device>) { run_score_bench<Device>(flags); });
    return programs::good;
  });
}
