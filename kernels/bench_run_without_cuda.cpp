#include "icd/error.h"
#include "kernels/bench_run.h"
#include "kernels/device.h"

namespace icd {

BenchResult run_bench(const BenchRequest& request, const BenchInputsOf&,
                      const std::function<void(const std::string&)>&) {
  cells_of(request);  // a wrong call is a wrong call in every build
  throw Error(ErrorCode::unavailable, why_no_device(), "icd doctor says more");
}

void run_ranges(const BenchRequest& request, const BenchInputsOf&) {
  cells_of(request);
  throw Error(ErrorCode::unavailable, why_no_device());
}

}  // namespace icd
