#pragma once

// narrow_block.cuh -- an encoder block at a width of at most 32, one kernel forward and one backward.
//
//   what       formula, shapes: <blinkbert/ops/narrow_block.hpp>, layers/encoder_block.hpp. Here: only how.
//   mapping    a block of threads takes one sequence at a time, all its rows, and walks over the sequences
//   staging    weights in shared memory, fp32, loaded once per block of threads; everything between x and y stays in shared
//              memory. In products a thread owns four rows of a column; in attention a query (or a key) of a head; in norms a
//              warp owns a row. Rows are stored at odd distances, so that lanes on neighbouring rows meet no bank twice.
//   backward   computes forward again. A thread owns elements of the parameters' gradients and adds every sequence to its
//              own in `partials` [blocks, P]; a second kernel adds up the blocks.
//   numerics   fp32 throughout; only x, y, dx, dy and the weights are of the storage type
//   order      fixed, no atomics: the same input gives the same bits on the same number of multiprocessors
//   traffic    x read, y written once; backward x, dy read, dx written once, and P floats per sequence to and from the L2

#include <blinkbert/cuda/gelu.cuh>
#include <blinkbert/dev/warp.hpp>
#include <blinkbert/ops/narrow_block.hpp>

namespace blinkbert {
namespace kernels {
using namespace dev;

inline constexpr int narrow_threads = 256;

/// A matrix of rows at distance `ld` in shared memory.
struct Matrix {
  Shared<float> data;
  int ld;
  BB_DEVICE SharedPlace<float> operator()(int row, int column) const { return at(data, row * ld + column); }
};

/// One of two, by value: a choice between their addresses would keep both in memory.
BB_DEVICE Matrix chosen(bool is_first, Matrix first, Matrix second) {
  if (!is_first) first = second;
  return first;
}

constexpr int odd(int width) { return width | 1; }

/// N features, I = H D, F hidden features, L rows.
struct NarrowSizes {
  int N, I, F, H, L;

  template <class Op>
  static NarrowSizes of(const Op& op) {
    return {op.x.extent(1), op.weights.out_weight.extent(1), op.weights.weight1.extent(0), op.setting.H, op.setting.L};
  }
  int parameters() const { return 4 * I * N + 3 * I + N + 2 * F * N + F + N + 4 * N; }
  int D() const { return I / H; }
  /// Widths of the two buffers that hold the hidden features and, later, gradients of attention.
  int hidden1() const { return F > I ? F : I; }
  int hidden2() const { return F > 3 * I ? F : 3 * I; }

  int weight_bytes() const {
    return shared_bytes<float>(3 * I * odd(N)) + shared_bytes<float>(N * odd(I)) + shared_bytes<float>(F * odd(N)) +
           shared_bytes<float>(N * odd(F)) + shared_bytes<float>(3 * I) + 6 * shared_bytes<float>(N) +
           shared_bytes<float>(F);
  }
  int forward_bytes() const {
    return weight_bytes() + 5 * shared_bytes<float>(L * odd(N)) + shared_bytes<float>(L * odd(3 * I)) +
           shared_bytes<float>(L * odd(I)) + shared_bytes<float>(L * odd(hidden1())) +
           shared_bytes<float>(L * odd(hidden2())) + shared_bytes<float>(3 * H * L);
  }
  int backward_bytes() const {
    return forward_bytes() + 3 * shared_bytes<float>(L * odd(N)) +
           shared_bytes<float>(2 * narrow_threads / warp_size * narrow_width);
  }
};

/// What both kernels keep in shared memory, in the order of NarrowSizes::forward_bytes.
template <class Real>
struct NarrowRoom {
  Matrix in, out, first, second;                  // [3 I, N]  [N, I]  [F, N]  [N, F]
  Shared<float> in_bias, out_bias, bias1, bias2;  // [3 I]  [N]  [F]  [N]
  Shared<float> gamma1, beta1, gamma2, beta2;     // [N]
  Matrix x, normed, sum1, middle, sum2;           // [L, N]
  Matrix qkv, o, hidden1, hidden2;                // [L, 3 I]  [L, I]  [L, .]  [L, .]
  Shared<float> rows;                             // [3, H, L]  largest, inverse, delta

