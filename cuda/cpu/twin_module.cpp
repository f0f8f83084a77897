// The GPU's kernels on the CPU: what tests them where there is no GPU. A launch calls the same bodies, thread by thread.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <string>
#include <vector>

#include "parallel.hpp"

#include "gpu/leaf_layers.cu"
#include "gpu/leaves_0.cu"
#include "gpu/leaves_1.cu"
#include "gpu/leaves_2.cu"
#include "gpu/msm.cu"
#include "gpu/rounds.cu"
#include "gpu/rows.cu"
#include "gpu/small.cu"
#include "gpu/vector.cu"

namespace nb = nanobind;

namespace zkaudit {

using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;

/// Runs `name` for all i < n with the fields in `body`, which must be as many bytes as the kernel has.
static void launch(const std::string& name, const Bytes& body, int64_t n) {
    for (const TwinKernel& kernel : twin_kernels()) {
        if (name != kernel.name) continue;
        const int64_t given = static_cast<int64_t>(body.size());
        if (given != kernel.bytes) throw nb::value_error((name + " takes " + std::to_string(kernel.bytes) + " bytes, got " + std::to_string(given)).c_str());
        const std::vector<uint64_t> fields(body.data() == nullptr ? 0 : (given + 7) / 8);
        std::memcpy(const_cast<uint64_t*>(fields.data()), body.data(), static_cast<size_t>(given));
        constexpr int64_t block = 64;
        nb::gil_scoped_release release;
        for_jobs((n + block - 1) / block, n * block, [&](int64_t b) { kernel.run(fields.data(), b * block, std::min(n, (b + 1) * block)); });
        return;
    }
    throw nb::value_error(("no kernel is called " + name).c_str());
}

}  // namespace zkaudit

NB_MODULE(_twin, m) {
    m.doc() = "The GPU's kernels, run by the CPU.";
    m.def("launch", zkaudit::launch);
    m.def("kernels", [] {
        nb::list names;
        for (const zkaudit::TwinKernel& kernel : zkaudit::twin_kernels()) names.append(kernel.name);
        return names;
    });
}
