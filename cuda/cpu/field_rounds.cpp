// The prover's passes of the field core, compiled by themselves: they take the compiler as long as all else together.
#include "bind_leaves.hpp"
#include "bind_sumcheck.hpp"
#include "bind_ternary.hpp"

namespace zkaudit {

void bind_rounds(nb::module_& m) {
    bind_sumcheck(m);
    bind_leaves(m);
    bind_ternary(m);
}

}  // namespace zkaudit