  BB_DEVICE NarrowRoom(SharedMemory& shared, const BlockWeights<Real>& weights, int L, int H) {
    const int I = weights.out_weight.extent(1), N = weights.out_weight.extent(0), F = weights.weight1.extent(0);
    in = matrix(shared, 3 * I, N);
    out = matrix(shared, N, I);
    first = matrix(shared, F, N);
    second = matrix(shared, N, F);
    in_bias = shared.take<float>(3 * I);
    out_bias = shared.take<float>(N);
    bias1 = shared.take<float>(F);
    bias2 = shared.take<float>(N);
    gamma1 = shared.take<float>(N);
    beta1 = shared.take<float>(N);
    gamma2 = shared.take<float>(N);
    beta2 = shared.take<float>(N);
    x = matrix(shared, L, N);
    normed = matrix(shared, L, N);
    sum1 = matrix(shared, L, N);
    middle = matrix(shared, L, N);
    sum2 = matrix(shared, L, N);
    qkv = matrix(shared, L, 3 * I);
    o = matrix(shared, L, I);
    hidden1 = matrix(shared, L, F > I ? F : I);
    hidden2 = matrix(shared, L, F > 3 * I ? F : 3 * I);
    rows = shared.take<float>(3 * H * L);
    fill(in, weights.in_weight);
    fill(out, weights.out_weight);
    fill(first, weights.weight1);
    fill(second, weights.weight2);
    fill(in_bias, weights.in_bias);
    fill(out_bias, weights.out_bias);
    fill(bias1, weights.bias1);
    fill(bias2, weights.bias2);
    fill(gamma1, weights.gamma1);
    fill(beta1, weights.beta1);
    fill(gamma2, weights.gamma2);
    fill(beta2, weights.beta2);
  }

  BB_DEVICE static Matrix matrix(SharedMemory& shared, int count, int width) {
    return {shared.take<float>(count * (width | 1)), width | 1};
  }

 private:
  template <class T>
  BB_DEVICE static void fill(const Matrix& to, const View<const T, 2>& from) {
    const int width = from.extent(1), count = from.extent(0) * width;
    for (int i = thread(); i < count; i += threads()) {
      store(to(i / width, i % width), static_cast<float>(load(at(from, i / width, i % width))));
    }
  }
  template <class T>
  BB_DEVICE static void fill(const Shared<float>& to, const View<const T, 1>& from) {
    for (int i = thread(); i < from.extent(0); i += threads()) store(at(to, i), static_cast<float>(load(at(from, i))));
  }
};

// --- parts, each for all threads of a block ----------------------------------------------------------------------------

/// finish(r, o, sum_i a(r, i) w(o, i)) for r < rows, o < outs; w(o, i) is at o out_stride + i in_stride.
template <class Finish>
BB_DEVICE void product(int rows, int outs, int ins, const Matrix& a, const Shared<float>& w, int out_stride,
                       int in_stride, const Finish& finish) {
  constexpr int together = 4;  // rows that share a read of w
  for (int item = thread(); item < ceil_div(rows, together) * outs; item += threads()) {
    const int o = item % outs, first = item / outs * together;
    float sum[together] = {};
    for (int i = 0; i < ins; ++i) {
      const float weight = load(at(w, o * out_stride + i * in_stride));
      BB_UNROLL
      for (int j = 0; j < together; ++j) {
        if (first + j < rows) sum[j] += load(a(first + j, i)) * weight;
      }
    }
    BB_UNROLL
    for (int j = 0; j < together; ++j) {
      if (first + j < rows) finish(first + j, o, sum[j]);
    }
  }
}

/// y = norm(x) row by row, a warp each.
BB_DEVICE void norm_rows(int rows, int N, const Matrix& y, const Matrix& x, const Shared<float>& gamma,
                         const Shared<float>& beta, float epsilon) {
  const int n = lane();
  for (int r = warp(); r < rows; r += threads() / warp_size) {
    const float value = n < N ? load(x(r, n)) : 0;
    const float mean = warp_sum(value) / static_cast<float>(N);
    const float off = n < N ? value - mean : 0;
    const float rstd = 1 / sqrtf(warp_sum(off * off) / static_cast<float>(N) + epsilon);
    if (n < N) store(y(r, n), load(at(gamma, n)) * off * rstd + load(at(beta, n)));
  }
}

/// dx = the norm's gradient from dy, plus `residual`; dx may be dy or the residual. dgamma and dbeta of the lane's column are
/// added to.
BB_DEVICE void norm_gradient_rows(int rows, int N, const Matrix& dx, const Matrix& dy, const Matrix& x,
                                  const Matrix* residual, const Shared<float>& gamma, float epsilon, float& dgamma,
                                  float& dbeta) {
  const int n = lane();
  const float width = static_cast<float>(N);
  for (int r = warp(); r < rows; r += threads() / warp_size) {
    const float value = n < N ? load(x(r, n)) : 0, gradient = n < N ? load(dy(r, n)) : 0;
    const float mean = warp_sum(value) / width;
    const float off = n < N ? value - mean : 0;
    const float rstd = 1 / sqrtf(warp_sum(off * off) / width + epsilon);
    const float xhat = off * rstd, g = n < N ? load(at(gamma, n)) * gradient : 0;
    dgamma += gradient * xhat;
    dbeta += gradient;
    const float mean_g = warp_sum(g) / width, mean_product = warp_sum(g * xhat) / width;
    if (n >= N) continue;
    const float before = residual ? load((*residual)(r, n)) : 0;
    store(dx(r, n), rstd * (g - mean_g - xhat * mean_product) + before);
  }
}

/// What dropout makes of `value` at (row, n) of sequence b.
BB_DEVICE float dropped(const Dropout& dropout, float value, int b, int row, int N, int n) {
  if (!dropout.is_active()) return value;
  return dropout.keeps(b, row, N, n) ? value * dropout.keep_scale() : 0;
}

/// A sequence of a block: its rows, and what its attention may see and keeps.
template <class Real>
struct NarrowSequence {
  const BlockSetting<Real>& setting;
  int b, rows;

