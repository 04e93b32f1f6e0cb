#pragma once

// Flags that step_bench and score_bench share, with the same meaning in the peers.

#include <map>
#include <string>
#include <vector>

#include "../examples/command_line.hpp"
#include "measure.hpp"

namespace benchmarks {

inline CLI::Validator one_of(const std::vector<std::string>& words) { return CLI::IsMember(words); }

inline void add_size_flags(CLI::App& app, Sizes& sizes) {
  app.add_option("--B", sizes.B, "Sequences in a batch")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--L", sizes.L, "Rows per sequence")->capture_default_str();
  app.add_option("--E", sizes.E, "Width of the encoder")->capture_default_str();
  app.add_option("--heads", sizes.heads, "Attention heads")->capture_default_str();
  app.add_option("--blocks", sizes.blocks, "Encoder blocks")->capture_default_str();
  app.add_option("--N", sizes.N, "Features of a row")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--upscaling", sizes.upscaling, "model.upscaling")->capture_default_str();
  app.add_option("--norm", sizes.norm, "model.norm")->capture_default_str();
}

inline void add_timing_flags(CLI::App& app, Timing& timing, const std::string& check_help) {
  app.add_option("--device", timing.device, "Where to run")->check(one_of({"cpu", "cuda"}))->capture_default_str();
  app.add_option("--dtype", timing.dtype, "Numbers of the passes; all but fp32 with CUDA only")
      ->check(one_of({"fp32", "tf32", "bf16"}))
      ->capture_default_str();
  app.add_option("--products", timing.products, "CPU: who may multiply, at most")
      ->transform(CLI::CheckedTransformer(std::map<std::string, int>{{"portable", 0}, {"onednn", 1}, {"amx", 2}}))
      ->option_text("{portable,onednn,amx} [amx]");
  app.add_option("--threads", timing.threads, "Threads; 0 takes all")->check(CLI::Range(0, 4096));
  app.add_option("--seconds", timing.seconds, "How long is measured")->capture_default_str();
  app.add_option("--warmup", timing.warmup, "Seconds before that which do not count")->capture_default_str();
  app.add_option("--weights", timing.weights, "Write the model there before it runs, as a checkpoint");
  app.add_option("--json", timing.json, "Write the result there, with the time of every repetition");
  app.add_option("--check", timing.check, check_help);
  app.set_version_flag("--version", std::string("blinkbert ") + BLINKBERT_VERSION, "Print the version and leave");
}

}  // namespace benchmarks
