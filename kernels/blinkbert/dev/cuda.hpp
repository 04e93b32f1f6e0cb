#pragma once

// The device words on nvcc (sm_80 and later). What each means: dev/dev.hpp. The only file that launches a kernel.

#include <blinkbert/dev/basics.hpp>
#include <blinkbert/dev/check_cuda.hpp>

#define BB_DEVICE __device__ __forceinline__
/// A kernel for at most `threads` threads a block, compiled so that `blocks` blocks fit on a multiprocessor.
#define BB_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define BB_UNROLL _Pragma("unroll")
#define BB_PRAGMA(text) _Pragma(#text)
#define BB_UNROLL_BY(count) BB_PRAGMA(unroll(count))

namespace blinkbert {

namespace dev {

// --- identity ----------------------------------------------------------------------------------------------------
BB_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
BB_DEVICE int threads() { return static_cast<int>(blockDim.x); }
BB_DEVICE int block() { return static_cast<int>(blockIdx.x); }
BB_DEVICE int blocks() { return static_cast<int>(gridDim.x); }
BB_DEVICE int lane() { return thread() % warp_size; }
BB_DEVICE int warp() { return thread() / warp_size; }

// --- memory ------------------------------------------------------------------------------------------------------
template <class T>
struct Shared {
  T* data;
  BB_DEVICE Shared from(int first) const { return {data + first}; }
};

class SharedMemory {
 public:
  template <class T>
  BB_DEVICE Shared<T> take(int count) {
    T* data = reinterpret_cast<T*>(base() + used_);
    used_ += shared_bytes<T>(count);
    return {data};
  }

 private:
  BB_DEVICE static char* base() {
    extern __shared__ __align__(128) char bytes[];
    return bytes;
  }
  int used_ = 0;
};

template <class T>
using GlobalPlace = T*;
template <class T>
using SharedPlace = T*;

template <class T, int Rank, class... Index>
BB_DEVICE T* at(const View<T, Rank>& view, Index... index) {
  return &view(index...);
}
template <class T, int Rank, class... Index>
BB_DEVICE T* at(const Acc<T, Rank>& sum, Index... index) {
  return &sum(index...);
}
template <class T>
BB_DEVICE T* at(const Shared<T>& tile, int i) {
  return tile.data + i;
}

template <class T>
BB_DEVICE std::remove_const_t<T> load(T* place) {
  return *place;
}
template <class T>
BB_DEVICE void store(T* place, std::type_identity_t<T> value) {
  *place = value;
}

namespace detail {
template <int Bytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};
}  // namespace detail

template <int N, class T>
BB_DEVICE Vector<std::remove_const_t<T>, N> load(T* place) {
  constexpr int bytes = N * sizeof(T) < 16 ? N * sizeof(T) : 16;
  using Word = typename detail::Word<bytes>::type;
  Vector<std::remove_const_t<T>, N> value;
  BB_UNROLL
  for (int part = 0; part < N * static_cast<int>(sizeof(T)) / bytes; ++part) {
    reinterpret_cast<Word*>(&value)[part] = reinterpret_cast<const Word*>(place)[part];
  }
  return value;
}
template <class T, int N>
BB_DEVICE void store(T* place, const Vector<T, N>& value) {
  constexpr int bytes = N * sizeof(T) < 16 ? N * sizeof(T) : 16;
  using Word = typename detail::Word<bytes>::type;
  BB_UNROLL
  for (int part = 0; part < N * static_cast<int>(sizeof(T)) / bytes; ++part) {
    reinterpret_cast<Word*>(place)[part] = reinterpret_cast<const Word*>(&value)[part];
  }
}

// --- waiting -----------------------------------------------------------------------------------------------------
BB_DEVICE void sync_block() { __syncthreads(); }
BB_DEVICE void sync_warp() { __syncwarp(); }
/// Waits for `threads` threads, whole warps, of those that name the same group. The id is a constant: with a run-time id
/// ptxas reserves all 16 barriers.
template <int Id>
BB_DEVICE void sync_group(int threads) {
  static_assert(Id > 0 && Id < 16);
  asm volatile("bar.sync %0, %1;" ::"n"(Id), "r"(threads) : "memory");
}

// --- warps -------------------------------------------------------------------------------------------------------
template <class T>
BB_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}
template <class T>
BB_DEVICE T shuffle(T value, int from_lane) {
  return __shfl_sync(~0u, value, from_lane);
}
BB_DEVICE std::uint32_t ballot(bool condition) { return __ballot_sync(~0u, condition); }
BB_DEVICE int popcount(std::uint32_t word) { return __popc(word); }

// --- tensor cores ------------------------------------------------------------------------------------------------
BB_DEVICE std::uint32_t shared_address(const void* place) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(place));
}

/// Four 8 x 8 matrices of bf16: lane l gives the place of row l % 8 of matrix l / 8 and gets elements 2 (l % 4) and the
/// next of row l / 4 of each.
BB_DEVICE void load_matrix(std::uint32_t (&part)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(part[0]), "=r"(part[1]), "=r"(part[2]), "=r"(part[3])
               : "r"(shared_address(row))
               : "memory");
}
/// As load_matrix, each matrix transposed on the way.
BB_DEVICE void load_matrix_transposed(std::uint32_t (&part)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(part[0]), "=r"(part[1]), "=r"(part[2]), "=r"(part[3])
               : "r"(shared_address(row))
               : "memory");
}
/// sum [16, 8] += a [16, 16] b [16, 8], bf16 factors, fp32 sums: mma.m16n8k16 of the PTX manual.
BB_DEVICE void multiply_add(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- asynchronous copies -----------------------------------------------------------------------------------------
/// 16 bytes from global to shared memory; zeros, and nothing read, where they are not wanted.
template <class T>
BB_DEVICE void copy_async(T* to, const T* from, bool is_wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(is_wanted ? 16 : 0)
               : "memory");
}
BB_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `UnderWay` of this thread's groups of copies are not done.
template <int UnderWay>
BB_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(UnderWay) : "memory");
}

// --- maths -------------------------------------------------------------------------------------------------------
BB_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
BB_DEVICE float log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// Two bf16 in a word, `low` in the lower half.
BB_DEVICE std::uint32_t pack(float low, float high) {
  std::uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// --- launching ---------------------------------------------------------------------------------------------------
/// On the stream of `gpu`; returns at once. Nothing happens without blocks.
template <auto Kernel, class Gpu, class... Arguments>
void launch(Gpu& gpu, LaunchShape shape, const Arguments&... arguments) {
  if (shape.blocks == 0) return;
  constexpr int granted = 48 * 1024;  // what a block gets without asking
  if (shape.shared_bytes > granted) {
    check_cuda(cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes),
               "asking for shared memory");
  }
  Kernel<<<static_cast<unsigned>(shape.blocks), static_cast<unsigned>(shape.threads),
           static_cast<std::size_t>(shape.shared_bytes), gpu.stream()>>>(arguments...);
  check_cuda(cudaGetLastError(), "starting a kernel");
}

}  // namespace dev
}  // namespace blinkbert
