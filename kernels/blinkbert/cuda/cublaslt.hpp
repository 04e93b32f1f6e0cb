#pragma once

// Matrix products on a card: cuBLASLt, planned once per product and run often. Host code; any compiler reads this header.
//
//   plan       made where a product of its kind is first met: the algorithms that cuBLASLt's heuristics name are timed on the
//              operands themselves, with the epilogue and without it (then with the kernels that finish a bare product),
//              and the fastest stays. Only then does anything wait, for all streams, or take memory
//   kind       extents, number types, storage, epilogue, and the alignment of the operands (ProductKind); batches of nearly as
//              many rows share a plan
//   order      algorithms that add up parts of a sum do so in a fixed order, and every stream has a workspace of its own: the same
//              plan gives the same bits. Which plan is the fastest may differ from one timing to the next, so plans can be
//              kept as text and used again (plans, use)
//   numerics   bf16: products exact, sums in fp32, rounded once. float: all in fp32, or factors rounded to TF32
//   layout     cuBLASLt counts columns first. What is d = a b [M, N] row by row here is d^T = b^T a^T there: b is its A
//   sources    cuBLAS manual, sections 2.1.4 (same bits run to run) and 3 (cuBLASLt)

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <cublasLt.h>

#include <blinkbert/cuda/device.hpp>
#include <blinkbert/cuda/matrix_product.hpp>

namespace blinkbert {

/// Throws RunError with cuBLASLt's name of what went wrong.
inline void check_cublaslt(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw RunError(text("cuBLASLt: ", what, ": ", cublasLtGetStatusName(status)));
}

/// What tells one product from another. Those of an equal planned() kind share a plan.
struct ProductKind {
  enum class Number { bf16, tf32, fp32 };  // tf32: fp32 in memory

  int rows = 0, columns = 0, depth = 0;  // M, N, K
  Number factors = Number::fp32, result = Number::fp32;
  Storage a_storage = Storage::as_is, b_storage = Storage::as_is;
  bool adds = false;  // c is given
  Epilogue epilogue = Epilogue::none;
  int alignment = 16;  // bytes that the addresses of all operands are a multiple of; 16 stands for more, too

  auto operator<=>(const ProductKind&) const = default;

  /// The kind whose plan this one takes: the number of rows that are worked on (M, or K where a is transposed, as in a weight
  /// gradient) rounded up to four binary digits. It differs from batch to batch where rows are chosen, and timing each
  /// number anew would stop every step.
  ProductKind planned() const {
    ProductKind kind = *this;
    int& count = a_storage == Storage::as_is ? kind.rows : kind.depth;
    const int step = 1 << std::max(static_cast<int>(std::bit_width(static_cast<unsigned>(count))) - 4, 0);
    count = static_cast<int>((std::int64_t{count} + step - 1) / step * step);
    return kind;
  }

  /// As "30720x2048x512 bf16 a*b' bias_gelu_kept align16": the name under which a plan is kept.
  std::string name() const {
    static constexpr const char* names[] = {" bf16", " tf32", " fp32"};
    static constexpr const char* epilogues[] = {"", " bias", " bias_gelu", " bias_gelu_kept", " times_gelu_slope"};
    return text(rows, 'x', columns, 'x', depth, names[static_cast<std::size_t>(factors)],
                factors == Number::bf16 && result == Number::fp32 ? "->fp32" : "",
                a_storage == Storage::as_is ? " a" : " a'", b_storage == Storage::as_is ? "*b" : "*b'",
                adds ? "+c" : "", epilogues[static_cast<std::size_t>(epilogue)], " align", alignment);
  }
};

/// What a plan holds: the algorithm as cuBLASLt describes it, and whether it does the epilogue.
struct ProductPlan {
  bool does_epilogue = false;
  cublasLtMatmulAlgo_t algorithm{};

