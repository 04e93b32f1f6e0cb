#pragma once

// Which backends this build has, and which of them a program runs on. The only place in the programs that knows of CUDA.

#include <filesystem>
#include <type_traits>

#include <blinkbert/model/config.hpp>

#include "command_line.hpp"
#include "instantiations.hpp"

#if defined(BLINKBERT_WITH_CUDA)
#include <blinkbert/io/plans_file.hpp>
#endif

namespace programs {

/// Whether a program runs on a CUDA device; throws InputError where "cuda" asks for one that is not there. "auto" takes it
/// for the precisions that the CPU does not have only: in fp32 the CPU is what the committed results were made on.
inline bool uses_cuda(const CommonFlags& flags, [[maybe_unused]] blinkbert::Precision precision) {
#if defined(BLINKBERT_WITH_CUDA)
  if (flags.device == "cpu") return false;
  const std::string obstacle = blinkbert::cuda_obstacle();
  if (flags.device == "cuda" && !obstacle.empty()) {
    throw blinkbert::InputError("--device cuda: " + obstacle + "; use cpu or auto");
  }
  return obstacle.empty() && (flags.device == "cuda" || precision != blinkbert::Precision::fp32);
#else
  if (flags.device == "cuda")
    throw blinkbert::InputError("--device cuda: this build has no CUDA (cmake --preset cuda has); use cpu or auto");
  return false;
#endif
}

/// Calls body(std::type_identity<Device>()) with the backend that `--device` names and that works in float.
template <class Body>
int on_float_device(const CommonFlags& flags, blinkbert::Precision precision, const Body& body) {
#if defined(BLINKBERT_WITH_CUDA)
  if (uses_cuda(flags, precision)) return body(std::type_identity<blinkbert::Cuda<float>>());
#endif
  uses_cuda(flags, precision);
  return body(std::type_identity<blinkbert::Cpu<float>>());
}

/// Throws InputError where the device that `--device` names does not train in this precision.
inline void check_device(const CommonFlags& flags, blinkbert::Precision precision) {
  if (uses_cuda(flags, precision) || precision == blinkbert::Precision::fp32) return;
  const std::string obstacle = precision == blinkbert::Precision::bf16 ? blinkbert::Cpu<float>::bf16_obstacle()
                                                                       : "the CPU trains in \"fp32\" or \"bf16\"";
  if (obstacle.empty()) return;
  throw blinkbert::InputError(blinkbert::text("train.precision = \"", blinkbert::spell(precision), "\": ", obstacle,
                                              "; \"fp32\" is always there"));
}

/// The same for training, in any precision.
template <class Body>
int on_device(const CommonFlags& flags, blinkbert::Precision precision, const Body& body) {
  check_device(flags, precision);
#if defined(BLINKBERT_WITH_CUDA)
  if (precision == blinkbert::Precision::bf16 && uses_cuda(flags, precision)) {
    return body(std::type_identity<blinkbert::Cuda<blinkbert::bf16>>());
  }
#endif
  return on_float_device(flags, precision, body);
}

/// For people.
inline std::string describe(const blinkbert::Cpu<float>& cpu) {
  return blinkbert::text("cpu, ", cpu.threads(), cpu.threads() == 1 ? " thread" : " threads", "; products by ",
                         cpu.describe_products());
}

/// Before a run in `folder`: which precision products have, and the plans that the folder or the user's cache holds.
inline void begin_on_device(blinkbert::Cpu<float>& cpu, blinkbert::Precision precision, const std::filesystem::path&) {
  if (precision == blinkbert::Precision::bf16) cpu.multiply_in_bf16();
}
/// Where a run is saved: the plans that it used.
template <class Device>
void save_plans(Device&, const std::filesystem::path&) {}

#if defined(BLINKBERT_WITH_CUDA)
template <class Real>
std::string describe(const blinkbert::Cuda<Real>&) {
  return "cuda; products by cuBLASLt";
}
template <class Real>
void begin_on_device(blinkbert::Cuda<Real>& device, blinkbert::Precision precision,
                     const std::filesystem::path& folder) {
  if (precision == blinkbert::Precision::tf32) device.use_tf32();
  auto& products = blinkbert::matrix_products(device);
  const std::string name = products.device_and_library();
  products.use(blinkbert::plans_to_use(name, folder / "plans.json", blinkbert::plans_cache(name)));
}
template <class Real>
void save_plans(blinkbert::Cuda<Real>& device, const std::filesystem::path& folder) {
  const auto& products = blinkbert::matrix_products(device);
  const blinkbert::PlansFile file{.device = products.device_and_library(), .plans = products.plans()};
  blinkbert::write_plans(folder / "plans.json", file);
  blinkbert::keep_plans(blinkbert::plans_cache(file.device), file);
}
#endif

}  // namespace programs