  BB_DEVICE NarrowSequence(const BlockSetting<Real>& of, int number)
      : setting(of), b(number), rows(load(at(of.lengths, number))) {}

  BB_DEVICE bool sees(int s) const { return (load(at(setting.visible, b, s / 32)) >> s % 32 & 1) != 0; }
  BB_DEVICE float keep_factor(int h, int l, int s) const {
    if (!setting.attention.is_active()) return 1;
    return setting.attention.keeps_attention(b, h, setting.H, l, s) ? setting.attention.keep_scale() : 0;
  }
};

/// q . k of head h, before scaling. `qkv` is [L, 3 I], D wide heads.
BB_DEVICE float score(const Matrix& qkv, int I, int D, int h, int l, int s) {
  float sum = 0;
  for (int d = 0; d < D; ++d) sum += load(qkv(l, h * D + d)) * load(qkv(s, I + h * D + d));
  return sum;
}

inline constexpr float narrow_log2_e = 1.4426950408889634f;

/// o from qkv; a thread owns query l of head h. Leaves largest and inverse of each row.
template <class Real>
BB_DEVICE void attend(const NarrowSequence<Real>& sequence, const NarrowRoom<Real>& room, int I, int L) {
  const int H = sequence.setting.H, D = I / H, rows = sequence.rows;
  const float scale = narrow_log2_e / sqrtf(static_cast<float>(D));
  for (int item = thread(); item < H * rows; item += threads()) {
    const int h = item / rows, l = item % rows;
    float largest = -INFINITY;
    for (int s = 0; s < rows; ++s) {
      if (sequence.sees(s)) largest = fmaxf(largest, score(room.qkv, I, D, h, l, s));
    }
    float sum = 0, o[narrow_head_width] = {};
    for (int s = 0; s < rows; ++s) {
      if (!sequence.sees(s)) continue;
      const float weight = exp2((score(room.qkv, I, D, h, l, s) - largest) * scale);
      const float kept = weight * sequence.keep_factor(h, l, s);
      sum += weight;
      BB_UNROLL
      for (int d = 0; d < narrow_head_width; ++d) {
        if (d < D) o[d] += kept * load(room.qkv(s, 2 * I + h * D + d));
      }
    }
    const float inverse = sum > 0 ? 1 / sum : 0;
    store(at(room.rows, h * L + l), sum > 0 ? largest : 0.0f);
    store(at(room.rows, (H + h) * L + l), inverse);
    BB_UNROLL
    for (int d = 0; d < narrow_head_width; ++d) {
      if (d < D) store(room.o(l, h * D + d), o[d] * inverse);
    }
  }
}

/// dqkv (into hidden2) from do (in hidden1), by the formulas of ops/masked_attention.hpp.
template <class Real>
BB_DEVICE void attend_backward(const NarrowSequence<Real>& sequence, const NarrowRoom<Real>& room, int I, int L) {
  const int H = sequence.setting.H, D = I / H, rows = sequence.rows;
  const float scale = 1 / sqrtf(static_cast<float>(D)), scale_log2 = scale * narrow_log2_e;
  const Matrix &qkv = room.qkv, &dout = room.hidden1, &dqkv = room.hidden2;
  const auto weight = [&](int h, int l, int s) {  // P
    const float largest = load(at(room.rows, h * L + l)), inverse = load(at(room.rows, (H + h) * L + l));
    return exp2((score(qkv, I, D, h, l, s) - largest) * scale_log2) * inverse;
  };
  const auto weight_gradient = [&](int h, int l, int s, float kept) {  // dP
    float sum = 0;
    for (int d = 0; d < D; ++d) sum += load(dout(l, h * D + d)) * load(qkv(s, 2 * I + h * D + d));
    return sum * kept;
  };
  for (int item = thread(); item < H * rows; item += threads()) {  // a query each
    const int h = item / rows, l = item % rows;
    float delta = 0, dq[narrow_head_width] = {};
    for (int s = 0; s < rows; ++s) {
      if (sequence.sees(s)) delta += weight(h, l, s) * weight_gradient(h, l, s, sequence.keep_factor(h, l, s));
    }
    for (int s = 0; s < rows; ++s) {
      if (!sequence.sees(s)) continue;
      const float dS = weight(h, l, s) * (weight_gradient(h, l, s, sequence.keep_factor(h, l, s)) - delta);
      BB_UNROLL
      for (int d = 0; d < narrow_head_width; ++d) {
        if (d < D) dq[d] += dS * load(qkv(s, I + h * D + d));
      }
    }
    store(at(room.rows, (2 * H + h) * L + l), delta);
    BB_UNROLL
    for (int d = 0; d < narrow_head_width; ++d) {
      if (d < D) store(dqkv(l, h * D + d), dq[d] * scale);
    }
  }
  sync_block();                                                    // delta of all queries is there
  for (int item = thread(); item < H * rows; item += threads()) {  // a key each
    const int h = item / rows, s = item % rows;
    float dk[narrow_head_width] = {}, dv[narrow_head_width] = {};
    const int queries = sequence.sees(s) ? rows : 0;
    for (int l = 0; l < queries; ++l) {
      const float P = weight(h, l, s), kept = sequence.keep_factor(h, l, s);
      const float dS = P * (weight_gradient(h, l, s, kept) - load(at(room.rows, (2 * H + h) * L + l)));
      BB_UNROLL
      for (int d = 0; d < narrow_head_width; ++d) {
        if (d >= D) continue;
        dk[d] += dS * load(qkv(l, h * D + d));
        dv[d] += P * kept * load(dout(l, h * D + d));
      }
    }
    BB_UNROLL
    for (int d = 0; d < narrow_head_width; ++d) {
      if (d >= D) continue;
      store(dqkv(s, I + h * D + d), dk[d] * scale);
      store(dqkv(s, 2 * I + h * D + d), dv[d]);
    }
  }
}

/// Everything from x to the second sum; ends with a barrier. hidden1 holds the pre-activations, hidden2 their GELU.
template <class Real>
BB_DEVICE void narrow_forward(const NarrowSequence<Real>& sequence, const NarrowRoom<Real>& room,
                              const View<const Real, 2>& x, int I, int F) {
  const BlockSetting<Real>& setting = sequence.setting;
  const int N = x.extent(1), L = setting.L, rows = sequence.rows, b = sequence.b;
  const bool is_post = setting.order == NormOrder::post;
  for (int i = thread(); i < rows * N; i += threads()) {
    store(room.x(i / N, i % N), static_cast<float>(load(at(x, b * L + i / N, i % N))));
  }
  sync_block();
  if (!is_post) {
    norm_rows(rows, N, room.normed, room.x, room.gamma1, room.beta1, setting.epsilon);
    sync_block();
  }
  product(rows, 3 * I, N, chosen(is_post, room.x, room.normed), room.in.data, room.in.ld, 1,
          [&](int r, int o, float sum) { store(room.qkv(r, o), sum + load(at(room.in_bias, o))); });
  sync_block();
  attend(sequence, room, I, L);
  sync_block();
  product(rows, N, I, room.o, room.out.data, room.out.ld, 1, [&](int r, int n, float sum) {
    const float branch = sum + load(at(room.out_bias, n));
    store(room.sum1(r, n), load(room.x(r, n)) + dropped(setting.after_attention, branch, b, r, N, n));
  });
  sync_block();
  norm_rows(rows, N, room.middle, room.sum1, is_post ? room.gamma1 : room.gamma2, is_post ? room.beta1 : room.beta2,
            setting.epsilon);
  sync_block();
  product(rows, F, N, room.middle, room.first.data, room.first.ld, 1, [&](int r, int f, float sum) {
    const float h = sum + load(at(room.bias1, f));
    store(room.hidden1(r, f), h);
    store(room.hidden2(r, f), gelu(h));
  });
  sync_block();
  const Matrix stream = chosen(is_post, room.middle, room.sum1);
  product(rows, N, F, room.hidden2, room.second.data, room.second.ld, 1, [&](int r, int n, float sum) {
    const float branch = sum + load(at(room.bias2, n));
    store(room.sum2(r, n), load(stream(r, n)) + dropped(setting.after_feed_forward, branch, b, r, N, n));
  });
  sync_block();
}

// --- forward -----------------------------------------------------------------------------------------------------------

template <class Real>
BB_KERNEL(narrow_threads, 1)
narrow_block_forward(NarrowBlockForward<Real> op) {
  const int B = op.setting.lengths.extent(0), L = op.setting.L, N = op.x.extent(1);
  const int I = op.weights.out_weight.extent(1), F = op.weights.weight1.extent(0);
  SharedMemory shared;
  const NarrowRoom<Real> room(shared, op.weights, L, op.setting.H);
  for (int b = block(); b < B; b += blocks()) {
    const NarrowSequence<Real> sequence(op.setting, b);
    narrow_forward(sequence, room, op.x, I, F);
    const bool is_post = op.setting.order == NormOrder::post;
    if (is_post) {
      norm_rows(sequence.rows, N, room.middle, room.sum2, room.gamma2, room.beta2, op.setting.epsilon);
      sync_block();
    }
    const Matrix result = chosen(is_post, room.middle, room.sum2);
    for (int i = thread(); i < L * N; i += threads()) {
      const int r = i / N, n = i % N;
      const float y = r < sequence.rows ? load(result(r, n)) : 0.0f;
      store(at(op.y, b * L + r, n), static_cast<Real>(y));
    }
    sync_block();  // the room is free
  }
}

// --- backward ----------------------------------------------------------------------------------------------------------

/// The elements of a block's partial gradients that a thread owns.
struct NarrowPartials {
  View<float, 2> partials;  // [blocks, P]
  bool is_first;            // the block's first sequence overwrites

