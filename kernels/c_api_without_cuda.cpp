#include "kernels/args.h"
#include "kernels/c_api_device.h"
#include "kernels/device.h"

namespace icd::c_api {

Home home_of(const void*) { return {}; }

template <typename Args>
std::string launch(const Args&, int, void*) {
  return why_no_device();
}

template <typename Args>
std::int64_t workspace(const Args&, int) {
  return 0;
}

std::string why_not_current_device() { return why_no_device(); }

template std::string launch(const SelectiveScan&, int, void*);
template std::string launch(const CausalConv1d&, int, void*);
template std::string launch(const CausalConv1dUpdate&, int, void*);
template std::string launch(const StateUpdate&, int, void*);
template std::string launch(const HeadStateUpdate&, int, void*);
template std::string launch(const Ssd&, int, void*);
template std::string launch(const Mamba3Scan&, int, void*);
template std::string launch(const RmsNorm&, int, void*);
template std::string launch(const SkipZeroGemv&, int, void*);
template std::int64_t workspace(const SelectiveScan&, int);
template std::int64_t workspace(const Ssd&, int);
template std::int64_t workspace(const SkipZeroGemv&, int);

}  // namespace icd::c_api
