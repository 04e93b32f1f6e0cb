#pragma once

// ParameterSet: all parameters of a model in flat blocks.
//
//   values      wide, the master copy that the optimizer moves and checkpoints hold
//   working     Real, what the ops read; the same memory where Real is the wide type
//   gradients   wide
//   statistics  wide: batch norm's running values; not trained
//
// Layers `add` while they are constructed and keep handles; `allocate` then makes the blocks. The order of adding is the
// order in the blocks, so parameters lie layer by layer.

#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include <blinkbert/backend/backend.hpp>
#include <blinkbert/core/random.hpp>
#include <blinkbert/core/segment.hpp>
#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// Where a parameter starts.
struct Init {
  enum class Kind { constant, uniform, normal };
  Kind kind = Kind::constant;
  double amount = 0;  // the constant; the bound of +-bound; the standard deviation

  static Init constant(double value) { return {Kind::constant, value}; }
  static Init uniform(double bound) { return {Kind::uniform, bound}; }
  static Init normal(double deviation) { return {Kind::normal, deviation}; }
  /// +-sqrt(6 / (in + out)). Source: Glorot, Bengio 2010, eq. 16.
  static Init xavier_uniform(int in, int out) { return uniform(std::sqrt(6.0 / (in + out))); }
  /// +-1 / sqrt(in).
  static Init fan_in_uniform(int in) { return uniform(1.0 / std::sqrt(in)); }

  /// Value of an element: a function of the seed, the parameter's ordinal and the element's number.
  double value(std::uint64_t seed, std::uint32_t ordinal, std::uint32_t element) const {
    if (kind == Kind::constant) return amount;
    const RandomWords words =
        RandomStream{.seed = seed, .purpose = Purpose::initial_values}.words(element / 4, ordinal);
    if (kind == Kind::uniform) return amount * (2 * unit_interval(words[element % 4]) - 1);
    // Box, Muller 1958: two words give two normals; the half keeps the logarithm finite.
    const std::size_t pair = element % 4 / 2;
    const double radius = std::sqrt(-2 * std::log((words[2 * pair] + 0.5) * 0x1p-32));
    const double angle = 2 * 3.14159265358979323846 * unit_interval(words[2 * pair + 1]);
    return amount * radius * (element % 2 == 0 ? std::cos(angle) : std::sin(angle));
  }
};

enum class Decay { yes, no };

template <class Device>
class ParameterSet;

/// A handle of one parameter; valid once the set has allocated its blocks.
template <class Device>
class Parameter {
 public:
  using Real = typename Device::Real;

  Parameter() = default;
  explicit operator bool() const { return set_ != nullptr; }

  template <int Rank>
  View<const Wide<Real>, Rank> value() const {
    return set_->template shaped<Rank>(set_->values(), index_);
  }
  template <int Rank>
  View<const Real, Rank> working() const {
    return set_->template shaped<Rank>(set_->working(), index_);
  }
  template <int Rank>
  Acc<Wide<Real>, Rank> gradient() const {
    return Acc{set_->template shaped<Rank>(set_->gradients(), index_)};
  }

 private:
  friend class ParameterSet<Device>;
  Parameter(const ParameterSet<Device>& set, int index) : set_(&set), index_(index) {}

  const ParameterSet<Device>* set_ = nullptr;
  int index_ = 0;
};

/// A handle of running values: one vector that batch norm reads and moves.
template <class Device>
class Statistic {
 public:
  Statistic() = default;
  View<Wide<typename Device::Real>, 1> value() const { return set_->statistic(index_); }

 private:
  friend class ParameterSet<Device>;
  Statistic(const ParameterSet<Device>& set, int index) : set_(&set), index_(index) {}

  const ParameterSet<Device>* set_ = nullptr;
  int index_ = 0;
};

template <class Device>
class ParameterSet {
 public:
  using Real = typename Device::Real;

  /// Name, shape and place of a parameter in the blocks, or of a statistic in its own block.
  struct Entry {
    std::string name;
    std::vector<int> shape;
    std::int64_t begin = 0;
    std::int64_t count = 0;
    Init init;
  };

  ParameterSet() = default;
  ParameterSet(const ParameterSet&) = delete;  // handles point here
  ParameterSet& operator=(const ParameterSet&) = delete;

  /// Parameters added from now on belong to this group: 0 embedding, 1..n encoder blocks, n + 1 head.
  void enter_group(int group) { group_ = group; }

  Parameter<Device> add(const std::string& name, std::vector<int> shape, Init init, Decay decay) {
    BLINKBERT_EXPECTS(!values_memory_.data(), name);
    entries_.push_back(place(name, std::move(shape), init, parameter_count_));
    const Entry& entry = entries_.back();
    segments_.push_back(
        {.begin = entry.begin, .end = entry.begin + entry.count, .group = group_, .decays = decay == Decay::yes});
    parameter_count_ = align(entry.begin + entry.count);
    return {*this, static_cast<int>(entries_.size()) - 1};
  }

  Statistic<Device> add_statistic(const std::string& name, int width, double start) {
    BLINKBERT_EXPECTS(!values_memory_.data(), name);
    statistic_entries_.push_back(place(name, {width}, Init::constant(start), statistic_count_));
    statistic_count_ = align(statistic_entries_.back().begin + width);
    return {*this, static_cast<int>(statistic_entries_.size()) - 1};
  }

