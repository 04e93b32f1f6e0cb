#pragma once

// Products of float matrices from factors rounded to bf16, by oneDNN (2.6 or 3): sums are kept in float.
//
// A and B are rounded where they are packed; oneDNN multiplies blocks of 192 rows on the thread that calls it, so that a
// block of C is finished while it is in the second cache. B is packed in oneDNN's format BA16a64b2a: panels of 64 columns,
// each [depth/2][64] pairs of rows, depth filled up with zeros to a multiple of 32. The rows of a last block are filled up
// to a multiple of 32, so that few shapes occur, whatever the batch.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <blinkbert/backend/cpu/operand.hpp>
#include <blinkbert/backend/cpu/pack.hpp>
#include <blinkbert/backend/cpu/small_product.hpp>
#include <blinkbert/backend/cpu/transpose.hpp>
#include <blinkbert/core/bf16.hpp>

namespace blinkbert::cpu_detail {

using Words = Pack<std::uint32_t>;

/// The bf16 nearest to each number in the upper half of its word, as bf16_bits does it; the lower half is rubbish.
inline Words rounded_up_half(Pack<float> x) {
  const Words word = std::bit_cast<Words>(x);
  const Words rounded = word + 0x7fff + (word >> 16 & 1);
  return (word & 0x7fffffff) > 0x7f800000 ? (Words{} + 0x7fff0000) : rounded;
}

/// Pairs (low, high) of bf16, lane by lane.
inline Words pairs_of(Pack<float> low, Pack<float> high) {
  return rounded_up_half(low) >> 16 | (rounded_up_half(high) & 0xffff0000);
}

/// Up to a pack of numbers, zeros beyond `count`.
inline Pack<float> load_up_to(const float* from, int count) {
  if (count >= pack_size<float>) return load<float>(from);
  Pack<float> pack{};
  if (count > 0) std::memcpy(&pack, from, sizeof(float) * static_cast<std::size_t>(count));
  return pack;
}

/// to[j] = (from[2 j], from[2 j + 1]) for j in [0, words); zeros beyond `count` numbers. `words`: in whole packs of numbers.
inline void round_neighbours(std::uint32_t* to, const float* from, int count, int words) {
  constexpr int half = pack_size<float> / 2;
  typedef std::uint64_t Doubles __attribute__((vector_size(pack_bytes)));
  typedef std::uint32_t Half __attribute__((vector_size(pack_bytes / 2)));
  for (int j = 0; j < words; j += half) {
    const Doubles both = std::bit_cast<Doubles>(rounded_up_half(load_up_to(from + 2 * j, count - 2 * j)));
    const Half pairs = __builtin_convertvector((both >> 16 & 0xffff) | (both >> 32 & 0xffff0000), Half);
    std::memcpy(to + j, &pairs, sizeof(pairs));
  }
}

/// to[i] = (low[i], high[i]) for i in [0, words), zeros beyond `count`; `high` may be null: zeros.
inline void round_rows(std::uint32_t* to, const float* low, const float* high, int count, int words) {
  for (int i = 0; i < words; i += pack_size<float>) {
    const Words pairs =
        pairs_of(load_up_to(low + i, count - i), high ? load_up_to(high + i, count - i) : Pack<float>{});
    std::memcpy(to + i, &pairs, sizeof(pairs));
  }
}

/// One thread's way to oneDNN: products by shape, made once.
class OneDnnProducts {
 public:
  struct Shape {
    int rows, columns, depth;
    bool adds;
    auto operator<=>(const Shape&) const = default;
  };

  /// C = A B or C += A B; A [rows, depth], B packed.
  void multiply(const Shape& shape, float* c, const std::uint32_t* a, const std::uint32_t* packed) {
    auto found = made_.find(shape);
    if (found == made_.end()) found = made_.emplace(shape, make(shape)).first;
    Product& product = found->second;
    product.a.set_data_handle(const_cast<std::uint32_t*>(a));
    product.b.set_data_handle(const_cast<std::uint32_t*>(packed));
    product.c.set_data_handle(c);
    product.matmul.execute(stream_, product.arguments);
  }

 private:
  struct Product {
    dnnl::matmul matmul;
    dnnl::memory a, b, c;
    std::unordered_map<int, dnnl::memory> arguments;  // a, b, c and oneDNN's own room
  };