  BB_DEVICE void add(int p, float value) const {
    const auto place = at(partials, block(), p);
    store(place, is_first ? value : load(place) + value);
  }
  /// dW (o, i) = sum_r dy(r, o) a(r, i) from `first` on, then db (o) = sum_r dy(r, o). Returns what follows.
  BB_DEVICE int add_linear(int first, int rows, int outs, int ins, const Matrix& dy, const Matrix& a) const {
    for (int item = thread(); item < outs * ins; item += threads()) {
      float sum = 0;
      for (int r = 0; r < rows; ++r) sum += load(dy(r, item / ins)) * load(a(r, item % ins));
      add(first + item, sum);
    }
    for (int o = thread(); o < outs; o += threads()) {
      float sum = 0;
      for (int r = 0; r < rows; ++r) sum += load(dy(r, o));
      add(first + outs * ins + o, sum);
    }
    return first + outs * ins + outs;
  }
  /// dgamma, then dbeta, from what each warp has; `scratch` is [2, warps, narrow_width]. Begins and ends with a barrier.
  BB_DEVICE void add_norm(int first, int N, float dgamma, float dbeta, const Shared<float>& scratch) const {
    const int warps = threads() / warp_size;
    sync_block();
    store(at(scratch, warp() * narrow_width + lane()), dgamma);
    store(at(scratch, (warps + warp()) * narrow_width + lane()), dbeta);
    sync_block();
    for (int i = thread(); i < 2 * N; i += threads()) {
      float sum = 0;
      for (int w = 0; w < warps; ++w) sum += load(at(scratch, (i / N * warps + w) * narrow_width + i % N));
      add(first + i, sum);
    }
    sync_block();
  }
};

template <class Real>
BB_KERNEL(narrow_threads, 1)
narrow_block_backward(NarrowBlockBackward<Real> op, View<float, 2> partials) {
  const BlockSetting<Real>& setting = op.setting;
  const int B = setting.lengths.extent(0), L = setting.L, N = op.x.extent(1);
  const int I = op.weights.out_weight.extent(1), F = op.weights.weight1.extent(0);
  const bool is_post = setting.order == NormOrder::post;
  // Where each parameter's gradient begins in a row of `partials`: in the order of BlockGradients.
  const int out_first = 3 * I * N + 3 * I, first_first = out_first + N * I + N, second_first = first_first + F * N + F;
  const int norm1_first = second_first + N * F + N, norm2_first = norm1_first + 2 * N;
  SharedMemory shared;
  const NarrowRoom<Real> room(shared, op.weights, L, setting.H);
  const Matrix dsum = NarrowRoom<Real>::matrix(shared, L, N), branch = NarrowRoom<Real>::matrix(shared, L, N);
  const Matrix dmiddle = NarrowRoom<Real>::matrix(shared, L, N);
  const Shared<float> scratch = shared.take<float>(2 * narrow_threads / warp_size * narrow_width);
  for (int b = block(); b < B; b += blocks()) {
    const NarrowSequence<Real> sequence(setting, b);
    const NarrowPartials gradients{partials, b == block()};
    const int rows = sequence.rows;
    narrow_forward(sequence, room, op.x, I, F);
    float dgamma1 = 0, dbeta1 = 0, dgamma2 = 0, dbeta2 = 0;

    // dy to the second sum, and to the feed-forward's branch.
    for (int i = thread(); i < rows * N; i += threads()) {
      store(dsum(i / N, i % N), static_cast<float>(load(at(op.dy, b * L + i / N, i % N))));
    }
    sync_block();
    if (is_post) {
      norm_gradient_rows(rows, N, dsum, dsum, room.sum2, nullptr, room.gamma2, setting.epsilon, dgamma2, dbeta2);
      sync_block();
    }
    for (int i = thread(); i < rows * N; i += threads()) {
      const int r = i / N, n = i % N;
      store(branch(r, n), dropped(setting.after_feed_forward, load(dsum(r, n)), b, r, N, n));
    }
    sync_block();
    // The feed-forward; hidden2 holds GELU first, then the gradient of the pre-activation.
    gradients.add_linear(second_first, rows, N, F, branch, room.hidden2);
    sync_block();
    product(rows, F, N, branch, room.second.data, 1, room.second.ld,
            [&](int r, int f, float sum) { store(room.hidden2(r, f), sum * gelu_slope(load(room.hidden1(r, f)))); });
    sync_block();
    gradients.add_linear(first_first, rows, F, N, room.hidden2, room.middle);
    product(rows, N, F, room.hidden2, room.first.data, 1, room.first.ld,
            [&](int r, int n, float sum) { store(dmiddle(r, n), is_post ? sum + load(dsum(r, n)) : sum); });
    sync_block();
    // To the first sum (dsum), and to attention's branch.
    if (is_post) {
      norm_gradient_rows(rows, N, dsum, dmiddle, room.sum1, nullptr, room.gamma1, setting.epsilon, dgamma1, dbeta1);
    } else {
      norm_gradient_rows(rows, N, dsum, dmiddle, room.sum1, &dsum, room.gamma2, setting.epsilon, dgamma2, dbeta2);
    }
    sync_block();
    for (int i = thread(); i < rows * N; i += threads()) {
      const int r = i / N, n = i % N;
      store(branch(r, n), dropped(setting.after_attention, load(dsum(r, n)), b, r, N, n));
    }
    sync_block();
    gradients.add_linear(out_first, rows, N, I, branch, room.o);
    product(rows, I, N, branch, room.out.data, 1, room.out.ld,
            [&](int r, int i, float sum) { store(room.hidden1(r, i), sum); });  // do
    sync_block();
    attend_backward(sequence, room, I, L);  // hidden2 = dqkv
    sync_block();
    gradients.add_linear(0, rows, 3 * I, N, room.hidden2, chosen(is_post, room.x, room.normed));
    product(rows, N, 3 * I, room.hidden2, room.in.data, 1, room.in.ld,
            [&](int r, int n, float sum) { store(dmiddle(r, n), is_post ? sum + load(dsum(r, n)) : sum); });
    sync_block();
    if (!is_post) {
      norm_gradient_rows(rows, N, dmiddle, dmiddle, room.x, &dsum, room.gamma1, setting.epsilon, dgamma1, dbeta1);
    }
    gradients.add_norm(norm1_first, N, dgamma1, dbeta1, scratch);
    gradients.add_norm(norm2_first, N, dgamma2, dbeta2, scratch);
    if (op.dx) {
      for (int i = thread(); i < L * N; i += threads()) {
        const int r = i / N, n = i % N;
        store(at(op.dx, b * L + r, n), static_cast<Real>(r < rows ? load(dmiddle(r, n)) : 0.0f));
      }
    }
    sync_block();  // the room is free
  }
}

/// Adds up the blocks' partial gradients; a thread owns a parameter.
template <class Real>
BB_KERNEL(narrow_threads, 1)
narrow_block_sums(BlockGradients<Real> gradients, View<const float, 2> partials) {
  const int p = block() * threads() + thread();
  if (p >= partials.extent(1)) return;
  float sum = 0;
  for (int r = 0; r < partials.extent(0); ++r) sum += load(at(partials, r, p));
  int first = 0;
  const auto matrix = [&](const Acc<float, 2>& out) {
    const int width = out.extent(1), i = p - first, count = out.extent(0) * width;
    if (i >= 0 && i < count) store(at(out, i / width, i % width), load(at(out, i / width, i % width)) + sum);
    first += count;
  };
  const auto vector = [&](const Acc<float, 1>& out) {
    const int i = p - first;
    if (i >= 0 && i < out.extent(0)) store(at(out, i), load(at(out, i)) + sum);
    first += out.extent(0);
  };
  matrix(gradients.in_weight);
  vector(gradients.in_bias);
  matrix(gradients.out_weight);
  vector(gradients.out_bias);
  matrix(gradients.weight1);
  vector(gradients.bias1);
  matrix(gradients.weight2);
  vector(gradients.bias2);
  vector(gradients.gamma1);
  vector(gradients.beta1);
  vector(gradients.gamma2);
  vector(gradients.beta2);
}

template <class Gpu>
int narrow_blocks(const Gpu& gpu, int B) {
  return B < 2 * gpu.multiprocessors() ? B : 2 * gpu.multiprocessors();
}

}  // namespace kernels

/// Whether a block of width N with H heads of width D, over L rows, fits into the fused kernels on this device.
template <LaunchesKernels Gpu>
bool fuses_narrow_block(const Gpu& gpu, int N, int H, int D, int L) {
  const kernels::NarrowSizes sizes{.N = N, .I = H * D, .F = 4 * N, .H = H, .L = L};
  return N <= narrow_width && D <= narrow_head_width && sizes.backward_bytes() <= gpu.most_shared_bytes();
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const NarrowBlockForward<typename Gpu::Real>& op) {
  op.check();
  dev::launch<kernels::narrow_block_forward<typename Gpu::Real>>(
      gpu,
      {.blocks = kernels::narrow_blocks(gpu, op.setting.lengths.extent(0)),
       .threads = kernels::narrow_threads,
       .shared_bytes = kernels::NarrowSizes::of(op).forward_bytes()},
      op);
}

template <LaunchesKernels Gpu>
void run(Gpu& gpu, const NarrowBlockBackward<typename Gpu::Real>& op) {
  op.check();
  const kernels::NarrowSizes sizes = kernels::NarrowSizes::of(op);
  const int blocks = kernels::narrow_blocks(gpu, op.setting.lengths.extent(0)), P = sizes.parameters();
  const View<float, 2> partials = gpu.template workspace<float>(blocks, P);
  dev::launch<kernels::narrow_block_backward<typename Gpu::Real>>(
      gpu, {.blocks = blocks, .threads = kernels::narrow_threads, .shared_bytes = sizes.backward_bytes()}, op,
      partials);
  dev::launch<kernels::narrow_block_sums<typename Gpu::Real>>(
      gpu, {.blocks = dev::ceil_div(P, kernels::narrow_threads), .threads = kernels::narrow_threads}, op.gradients,
      View<const float, 2>(partials));
}

}  // namespace blinkbert
