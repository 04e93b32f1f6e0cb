#pragma once

// The device words: the thin layer between kernel bodies and what runs them. nvcc reads them from dev/cuda.hpp, any other
// compiler from dev/emulator.hpp, where the same kernel source runs on fibres. A kernel uses these words, plain arithmetic,
// and nothing else.
//
//   identity     thread() threads() block() blocks() lane() warp()
//   places       at(view, i, ...)  at(tile, i)          an element of global or shared memory; the emulator checks bounds
//   memory       load(place)  load<N>(place)  store(place, value)
//   shared       SharedMemory shared; auto tile = shared.take<T>(count);          in the order of take, 16-byte aligned
//   waiting      sync_block()  sync_group<id>(threads)  sync_warp()
//   warps        shuffle_xor(value, mask)  shuffle(value, lane)  ballot(condition)  popcount(word)
//   tensor cores load_matrix  load_matrix_transposed  multiply_add
//   async        copy_async(shared place, global place, wanted)  commit_copies()  wait_copies<groups still under way>()
//   maths        exp2 log2 rsqrt pack low high
//   launching    launch<kernel<...>>(gpu, {.blocks, .threads, .shared_bytes}, op)
//
// Rules that the emulator enforces: all 32 lanes of a warp reach the same collective at the same line; no thread leaves
// before the last one; what one thread wrote to shared memory another reads after a barrier only; threads do not talk to
// each other through global memory within a launch.

#if defined(__CUDACC__)
#include <blinkbert/dev/cuda.hpp>
#else
#include <blinkbert/dev/emulator.hpp>
#include <blinkbert/dev/emulator_mma.hpp>
#endif
