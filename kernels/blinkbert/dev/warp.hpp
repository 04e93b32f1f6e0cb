#pragma once

// Sums and maxima over a warp and over a block, in a fixed order. The result is valid on every lane and thread.

#include <blinkbert/dev/dev.hpp>

namespace blinkbert::dev {

/// sum over the 32 lanes
template <class T>
BB_DEVICE T warp_sum(T value) {
  BB_UNROLL
  for (int mask = warp_size / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

/// sum over all threads of the block; `scratch` holds one element per warp. All threads must call it.
template <class T>
BB_DEVICE T block_sum(T value, const Shared<T>& scratch) {
  value = warp_sum(value);
  if (lane() == 0) store(at(scratch, warp()), value);
  sync_block();
  T sum = 0;
  for (int w = 0; w < threads() / warp_size; ++w) sum += load(at(scratch, w));
  sync_block();  // the scratch may be used again
  return sum;
}

}  // namespace blinkbert::dev
