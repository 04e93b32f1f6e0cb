#pragma once

// A card without a card: what cuda/device.hpp and cuda/cublaslt.hpp call of CUDA's runtime and of cuBLASLt, on the host, as the
// manuals describe it. Device memory is the host's; time is what the algorithms say they take. For one test program, which is
// linked with neither library.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <blinkbert/core/bf16.hpp>

namespace blinkbert::test {

/// An algorithm that heuristics name.
struct FakeAlgorithm {
  std::uint64_t id = 0;
  float milliseconds = 1;
  std::uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
  std::size_t workspace_bytes = 0;
  std::uint32_t alignment = 1;  // bytes that it needs of every operand
};

/// The card: what it offers, and what was done with it.
struct FakeCard {
  std::map<std::uint32_t, std::vector<FakeAlgorithm>> algorithms;  // by epilogue, the likeliest first
  bool is_capturing = false;
  int capability = 9;

  float clock = 0;  // milliseconds
  std::vector<std::uint64_t> runs;
  int allocations = 0, waits = 0;

  const FakeAlgorithm* find(std::uint32_t epilogue, std::uint64_t id) const {
    const auto list = algorithms.find(epilogue);
    if (list == algorithms.end()) return nullptr;
    for (const FakeAlgorithm& algorithm : list->second) {
      if (algorithm.id == id) return &algorithm;
    }
    return nullptr;
  }
};

inline FakeCard& fake_card() {
  static FakeCard card;
  return card;
}

/// Element i, j of a matrix that is described column by column.
class FakeMatrix {
 public:
  FakeMatrix(const void* data, const cublasLtMatrixLayoutOpaque_t& layout)
      : data_(const_cast<void*>(data)), type_(static_cast<cudaDataType>(layout.data[0])), layout_(layout) {}
  int rows() const { return static_cast<int>(layout_.data[1]); }
  int columns() const { return static_cast<int>(layout_.data[2]); }
  float get(int i, int j) const {
    return type_ == CUDA_R_16BF ? static_cast<float>(static_cast<bf16*>(data_)[at(i, j)])
                                : static_cast<float*>(data_)[at(i, j)];
  }
  void set(int i, int j, float value) const {
    if (type_ == CUDA_R_16BF) static_cast<bf16*>(data_)[at(i, j)] = bf16(value);
    if (type_ == CUDA_R_32F) static_cast<float*>(data_)[at(i, j)] = value;
  }

 private:
  std::int64_t at(int i, int j) const { return static_cast<std::int64_t>(layout_.data[3]) * j + i; }
  void* data_;
  cudaDataType type_;
  cublasLtMatrixLayoutOpaque_t layout_;
};

inline float fake_gelu(float h) { return h / 2 * (1 + std::tanh(.79788456f * (h + .044715f * h * h * h))); }
inline float fake_gelu_slope(float h) {
  const float t = std::tanh(.79788456f * (h + .044715f * h * h * h));
  return (1 + t) / 2 + h / 2 * (1 - t * t) * .79788456f * (1 + 3 * .044715f * h * h);
}

template <class Value>
Value attribute_of(const cublasLtMatmulDescOpaque_t& product, cublasLtMatmulDescAttributes_t which) {
  Value value;
  std::memcpy(&value, &product.data[which], sizeof(value));
  return value;
}

}  // namespace blinkbert::test

// --- CUDA's runtime ------------------------------------------------------------------------------------------------
extern "C" {

inline const char* fake_text() { return "an error of the fake card"; }
const char* cudaGetErrorString(cudaError_t) { return fake_text(); }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const bool is_capability = which == cudaDevAttrComputeCapabilityMajor;
  return *value = is_capability ? blinkbert::test::fake_card().capability : 5, cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "fake card");
  return properties->multiProcessorCount = 5, cudaSuccess;
}
cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  ++blinkbert::test::fake_card().allocations;
  return (*data = std::aligned_alloc(256, (bytes + 255) / 256 * 256)) != nullptr ? cudaSuccess
                                                                                 : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* data) { return std::free(data), cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return ++blinkbert::test::fake_card().waits, cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  const bool is_capturing = blinkbert::test::fake_card().is_capturing;
  return *status = is_capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return *event = reinterpret_cast<cudaEvent_t>(new float(0)), cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete reinterpret_cast<float*>(event), cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  return *reinterpret_cast<float*>(event) = blinkbert::test::fake_card().clock, cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return ++blinkbert::test::fake_card().waits, cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  return *milliseconds = *reinterpret_cast<float*>(end) - *reinterpret_cast<float*>(begin), cudaSuccess;
}

