// Runs a checkpoint on arrays and writes outputs, loss and every parameter gradient: for comparing with other frameworks.
// Evaluation mode: no dropout, batch norm with its running values, which are constants in the gradient.

#include <filesystem>
#include <iostream>
#include <optional>

#include <nlohmann/json.hpp>

#include <blinkbert/io/config_file.hpp>
#include <blinkbert/io/npy.hpp>
#include <blinkbert/train/buckets.hpp>
#include <blinkbert/train/checkpoint.hpp>
#include <blinkbert/train/stage.hpp>

#include "devices.hpp"

namespace {

using namespace blinkbert;

struct ParityFlags : programs::CommonFlags {
  std::filesystem::path checkpoint;
  std::optional<std::filesystem::path> input, lengths, masked, target, out;
  bool prints_config = false;
};

/// The arrays of one call, as the model takes them.
struct Arrays {
  int B = 0, L = 0, N = 0;
  std::vector<float> x, target;                    // [B, L, N]; target of fine-tuning [B]
  std::vector<int> lengths;                        // [B]
  std::vector<int> rows, slots, offsets, present;  // what the head reads
  std::vector<std::uint32_t> visible;
  int M = 0;  // chosen rows
};

void demand_shape(const std::filesystem::path& path, const NpyArray& array, const std::vector<int>& wanted) {
  if (array.shape == wanted) return;
  const auto spelled = [](const std::vector<int>& shape) {
    std::string list;
    for (const int extent : shape) list += text(list.empty() ? "" : ", ", extent);
    return "[" + list + "]";
  };
  throw InputError(text(path.string(), ": shape ", spelled(array.shape), ", expected ", spelled(wanted)));
}

Arrays read_arrays(const ParityFlags& flags, const Config& config) {
  const bool pretrains = config.task == Task::pretraining;
  if (flags.target && pretrains && !flags.masked)
    throw InputError("--target with a pre-training checkpoint needs --masked: the rows that the loss reads");
  if (flags.target && !pretrains && flags.masked)
    throw InputError("--target with a fine-tuning checkpoint: --masked has no meaning for its loss, leave it out");
  Arrays arrays;
  const NpyArray x = read_npy(*flags.input);
  if (x.shape.size() != 3)
    throw InputError(text(flags.input->string(), ": has ", x.shape.size(), " axes, expected [B, L, N]"));
  arrays.B = x.shape[0], arrays.L = x.shape[1], arrays.N = x.shape[2];
  demand_shape(*flags.input, x, {arrays.B, arrays.L, model_features(config.data)});
  if (arrays.B < 1 || arrays.L < 1 || arrays.L > config.model.max_length) {
    throw InputError(text(flags.input->string(), ": ", arrays.B, " sequences of ", arrays.L,
                          " rows; the model takes at least 1 of 1 to ", config.model.max_length));
  }
  arrays.x = x.as<float>();
  arrays.lengths.assign(static_cast<std::size_t>(arrays.B), arrays.L);
  if (flags.lengths) {
    const NpyArray lengths = read_npy(*flags.lengths);
    demand_shape(*flags.lengths, lengths, {arrays.B});
    arrays.lengths = lengths.as<int>();
    for (const int length : arrays.lengths) {
      if (length < 0 || length > arrays.L)
        throw InputError(text(flags.lengths->string(), ": a length of ", length, ", expected 0 to ", arrays.L));
    }
  }
  const int T = arrays.B * arrays.L;
  std::vector<bool> masked(static_cast<std::size_t>(T), false);
  if (flags.masked) {
    const NpyArray array = read_npy(*flags.masked);
    demand_shape(*flags.masked, array, {arrays.B, arrays.L});
    const auto values = array.as<bool>();
    std::copy(values.begin(), values.end(), masked.begin());
  }
  arrays.rows.assign(static_cast<std::size_t>(T), -1);
  arrays.slots.assign(static_cast<std::size_t>(T), -1);
  arrays.offsets.assign(static_cast<std::size_t>(arrays.B) + 1, 0);
  arrays.present.assign(static_cast<std::size_t>(arrays.B), 0);
  const int words = visible_words(arrays.L);
  arrays.visible.assign(static_cast<std::size_t>(arrays.B * words), 0);
  for (int b = 0; b < arrays.B; ++b) {
    const int length = arrays.lengths[static_cast<std::size_t>(b)];
    for (int l = 0; l < arrays.L; ++l) {
      const auto t = static_cast<std::size_t>(b * arrays.L + l);
      if (l >= length) {
        if (masked[t])
          throw InputError(text(flags.masked->string(), ": row ", l, " of sequence ", b,
                                " is masked but lies beyond its length ", length));
        continue;
      }
      if (!masked[t]) arrays.visible[static_cast<std::size_t>(b * words + l / 32)] |= std::uint32_t{1} << l % 32;
      const bool is_read = pretrains ? static_cast<bool>(masked[t]) : l == length - 1;
      if (!is_read) continue;
      const int place = pretrains ? arrays.M++ : b;
      arrays.rows[static_cast<std::size_t>(place)] = static_cast<int>(t);
      arrays.slots[t] = place;
      if (!pretrains) arrays.present[static_cast<std::size_t>(b)] = 1;
    }
    arrays.offsets[static_cast<std::size_t>(b) + 1] = pretrains ? arrays.M : b + 1;
  }
  if (flags.target) {
    const NpyArray target = read_npy(*flags.target);
    demand_shape(*flags.target, target,
                 pretrains ? std::vector<int>{arrays.B, arrays.L, arrays.N} : std::vector<int>{arrays.B});
    arrays.target = target.as<float>();
    if (pretrains && arrays.M == 0)
      throw InputError(text(flags.masked->string(), ": chooses no row; the loss needs at least one"));
  }
  return arrays;
}

template <class Stage>
Safetensors run_checkpoint(const ParityFlags& flags, const Safetensors& checkpoint, Config config,
                           const Arrays& arrays) {
  using Model = typename Stage::Model;
  using Device = typename Stage::Device;
  // The loss of the contract, whatever the run was trained with: squared, all weights 1. A loss over levels stays.
  if (!is_over_levels(config.train.loss)) config.train.loss = LossKind::squared;
  config.train.recording_weights = false;
  config.mask.calibration_weight = 1;
  Device device(flags.threads);
  Model model(device, config);
  load_parameters(device, model.parameters(), checkpoint);
  Stage stage(device, config);
  Buckets<Model, Device> buckets(device, model, arrays.B, arrays.L);
  auto& [batch, saved] = buckets(arrays.B, arrays.L);
  upload(device, batch.clean, arrays.x.data());
  upload(device, batch.lengths, arrays.lengths.data());
  upload(device, batch.rows, arrays.rows.data());
  upload(device, batch.slots, arrays.slots.data());
  upload(device, batch.offsets, arrays.offsets.data());
  upload(device, batch.present, arrays.present.data());
  upload(device, batch.visible, arrays.visible.data());
  batch.M = arrays.M;

  ModelInput<float> input{
      .x = batch.clean, .rows = batch.rows.rows(0, arrays.M), .slots = batch.slots, .offsets = batch.offsets};
  if constexpr (!Stage::predicts_rows) {
    input.rows = batch.rows.rows(0, arrays.B);
    input.present = batch.present;
  }
  const Pass pass = batch.pass(Mode::evaluation, 0, 0, 0);
  const View<const float, 2> output = model.forward(device, pass, input, saved);

  Safetensors result;
  std::vector<float> values(static_cast<std::size_t>(output.size()));
  download(device, values.data(), output);
  std::vector<std::int64_t> shape{output.extent(0), output.extent(1)};
  if (model.rows() == HeadRows::all) shape = {arrays.B, arrays.L, arrays.N};
  if (!Stage::predicts_rows && output.extent(1) == 1) shape = {arrays.B};
  result.tensors["output"] = Tensor::of<float>(shape, values);
  if (!flags.target) return result;

  if constexpr (Stage::predicts_rows) {
    upload(device, batch.target, arrays.target.data());
    stage.objective().begin_step(device, arrays.M);
  } else {
    upload(device, batch.scores, arrays.target.data());
    stage.objective().begin_step(device, arrays.B);
  }
  stage.objective().run_loss(device, batch, model.rows(), saved.doutput.rows(0, output.extent(0)), output);
  model.backward(device, pass, saved);
  const std::vector<float> sums = to_host(device, stage.objective().sums());
  const float loss =
      static_cast<float>(stage.objective().loss(sums.data(), Stage::predicts_rows ? arrays.M : arrays.B));
  result.tensors["loss"] = Tensor::of<float>({}, std::span(&loss, 1));
  auto& set = model.parameters();
  add_tensors<ParameterSet<Device>>(result.tensors, "grad.", set.entries(), to_host(device, set.gradients()));
  return result;
}

template <class Device>
int parity(const ParityFlags& flags) {
  const Safetensors checkpoint = read_safetensors(flags.checkpoint);
  const CheckpointHeader header = read_header(checkpoint);
  if (flags.prints_config) {
    std::cout << to_toml(header.config);
    return programs::good;
  }
  if (!flags.input) throw InputError("--input is required: x.npy, [B, L, N] float (see --help)");
  if (!flags.out) throw InputError("--out is required: the folder for parity.safetensors (see --help)");
  const Arrays arrays = read_arrays(flags, header.config);
  const Safetensors result = header.config.task == Task::pretraining
                                 ? run_checkpoint<PretrainingStage<Device>>(flags, checkpoint, header.config, arrays)
                                 : run_checkpoint<FinetuningStage<Device>>(flags, checkpoint, header.config, arrays);
  std::error_code error;
  std::filesystem::create_directories(*flags.out, error);
  if (error) throw RunError(text("cannot make the folder ", flags.out->string(), ": ", error.message()));
  const std::filesystem::path path = *flags.out / "parity.safetensors";
  write_safetensors(path, result);
  const auto loss = result.tensors.find("loss");
  if (flags.wants_json) {
    nlohmann::ordered_json json{{"file", path.string()}, {"tensors", result.tensors.size()}};
    if (loss != result.tensors.end()) json["loss"] = loss->second.as<float>()[0];
    std::cout << json.dump() << '\n';
  } else {
    std::cout << path.string() << ": " << result.tensors.size() << " tensors";
    if (loss != result.tensors.end()) std::cout << ", loss " << loss->second.as<float>()[0];
    std::cout << '\n';
  }
  return programs::good;
}

}  // namespace

int main(int argc, char** argv) {
  ParityFlags flags;
  CLI::App app("Runs a checkpoint on arrays and writes outputs, loss and gradients", "parity");
  app.add_option("--checkpoint", flags.checkpoint, "Checkpoint of either task")->required();
  app.add_option("--input", flags.input, "x.npy [B, L, N] float, used as it is: already scaled and masked");
  app.add_option("--lengths", flags.lengths, "n.npy [B] int32: real rows of each sequence; all without it");
  app.add_option("--masked", flags.masked, "m.npy [B, L] bool: rows hidden as keys, and the rows of the loss");
  app.add_option("--target", flags.target, "t.npy [B, L, N], or [B] for fine-tuning: writes loss and gradients too");
  app.add_option("--out", flags.out, "Folder for parity.safetensors");
  app.add_flag("--print-config", flags.prints_config, "Print the checkpoint's configuration and leave");
  programs::add_device_flags(app, flags);
  programs::add_output_flags(app, flags);
  return programs::run_program(app, argc, argv, [&] {
    return programs::on_float_device(flags, Precision::fp32,
                                     [&]<class Device>(std::type_identity<Device>) { return parity<Device>(flags); });
  });
}
