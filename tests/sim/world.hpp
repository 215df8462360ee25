// SPDX-License-Identifier: MIT
//
// One scheduler, its clock, its disk, its clients and its sinks, all driven by one seed, and
// the model that tells what must come of it.
//
// Every change is an *effect*.  An effect is logged when it is certain: the model `live_` has
// all of the log, `base_` has what no fault can take away any more.  Two bounds in the log say
// how much of it a crash of the process, and a loss of power, must keep.  After a crash the
// scheduler must stand as the model does behind some effect from the bound on, or, where a
// change was under way, with that done or not.

#ifndef TESTS_SIM_WORLD_HPP
#define TESTS_SIM_WORLD_HPP

#include "check.hpp"
#include "disk.hpp"
#include "marks.hpp"
#include "model.hpp"
#include "plan.hpp"

#include <cstdio>

namespace sim {

// What the steady clock of this program shows; see main.cpp.
inline std::chrono::nanoseconds steady_time{0};

class World {
public:
    World(std::uint64_t seed, Marks& marks, bool traced, std::chrono::hours brownouts);
    World(const World&) = delete;
    World& operator=(const World&) = delete;
    ~World();
    // Throws Failure.
    void run();
    std::uint64_t operations() const { return operations_; }
    milliseconds simulated() const { return simulated_; }

private:
    // Whether an effect that was refused, or never answered, may be there all the same.
    enum class Ghost {
        none,   // it is no such thing: it was answered
        power,  // after a loss of power
        any,    // after any crash
    };
    struct Logged {
        Effect effect;
        Ghost ghost = Ghost::none;
        // It may be lost although what comes later is kept: what a sink has taken is written
        // when there is room for it.
        bool floats = false;
        // The same for a loss of power: it was written some time after it was logged.
        bool late = false;
    };
    // How many changes of a group show what became of them, and how many of these are stored.
    struct Tally {
        std::size_t told = 0;
        std::size_t stored = 0;
        void add(bool is_stored) {
            ++told;
            stored += is_stored;
        }
        void add(const Tally& other) {
            told += other.told;
            stored += other.stored;
        }
        bool is_all(bool otherwise) const { return told > 0 ? stored == told : otherwise; }
        bool is_clear() const { return stored == 0 || stored == told; }
    };
    // A way through the log, and what it leads to.
    struct Path {
        Model model;
        std::vector<Logged> log;
        std::size_t sure = 0;  // how much of that no loss of power takes away
    };
    // What a start has agreed with.
    struct Found {
        std::optional<Path> path;  // to the last point that agrees
        std::size_t least = 0;     // the first one
        std::string wrong;         // with the last that does not
    };
    using Versions = std::map<TaskId, std::vector<ModelTask>>;  // of tasks that may have changed
    // A change that was begun.
    struct Begun {
        std::optional<scheduler::Ticket> ticket;  // none: it was dropped
        Effect effect;
        bool bulk = false;
        bool again = false;             // it has begun nothing
        std::uint64_t group = 0;        // that it belongs to, or waits for
        std::optional<bool> stored;     // nothing: it is on its way
        bool taken = false;             // a bulk call may have taken its task
        bool failed = false;            // a bulk call that its ticket says has failed
        std::shared_ptr<Begun> holder;  // the bulk call that it waits for; null: the group
        // Of a bulk call: its range, and the changes that were on their way when it came.
        scheduler::DueRange range;
        scheduler::Filter filter;
        std::vector<std::shared_ptr<Begun>> before;
        TaskId last;           // no task above it was stored when it came
        std::size_t sure = 0;  // how many tasks it held when it was begun

        bool wants(const ModelTask& task) const {
            return (!range.after || task.due > *range.after) &&
                   (!range.before || task.due < *range.before) && is_chosen(filter, task);
        }
    };
    using BegunRef = std::shared_ptr<Begun>;
    // How a call of the scheduler has ended.
    struct Result {
        bool ok = false;
        std::optional<Errc> code;
        std::string what;
        bool faulted = false;        // a call of the disk or an allocation was made to fail
        bool memory = false;         // it was an allocation
        bool failed_before = false;  // the journal had failed when it began
    };
    struct Reader {
        scheduler::Subscription subscription;
        scheduler::Filter filter;
        std::uint64_t next = 0;  // no event before this seq is one that it wants
        bool active = false;
    };
    struct SinkPlan {
        std::string name;
        std::size_t retries = 0;
        bool from_earliest = false;
        std::vector<std::string> topics;
    };
    struct Request {
        std::vector<scheduler::NewTask> tasks;
        Effect effect;
        std::uint64_t process = 0;  // to which it was made
    };
    class Receiver;

