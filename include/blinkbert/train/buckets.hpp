#pragma once

#include <algorithm>
#include <map>
#include <utility>

#include <blinkbert/objective/device_batch.hpp>

namespace blinkbert {

/// The memory of a model's passes: one plan per (B, L), all in the same arena. The largest size is planned first, so
/// that later ones fit into its memory.
template <class Model, Backend Device>
class Buckets {
 public:
  struct Bucket {
    DeviceBatch<Device> batch;
    typename Model::Saved saved;
  };

  Buckets(Device& device, const Model& model, int largest_B, int largest_L, PassPlan passes = PassPlan::training)
      : arena_(device), model_(&model), passes_(passes) {
    (*this)(largest_B, largest_L);
  }

  /// What it holds is overwritten by whatever bucket is used next.
  Bucket& operator()(int B, int L) {
    const auto found = buckets_.find({B, L});
    if (found != buckets_.end()) return found->second;
    arena_.restart();
    Bucket bucket{.batch = DeviceBatch<Device>::plan(arena_, B, L, model_->features()),
                  .saved = model_->plan(arena_, B, L, passes_)};
    return buckets_.emplace(std::pair{B, L}, std::move(bucket)).first->second;
  }

  /// How many windows of length L one pass best takes where `count` are there: all of them; where passes keep nothing for a
  /// backward pass, as many as stay near from layer to layer, in passes of about the same size.
  int windows_at_once(const Device& device, int count, int L) const {
    if constexpr (HoldsRowsNear<Device>) {
      if (passes_ == PassPlan::inference) {
        const int most = std::max(1, device.near_rows(model_->widest()) / L);
        const int parts = (count + most - 1) / most;
        return (count + parts - 1) / parts;
      }
    }
    return count;
  }

  /// Bytes of the arena.
  std::size_t capacity() const { return arena_.capacity(); }

 private:
  Arena<Device> arena_;
  const Model* model_;
  PassPlan passes_;
  std::map<std::pair<int, int>, Bucket> buckets_;
};

}  // namespace blinkbert