  /// Makes the blocks and fills in the initial values of `seed`; gradients are zero.
  void allocate(Device& device, std::uint64_t seed) {
    const auto bytes = [](std::int64_t count, std::size_t size) { return static_cast<std::size_t>(count) * size; };
    values_memory_ = device.allocate(bytes(parameter_count_, sizeof(Wide<Real>)));
    if constexpr (!std::is_same_v<Real, Wide<Real>>) {
      working_memory_ = device.allocate(bytes(parameter_count_, sizeof(Real)));
    }
    gradients_memory_ = device.allocate(bytes(parameter_count_, sizeof(Wide<Real>)));
    statistics_memory_ = device.allocate(bytes(std::max<std::int64_t>(statistic_count_, 1), sizeof(Wide<Real>)));
    fill_zero(device, values());
    fill_zero(device, gradients());
    fill_zero(device, statistics());

    std::vector<Wide<Real>> start;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      start.resize(static_cast<std::size_t>(entries_[i].count));
      for (std::size_t e = 0; e < start.size(); ++e) {
        start[e] = static_cast<Wide<Real>>(
            entries_[i].init.value(seed, static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(e)));
      }
      upload(device, slice(values(), entries_[i]), start.data());
    }
    for (const Entry& entry : statistic_entries_) {
      start.assign(static_cast<std::size_t>(entry.count), static_cast<Wide<Real>>(entry.init.amount));
      upload(device, slice(statistics(), entry), start.data());
    }
    refresh_working(device);
  }

  /// Rounds the master values into the working block; call after writing to `values` by other means than AdamW.
  void refresh_working([[maybe_unused]] Device& device) {
    if constexpr (!std::is_same_v<Real, Wide<Real>>) run(device, Narrowing<Real>{.y = working(), .x = values()});
  }

  View<Wide<Real>, 1> values() const { return block<Wide<Real>>(values_memory_, parameter_count_); }
  View<Real, 1> working() const {
    if constexpr (std::is_same_v<Real, Wide<Real>>) {
      return values();
    } else {
      return block<Real>(working_memory_, parameter_count_);
    }
  }
  View<Wide<Real>, 1> gradients() const { return block<Wide<Real>>(gradients_memory_, parameter_count_); }
  View<Wide<Real>, 1> statistics() const { return block<Wide<Real>>(statistics_memory_, statistic_count_); }
  View<Wide<Real>, 1> statistic(int index) const {
    return slice(statistics(), statistic_entries_[static_cast<std::size_t>(index)]);
  }

  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<Entry>& statistic_entries() const { return statistic_entries_; }
  /// One per entry, in the same order. `first_trainable` and `skips_before` are the trainer's to set.
  std::vector<Segment>& segments() { return segments_; }
  const std::vector<Segment>& segments() const { return segments_; }

  /// Elements of one entry in a flat block.
  template <class T>
  static View<T, 1> slice(View<T, 1> flat, const Entry& entry) {
    return {flat.data() + entry.begin, {static_cast<int>(entry.count)}};
  }

  template <int Rank, class T>
  View<T, Rank> shaped(View<T, 1> flat, int index) const {
    const Entry& entry = entries_[static_cast<std::size_t>(index)];
    BLINKBERT_EXPECTS(entry.shape.size() == Rank, entry.name);
    std::array<int, Rank> extents{};
    for (std::size_t axis = 0; axis < Rank; ++axis) extents[axis] = entry.shape[axis];
    return {flat.data() + entry.begin, extents};
  }

 private:
  static std::int64_t align(std::int64_t count) {
    return (count + segment_alignment - 1) / segment_alignment * segment_alignment;
  }

  static Entry place(const std::string& name, std::vector<int> shape, Init init, std::int64_t begin) {
    std::int64_t count = 1;
    for (const int extent : shape) count *= extent;
    BLINKBERT_EXPECTS(count > 0 && begin + count < (std::int64_t{1} << 31), name, count);
    return {.name = name, .shape = std::move(shape), .begin = begin, .count = count, .init = init};
  }

  template <class T>
  static View<T, 1> block(const typename Device::Memory& memory, std::int64_t count) {
    return {reinterpret_cast<T*>(memory.data()), {static_cast<int>(count)}};
  }

  std::vector<Entry> entries_, statistic_entries_;
  std::vector<Segment> segments_;
  std::int64_t parameter_count_ = 0, statistic_count_ = 0;
  int group_ = 0;
  typename Device::Memory values_memory_, working_memory_, gradients_memory_, statistics_memory_;
};

/// Copies the parameters of the backbone from one model to another of the same configuration. Throws ContractViolation
/// where they differ.
template <class Device>
void copy_backbone(Device& device, ParameterSet<Device>& to, const ParameterSet<Device>& from) {
  using Set = ParameterSet<Device>;
  for (std::size_t i = 0; i < to.entries().size() && to.entries()[i].name.starts_with("backbone."); ++i) {
    const typename Set::Entry& entry = to.entries()[i];
    BLINKBERT_EXPECTS(i < from.entries().size() && from.entries()[i].name == entry.name, entry.name);
    copy(device, Set::slice(to.values(), entry), Set::slice(from.values(), from.entries()[i]));
  }
  to.refresh_working(device);
}

}  // namespace blinkbert
