/// The CUDA functions that the back end calls, on a GPU that only notes what it is told.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace segvit::test {

struct FakeCuda {
    std::vector<std::string> calls;  // without their prefix
    std::string failing;             // one that fails
    std::size_t free = std::size_t{8} << 30U;
    int gpus = 1;
    int alive = 0;  // memory, streams and graphs that nobody freed
    bool error_is_left = false;

    /// Returns the calls since the last one.
    std::vector<std::string> take();
};

FakeCuda& fake_cuda();

}  // namespace segvit::test