  /// As "epilogue 0123456789abcdef ...": eight words.
  std::string spell() const {
    std::string line = does_epilogue ? "epilogue" : "bare";
    for (const std::uint64_t word : algorithm.data) {
      line += ' ';
      for (int shift = 60; shift >= 0; shift -= 4) line += "0123456789abcdef"[word >> shift & 15];
    }
    return line;
  }
  /// Empty where the text is no plan.
  static std::optional<ProductPlan> parse(std::string_view line) {
    ProductPlan plan;
    plan.does_epilogue = line.starts_with("epilogue ");
    if (!plan.does_epilogue && !line.starts_with("bare ")) return {};
    line.remove_prefix(line.find(' '));
    for (std::uint64_t& word : plan.algorithm.data) {
      if (line.size() < 17 || line[0] != ' ') return {};
      const auto [rest, error] = std::from_chars(line.data() + 1, line.data() + 17, word, 16);
      if (error != std::errc{} || rest != line.data() + 17) return {};
      line.remove_prefix(17);
    }
    return line.empty() ? std::optional(plan) : std::nullopt;
  }
};

/// The addresses of a product, without their types.
struct ProductOperands {
  void* d = nullptr;
  const void *a = nullptr, *b = nullptr, *c = nullptr, *bias = nullptr;
  void* pre_activation = nullptr;
};

/// A product as cuBLASLt is told of it. No memory of its own behind it: these are values.
struct ProductCall {
  cublasLtMatmulDescOpaque_t product{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, d{};
  bool has_bias = false, has_aux = false, adds = false;

  ProductCall() = default;
  ProductCall(const ProductKind& kind, Epilogue epilogue) : adds(kind.adds) {
    const cudaDataType_t factors = kind.factors == ProductKind::Number::bf16 ? CUDA_R_16BF : CUDA_R_32F;
    const cudaDataType_t result = kind.result == ProductKind::Number::bf16 ? CUDA_R_16BF : CUDA_R_32F;
    check_cublaslt(
        cublasLtMatmulDescInit(
            &product, kind.factors == ProductKind::Number::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
            CUDA_R_32F),
        "describing a product");
    attribute(CUBLASLT_MATMUL_DESC_TRANSA, kind.b_storage == Storage::as_is ? CUBLAS_OP_N : CUBLAS_OP_T);
    attribute(CUBLASLT_MATMUL_DESC_TRANSB, kind.a_storage == Storage::as_is ? CUBLAS_OP_N : CUBLAS_OP_T);
    layout(a, factors, kind.depth, kind.columns, kind.b_storage);
    layout(b, factors, kind.rows, kind.depth, kind.a_storage);
    layout(d, result, kind.rows, kind.columns, Storage::as_is);
    attribute(CUBLASLT_MATMUL_DESC_EPILOGUE, name_of(epilogue));
    has_bias = epilogue == Epilogue::bias || epilogue == Epilogue::bias_gelu || epilogue == Epilogue::bias_gelu_kept;
    has_aux = epilogue == Epilogue::bias_gelu_kept || epilogue == Epilogue::times_gelu_slope;
    if (has_aux) attribute(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int64_t{kind.columns});
  }

  /// The addresses that belong to the description; heuristics look at their alignment.
  void set(const ProductOperands& operands) {
    if (has_bias) attribute(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
    if (has_aux) attribute(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, operands.pre_activation);
  }

 private:
  template <class Value>
  void attribute(cublasLtMatmulDescAttributes_t which, Value value) {
    check_cublaslt(cublasLtMatmulDescSetAttribute(&product, which, &value, sizeof(value)), "describing a product");
  }
  /// rows x columns, row by row in memory; transposed: the other way round. To cuBLASLt a row is a column.
  static void layout(cublasLtMatrixLayoutOpaque_t& matrix, cudaDataType_t type, int rows, int columns,
                     Storage storage) {
    if (storage == Storage::transposed) std::swap(rows, columns);
    check_cublaslt(cublasLtMatrixLayoutInit(&matrix, type, static_cast<std::uint64_t>(columns),
                                            static_cast<std::uint64_t>(rows), columns),
                   "describing a matrix");
  }
  static cublasLtEpilogue_t name_of(Epilogue epilogue) {
    switch (epilogue) {
      case Epilogue::none:
        break;
      case Epilogue::bias:
        return CUBLASLT_EPILOGUE_BIAS;
      case Epilogue::bias_gelu:
        return CUBLASLT_EPILOGUE_GELU_BIAS;
      case Epilogue::bias_gelu_kept:
        return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
      case Epilogue::times_gelu_slope:
        return CUBLASLT_EPILOGUE_DGELU;
    }
    return CUBLASLT_EPILOGUE_DEFAULT;
  }
};

/// The products of a device: a handle, a workspace for each stream, the plans so far.
class MatrixProducts {
 public:
  /// Name of a product's kind -> plan, both as text.
  using Plans = std::map<std::string, std::string>;

  using Finish = std::function<void()>;

  MatrixProducts() {
    check_cuda(cudaGetDevice(&device_), "looking for a device");
    check_cuda(cudaDeviceGetAttribute(&capability_, cudaDevAttrComputeCapabilityMajor, device_), "asking the device");
    check_cublaslt(cublasLtCreate(&handle_), "starting");
    // What the manual advises for these cards.
    workspace_bytes_ = capability_ == 9 || capability_ == 10 ? std::size_t{32} << 20 : std::size_t{4} << 20;
  }
  MatrixProducts(const MatrixProducts&) = delete;
  MatrixProducts& operator=(const MatrixProducts&) = delete;
  ~MatrixProducts() { cublasLtDestroy(handle_); }

  /// What plans depend on beside a product's kind: the card and the library, as text.
  std::string device_and_library() const {
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, device_), "asking the device");
    return text(properties.name, ", ", properties.multiProcessorCount, " multiprocessors, cuBLASLt ",
                cublasLtGetVersion());
  }

