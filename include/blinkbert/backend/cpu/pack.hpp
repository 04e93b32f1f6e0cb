#pragma once

// Pack: as many numbers as one register of the machine holds, by the compiler's vector extension. Loops over packs do
// not depend on what an optimizer finds out, and treat an element alike wherever it stands.

#include <cstdint>
#include <cstring>

namespace blinkbert::cpu_detail {

#if defined(__AVX512F__)
inline constexpr int pack_bytes = 64;
#elif defined(__AVX__)
inline constexpr int pack_bytes = 32;
#else
inline constexpr int pack_bytes = 16;
#endif

template <class Real>
struct PackOf {
  typedef Real type __attribute__((vector_size(pack_bytes)));
};

template <class Real>
using Pack = typename PackOf<Real>::type;

/// Numbers in a pack.
template <class Real>
inline constexpr int pack_size = pack_bytes / static_cast<int>(sizeof(Real));

/// The smallest multiple of `step` that is not below `count`.
constexpr int multiple_of(int step, int count) { return (count + step - 1) / step * step; }

/// `count` rounded up to whole packs.
template <class Real>
constexpr int whole_packs(int count) {
  return multiple_of(pack_size<Real>, count);
}

template <class Real>
Pack<Real> load(const Real* from) {
  Pack<Real> pack;
  std::memcpy(&pack, from, sizeof(pack));
  return pack;
}

template <class Real>
void store(Real* to, const Pack<Real>& pack) {
  std::memcpy(to, &pack, sizeof(pack));
}

/// to[i] = function(from[i]...) for i in [0, count), a pack at a time; the last pack is filled up with zeros.
template <class Real, class Function, class... From>
void map_packs(Real* to, std::int64_t count, const Function& function, const From*... from) {
  std::int64_t i = 0;
  for (; i + pack_size<Real> <= count; i += pack_size<Real>) store<Real>(to + i, function(load<Real>(from + i)...));
  if (i == count) return;
  const std::size_t bytes = static_cast<std::size_t>(count - i) * sizeof(Real);
  const auto load_some = [bytes](const Real* some) {
    Pack<Real> pack{};
    std::memcpy(&pack, some, bytes);
    return pack;
  };
  const Pack<Real> last = function(load_some(from + i)...);
  std::memcpy(to + i, &last, bytes);
}

}  // namespace blinkbert::cpu_detail
