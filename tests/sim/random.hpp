// SPDX-License-Identifier: MIT
//
// Chance that depends on a seed alone, and what a simulation says when something is wrong.

#ifndef TESTS_SIM_RANDOM_HPP
#define TESTS_SIM_RANDOM_HPP

#include <cstdint>
#include <stdexcept>
#include <string>

namespace sim {

// Thrown when the scheduler does not do what it promises.
class Failure : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// SplitMix64: small, fast and the same everywhere.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next() {
        std::uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
        z = (z ^ z >> 27) * 0x94D049BB133111EBU;
        return z ^ z >> 31;
    }
    // A number below `end`, which is not 0.
    std::uint64_t below(std::uint64_t end) { return next() % end; }
    // A number from `first` to `last`.
    std::uint64_t between(std::uint64_t first, std::uint64_t last) {
        return first + below(last - first + 1);
    }
    // Whether something happens that does in `percent` of a hundred cases.
    bool chance(double percent) {
        return static_cast<double>(next() >> 11) * 0x1p-53 * 100 < percent;
    }

private:
    std::uint64_t state_;
};

}  // namespace sim

#endif  // TESTS_SIM_RANDOM_HPP
