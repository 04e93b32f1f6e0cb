#pragma once

// What a trainer issues again and again, captured once and replayed, on devices that can.

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

#include <blinkbert/backend/backend.hpp>

namespace blinkbert {

/// What an issued body depends on beside memory that stays where it is: sizes, and scalars that stand in its ops.
struct GraphKey {
  int B = 0, L = 0, M = 0;
  std::int64_t normaliser = 0;
  std::uint32_t first_sequence = 0;

  auto operator<=>(const GraphKey&) const = default;
};

/// Runs bodies op by op.
template <class Device>
class Graphs {
 public:
  explicit Graphs(bool /*is_wanted*/) {}
  void clear() {}

  template <class Body>
  void run(Device&, const GraphKey&, const Body& body) {
    body();
  }
};

/// Captures a body when it comes for the second time (by then it has the workspace it needs), and replays it from then on.
template <CapturesGraphs Device>
class Graphs<Device> {
 public:
  explicit Graphs(bool is_wanted) : is_wanted_(is_wanted) {}
  void clear() { graphs_.clear(); }

  template <class Body>
  void run(Device& device, const GraphKey& key, const Body& body) {
    if (is_wanted_ && (graphs_.contains(key) || graphs_.size() < most_graphs)) {
      Graph& graph = graphs_[key];
      if (graph.was_issued) {
        if (!graph.captured) graph.captured = device.capture(body);
        return device.replay(*graph.captured);
      }
      graph.was_issued = true;
    }
    body();
  }

 private:
  /// Few sizes fill an epoch; bodies of further ones are issued op by op.
  static constexpr std::size_t most_graphs = 64;

  struct Graph {
    bool was_issued = false;
    std::optional<typename Device::Graph> captured;
  };

  bool is_wanted_;
  std::map<GraphKey, Graph> graphs_;
};

}  // namespace blinkbert
