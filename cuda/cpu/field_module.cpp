// The compiled field core: kernels on numpy arrays of field elements. It is built twice: for every machine, and with
// ZK_MODULE=_field_ifma and the flags that make its lanes eight elements wide (parallel.hpp).
#include "bind_small.hpp"
#include "bind_vector.hpp"
#include "bind_words.hpp"
#include "memory.hpp"

#if !defined(ZK_MODULE)
#define ZK_MODULE _field
#endif

namespace zkaudit {

/// field_rounds.cpp
void bind_rounds(nb::module_& m);

}  // namespace zkaudit

/// Whether this CPU can run _field_ifma.
static bool has_ifma() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512ifma") && __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi2");
#else
    return false;
#endif
}

NB_MODULE(ZK_MODULE, m) {
    m.doc() = "Kernels on arrays of BLS12-381 scalars.";
    m.def("empty", zkaudit::empty);
    m.def("has_ifma", has_ifma);
    m.def("set_threads", [](int count) { zkaudit::thread_count() = count; });
    m.def("threads", [] { return zkaudit::thread_count(); });
    zkaudit::bind_vector(m);
    zkaudit::bind_small(m);
    zkaudit::bind_words(m);
    zkaudit::bind_rounds(m);
}