    // ---- The frame
    void step();
    void act(Act what);
    void change_something(Act what);
    void go_on(Act what);
    void make_fail(Act what);
    void change_sinks(Act what);
    template <class Call>
    Result call(Call made);
    Result result_so_far() const;
    void log(Effect effect);
    void log_ghost(Effect effect, const Result& result);
    void trace(const std::string& line) const;
    [[noreturn]] void fail(const std::string& what) const;
    void require(bool condition, const char* what) const {
        if (!condition) fail(what);
    }
    TimePoint now() const { return clock_.now(); }
    bool has_crashed() const { return disk_.has_crashed(); }

    // ---- Changes
    std::string message(std::string& kept);
    TimePoint draw_due();
    std::string draw_topic();
    std::vector<std::string> draw_topics();
    scheduler::Filter draw_filter();
    void check_search(const scheduler::DueRange& range, const scheduler::Filter& filter,
                      const std::vector<TaskId>& chosen);
    std::optional<TaskId> draw_pending();
    void schedule(std::size_t count, bool wait);
    void submit(const std::vector<scheduler::NewTask>& tasks, Effect effect, bool wait);
    void take_submitted(scheduler::Ticket ticket, Effect effect, bool wait);
    void repeat_key();
    void submit_again(const std::string& key, const std::vector<scheduler::NewTask>& tasks,
                      Effect effect, bool is_other);
    void take_repeated(scheduler::Ticket ticket, const std::string& key, bool on_its_way);
    void cancel(bool wait);
    void change(bool wait);
    void put(bool wait);
    scheduler::NewTask new_task(Effect& effect, TimePoint due);
    void cancel_range(bool wait);
    void forget();
    void pause_or_resume(Effect::Kind kind);
    BegunRef begun(scheduler::Ticket ticket, Effect effect, bool wait);
    void begun_or_met(scheduler::Ticket ticket, Effect effect, TaskId id, bool wait);
    void refused(const Result& result, const char* what);
    std::string describe(const Begun& begun) const;
    void wait_for(const BegunRef& begun);
    void try_store();
    void drop_ticket();
    std::set<TaskId> busy() const;
    BegunRef draw_ticket();
    void forget_ticket(const BegunRef& begun);

    // ---- What came of them
    bool is_applied(const Effect& effect) const;
    std::optional<bool> pauses_stored() const;
    static bool is_pause(const Effect& effect) {
        return effect.kind == Effect::Kind::pause || effect.kind == Effect::Kind::resume;
    }
    bool is_taken(const Begun& begun, const Result& result) const;
    bool seems_stored(const Result& result) const;
    void resolve(bool committed, const Result& result, const Begun* waited);
    void settle_open(bool ends, bool others, const Result& result, const Begun* waited);
    static bool is_end(const Begun& begun) { return begun.effect.kind == Effect::Kind::cancel; }
    void add_doubtful(Begun& bulk) const;
    bool has_failed(Begun& bulk) const;
    bool is_bulk_stored(Begun& begun);
    void resolve_bulk(const BegunRef& begun, const Result& result);
    void resolve_bulks(const BegunRef& last, bool failed, const Result& result);
    std::optional<Errc> failure_of(Begun& bulk) const;
    void resolve_all(const Result& result);
    void offer(const BegunRef& settled);
    void offer_released(TaskId id);
    void judge_failure(const Result& result, bool only_cancels);
    void advance_bounds(bool acknowledged, bool ran, const Result& result);
    void advance_by_age(bool ran_well);
    void settle_floats(bool acknowledged, bool replaced_well, const Result& result);
    void absorb();
    void check_task(TaskId id) const;
    void check_all();

    // ---- Emission
    void run_due();
    void on_emission();
    void emit_expected(const std::vector<ModelTask>& due);
    void after_run(const Result& result);
    void observe();
    void observe_trim();
    void observe_sinks();
    void update_trust();

    // ---- Readers
    void subscribe();
    void unsubscribe();
    void resume_readers();
    void start(Reader& reader);
    void on_read(Reader& reader, const Event& event);

    // ---- Sinks
    std::vector<scheduler::SinkOptions> sink_options();
    std::uint64_t oldest_kept() const;
    std::vector<Effect> listing_effects(scheduler::Unlisted others) const;
    void begin_later(Effect& effect) const;
    void list_sinks();
    void relist();
    scheduler::Outcome on_delivery(const std::string& name, const scheduler::Delivery& delivery);
    scheduler::Outcome decide(const std::string& name, Effect effect);
    const SinkPlan& sink_plan(const std::string& name) const;
    bool is_settled(const Effect& effect, const scheduler::SinkStatus& status) const;
    void pass_over(const std::string& name, const scheduler::SinkStatus& status);
    void change_sink(const std::vector<Effect>& effects, const std::function<void()>& made);
    void set_sink_state();
    void redeliver();
    void forget_unlisted(const std::string& name);