  /// The plans of all products so far.
  Plans plans() const {
    Plans all;
    for (const auto& [kind, plan] : plans_) all[kind.name()] = plan.spell();
    return all;
  }

  /// From now on these plans win over timing. What cuBLASLt does not accept (text of another version, say) is timed as if
  /// it were not there.
  void use(Plans plans) {
    given_ = std::move(plans);
    plans_.clear();
    entries_.clear();
  }

  /// multiply of matrix_product.hpp, on a stream that `finish` goes to as well. Throws RunError where a plan would have to be
  /// made while the stream is captured.
  bool multiply(cudaStream_t stream, const ProductKind& kind, const ProductOperands& operands, const Finish& finish) {
    const Place place = place_of(stream);
    auto found = entries_.find(kind);
    if (found == entries_.end()) found = entries_.emplace(kind, make(place, kind, operands, finish)).first;
    Entry& entry = found->second;
    if (!entry.plan) return false;
    entry.call.set(operands);
    check_cublaslt(run(place, entry.call, operands, operands.d, entry.plan->algorithm), "multiplying");
    if (!entry.plan->does_epilogue) finish();
    return true;
  }

 private:
  static constexpr int most_algorithms = 8;  // that are timed, with the epilogue and without

  struct Entry {
    std::optional<ProductPlan> plan;  // none: cuBLASLt cannot do this product
    ProductCall call;
  };

  /// Where a product is done.
  struct Place {
    cudaStream_t stream;
    std::byte* workspace;
  };
  Place place_of(cudaStream_t stream) {
    auto found = workspaces_.find(stream);
    if (found == workspaces_.end()) found = workspaces_.emplace(stream, CudaMemory(workspace_bytes_)).first;
    return {stream, found->second.data()};
  }

  /// Starts a product with its result in `d`.
  cublasStatus_t run(const Place& place, ProductCall& call, const ProductOperands& operands, void* d,
                     const cublasLtMatmulAlgo_t& algorithm) {
    const float one = 1, beta = call.adds ? 1.0f : 0.0f;
    return cublasLtMatmul(handle_, &call.product, &one, operands.b, &call.a, operands.a, &call.b, &beta,
                          call.adds ? operands.c : d, &call.d, d, &call.d, &algorithm, place.workspace,
                          workspace_bytes_, place.stream);
  }

  /// With a plan that is there or was given, or the fastest.
  Entry make(const Place& place, const ProductKind& kind, const ProductOperands& operands, const Finish& finish) {
    const ProductKind planned = kind.planned();
    if (const Entry entry = with_plan_of(planned, kind, operands); entry.plan) return entry;
    // Where the plan of the neighbours cannot do this one, it gets one of its own.
    const ProductKind& owner = plans_.contains(planned) ? kind : planned;
    if (const Entry entry = with_plan_of(kind, kind, operands); entry.plan) return entry;
    const Entry entry = fastest(place, kind, operands, finish);
    if (entry.plan) plans_.emplace(owner, *entry.plan);
    return entry;
  }

  /// With the plan that `owner` has or was given; no plan where there is none, or none for this kind.
  Entry with_plan_of(const ProductKind& owner, const ProductKind& kind, const ProductOperands& operands) {
    if (const auto found = plans_.find(owner); found != plans_.end()) return with_plan(kind, operands, found->second);
    const auto given = given_.find(owner.name());
    const auto plan = given == given_.end() ? std::nullopt : ProductPlan::parse(given->second);
    if (!plan) return {};
    const Entry entry = with_plan(kind, operands, *plan);
    if (entry.plan) plans_.emplace(owner, *plan);
    return entry;
  }

