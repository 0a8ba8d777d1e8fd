#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "kernels/cuda_error.h"

namespace icd {

/// A place in a stream, for timing.
class CudaEvent {
 public:
  CudaEvent() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~CudaEvent() { cudaEventDestroy(event_); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  /// Once both have been reached.
  double us_since(const CudaEvent& start) const {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start.event_, event_), "cudaEventElapsedTime");
    return 1e3 * static_cast<double>(ms);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// What `record` puts in a stream, captured once to be replayed.
class CudaGraph {
 public:
  /// Throws what `record` throws, and Error{unavailable} with `what` in it if the capture fails.
  template <typename Record>
  CudaGraph(cudaStream_t stream, const std::string& what, const Record& record) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      record();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();  // what failed has been said
      throw;
    }
    cudaError_t status = cudaStreamEndCapture(stream, &graph);
    if (status == cudaSuccess) status = cudaGraphInstantiateWithFlags(&graph_, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    check(status, ("capture of " + what).c_str());
  }
  ~CudaGraph() { cudaGraphExecDestroy(graph_); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void replay(cudaStream_t stream) { check(cudaGraphLaunch(graph_, stream), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace icd