    // ---- Time
    void advance(milliseconds by);
    void draw_advance();
    void step_back();

    // ---- Faults and new processes
    void break_disk();
    void mend_disk();
    void end_process(bool cleanly);
    void restart(bool cleanly, bool power);
    void damage_journal();
    void open();
    bool try_to_open();
    void match(bool power, bool scattered);
    void match_prefix(bool power, const Observed& observed, std::size_t first);
    void match_scattered(const Observed& observed, std::size_t first);
    Model scattered_model(const Observed& observed, std::size_t first) const;
    void add_scattered_tasks(Model& model, const Observed& observed,
                             const Versions& versions) const;
    void add_scattered_event(Model& model, const Event& event, const Versions& versions) const;
    void take_scattered_rest(Model& model, const Observed& observed, std::size_t first) const;
    void follow(Path& path, std::size_t at, bool power, const Observed& observed) const;
    void leave_ghost(Path& path, std::size_t at, bool power) const;
    void pass_over_in_part(Path& path, std::size_t at, const Observed& observed) const;
    void try_point(const Path& path, std::size_t at, const Observed& observed, Found& found) const;
    std::size_t try_ghosts(const Path& path, std::size_t at, bool power, const Observed& observed,
                           Found& found) const;
    std::optional<Effect> part_found(const Model& model, Effect effect,
                                     const Observed& observed) const;
    static bool looks_applied_to_sink(const Effect& effect, const Observed& observed);
    void drop_old(Model& model, const Observed& observed) const;
    std::string difference_at_start(Model& model, const Observed& observed) const;
    void judge_trust(bool is_trusted);
    bool looks_applied(const Model& model, const Effect& effect, const Observed& observed) const;
    void adopt(Model model, std::vector<Logged> log, const Observed& observed);
    void trace_log(std::size_t first) const;
    void trace_found(const Observed& observed) const;
    void doubt_keys(std::size_t from);
    void mark_lost(const std::vector<Logged>& kept);

    Marks& marks_;
    const bool trace_;
    Random random_;
    Plan plan_;
    scheduler::ManualClock clock_;
    Disk disk_;
    TimePoint latest_{};      // that the clock ever showed
    TimePoint resumed_at_{};  // when the last pause ended
    milliseconds simulated_{0};
    std::uint64_t operations_ = 0;
    std::uint64_t numbers_ = 0;  // for messages and keys
    std::string said_;           // by a callback: what is wrong
    std::string last_log_;       // line of the scheduler

    Model base_;
    Model live_;
    std::vector<Logged> log_;
    std::size_t kept_by_crash_ = 0;  // of the log, at least
    std::size_t kept_by_power_ = 0;  // of the log, at least
    std::size_t late_end_ = 0;       // how much was logged when the last late ones were written
    // The steady time until which everything logged was logged, by length of the log.
    std::vector<std::pair<std::chrono::nanoseconds, std::size_t>> ages_;
    bool owed_ = false;  // an end may wait in memory for the journal
    std::size_t rewrites_ = 0;
    bool journal_failed_ = false;
    bool trusted_ = true;
    bool stamp_known_ = true;        // whether the model knows the newest time in the journal
    bool has_reserved_ = false;      // this process has space for the ends of all tasks

    std::unique_ptr<scheduler::Scheduler> tasks_;
    std::uint64_t first_seq_ = 0;  // that this process emits
    std::vector<BegunRef> open_;   // the open group, in order
    std::vector<BegunRef> bulks_;  // on their way
    std::vector<BegunRef> tickets_;
    std::uint64_t group_ = 1;                          // the number of the open one
    std::map<std::string, Request> requests_;          // with a key
    std::map<std::string, std::set<TaskId>> answers_;  // by key: the first task of each
    std::set<std::string> unsure_;                     // keys that may be known or not
    std::uint64_t processes_ = 0;
    bool running_ = false;  // inside run_due()
    bool memory_armed_ = false;
    bool sinks_adopted_ = false;  // as they were found after writes were lost out of order
    bool power_lost_at_start_ = false;
    bool damaged_ = false;  // the journal was, by hand
    std::uint64_t failures_at_call_ = 0;
    std::uint64_t memory_at_call_ = 0;
    bool failed_at_call_ = false;
    std::size_t logged_at_call_ = 0;

    std::vector<std::unique_ptr<Reader>> readers_;
    std::vector<SinkPlan> sink_plans_;
    std::set<std::string> listed_;
    std::map<std::string, Effect> unsettled_;
    std::unique_ptr<scheduler::Sinks> sinks_;
};

}  // namespace sim

#include "world_changes.hpp"
#include "world_faults.hpp"
#include "world_frame.hpp"
#include "world_readers.hpp"

#endif  // TESTS_SIM_WORLD_HPP
