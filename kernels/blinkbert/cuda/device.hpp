#pragma once

// Cuda: one CUDA device as a place to run ops. Owns memory by cudaMalloc and two streams, each with a grow-only workspace.
// There are no kernels here: any compiler reads this header.

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include <blinkbert/backend/backend.hpp>
#include <blinkbert/dev/check_cuda.hpp>

namespace blinkbert {

/// Bytes on the device; moved, never copied.
class CudaMemory {
 public:
  CudaMemory() = default;
  explicit CudaMemory(std::size_t bytes) {
    void* data = nullptr;
    check_cuda(cudaMalloc(&data, bytes > 0 ? bytes : 1), "asking for memory");
    data_ = static_cast<std::byte*>(data);
  }
  CudaMemory(CudaMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  CudaMemory& operator=(CudaMemory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~CudaMemory() { cudaFree(data_); }

  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

/// Page-locked bytes on the host, which the device reads and writes while the host goes on; moved, never copied.
class CudaStaging {
 public:
  CudaStaging() = default;
  explicit CudaStaging(std::size_t bytes) {
    void* data = nullptr;
    check_cuda(cudaMallocHost(&data, bytes > 0 ? bytes : 1), "asking for page-locked memory");
    data_ = static_cast<std::byte*>(data);
  }
  CudaStaging(CudaStaging&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  CudaStaging& operator=(CudaStaging&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~CudaStaging() { cudaFreeHost(data_); }

  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

/// A place in a stream's work.
class CudaMark {
 public:
  CudaMark() = default;
  CudaMark(const CudaMark&) = delete;
  CudaMark& operator=(const CudaMark&) = delete;
  ~CudaMark() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }

  void record(cudaStream_t stream) {
    if (event_ == nullptr) {
      check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event");
    }
    check_cuda(cudaEventRecord(event_, stream), "recording an event");
  }
  void wait() const {
    if (event_ != nullptr) check_cuda(cudaEventSynchronize(event_), "waiting");
  }
  /// What is issued to the stream from now on is done after all that the mark was recorded after.
  void hold_back(cudaStream_t stream) const {
    check_cuda(cudaStreamWaitEvent(stream, event_, 0), "waiting for an event");
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Ops that were captured; moved, never copied.
class CudaGraph {
 public:
  explicit CudaGraph(cudaGraph_t captured) { check_cuda(cudaGraphInstantiate(&graph_, captured, 0), "making a graph"); }
  CudaGraph(CudaGraph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  CudaGraph& operator=(CudaGraph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }
  ~CudaGraph() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }

  void launch(cudaStream_t stream) const { check_cuda(cudaGraphLaunch(graph_, stream), "starting a graph"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

/// Why the current CUDA device cannot be used, in one line; empty where it can.
inline std::string cuda_obstacle() {
  int driver = 0, runtime = 0, count = 0, device = 0, capability = 0, revision = 0;
  const auto version = [](int number) { return text(number / 1000, '.', number % 1000 / 10); };
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "there is no NVIDIA driver";
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver && cudaRuntimeGetVersion(&runtime) == cudaSuccess) {
    return text("the NVIDIA driver is too old: it knows CUDA ", version(driver), ", this program needs ",
                version(runtime));
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) return "there is no NVIDIA GPU";
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&revision, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    return "the GPU does not answer";
  }
  if (capability < 8) {
    return text("the GPU has compute capability ", capability, '.', revision, ", the kernels need 8.0");
  }
  return {};
}

class MatrixProducts;  // cuda/cublaslt.hpp

/// Runs every op on the current CUDA device: bf16 storage with fp32 sums, or fp32 (`Number`). Ops are issued to a stream in
/// the order of the calls, those of `beside` to a second one (HasSecondBranch); nothing waits but `download` and `wait`.
///
/// Bits do not depend on when the branches run. Each has a workspace of its own, for kernels and for cuBLASLt, so they share
/// only what the caller gives them; and each does its work in the order of the calls, so every sum is added up in that order.
template <class Number>
class Cuda {
 public:
  using Real = Number;
  using Memory = CudaMemory;
  using Staging = CudaStaging;
  using Mark = CudaMark;
  using Graph = CudaGraph;
  static constexpr bool is_asynchronous = true;

  /// Throws RunError where cuda_obstacle() names one. Threads of the host, which other backends are made with, do nothing here.
  explicit Cuda(int /*host_threads*/ = 1) {
    if (const std::string obstacle = cuda_obstacle(); !obstacle.empty()) {
      throw RunError("CUDA cannot be used: " + obstacle);
    }
    int device = 0;
    check_cuda(cudaGetDevice(&device), "looking for a device");
    check_cuda(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device), "asking the device");
    check_cuda(cudaDeviceGetAttribute(&most_shared_bytes_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
               "asking the device");
    for (Branch* branch : {&first_, &second_}) {
      check_cuda(cudaStreamCreateWithFlags(&branch->stream, cudaStreamNonBlocking), "making a stream");
    }
  }
  Cuda(const Cuda&) = delete;
  Cuda& operator=(const Cuda&) = delete;
  ~Cuda() {
    for (const Branch* branch : {&first_, &second_}) cudaStreamDestroy(branch->stream);
  }

  /// Of the branch that ops are issued to.
  cudaStream_t stream() const { return branch_->stream; }
  int multiprocessors() const { return multiprocessors_; }
  int most_shared_bytes() const { return most_shared_bytes_; }
  /// float: the factors of matrix products are rounded to TF32 from now on.
  void use_tf32() { uses_tf32_ = true; }
  bool uses_tf32() const { return uses_tf32_; }
  void wait() {
    join();
    check_cuda(cudaStreamSynchronize(stream()), "waiting");
  }

  template <class Body>
  void beside(const Body& body) {
    if (!uses_second_branch_) return body();
    BLINKBERT_EXPECTS(branch_ == &first_);
    forked_.record(first_.stream);
    forked_.hold_back(second_.stream);
    is_forked_ = true;
    branch_ = &second_;
    try {
      body();
    } catch (...) {
      branch_ = &first_;
      throw;
    }
    branch_ = &first_;
  }
  void join() {
    if (!is_forked_) return;
    BLINKBERT_EXPECTS(branch_ == &first_);
    joined_.record(second_.stream);
    joined_.hold_back(first_.stream);
    is_forked_ = false;
  }
  /// From now on all is done in the order of the calls: to compare.
  void use_one_branch() {
    join();
    uses_second_branch_ = false;
  }

  Memory allocate(std::size_t bytes) { return Memory(bytes); }
  void upload(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (bytes > 0)
      check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream()), "copying to the device");
  }
  void download(std::byte* to, const std::byte* from, std::size_t bytes) {
    join();
    if (bytes > 0)
      check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "copying from the device");
    wait();
  }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (bytes > 0) check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "copying");
  }
  void zero(std::byte* to, std::size_t bytes) {
    if (bytes > 0) check_cuda(cudaMemsetAsync(to, 0, bytes, stream()), "writing zeros");
  }

  Staging stage(std::size_t bytes) { return Staging(bytes); }
  void upload_later(std::byte* to, const std::byte* from, std::size_t bytes) { upload(to, from, bytes); }
  void download_later(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (bytes > 0)
      check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "copying from the device");
  }
  void record(Mark& mark) { mark.record(stream()); }
  void wait(const Mark& mark) { mark.wait(); }

  /// What the body issues, without running it. It must have been run before, so that workspace and plans of products are
  /// there. The second branch becomes one of the graph.
  template <class Body>
  Graph capture(const Body& body) {
    BLINKBERT_EXPECTS(!is_forked_);
    check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "beginning a graph");
    cudaGraph_t captured = nullptr;
    try {
      body();
      BLINKBERT_EXPECTS(!is_forked_);
    } catch (...) {
      is_forked_ = false;
      if (cudaStreamEndCapture(stream(), &captured) == cudaSuccess && captured != nullptr) cudaGraphDestroy(captured);
      throw;
    }
    check_cuda(cudaStreamEndCapture(stream(), &captured), "ending a graph");
    const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, cudaError_t (*)(cudaGraph_t)> owner(captured,
                                                                                                  cudaGraphDestroy);
    return Graph(captured);
  }
  void replay(const Graph& graph) {
    BLINKBERT_EXPECTS(!is_forked_);
    graph.launch(stream());
  }

  /// Uninitialised room of the branch that ops are issued to, valid until the next call there; allocates only where it has to
  /// grow. Smaller rooms are kept: graphs use them.
  template <class T, class... Extent>
  View<T, sizeof...(Extent)> workspace(Extent... extents) {
    const std::array<int, sizeof...(Extent)> shape{static_cast<int>(extents)...};
    const std::size_t bytes = static_cast<std::size_t>(element_count(shape)) * sizeof(T);
    std::vector<Memory>& rooms = branch_->workspaces;
    if (bytes > branch_->workspace_bytes) {
      branch_->workspace_bytes = std::max(bytes, 2 * branch_->workspace_bytes);
      rooms.push_back(Memory(branch_->workspace_bytes));
    }
    return {rooms.empty() ? nullptr : reinterpret_cast<T*>(rooms.back().data()), shape};
  }

  /// Made by the first product (cuda/cublaslt.hpp). Shared only so that who multiplies nothing need not link cuBLASLt.
  std::shared_ptr<MatrixProducts>& matrix_products() { return matrix_products_; }

 private:
  struct Branch {
    cudaStream_t stream = nullptr;
    std::vector<Memory> workspaces;
    std::size_t workspace_bytes = 0;
  };

  int multiprocessors_ = 0, most_shared_bytes_ = 0;
  bool uses_tf32_ = false, uses_second_branch_ = true;
  Branch first_, second_;
  Branch* branch_ = &first_;
  Mark forked_, joined_;
  bool is_forked_ = false;  // since the last join
  std::shared_ptr<MatrixProducts> matrix_products_;
};

}  // namespace blinkbert
