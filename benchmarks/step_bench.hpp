#pragma once

// One training step of the pre-training model, by the library's own trainer: gathering and masking the batch, forward,
// loss, backward, clipping, AdamW. A template over the backend.

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <blinkbert/train/trainer.hpp>

#include "measure.hpp"
#include "profile.hpp"

namespace benchmarks {

/// Steps that a check compares: enough to see the optimizer at work.
inline constexpr int check_steps = 3;

struct StepFlags : Sizes, Timing {
  double dropout = 0.01, mask_rate = 0.15;
  int hide = 1;  // 1 = masked rows are hidden as keys
  std::string head_rows = "all", last_block = "all";
  int graph = 1;     // CUDA: 1 = what a step issues is captured and replayed
  int branches = 2;  // CUDA: 2 = weight gradients run beside the other ops
};

inline Config step_config(const StepFlags& flags) {
  nlohmann::json keys = config_keys(flags);
  keys["model"].update({{"dropout", flags.dropout}, {"last_block", flags.last_block}});
  keys["head"] = {{"dropout", flags.dropout}, {"rows", flags.head_rows}};
  keys["mask"] = {{"rate", flags.mask_rate}, {"hide", flags.hide == 1 ? "chosen" : "none"}};
  // The same rate at every step.
  keys["train"].update(
      {{"epochs", std::numeric_limits<int>::max()}, {"warmup", 0.0}, {"decay", 1.0}, {"graph", flags.graph == 1}});
  return make_config(Task::pretraining, keys);
}

/// What the step before read, as step `i` of a check: masked rows `x`, `target` [B, L, N]; which rows are `chosen` and
/// which are `visible` as keys [B, L].
template <class Device>
void add_batch(std::map<std::string, Tensor>& tensors, Device& device, const DeviceBatch<Device>& batch, int i) {
  const int B = batch.B(), L = batch.L(), N = batch.clean.extent(2), words = visible_words(L);
  const auto read = [&](auto view) { return to_host(device, reshape(view, {static_cast<int>(view.size())})); };
  const auto x = read(batch.masked);
  const auto target = read(batch.target);
  const auto rows = read(batch.rows.rows(0, batch.M));
  const auto bits = read(batch.visible);
  std::vector<std::uint8_t> chosen(static_cast<std::size_t>(B * L), 0), visible(chosen.size(), 0);
  for (const int row : rows) chosen[static_cast<std::size_t>(row)] = 1;
  for (int b = 0; b < B; ++b) {
    for (int l = 0; l < L; ++l) {
      visible[static_cast<std::size_t>(b * L + l)] = bits[static_cast<std::size_t>(b * words + l / 32)] >> l % 32 & 1u;
    }
  }
  const std::vector<float> x_values(x.begin(), x.end()), target_values(target.begin(), target.end());
  tensors[text("x.", i)] = Tensor::of<float>({B, L, N}, x_values);
  tensors[text("target.", i)] = Tensor::of<float>({B, L, N}, target_values);
  tensors[text("chosen.", i)] = Tensor::of<std::uint8_t>({B, L}, chosen);
  tensors[text("visible.", i)] = Tensor::of<std::uint8_t>({B, L}, visible);
}

/// Milliseconds of a step by op, "other" what no op takes, and `gemm_share`: the share of the ops that are products (with their
/// bias, GELU and residual).
inline Json profile_step(const StepFlags& flags) {
  using Stage = PretrainingStage<ProfiledCpu>;
  const Config config = step_config(flags);
  ProfiledCpu cpu(flags.threads);
  DeviceNotes<ProfiledCpu>().set_up(cpu, flags);
  Stage::Model model(cpu, config);
  Stage stage(cpu, config);
  const RandomWindows data(batches * flags.B, flags.L, flags.N);
  BatchLoader<ProfiledCpu> loader(data.table);
  Buckets<Stage::Model, ProfiledCpu> buckets(cpu, model, flags.B, flags.L);
  Trainer<Stage> trainer(cpu, model, stage, loader, buckets, data.windows, config.train, std::nullopt);
  double begin = 0;
  int steps = -1;  // the first is not counted
  trainer.train({.after_step =
                     [&](const StepReport&) {
                       if (++steps == 0) {
                         cpu.ms.clear();
                         begin = now_in_ms();
                       }
                     },
                 .should_stop = [&] { return steps >= 3 && now_in_ms() - begin > 300; }});
  const double whole = now_in_ms() - begin;
  double products = 0, ops = 0;
  Json by_op;
  for (const auto& [name, ms] : cpu.ms) {
    by_op[name] = ms / steps;
    ops += ms;
    if (name.starts_with("Linear") || name.starts_with("EmbedRows")) products += ms;
  }
  by_op["other"] = (whole - ops) / steps;
  return {{"ms_by_op", by_op}, {"gemm_share", products / whole}};
}

/// Trains: for the time asked, or, where flags.check names a folder, a few steps that leave there weights.safetensors
/// (before the first step) and ours.safetensors: what each step read, its `loss.<i>`, and the gradients of the first,
/// `grad.<name>`.
template <class Device>
void run_step_bench(const StepFlags& flags) {
  using Stage = PretrainingStage<Device>;
  using Model = typename Stage::Model;
  const Config config = step_config(flags);
  const bool checks = !flags.check.empty();
  if (checks && flags.dropout != 0) throw InputError("--check needs --dropout 0: peers draw other random numbers");

  const double begin = now_in_ms();
  DeviceNotes<Device> notes;
  Device device(flags.threads);
  notes.set_up(device, flags);
  if constexpr (HasSecondBranch<Device>) {
    if (flags.branches == 1) device.use_one_branch();
  }
  Model model(device, config);
  Stage stage(device, config);
  const RandomWindows data(batches * flags.B, flags.L, flags.N);
  BatchLoader<Device> loader(data.table);
  Buckets<Model, Device> buckets(device, model, flags.B, flags.L);
  Trainer<Stage> trainer(device, model, stage, loader, buckets, data.windows, config.train, std::nullopt);
  if (!flags.weights.empty()) write_weights(device, model.parameters(), config, flags.weights);

  if (checks) {
    std::filesystem::create_directories(flags.check);
    write_weights(device, model.parameters(), config, flags.check / "weights.safetensors");
    Safetensors ours;
    int steps = 0;
    float loss = 0;
    trainer.train({.after_step = [&](const StepReport& step) { loss = static_cast<float>(step.loss); },
                   .should_stop = [&] { return steps == check_steps; },
                   .should_save = [] { return true; },
                   .save =
                       [&] {
                         add_batch(ours.tensors, device, buckets(flags.B, flags.L).batch, steps);
                         ours.tensors[text("loss.", steps)] = Tensor::of<float>({}, std::span(&loss, 1));
                         if (steps == 0) {
                           const auto& set = model.parameters();
                           add_tensors<ParameterSet<Device>>(ours.tensors, "grad.", set.entries(),
                                                             to_host(device, set.gradients()));
                         }
                         ++steps;
                       }});
    write_safetensors(flags.check / "ours.safetensors", ours);
    std::cout << flags.check.string() << ": " << check_steps << " steps, " << ours.tensors.size() << " tensors\n";
    return;
  }

  Repetitions steps(flags.warmup, flags.seconds, per_block<Device>);
  double loss = 0;
  trainer.train({.after_step =
                     [&](const StepReport& step) {
                       steps.note();
                       loss = step.loss;
                     },
                 .should_stop = [&] { return steps.is_done(); }});

  const int T = flags.B * flags.L, M = buckets(flags.B, flags.L).batch.M;
  const double read = model.rows() == HeadRows::all ? T : M, last = model.last_block() == LastBlock::all ? T : M;
  const Flops flops = count_flops(config, flags.B, flags.L, read, last, flags.N);
  const double memory = peak_memory_mib();
  notes.look_at_memory();
  Json result = make_result("step", flags, flags, threads_of(device),
                            {.ms = steps.ms(),
                             .flops = flops.training,
                             .peak_memory_mib = memory,
                             .gemm_rate = measure_gemm_rate(device, flags),
                             .start_seconds = (steps.first() - begin) / 1e3});
  notes.add_to(result, device);
  result["dropout"] = flags.dropout;
  result["mask_rate"] = flags.mask_rate;
  result["hide"] = flags.hide;
  result["head_rows"] = flags.head_rows;
  result["last_block"] = flags.last_block;
  result["graph"] = CapturesGraphs<Device> ? flags.graph : 0;
  result["branches"] = HasSecondBranch<Device> ? flags.branches : 1;
  result["chosen_rows"] = M;
  result["loss"] = loss;
  if constexpr (std::is_same_v<Device, Cpu<float>>) result.update(profile_step(flags));
  report(result, flags);
}

}  // namespace benchmarks