  /// No plan where cuBLASLt cannot do the product in this way.
  Entry with_plan(const ProductKind& kind, const ProductOperands& operands, const ProductPlan& plan) {
    if (plan.does_epilogue && !may_do_epilogue(kind)) return {};
    Entry entry{plan, ProductCall(kind, plan.does_epilogue ? kind.epilogue : Epilogue::none)};
    entry.call.set(operands);
    return is_usable(kind, entry.call, plan.algorithm) ? entry : Entry{};
  }

  Entry fastest(const Place& place, const ProductKind& kind, const ProductOperands& operands, const Finish& finish) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(place.stream, &capture), "asking the stream");
    if (capture != cudaStreamCaptureStatusNone) {
      throw RunError(
          text("a product of a kind never run before (", kind.name(), ") was met while a graph is captured"));
    }
    check_cuda(cudaDeviceSynchronize(), "waiting");  // what another stream does would slow some of them
    // A result that is added to is not touched by timing.
    const std::size_t element = kind.result == ProductKind::Number::bf16 ? 2 : 4;
    CudaMemory room;
    void* d = operands.d;
    if (kind.adds) {
      room = CudaMemory(static_cast<std::size_t>(kind.rows) * static_cast<std::size_t>(kind.columns) * element);
      d = room.data();
    }
    Entry best;
    float least = 0;
    const auto try_all = [&](Epilogue epilogue) {
      const bool does_epilogue = epilogue == kind.epilogue;
      ProductCall call(kind, epilogue);
      call.set(operands);
      for (const ProductPlan& plan : candidates(kind, call, does_epilogue)) {
        const std::optional<float> milliseconds = time(place.stream, [&] {
          if (run(place, call, operands, d, plan.algorithm) != CUBLAS_STATUS_SUCCESS) return false;
          if (!plan.does_epilogue) finish();
          return true;
        });
        if (!milliseconds || (best.plan && *milliseconds >= least)) continue;
        least = *milliseconds;
        best = {plan, call};
      }
    };
    if (may_do_epilogue(kind)) try_all(kind.epilogue);
    if (kind.epilogue != Epilogue::none) try_all(Epilogue::none);
    return best;
  }

  /// The kept pre-activation has rows of whole 16 bytes.
  static bool may_do_epilogue(const ProductKind& kind) {
    const bool has_aux = kind.epilogue == Epilogue::bias_gelu_kept || kind.epilogue == Epilogue::times_gelu_slope;
    return !has_aux || (kind.columns % 8 == 0 && kind.alignment >= 16);
  }

  /// What cuBLASLt's heuristics name, likely the fastest first; empty where it cannot do the product.
  std::vector<ProductPlan> candidates(const ProductKind& kind, ProductCall& call, bool does_epilogue) {
    cublasLtMatmulPreferenceOpaque_t preference{};
    check_cublaslt(cublasLtMatmulPreferenceInit(&preference), "describing a preference");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
      check_cublaslt(cublasLtMatmulPreferenceSetAttribute(&preference, which, &value, sizeof(value)),
                     "describing a preference");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes_});
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, ordered_reductions(kind));
    for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                             CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      prefer(which, static_cast<std::uint32_t>(kind.alignment));
    }
    std::array<cublasLtMatmulHeuristicResult_t, most_algorithms> results{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, &call.product, &call.a, &call.b, &call.d, &call.d, &preference,
                                       most_algorithms, results.data(), &count);
    std::vector<ProductPlan> plans;  // not of their algorithms, an unnamed type that nvcc 13.0 cannot put into a vector
    if (status != CUBLAS_STATUS_SUCCESS) return plans;
    for (int i = 0; i < count; ++i) {
      const cublasLtMatmulHeuristicResult_t& result = results[static_cast<std::size_t>(i)];
      if (result.state == CUBLAS_STATUS_SUCCESS && is_ordered(kind, result.algo))
        plans.push_back({does_epilogue, result.algo});
    }
    return plans;
  }

  /// Parts of a sum go to the workspace, in fp32, and are added up afterwards; never in place, never in the order of arrival.
  static std::uint32_t ordered_reductions(const ProductKind& kind) {
    const bool is_wide = kind.result == ProductKind::Number::fp32;
    return std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE} |
           (is_wide ? std::uint32_t{CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE} : 0u);
  }

  static bool is_ordered(const ProductKind& kind, const cublasLtMatmulAlgo_t& algorithm) {
    std::uint32_t scheme = 0;
    std::size_t written = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoConfigGetAttribute(
        &algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof(scheme), &written);
    return status == CUBLAS_STATUS_SUCCESS && (scheme & ~ordered_reductions(kind)) == 0;
  }

  bool is_usable(const ProductKind& kind, ProductCall& call, const cublasLtMatmulAlgo_t& algorithm) {
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle_, &call.product, &call.a, &call.b, &call.d, &call.d, &algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.state == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= workspace_bytes_ && is_ordered(kind, algorithm);
  }

  /// Milliseconds of one call of `work`, the least of a few means; empty where it cannot be done.
  template <class Work>
  std::optional<float> time(cudaStream_t stream, const Work& work) {
    struct Event {
      cudaEvent_t event = nullptr;
      Event() { check_cuda(cudaEventCreate(&event), "making an event"); }
      ~Event() { cudaEventDestroy(event); }
    } begin, end;
    bool is_done = true;
    const auto mean_of = [&](int calls) {
      check_cuda(cudaEventRecord(begin.event, stream), "timing");
      for (int i = 0; i < calls && is_done; ++i) is_done = work();
      check_cuda(cudaEventRecord(end.event, stream), "timing");
      check_cuda(cudaEventSynchronize(end.event), "timing");
      float milliseconds = 0;
      check_cuda(cudaEventElapsedTime(&milliseconds, begin.event, end.event), "timing");
      return milliseconds / static_cast<float>(calls);
    };
    mean_of(1);  // the first call loads the kernel
    const float once = mean_of(1);
    constexpr float enough = 0.5f;  // milliseconds, for a mean
    const int calls = std::clamp(static_cast<int>(enough / std::max(once, 1e-3f)), 1, 20);
    float least = once;
    for (int i = 0; i < 3; ++i) least = std::min(least, mean_of(calls));
    return is_done ? std::optional(least) : std::nullopt;
  }

  int device_ = 0, capability_ = 0;
  cublasLtHandle_t handle_ = nullptr;
  std::size_t workspace_bytes_ = 0;
  std::map<cudaStream_t, CudaMemory> workspaces_;
  Plans given_;
  std::map<ProductKind, ProductPlan> plans_;  // of planned() kinds
  std::map<ProductKind, Entry> entries_;
};

