/// The parts of a manifest that the runtime has no use for.
#pragma once

#include "field.hpp"

namespace segvit {

/// Checks the types of what is recorded of a build, so that a manifest that Python refuses is
/// refused here. Throws `FieldError`.
void check_records(const Field& manifest);

}  // namespace segvit
