#pragma once

// The complete CUDA backend as a program sees it: Cuda<bf16> trains, Cuda<float> is the precise one. Any compiler reads this
// header; the kernels are compiled once, in the library blinkbert::cuda_kernels (kernels/instantiations/), and linked.
// Whoever compiles kernels instead includes cuda/<op>.cuh in a .cu file.

#include <blinkbert/backend/backend.hpp>
#include <blinkbert/cuda/cublaslt.hpp>
#include <blinkbert/cuda/device.hpp>
#include <blinkbert/dev/basics.hpp>

namespace blinkbert {

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ActivationForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ActivationBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const AdamW<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const AppendStatistics<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const BatchNormForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const BatchNormBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const EmbedRowsForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const EmbedRowsBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const GatherRowsForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const GatherRowsBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const GatheredAttentionForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const GatheredAttentionBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LayerNormForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LayerNormBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LinearForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LinearInputGradient<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const LinearWeightGradient<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MaskedAttentionForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MaskedAttentionBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MaskedLoss<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MeanRowsForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const MeanRowsBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const NarrowBlockForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const NarrowBlockBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const Narrowing<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ResidualNormForward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ResidualNormBackward<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const RowMasks<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ScoreLoss<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const SumOfSquares<typename Gpu::Real>& op);
template <LaunchesKernels Gpu>
void run(Gpu& gpu, const ZeroPadding<typename Gpu::Real>& op);

/// Whether a block of width N with H heads of width D, over L rows, fits into the fused kernels on this device.
template <LaunchesKernels Gpu>
bool fuses_narrow_block(const Gpu& gpu, int N, int H, int D, int L);

static_assert(Backend<Cuda<float>>);
static_assert(Backend<Cuda<bf16>>);
static_assert(CapturesGraphs<Cuda<float>> && CapturesGraphs<Cuda<bf16>>);
static_assert(HasSecondBranch<Cuda<float>> && HasSecondBranch<Cuda<bf16>>);
static_assert(FusesNarrowBlocks<Cuda<float>> && FusesNarrowBlocks<Cuda<bf16>>);

}  // namespace blinkbert
