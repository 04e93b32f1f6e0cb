#pragma once

// One matrix product, fully described: what linear.cuh asks a backend for. Any compiler reads this header.
//
//   multiply(gpu, product, finish)     found by argument-dependent lookup: cuda/cublaslt.hpp, emulated.hpp
//
// computes the product with its epilogue, or without it and then calls `finish`, kernels that do the same to what the bare
// product left in d. False, and nothing done, where the backend cannot multiply such operands.

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// How an operand lies in memory.
enum class Storage { as_is, transposed };

/// What happens to the sums before they are stored.
enum class Epilogue {
  none,
  bias,              // d = a b + bias
  bias_gelu,         // d = gelu(h),  h = a b + bias
  bias_gelu_kept,    // the same, and pre_activation = h
  times_gelu_slope,  // d = (a b) gelu'(pre_activation)
};

/// d = a b,  d = a b + c,  or what the epilogue says.
template <class Real, class Sum = Real>
struct MatrixProduct {
  View<Sum, 2> d;         // [M, N]  out, overwritten
  View<const Real, 2> a;  // [M, K], in memory [K, M] where transposed
  View<const Real, 2> b;  // [K, N], in memory [N, K] where transposed
  Storage a_storage = Storage::as_is, b_storage = Storage::as_is;
  View<const Sum, 2> c = {};  // [M, N]  added; may be d itself; empty = none
  Epilogue epilogue = Epilogue::none;
  View<const Real, 1> bias = {};      // [N]
  View<Real, 2> pre_activation = {};  // [M, N]  written by bias_gelu_kept, read by times_gelu_slope

  BLINKBERT_HOST_DEVICE int depth() const { return a_storage == Storage::as_is ? a.extent(1) : a.extent(0); }  // K

  void check() const {
    const int M = d.extent(0), N = d.extent(1), K = depth();
    const auto fits = [](const auto& view, Storage storage, int rows, int columns) {
      return storage == Storage::as_is ? has_shape(view, rows, columns) : has_shape(view, columns, rows);
    };
    BLINKBERT_EXPECTS(fits(a, a_storage, M, K) && fits(b, b_storage, K, N) && has_shape_or_is_empty(c, M, N), M, N, K);
    const bool has_bias = epilogue != Epilogue::none && epilogue != Epilogue::times_gelu_slope;
    const bool has_input = epilogue == Epilogue::bias_gelu_kept || epilogue == Epilogue::times_gelu_slope;
    BLINKBERT_EXPECTS(has_bias ? has_shape(bias, N) : !bias);
    BLINKBERT_EXPECTS(has_input ? has_shape(pre_activation, M, N) : !pre_activation);
    BLINKBERT_EXPECTS(!c || epilogue == Epilogue::none);
  }
};

}  // namespace blinkbert