/// The products of a device; made by the first call.
template <class Real>
MatrixProducts& matrix_products(Cuda<Real>& gpu) {
  std::shared_ptr<MatrixProducts>& products = gpu.matrix_products();
  if (!products) products = std::make_shared<MatrixProducts>();
  return *products;
}

/// By cuBLASLt: matrix_product.hpp says what it does.
template <class Real, class Sum, class Finish>
bool multiply(Cuda<Real>& gpu, const MatrixProduct<Real, Sum>& product, const Finish& finish) {
  product.check();
  using Number = ProductKind::Number;
  const Number wide = gpu.uses_tf32() ? Number::tf32 : Number::fp32;
  const ProductOperands operands{.d = product.d.data(),
                                 .a = product.a.data(),
                                 .b = product.b.data(),
                                 .c = product.c.data(),
                                 .bias = product.bias.data(),
                                 .pre_activation = product.pre_activation.data()};
  std::uintptr_t addresses = 16;
  for (const void* address : {static_cast<const void*>(operands.d), operands.a, operands.b, operands.c, operands.bias,
                              static_cast<const void*>(operands.pre_activation)}) {
    addresses |= reinterpret_cast<std::uintptr_t>(address);
  }
  const ProductKind kind{.rows = product.d.extent(0),
                         .columns = product.d.extent(1),
                         .depth = product.depth(),
                         .factors = sizeof(Real) == 2 ? Number::bf16 : wide,
                         .result = sizeof(Sum) == 2 ? Number::bf16 : Number::fp32,
                         .a_storage = product.a_storage,
                         .b_storage = product.b_storage,
                         .adds = static_cast<bool>(product.c),
                         .epilogue = product.epilogue,
                         .alignment = static_cast<int>(addresses & (~addresses + 1))};
  if (kind.rows == 0 || kind.columns == 0) return true;
  return matrix_products(gpu).multiply(gpu.stream(), kind, operands, std::ref(finish));
}

}  // namespace blinkbert