  Product make(const Shape& shape) {
    using dnnl::memory;
    const memory::dim M = shape.rows, N = shape.columns, K = shape.depth;
    const memory::desc a({M, K}, memory::data_type::bf16, memory::format_tag::ab);
    const memory::desc b({K, N}, memory::data_type::bf16, memory::format_tag::BA16a64b2a);
    const memory::desc c({M, N}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (shape.adds) {
      dnnl::post_ops sum;
      sum.append_sum();
      attributes.set_post_ops(sum);
    }
    // The product is computed by the thread that asks for it; oneDNN would plan for all that OpenMP has.
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc plan(engine_, a, b, c, attributes);
#else
    const dnnl::matmul::primitive_desc plan({a, b, c}, attributes, engine_);
#endif
    Product product{.matmul = dnnl::matmul(plan),
                    .a = memory(a, engine_, nullptr),
                    .b = memory(b, engine_, nullptr),
                    .c = memory(c, engine_, nullptr),
                    .arguments = {}};
    omp_set_num_threads(threads);
    product.arguments = {{DNNL_ARG_SRC, product.a},
                         {DNNL_ARG_WEIGHTS, product.b},
                         {DNNL_ARG_DST, product.c},
                         {DNNL_ARG_SCRATCHPAD, memory(plan.scratchpad_desc(), engine_)}};
    return product;
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<Shape, Product> made_;
};

/// Products of float matrices in bf16: what a multiplier has (gemm.hpp). It holds no state.
class Bf16Products {
 public:
  using Packed = std::uint32_t;  // two bf16
  static constexpr int panel_columns = 64, block_rows = 192, row_step = 32, depth_step = 32;

  /// Why products in bf16 cannot be had here; empty where they can.
  static std::string obstacle() {
    const int isa = static_cast<int>(dnnl::get_effective_cpu_isa());
    const int needed = static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
    if ((isa & needed) == needed) return {};
    return "this processor has no bf16 instructions (AVX512_BF16 or AMX)";
  }

  static std::int64_t packed_size(int columns, int depth) {
    return std::int64_t{multiple_of(panel_columns, columns)} * words(depth);
  }
  static std::int64_t room_size(int columns, int depth) {
    return std::int64_t{block_rows} * (words(depth) + columns) + 1024;
  }

  template <class Number>
  static Number* panel(Number* packed, int index, int depth) {
    return packed + std::int64_t{index} * panel_columns * words(depth);
  }

  static void pack(Packed* packed, const Operand<float>& b, int columns, int depth, int first, int last) {
    for (int index = first; index < last; ++index) {
      const int n = index * panel_columns;
      pack_panel(panel(packed, index, depth), b.at(0, n), std::min(panel_columns, columns - n), depth);
    }
  }

  template <class Finish>
  static void multiply(float* c, std::int64_t c_stride, const Operand<float>& a, const Packed* packed, int rows,
                       int columns, int depth, Result result, Packed* room, const Finish& finish) {
    static thread_local OneDnnProducts products;
    Packed* block = room;
    float* edge = reinterpret_cast<float*>(room + std::int64_t{block_rows} * words(depth));
    for (int i = 0; i < rows; i += block_rows) {
      const int count = std::min(block_rows, rows - i), filled = multiple_of(row_step, count);
      pack_rows(block, a.at(i, 0), count, filled, depth);
      const bool adds = result == Result::add;
      if (count == filled && c_stride == columns) {  // oneDNN 2.6 leaves other strides to its slowest code
        products.multiply({filled, columns, 2 * words(depth), adds}, c + i * c_stride, block, packed);
      } else {
        products.multiply({filled, columns, 2 * words(depth), false}, edge, block, packed);
        for (int ii = 0; ii < count; ++ii) {
          map_packs<float>(
              c + (i + ii) * c_stride, columns,
              [adds](Pack<float> sum, Pack<float> before) { return adds ? sum + before : sum; },
              edge + std::int64_t{ii} * columns, c + (i + ii) * c_stride);
        }
      }
      finish(i, i + count);
    }
  }

 private:
  /// Of a row of A, or of a column of B.
  static constexpr int words(int depth) { return multiple_of(depth_step, depth) / 2; }

  /// to[k/2][n] = (B(k, n), B(k + 1, n)).
  static void pack_panel(Packed* to, const Operand<float>& b, int columns, int depth) {
    if (b.column_stride == 1) {
      for (int k = 0; k < 2 * words(depth); k += 2) {
        const float* row = b.data + k * b.row_stride;
        round_rows(to + k / 2 * panel_columns, row, k + 1 < depth ? row + b.row_stride : nullptr,
                   k < depth ? columns : 0, panel_columns);
      }
      return;
    }
    std::array<Packed, panel_columns * depth_step / 2> tile;  // [column][pairs of rows]
    constexpr int width = depth_step / 2;
    for (int k = 0; k < depth; k += depth_step) {
      for (int n = 0; n < panel_columns; ++n) {
        const float* column = n < columns ? b.data + n * b.column_stride + k : nullptr;
        round_neighbours(tile.data() + n * width, column, column ? std::min(depth_step, depth - k) : 0, width);
      }
      transpose_words(to + k / 2 * panel_columns, panel_columns, tile.data(), width, panel_columns, width);
    }
  }

  /// to[i][k/2] = (A(i, k), A(i, k + 1)), zeros from row `count` on.
  static void pack_rows(Packed* to, const Operand<float>& a, int count, int filled, int depth) {
    const int width = words(depth);
    std::fill(to + std::int64_t{count} * width, to + std::int64_t{filled} * width, Packed{0});
    if (a.column_stride == 1) {
      for (int i = 0; i < count; ++i)
        round_neighbours(to + std::int64_t{i} * width, a.data + i * a.row_stride, depth, width);
      return;
    }
    std::array<Packed, depth_step / 2 * block_rows> tile;  // [pairs of columns][row]
    for (int k = 0; k < depth; k += depth_step) {
      for (int pair = 0; pair < depth_step / 2; ++pair) {
        const int at = k + 2 * pair;
        const float* column = a.data + at * a.column_stride;
        round_rows(tile.data() + pair * block_rows, column, at + 1 < depth ? column + a.column_stride : nullptr,
                   at < depth ? count : 0, multiple_of(pack_size<float>, count));
      }
      transpose_words(to + k / 2, width, tile.data(), block_rows, depth_step / 2, multiple_of(4, count));
    }
  }

  /// to[k][i] = from[i][k]; both counts in whole fours. A float moves as the word that it is.
  static void transpose_words(Packed* to, std::int64_t to_stride, const Packed* from, std::int64_t from_stride,
                              int rows, int columns) {
    for (int i = 0; i < rows; i += 4) {
      for (int k = 0; k < columns; k += 4) {
        transpose_4x4(reinterpret_cast<float*>(to + k * to_stride + i), to_stride,
                      reinterpret_cast<const float*>(from + i * from_stride + k), from_stride);
      }
    }
  }
};

}  // namespace blinkbert::cpu_detail
