// SPDX-License-Identifier: MIT
//
// Some schedulers on one journal that behaves like a database with fencing, their clocks, which
// differ, their clients and their sinks, all driven by one seed.
//
// What is stored decides: `head_` is the model of all of it, and each node must show, at every
// moment, just what the groups come to that it has applied.  What clients were told is held
// against that: what was acknowledged is stored, what was refused never is, and of what nobody
// knows the one or the other is true.

#ifndef TESTS_SIM_CLUSTER_HPP
#define TESTS_SIM_CLUSTER_HPP

#include "check.hpp"
#include "marks.hpp"
#include "truth.hpp"

#include <array>
#include <cstdio>

namespace sim {

// What happens next in a cluster.
enum class Deed {
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
    drop_ticket,
    sink_state,
    redeliver,
    // Time goes on, nodes are told what there is, and readers come and go.
    run,
    tell,
    tell_some,
    advance,
    skip,
    skew,
    move_reader,
    // The database and the nodes fail.
    fault,
    arrive,
    away,
    back,
    expire,
    take,
    give_up,
    pause_node,
    continue_node,
    crash,
    stop,
    open,
    fail_memory,
    probe,
    count,  // of the others
};
constexpr Deed last_of_requests = Deed::redeliver;
constexpr Deed last_of_time = Deed::move_reader;

class Cluster {
public:
    Cluster(std::uint64_t seed, Marks& marks, bool traced);
    Cluster(const Cluster&) = delete;
    Cluster& operator=(const Cluster&) = delete;
    ~Cluster();
    // Throws Failure.
    void run();
    std::uint64_t operations() const { return operations_; }
    milliseconds simulated() const { return simulated_; }

private:
    // A change that a client has asked for.
    struct Request {
        Effect::Kind kind = Effect::Kind::schedule;
        std::vector<std::uint64_t> numbers{};  // in its messages, or in the reason of a pause
        std::vector<TaskId> ids{};             // of the tasks that it makes, changes or cancels
        bool is_bulk = false;  // `ids` are tasks that it is to take, perhaps among others
        scheduler::DueRange range{};
    };
    struct Begun {
        std::optional<scheduler::Ticket> ticket;
        Request request;
        std::uint64_t troubles = 0;  // what had gone wrong when it was begun, if all was well then
    };
    struct Result {
        bool ok = false;
        std::optional<Errc> code;
        std::string what;
        bool memory = false;     // an allocation was made to fail
        bool was_well = false;   // nothing stood in the way of a change when the call began
        bool was_owner = false;  // as far as the node knew
    };
    struct Node {
        Node(std::string called, TimePoint start, std::size_t history)
            : name(std::move(called)), clock(start), truth(history) {}
        const std::string name;
        scheduler::ManualClock clock;
        milliseconds skew{0};
        Truth truth;  // as far as the node has applied it
        std::unique_ptr<scheduler::Scheduler> tasks;
        std::unique_ptr<scheduler::Sinks> sinks;
        std::vector<std::shared_ptr<Begun>> begun;
        bool is_paused = false;
        bool is_behind = false;  // what it was told last has failed, and may be there in part
    };
    struct Reader {
        scheduler::Subscription subscription;
        Node* node = nullptr;
        std::uint64_t next = 0;
    };
    class Receiver;

    // ---- The frame
    scheduler::Options draw_options();
    void draw_plan();
    Deed draw_deed();
    double& weight(Deed deed) { return weights_[static_cast<std::size_t>(deed)]; }
    void maybe(Deed deed, double often) {
        weight(deed) = random_.chance(70) ? often * static_cast<double>(random_.between(1, 4)) : 0;
    }
    void step();
    void act(Deed deed);
    void ask(Deed deed, Node& node);
    void go_on(Deed deed);
    void make_fail(Deed deed);
    template <class Call>
    Result call(Node& node, Call made);
    Node& draw_node() { return *nodes_[random_.below(nodes_.size())]; }
    Node& draw_asked();
    bool is_well(const Node& node) const;
    void trace(const std::string& line) const;
    [[noreturn]] void fail(const std::string& what) const { throw Failure(what); }
    void require(bool condition, const std::string& what) const {
        if (!condition) fail(what);
    }

    // ---- Requests
    std::string new_message(Request& request);
    scheduler::NewTask new_task(Request& request, const Node& node);
    TimePoint draw_due(const Node& node);
    std::optional<TaskId> draw_pending(const Node& node);
    void schedule(Node& node, std::size_t count, bool waits);
    void repeat_key(Node& node);
    void cancel(Node& node, bool waits);
    void change(Node& node, bool waits);
    void put(Node& node, bool waits);
    void cancel_range(Node& node, bool waits);
    void change_others(Deed deed, Node& node);
    template <class Begin>
    std::shared_ptr<Begun> begin(Node& node, Request request, bool waits, Begin made);
    void wait_for(Node& node, const std::shared_ptr<Begun>& begun);
    void settle(const Begun& begun, const Result& result);
    void judge(const Result& result) const;
    void stand_by(const Request& request);
    void take_back(const Request& request);
    bool is_claimed(TaskId id, TimePoint due) const;

