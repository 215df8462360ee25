// SPDX-License-Identifier: MIT
//
// What one seed does: which operations and which faults it uses, and how often.

#ifndef TESTS_SIM_PLAN_HPP
#define TESTS_SIM_PLAN_HPP

#include "model.hpp"
#include "random.hpp"

#include <algorithm>
#include <array>

namespace sim {

// What happens next.
enum class Act {
    // Clients ask for something.
    schedule,
    batch,
    begin_schedule,
    repeat_key,
    cancel,
    begin_cancel,
    change,
    begin_change,
    put,
    begin_put,
    cancel_range,
    begin_cancel_range,
    forget,
    pause,
    resume,
    wait,
    try_store,
    drop_ticket,
    // Time goes on, and readers come and go.
    run,
    advance,
    skip,
    step_back,
    subscribe,
    unsubscribe,
    // The process ends, or something fails.
    restart,
    crash,
    crash_inside,
    lose_power,
    write_back,
    break_disk,
    mend_disk,
    fill_disk,
    free_disk,
    fail_memory,
    // Sinks are changed by hand.
    sink_state,
    redeliver,
    relist,
    count,  // of the others
};
constexpr Act last_of_clients = Act::drop_ticket;
constexpr Act last_of_time_and_readers = Act::unsubscribe;
constexpr Act last_of_faults = Act::fail_memory;

struct Plan {
    // `brownouts`: so many hours on a device with a small disk whose power fails often; 0: not that.
    Plan(Random& random, std::chrono::hours brownouts);
    bool has_brownouts() const { return brownouts.count() > 0; }
    bool syncs_answers() const {
        return options.fsync == scheduler::Fsync::always ||
               options.fsync == scheduler::Fsync::answers;
    }
    // What is next.
    Act draw(Random& random) const;
    double& weight(Act act) { return weights_[static_cast<std::size_t>(act)]; }
    double weight(Act act) const { return weights_[static_cast<std::size_t>(act)]; }

    std::size_t steps = 1'500;
    std::chrono::hours brownouts{0};
    std::uint64_t disk = 0;  // its size, which is little; 0: there is room for everything
    bool large = false;      // batches of thousands of tasks
    bool scattered = false;  // a loss of power may keep later writes and lose earlier ones
    bool damage = false;     // bytes of the journal go bad between two processes
    bool tight = false;      // the disk sets no more space aside than what is needed
    bool sinks = false;
    int fault_kind = 0;  // what a broken disk is like
    scheduler::Options options;

private:
    void draw_acts(Random& random);
    void draw_disk(Random& random);
    void plan_brownouts();
    void draw_options(Random& random);

