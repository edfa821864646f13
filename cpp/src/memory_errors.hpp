/// Memory that did not suffice, as an `Error`.
#pragma once

#include <new>
#include <string>
#include <string_view>

#include "segvit/segmenter.hpp"

namespace segvit {

/// Returns what `work` returns; its failed allocations are thrown as kOutOfMemory.
template <typename Work>
auto with_memory_errors(std::string_view doing, Work work) {
    try {
        return work();
    } catch (const std::bad_alloc&) {
        throw Error(
            ErrorCode::kOutOfMemory,
            std::string(doing) + ": memory does not suffice; take fewer instances or images");
    }
}

}  // namespace segvit
