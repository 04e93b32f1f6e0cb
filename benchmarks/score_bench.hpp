#pragma once

// Scoring windows with the fine-tuning model, as the library's inference does: gathering the batch, the forward pass in
// evaluation mode, the scores on the host. A template over the backend.

#include <span>
#include <string>
#include <vector>

#include <blinkbert/train/predict.hpp>

#include "measure.hpp"

namespace benchmarks {

struct ScoreFlags : Sizes, Timing {
  int last_row = 1;  // 1 = the last block is computed for the last row alone
  ScoreFlags() { B = 1; }
};

/// The fine-tuning model with the last block computed for every row: the work of a graph that does not know which row is
/// read. The same parameters and scores.
template <Backend Device>
class EveryRowModel : public EncoderWithHead<Device> {
 public:
  EveryRowModel(Device& device, const Config& config)
      : EncoderWithHead<Device>(device, config, 1, HeadRows::masked, LastBlock::all) {}
};

template <Backend Device>
class EveryRowStage : public FinetuningStage<Device> {
 public:
  using Model = EveryRowModel<Device>;
  using FinetuningStage<Device>::FinetuningStage;
};

/// Scores batches in turn for the time asked, or, where flags.check names a folder, one batch, and leaves there
/// weights.safetensors and ours.safetensors: the rows `x` [B, L, N] and their `scores` [B].
template <class Stage>
void time_scores(const ScoreFlags& flags) {
  using Device = typename Stage::Device;
  using Model = typename Stage::Model;
  const Config config = make_config(Task::finetuning, config_keys(flags));
  const double begin = now_in_ms();
  DeviceNotes<Device> notes;
  Device device(flags.threads);
  notes.set_up(device, flags);
  if constexpr (KeepsWeights<Device>) device.keep_weights(KeptWeightsOf<Device>{}.shared);
  Model model(device, config);
  const Stage stage(device, config);
  const RandomWindows data(batches * flags.B, flags.L, flags.N);
  BatchLoader<Device> loader(data.table);
  Buckets<Model, Device> buckets(device, model, flags.B, flags.L, PassPlan::inference);
  if (!flags.weights.empty()) write_weights(device, model.parameters(), config, flags.weights);

  std::vector<float> scores;
  const auto score_batch = [&](std::size_t i) {
    scores.clear();
    const auto B = static_cast<std::size_t>(flags.B);
    predict(device, model, stage, buckets, loader, std::span(data.windows).subspan(i * B, B), flags.B,
            [&](const WindowPrediction& one) { scores.push_back(one.values[0]); });
  };

  if (!flags.check.empty()) {
    std::filesystem::create_directories(flags.check);
    write_weights(device, model.parameters(), config, flags.check / "weights.safetensors");
    score_batch(0);
    Safetensors ours;
    const auto count = static_cast<std::size_t>(flags.B * flags.L * flags.N);
    ours.tensors["x"] = Tensor::of<float>({flags.B, flags.L, flags.N}, std::span(data.table.x).first(count));
    ours.tensors["scores"] = Tensor::of<float>({flags.B}, scores);
    write_safetensors(flags.check / "ours.safetensors", ours);
    std::cout << flags.check.string() << ": " << scores.size() << " scores\n";
    return;
  }

  Repetitions passes(flags.warmup, flags.seconds);
  for (std::size_t i = 0; !passes.is_done(); i = (i + 1) % batches) {
    score_batch(i);
    passes.note();
  }
  const double last = model.last_block() == LastBlock::all ? flags.B * flags.L : flags.B;
  const Flops flops = count_flops(config, flags.B, flags.L, flags.B, last, 1);
  const double memory = peak_memory_mib();
  notes.look_at_memory();
  Json result = make_result("score", flags, flags, threads_of(device),
                            {.ms = passes.ms(),
                             .flops = flops.forward,
                             .peak_memory_mib = memory,
                             .gemm_rate = measure_gemm_rate(device, flags),
                             .start_seconds = (passes.first() - begin) / 1e3});
  notes.add_to(result, device);
  result["last_row"] = flags.last_row;
  report(result, flags);
}

template <class Device>
void run_score_bench(const ScoreFlags& flags) {
  if (flags.last_row == 1) {
    time_scores<FinetuningStage<Device>>(flags);
  } else {
    time_scores<EveryRowStage<Device>>(flags);
  }
}

}  // namespace benchmarks
