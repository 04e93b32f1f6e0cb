#pragma once

// Products of float matrices by oneDNN (2.6 or 3): in float, and from factors rounded to bf16 with sums in float.
//
// oneDNN multiplies blocks of 192 rows on the thread that calls it, so that a block of C is finished while it is in the second
// cache. B is packed in oneDNN's own formats: panels of 64 columns, in float each [depth][64], depth filled up with zeros to a
// multiple of 16 (BA16a64b); in bf16 [depth/2][64] pairs of rows, to a multiple of 32 (BA16a64b2a). The rows of a last block
// are filled up to a multiple of 32, so that few shapes occur, whatever the batch.

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

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/gemm.hpp>
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
class OneDnn {
 public:
  struct Shape {
    bool in_bf16;
    int rows, columns, depth;
    bool adds;
    auto operator<=>(const Shape&) const = default;
  };

  /// C = A B or C += A B; A [rows, depth], B packed.
  void multiply(const Shape& shape, float* c, const void* a, const void* packed) {
    auto found = made_.find(shape);
    if (found == made_.end()) found = made_.emplace(shape, make(shape)).first;
    Product& product = found->second;
    product.a.set_data_handle(const_cast<void*>(a));
    product.b.set_data_handle(const_cast<void*>(packed));
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
    const auto type = shape.in_bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc a({M, K}, type, memory::format_tag::ab);
    const memory::desc b({K, N}, type, shape.in_bf16 ? memory::format_tag::BA16a64b2a : memory::format_tag::BA16a64b);
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

/// Whether the processor has the instructions, and may use them.
inline bool has_instructions(dnnl::cpu_isa needed) {
  const int isa = static_cast<int>(dnnl::get_effective_cpu_isa());
  return (isa & static_cast<int>(needed)) == static_cast<int>(needed);
}

/// Factors as oneDNN reads them in float.
struct FloatFactors {
  using Packed = float;
  static constexpr bool is_bf16 = false;

  /// Where oneDNN's formats for B are known to be those that it is fastest with.
  static bool is_there() {
    static const bool is = has_instructions(dnnl::cpu_isa::avx512_core);
    return is;
  }

  static int row_of_a(int depth) { return depth; }
  static int column_of_b(int depth) { return multiple_of(16, depth); }

  /// Whether a block of rows can be read where it is.
  static bool is_in_place(const Operand<float>& a, int depth) { return a.column_stride == 1 && a.row_stride == depth; }

  static void pack_panel(float* to, const Operand<float>& b, int columns, int depth) {
    constexpr int width = 64;
    pack_panels<width>(to, Operand<float>{b.data, b.column_stride, b.row_stride}, columns, depth);
    std::fill(to + depth * width, to + column_of_b(depth) * width, 0.0f);
  }
  static void pack_rows(float* to, const Operand<float>& a, int count, int depth) {
    if (a.column_stride == 1) {
      for (int i = 0; i < count; ++i) std::copy_n(a.data + i * a.row_stride, depth, to + std::int64_t{i} * depth);
    } else {
      transpose(to, depth, a.data, a.column_stride, depth, count);
    }
  }
};

/// Factors rounded to bf16, two in a word.
struct Bf16Factors {
  using Packed = std::uint32_t;
  static constexpr bool is_bf16 = true;
  static constexpr int step = 32;  // of depth

  static std::string obstacle() {
    if (has_instructions(dnnl::cpu_isa::avx512_core_bf16)) return {};
    return "this processor has no bf16 instructions (AVX512_BF16 or AMX)";
  }

  static int row_of_a(int depth) { return multiple_of(step, depth) / 2; }
  static int column_of_b(int depth) { return multiple_of(step, depth) / 2; }
  static bool is_in_place(const Operand<float>&, int) { return false; }

  /// to[k/2][n] = (B(k, n), B(k + 1, n)).
  static void pack_panel(Packed* to, const Operand<float>& b, int columns, int depth) {
    constexpr int width = 64;
    if (b.column_stride == 1) {
      for (int k = 0; k < 2 * column_of_b(depth); k += 2) {
        const float* row = b.data + k * b.row_stride;
        round_rows(to + k / 2 * width, row, k + 1 < depth ? row + b.row_stride : nullptr, k < depth ? columns : 0,
                   width);
      }
      return;
    }
    std::array<Packed, width * step / 2> tile;  // [column][pairs of rows]
    for (int k = 0; k < depth; k += step) {
      for (int n = 0; n < width; ++n) {
        const float* column = n < columns ? b.data + n * b.column_stride + k : nullptr;
        round_neighbours(tile.data() + n * step / 2, column, column ? std::min(step, depth - k) : 0, step / 2);
      }
      transpose_words(to + k / 2 * width, width, tile.data(), step / 2, width, step / 2);
    }
  }

  /// to[i][k/2] = (A(i, k), A(i, k + 1)).
  static void pack_rows(Packed* to, const Operand<float>& a, int count, int depth) {
    constexpr int most = 192;
    const int width = row_of_a(depth);
    if (a.column_stride == 1) {
      for (int i = 0; i < count; ++i)
        round_neighbours(to + std::int64_t{i} * width, a.data + i * a.row_stride, depth, width);
      return;
    }
    std::array<Packed, step / 2 * most> tile;  // [pairs of columns][row]
    for (int k = 0; k < depth; k += step) {
      for (int pair = 0; pair < step / 2; ++pair) {
        const int at = k + 2 * pair;
        const float* column = a.data + at * a.column_stride;
        round_rows(tile.data() + pair * most, column, at + 1 < depth ? column + a.column_stride : nullptr,
                   at < depth ? count : 0, multiple_of(pack_size<float>, count));
      }
      transpose_words(to + k / 2, width, tile.data(), most, step / 2, multiple_of(4, count));
    }
  }

 private:
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

/// Products by oneDNN: what a multiplier has (gemm.hpp). It holds no state.
template <class Factors>
struct OneDnnProducts {
  using Packed = typename Factors::Packed;
  static constexpr int panel_columns = 64;
  static constexpr int format = Factors::is_bf16 ? 2 : 1;

  static std::int64_t packed_size(int columns, int depth) {
    return std::int64_t{multiple_of(panel_columns, columns)} * Factors::column_of_b(depth);
  }
  /// A block of A, and one of C for edges.
  static std::int64_t room_size(int columns, int depth) {
    return padded(std::int64_t{block_rows} * Factors::row_of_a(depth)) + padded(std::int64_t{block_rows} * columns);
  }

  template <class Number>
  static Number* panel(Number* packed, int index, int depth) {
    return packed + std::int64_t{index} * panel_columns * Factors::column_of_b(depth);
  }

  static void pack(Packed* packed, const Operand<float>& b, int columns, int depth, int first, int last) {
    for (int index = first; index < last; ++index) {
      const int n = index * panel_columns;
      Factors::pack_panel(panel(packed, index, depth), b.at(0, n), std::min(panel_columns, columns - n), depth);
    }
  }

  template <class Finish>
  static void multiply(float* c, std::int64_t c_stride, const Operand<float>& a, const Packed* packed, int rows,
                       int columns, int depth, Result result, const float* bias, Packed* room, const Finish& finish) {
    static thread_local OneDnn products;
    const int width = Factors::row_of_a(depth), padded_depth = Factors::is_bf16 ? 2 * width : depth;
    const bool adds = result == Result::add;
    float* edge = reinterpret_cast<float*>(room + padded(std::int64_t{block_rows} * width));
    for (int i = 0; i < rows; i += block_rows) {
      const int count = std::min(block_rows, rows - i), filled = multiple_of(row_step, count);
      const void* block = a.at(i, 0).data;
      if (count < filled || !Factors::is_in_place(a, depth)) {
        Factors::pack_rows(room, a.at(i, 0), count, depth);
        std::fill(room + std::int64_t{count} * width, room + std::int64_t{filled} * width, Packed{0});
        block = room;
      }
      if (count == filled && c_stride == columns) {  // oneDNN 2.6 leaves other strides to its slowest code
        products.multiply({Factors::is_bf16, filled, columns, padded_depth, adds}, c + i * c_stride, block, packed);
      } else {
        products.multiply({Factors::is_bf16, filled, columns, padded_depth, false}, edge, block, packed);
        write_rows(c + i * c_stride, c_stride, edge, columns, count, columns, result);
      }
      if (bias) write_rows(c + i * c_stride, c_stride, bias, 0, count, columns, Result::add);
      finish_rows(finish, c, c_stride, i, i + count, columns);
    }
  }

 private:
  static constexpr int block_rows = 192, row_step = 32;
};

}  // namespace blinkbert::cpu_detail
