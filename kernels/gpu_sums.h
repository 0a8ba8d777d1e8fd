#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "kernels/gpu_work.h"
#include "site_sums.h"

namespace icd {

/// Sums and Gram matrices of rows that lie on a device. Rows come on the stream of `work`, whose
/// user holds `mutex`; finish() takes it.
std::unique_ptr<SiteSums> gpu_sums(GpuWork& work, std::mutex& mutex, int device, Index n,
                                   bool has_products);

/// What sums with products of so many channels each take on the device, all at once.
std::int64_t gpu_sums_bytes(std::span<const Index> sizes);

}  // namespace icd