    // ---- The oracle
    void look(const Effect& effect, const Truth::Row& row);
    void look_at_new(const ModelTask& task);
    void look_at_emission(const Effect& effect, const Truth::Row& row);
    std::set<TaskId> busy(const Node& node, bool& any) const;
    Node& node_of(const std::string& name);
    void advance_head() {
        const Memory::Pause pause;
        head_.advance(*log_, log_->stored(),
                      [this](const Effect& effect, const Truth::Row& row) { look(effect, row); });
    }
    void check_node(Node& node);
    std::string difference(const Truth& truth, const Observed& observed) const;
    static std::string sinks_difference(const Observed& a, const Observed& b);
    void check_all();
    void probe(bool is_at_rest);
    void heal();
    // What is still to be done; empty: nothing.
    std::string unrest();
    void check_end();

    // ---- Time, readers and sinks
    void advance(milliseconds by);
    void run_due(Node& node);
    void tell(Node& node, std::size_t most);
    void on_read(Reader& reader, const Event& event);
    void start(Reader& reader, Node& node);
    void move_reader();
    scheduler::Outcome on_delivery(const Node& node, const scheduler::Delivery& delivery);
    void set_sink(Node& node);

    // ---- Nodes
    void open(Node& node);
    void end(Node& node, bool cleanly);

    Marks& marks_;
    const bool trace_;
    Random random_;
    std::array<double, static_cast<std::size_t>(Deed::count)> weights_{};
    const scheduler::Options options_;
    Truth head_{options_.history};  // of all that is stored
    std::size_t steps_ = 400;
    bool large_ = false;  // batches of thousands of tasks, and bulk calls in parts
    bool has_sinks_ = false;
    const std::shared_ptr<support::SharedLog> log_ = std::make_shared<support::SharedLog>();
    TimePoint now_;     // without anybody's skew
    TimePoint latest_;  // that any clock ever showed
    milliseconds simulated_{0};
    std::uint64_t operations_ = 0;
    std::uint64_t numbers_ = 0;
    bool is_away_ = false;
    bool memory_armed_ = false;
    std::uint64_t troubles_ = 1;  // how often something went wrong
    std::string said_;            // by a callback: what is wrong

    TaskId last_id_;                               // of all tasks that were stored
    std::map<std::uint64_t, std::string> owners_;  // by epoch
    std::set<std::uint64_t> seen_;                 // numbers of requests that are stored
    std::set<std::uint64_t> refused_;              // numbers of requests that are not to be
    std::map<TaskId, int> claims_;                 // cancels of a task that were not refused
    std::vector<scheduler::DueRange> bulks_;       // bulk cancels that were not refused
    std::map<std::string, std::pair<std::vector<scheduler::NewTask>, std::shared_ptr<Begun>>>
        keyed_;
    std::map<std::string, std::set<std::uint64_t>> taken_;  // by sink: seqs that it has taken