    std::array<double, static_cast<std::size_t>(Act::count)> weights_{};
};

inline Plan::Plan(Random& random, std::chrono::hours hours) : brownouts(hours) {
    large = random.chance(2);
    steps = large ? 150 : 1'500;
    scattered = random.chance(30);
    damage = random.chance(30);
    tight = !large && random.chance(50);
    sinks = random.chance(50);
    fault_kind = static_cast<int>(random.below(4));
    draw_options(random);
    draw_acts(random);
    if (has_brownouts() || (!large && random.chance(15))) draw_disk(random);
    if (has_brownouts()) plan_brownouts();
}

// There is room for twice what is live, if no more is kept of the past.
inline void Plan::draw_disk(Random& random) {
    disk = has_brownouts() ? std::uint64_t{2} << 20 : std::uint64_t{1} << random.between(19, 21);
    options.history = std::min<std::size_t>(options.history, 30);
    options.sink_backlog = std::min<std::size_t>(options.sink_backlog, 60);
    options.max_dead = std::min<std::size_t>(options.max_dead, 20);
    options.rewrite_min_bytes = std::uint64_t{4} << 20;
}

inline void Plan::plan_brownouts() {
    large = damage = false;
    weights_.fill(0);
    weight(Act::schedule) = 20;
    weight(Act::batch) = weight(Act::cancel) = weight(Act::change) = weight(Act::put) = 1;
    weight(Act::run) = 3;
    weight(Act::advance) = 20;
    weight(Act::write_back) = 0.3;
    weight(Act::crash_inside) = 0.1;
    weight(Act::lose_power) = 0.4;
}

inline void Plan::draw_options(Random& random) {
    const auto one_of = [&random](auto... values) {
        const std::array<std::size_t, sizeof...(values)> all{static_cast<std::size_t>(values)...};
        return all[random.below(all.size())];
    };
    using scheduler::Fsync;
    constexpr std::array policies{Fsync::always, Fsync::always, Fsync::answers, Fsync::everysec,
                                  Fsync::no};
    options.journal = "/sim/tasks.jsonl";
    options.drive = scheduler::Drive::caller;
    options.fsync = policies[random.below(policies.size())];
    options.history = one_of(5, 30, 200, 10'000);
    options.min_retention = milliseconds(one_of(1, 1'000, 60'000));
    options.sink_backlog = one_of(10, 60, 100'000);
    options.max_dead = one_of(3, 20, 10'000);
    options.rewrite_min_bytes = one_of(2'000, 8'000, 60'000);
    if (random.chance(30)) options.max_lateness = milliseconds(one_of(1'000, 60'000, 3'600'000));
    options.trust_clock = random.chance(30);
}

// Each seed leaves out about a third of what there is, so that what others hide shows.
inline void Plan::draw_acts(Random& random) {
    const auto maybe = [&](Act act, double often) {
        weight(act) = random.chance(70) ? often * static_cast<double>(random.between(1, 4)) : 0;
    };
    weight(Act::schedule) = 12;
    weight(Act::run) = 6;
    weight(Act::advance) = 8;
    weight(Act::wait) = 6;
    maybe(Act::batch, 2);
    maybe(Act::begin_schedule, 4);
    maybe(Act::repeat_key, 2);
    maybe(Act::cancel, 2);
    maybe(Act::begin_cancel, 2);
    maybe(Act::change, 2);
    maybe(Act::begin_change, 2);
    maybe(Act::put, 2);
    maybe(Act::begin_put, 2);
    maybe(Act::cancel_range, 0.3);
    maybe(Act::begin_cancel_range, 0.3);
    maybe(Act::forget, 0.5);
    maybe(Act::pause, 0.1);
    weight(Act::resume) = 15 * weight(Act::pause);
    maybe(Act::try_store, 1);
    maybe(Act::drop_ticket, 1);
    maybe(Act::skip, 0.3);
    maybe(Act::step_back, 0.1);
    maybe(Act::subscribe, 0.5);
    maybe(Act::unsubscribe, 0.5);
    maybe(Act::restart, 0.1);
    maybe(Act::crash, 0.1);
    maybe(Act::crash_inside, 0.3);
    maybe(Act::lose_power, 0.15);
    maybe(Act::write_back, 0.5);
    maybe(Act::break_disk, 0.2);
    weight(Act::mend_disk) = 1.5;
    maybe(Act::fill_disk, 0.1);
    weight(Act::free_disk) = 0.5;
    maybe(Act::fail_memory, 0.5);
    // Without memory the record of an overflow is lost, and it happens again after a restart.
    if (weight(Act::fail_memory) > 0) options.sink_backlog = 100'000;
    if (large) {  // bulk calls of several parts, and crashes between these
        weight(Act::batch) = 10;
        weight(Act::cancel_range) = 8;
        weight(Act::crash_inside) = 12;
        weight(Act::put) = weight(Act::begin_put) = 0;
    }
    if (!sinks) return;
    maybe(Act::sink_state, 0.5);
    maybe(Act::redeliver, 0.3);
    maybe(Act::relist, 0.2);
}

inline Act Plan::draw(Random& random) const {
    double sum = 0;
    for (const double weight : weights_) sum += weight;
    double at = static_cast<double>(random.next() >> 11) * 0x1p-53 * sum;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
        if ((at -= weights_[i]) < 0) return static_cast<Act>(i);
    }
    return Act::run;
}

}  // namespace sim

#endif  // TESTS_SIM_PLAN_HPP
