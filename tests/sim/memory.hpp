// SPDX-License-Identifier: MIT
//
// Allocations that fail: main.cpp replaces operator new, which asks here.

#ifndef TESTS_SIM_MEMORY_HPP
#define TESTS_SIM_MEMORY_HPP

#include <cstdint>

namespace sim {

class Memory {
public:
    // From the n-th allocation on, `count` of them fail.
    static void fail(std::uint64_t first, std::uint64_t count) {
        first_ = first;
        count_ = count;
    }
    static void work() { count_ = 0; }
    // How many were made to fail.
    static std::uint64_t failures() { return failures_; }
    // Whether this allocation fails.
    static bool fails() {
        if (count_ == 0 || paused_ > 0) return false;
        if (first_ > 1) {
            --first_;
            return false;
        }
        --count_;
        ++failures_;
        return true;
    }
    // While one of these lives none fails: what the simulation itself needs is always there.
    class Pause {
    public:
        Pause() { ++paused_; }
        ~Pause() { --paused_; }
        Pause(const Pause&) = delete;
        Pause& operator=(const Pause&) = delete;
    };

private:
    static inline std::uint64_t first_ = 0;
    static inline std::uint64_t count_ = 0;
    static inline std::uint64_t failures_ = 0;
    static inline int paused_ = 0;
};

}  // namespace sim

#endif  // TESTS_SIM_MEMORY_HPP
