/// The parts of a manifest that the runtime has no use for.
#pragma once

#include "field.hpp"

namespace segvit {

/// Checks the types of what is recorded of a build, so that a manifest that Python refuses is
/// refused here. Throws `FieldError`.
void check_records(const Field& manifest);

/// Checks what is recorded of engines alone: audits, missing targets, warnings. Throws as above.
void check_build_records(const Field& values);

}  // namespace segvit