// --- cuBLASLt ------------------------------------------------------------------------------------------------------
const char* cublasLtGetStatusName(cublasStatus_t) { return fake_text(); }
std::size_t cublasLtGetVersion() { return 130002; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t*) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t product, std::size_t, cublasComputeType_t compute,
                                               cudaDataType_t) {
  *product = {};
  product->data[CUBLASLT_MATMUL_DESC_COMPUTE_TYPE] = compute;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t which,
                                              const void* value, std::size_t bytes) {
  return std::memcpy(&product->data[which], value, bytes), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t matrix, std::size_t, cudaDataType type,
                                                 std::uint64_t rows, std::uint64_t columns, std::int64_t ld) {
  *matrix = {{static_cast<std::uint64_t>(type), rows, columns, static_cast<std::uint64_t>(ld)}};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, std::size_t) {
  return *preference = {}, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t which, const void* value,
                                                    std::size_t bytes) {
  return std::memcpy(&preference->data[which % 8], value, bytes), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t, void* value,
                                                    std::size_t bytes, std::size_t* written) {
  *written = bytes;
  return std::memcpy(value, &algorithm->data[1], bytes), CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t* results, int* count) {
  using namespace blinkbert::test;
  *count = 0;
  const auto list = fake_card().algorithms.find(attribute_of<std::uint32_t>(*product, CUBLASLT_MATMUL_DESC_EPILOGUE));
  if (list == fake_card().algorithms.end()) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (const FakeAlgorithm& algorithm : list->second) {
    const bool fits = (algorithm.reduction & ~preference->data[CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK]) == 0 &&
                      algorithm.workspace_bytes <= preference->data[CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES] &&
                      algorithm.alignment <= preference->data[CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
    if (!fits || *count == most) continue;
    results[*count] = {};
    results[*count].algo.data[0] = algorithm.id;
    results[*count].algo.data[1] = algorithm.reduction;
    results[*count].workspaceSize = algorithm.workspace_bytes;
    ++*count;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
  using namespace blinkbert::test;
  const auto epilogue = attribute_of<std::uint32_t>(*product, CUBLASLT_MATMUL_DESC_EPILOGUE);
  const FakeAlgorithm* const known = fake_card().find(epilogue, algorithm->data[0]);
  if (known == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  result->state = CUBLAS_STATUS_SUCCESS;
  result->workspaceSize = known->workspace_bytes;
  return CUBLAS_STATUS_SUCCESS;
}

/// D = alpha op(A) op(B) + beta C and the epilogue, column by column.
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void*, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void*,
                              std::size_t workspace_bytes, cudaStream_t) {
  using namespace blinkbert::test;
  const auto epilogue = attribute_of<std::uint32_t>(*product, CUBLASLT_MATMUL_DESC_EPILOGUE);
  const FakeAlgorithm* const known = fake_card().find(epilogue, algorithm->data[0]);
  if (known == nullptr || known->workspace_bytes > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
  const FakeMatrix A(a, *a_layout), B(b, *b_layout), C(c, *c_layout), D(d, *d_layout);
  const bool a_turned = attribute_of<cublasOperation_t>(*product, CUBLASLT_MATMUL_DESC_TRANSA) == CUBLAS_OP_T;
  const bool b_turned = attribute_of<cublasOperation_t>(*product, CUBLASLT_MATMUL_DESC_TRANSB) == CUBLAS_OP_T;
  const int depth = a_turned ? A.rows() : A.columns();
  if ((a_turned ? A.columns() : A.rows()) != D.rows() || (b_turned ? B.columns() : B.rows()) != depth ||
      (b_turned ? B.rows() : B.columns()) != D.columns()) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  cublasLtMatrixLayoutOpaque_t like_d = *d_layout;
  like_d.data[3] = product->data[CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD];
  const FakeMatrix aux(attribute_of<void*>(*product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER), like_d);
  const FakeMatrix bias(attribute_of<void*>(*product, CUBLASLT_MATMUL_DESC_BIAS_POINTER), *d_layout);  // its column 0
  for (int j = 0; j < D.columns(); ++j) {
    for (int i = 0; i < D.rows(); ++i) {
      float sum = 0;
      for (int k = 0; k < depth; ++k)
        sum += (a_turned ? A.get(k, i) : A.get(i, k)) * (b_turned ? B.get(j, k) : B.get(k, j));
      if (*static_cast<const float*>(beta) != 0) sum += *static_cast<const float*>(beta) * C.get(i, j);
      if ((epilogue & CUBLASLT_EPILOGUE_BIAS) != 0) sum += bias.get(i, 0);
      if (epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) aux.set(i, j, sum);
      if ((epilogue & CUBLASLT_EPILOGUE_GELU) != 0) sum = fake_gelu(sum);
      if (epilogue == CUBLASLT_EPILOGUE_DGELU) sum *= fake_gelu_slope(aux.get(i, j));
      D.set(i, j, sum);
    }
  }
  fake_card().clock += known->milliseconds;
  fake_card().runs.push_back(known->id);
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
