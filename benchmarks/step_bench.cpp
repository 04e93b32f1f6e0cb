// Times one whole training step of the pre-training model on random rows.

#include "step_bench.hpp"
#include "devices.hpp"
#include "flags.hpp"

int main(int argc, char** argv) {
  using namespace benchmarks;
  StepFlags flags;
  CLI::App app("Times a training step (batch, forward, loss, backward, clipping, AdamW) on random rows", "step_bench");
  add_size_flags(app, flags);
  app.add_option("--dropout", flags.dropout, "Everywhere in the model")->capture_default_str();
  app.add_option("--mask-rate", flags.mask_rate, "Share of the rows that are chosen")->capture_default_str();
  app.add_option("--hide", flags.hide, "1: chosen rows are hidden as keys")
      ->check(CLI::Range(0, 1))
      ->capture_default_str();
  app.add_option("--head-rows", flags.head_rows, "head.rows: all, masked")->capture_default_str();
  app.add_option("--last-block", flags.last_block, "model.last_block: all, read")->capture_default_str();
  app.add_option("--graph", flags.graph, "CUDA: 1 captures what a step issues and replays it, 0 issues it op by op")
      ->check(CLI::Range(0, 1))
      ->capture_default_str();
  app.add_option("--branches", flags.branches, "CUDA: 2 makes weight gradients beside the other ops, 1 in turn")
      ->check(CLI::Range(1, 2))
      ->capture_default_str();
  add_timing_flags(app, flags,
                   "Time nothing: leave weights, batches, losses and gradients of a few steps in this folder");
  return programs::run_program(app, argc, argv, [&] {
    on_device(flags, [&]<class Device>(std::type_identity<Device>) { run_step_bench<Device>(flags); });
    return programs::good;
  });
}