    std::vector<std::unique_ptr<Node>> nodes_;
    std::vector<std::unique_ptr<Reader>> readers_;
};

// ---- The frame ---------------------------------------------------------------

inline Cluster::Cluster(std::uint64_t seed, Marks& marks, bool traced)
    : marks_(marks),
      trace_(traced),
      random_(seed),
      options_(draw_options()),
      now_(scheduler::parse_time("2026-03-01T12:00:00Z").value()),
      latest_(now_) {
    draw_plan();
    const std::size_t count = random_.chance(60) ? 2 : 3;
    for (std::size_t i = 0; i < count; ++i) {
        const std::string name(1, static_cast<char>('a' + i));
        nodes_.push_back(std::make_unique<Node>(name, now_, options_.history));
    }
}

inline Cluster::~Cluster() {
    for (const auto& reader : readers_) reader->subscription.stop();
    for (const auto& node : nodes_) {
        node->sinks.reset();
        node->begun.clear();
        node->tasks.reset();
    }
}

inline scheduler::Options Cluster::draw_options() {
    const auto one_of = [this](auto... values) {
        const std::array<std::size_t, sizeof...(values)> all{static_cast<std::size_t>(values)...};
        return all[random_.below(all.size())];
    };
    scheduler::Options options;
    options.drive = scheduler::Drive::caller;
    options.history = one_of(5, 30, 200, 10'000);
    options.min_retention = milliseconds(one_of(1, 1'000, 60'000));
    options.rewrite_min_bytes = one_of(2'000, 8'000, 60'000);
    if (random_.chance(20)) options.max_lateness = milliseconds(one_of(1'000, 600'000));
    options.trust_clock = random_.chance(30);
    return options;
}

// Each seed leaves out about a third of what there is, so that what others hide shows.
inline void Cluster::draw_plan() {
    large_ = random_.chance(8);
    if (large_) steps_ = 80;
    has_sinks_ = !large_ && random_.chance(50);
    weight(Deed::schedule) = 12;
    weight(Deed::wait) = 6;
    weight(Deed::run) = 8;
    weight(Deed::tell) = 6;
    weight(Deed::tell_some) = 6;
    weight(Deed::advance) = 8;
    weight(Deed::open) = weight(Deed::continue_node) = weight(Deed::back) = 3;
    maybe(Deed::batch, 2);
    maybe(Deed::begin_schedule, 4);
    maybe(Deed::repeat_key, 2);
    maybe(Deed::cancel, 2);
    maybe(Deed::begin_cancel, 2);
    maybe(Deed::change, 2);
    maybe(Deed::begin_change, 2);
    maybe(Deed::put, 2);
    maybe(Deed::begin_put, 2);
    maybe(Deed::cancel_range, 0.3);
    maybe(Deed::begin_cancel_range, 0.3);
    maybe(Deed::forget, 0.5);
    maybe(Deed::pause, 0.1);
    weight(Deed::resume) = 15 * weight(Deed::pause);
    maybe(Deed::drop_ticket, 1);
    maybe(Deed::skip, 0.3);
    maybe(Deed::skew, 0.3);
    maybe(Deed::move_reader, 1);
    maybe(Deed::fault, 1.5);
    maybe(Deed::arrive, 1);
    maybe(Deed::away, 0.3);
    maybe(Deed::expire, 0.5);
    maybe(Deed::take, 0.5);
    maybe(Deed::give_up, 0.3);
    maybe(Deed::pause_node, 0.4);
    maybe(Deed::crash, 0.2);
    maybe(Deed::stop, 0.2);
    maybe(Deed::fail_memory, 0.7);
    maybe(Deed::probe, 0.5);
    if (has_sinks_) {
        maybe(Deed::sink_state, 0.5);
        maybe(Deed::redeliver, 0.3);
    }
    if (!large_) return;
    weight(Deed::batch) = 10;
    weight(Deed::cancel_range) = weight(Deed::begin_cancel_range) = 6;
    weight(Deed::put) = weight(Deed::begin_put) = 0;
}

inline Deed Cluster::draw_deed() {
    double sum = 0;
    for (const double one : weights_) sum += one;
    double at = static_cast<double>(random_.next() >> 11) * 0x1p-53 * sum;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
        if ((at -= weights_[i]) < 0) return static_cast<Deed>(i);
    }
    return Deed::run;
}

inline void Cluster::trace(const std::string& line) const {
    if (!trace_) return;
    const std::string text = scheduler::format_time(now_) + ' ' + line + '\n';
    std::fwrite(text.data(), 1, text.size(), stderr);
}

inline void Cluster::run() {
    for (const auto& node : nodes_) open(*node);
    while (operations_ < steps_) step();
    heal();
    check_end();
}

inline void Cluster::step() {
    ++operations_;
    act(draw_deed());
    advance_head();
    if (!said_.empty()) fail(said_);
    check_node(draw_node());
    if (operations_ % 32 == 0) check_all();
}

inline void Cluster::act(Deed deed) {
    if (deed <= last_of_requests) {
        Node& node = draw_asked();
        if (node.tasks) ask(deed, node);
        return;
    }
    if (deed <= last_of_time) return go_on(deed);
    make_fail(deed);
}

// Clients ask mostly who believes that it can do something.
inline Cluster::Node& Cluster::draw_asked() {
    if (random_.chance(80)) {
        for (const auto& node : nodes_) {
            if (log_->believes_to_be_owner(node->name)) return *node;
        }
    }
    return draw_node();
}

// Whether nothing stands in the way of a change.
inline bool Cluster::is_well(const Node& node) const {
    return node.tasks && log_->is_owner(node.name) && !is_away_ && !log_->is_to_fail(node.name) &&
           node.tasks->stats().clock_trusted;
}

// Makes a call of a scheduler, which may fail by whatever was armed for it.
template <class Call>
Cluster::Result Cluster::call(Node& node, Call made) {
    Result result;
    result.was_well = is_well(node);
    result.was_owner = log_->believes_to_be_owner(node.name);
    const std::uint64_t before = Memory::failures();
    if (std::exchange(memory_armed_, false)) {
        Memory::fail(random_.between(1, 60), random_.chance(50) ? 1 : 1'000'000);
    }
    try {
        made();
        Memory::work();
        result.ok = true;
    } catch (const Error& error) {
        Memory::work();
        result.code = error.code();
        result.what = error.what();
    } catch (const std::bad_alloc&) {
        Memory::work();
        result.what = "out of memory";
    }
    result.memory = Memory::failures() != before;
    advance_head();
    if (!said_.empty()) fail(said_);
    return result;
}

inline void Cluster::make_fail(Deed deed) {
    using support::Away;
    using support::Fault;
    Node& node = draw_node();
    ++troubles_;
    constexpr std::array faults{Fault::refused, Fault::lost, Fault::unknown, Fault::late,
                                Fault::late};
    switch (deed) {
        case Deed::fault: {
            const std::size_t kind = random_.below(faults.size());
            trace("fault " + std::to_string(kind) + " for " + node.name);
            return log_->fail(node.name, faults[kind], random_.below(has_sinks_ ? 5 : 2));
        }
        case Deed::arrive:
            if (log_->arrive()) {
                trace("what was late is stored");
                marks_.hit("a group that was late and stored");
            }
            return;
        case Deed::away:
            is_away_ = true;
            trace("the database is away");
            return log_->away(Away::refuses);
        case Deed::back:
            is_away_ = false;
            return log_->away(Away::no);
        case Deed::expire:
            trace("the lease runs out");
            return log_->expire();
        case Deed::take:
            trace("the lease goes to " + node.name);
            return log_->take(node.name);
        case Deed::give_up:
            trace(node.name + " gives up its lease");
            return log_->give_up(node.name);
        case Deed::pause_node:
        case Deed::continue_node:
            node.is_paused = deed == Deed::pause_node;
            trace(node.name + (node.is_paused ? " is paused" : " is not paused"));
            return log_->pause(node.name, node.is_paused);
        case Deed::crash:
            return end(node, false);
        case Deed::stop:
            return end(node, true);
        case Deed::open:
            if (!node.tasks) open(node);
            return;
        case Deed::fail_memory:
            memory_armed_ = true;
            return;
        case Deed::probe:
            if (!is_away_) probe(false);
            return;
        default:
            return;
    }
}

// ---- Nodes -------------------------------------------------------------------

class Cluster::Receiver : public scheduler::Sink {
public:
    Receiver(Cluster& cluster, const Node& node) : cluster_(cluster), node_(node) {}
    scheduler::Outcome deliver(const scheduler::Delivery& delivery) override {
        const Memory::Pause pause;
        return cluster_.on_delivery(node_, delivery);
    }

private:
    Cluster& cluster_;
    const Node& node_;
};

inline void Cluster::open(Node& node) {
    scheduler::Options options = options_;
    options.now = node.clock.source();
    options.make_journal = [this, &node] {
        return log_->open(node.name, support::Telling::caller, "http://" + node.name);
    };
    options.log = [this, &node](const scheduler::LogRecord& record) {
        const Memory::Pause pause;
        if (trace_) trace(node.name + " logs: " + record.text);
    };
    trace(node.name + " opens");
    log_->pause(node.name, node.is_paused = false);
    try {
        node.tasks = std::make_unique<scheduler::Scheduler>(options);
    } catch (const Error& error) {
        require(is_away_, std::string("a node cannot open the journal: ") + error.what());
        return;
    }
    node.is_behind = false;
    std::vector<scheduler::SinkOptions> sinks;
    for (const char* name : {"alpha", "beta"}) {
        scheduler::SinkOptions one;
        one.name = name;
        one.sink = std::make_shared<Receiver>(*this, node);
        one.retry.assign(1, std::chrono::seconds(5));
        one.from_earliest = true;
        sinks.push_back(std::move(one));
    }
    if (!has_sinks_) return;
    try {
        node.sinks = std::make_unique<scheduler::Sinks>(*node.tasks, std::move(sinks));
    } catch (const Error& error) {
        require(log_->is_to_fail(node.name) || !log_->believes_to_be_owner(node.name),
                std::string("sinks cannot be listed: ") + error.what());
    }
    advance_head();
}

// A clean end stores what was begun, if it can; nobody hears what became of what a crash cuts.
inline void Cluster::end(Node& node, bool cleanly) {
    if (!node.tasks) return;
    trace(node.name + (cleanly ? " stops" : " crashes"));
    if (!cleanly) log_->kill(node.name);
    for (const auto& reader : readers_) {
        if (reader->node != &node) continue;
        reader->subscription.stop();
        reader->node = nullptr;
    }
    node.sinks.reset();
    node.tasks->stop();
    advance_head();
    for (const auto& begun : node.begun) {
        if (!begun->ticket || !cleanly) continue;
        const Result result = call(node, [&] { begun->ticket->wait(); });
        settle(*begun, result);
    }
    node.begun.clear();
    node.tasks.reset();
    if (!said_.empty()) fail(said_);
}

}  // namespace sim

#include "cluster_oracle.hpp"
#include "cluster_requests.hpp"

#endif  // TESTS_SIM_CLUSTER_HPP
