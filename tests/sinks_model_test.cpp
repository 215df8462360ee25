// SPDX-License-Identifier: MIT
//
// Sinks against a model: whatever is done to them, and however often the scheduler
// ends or is killed, each takes every event or has it as a dead letter, in order, and
// takes none again whose taking was recorded.
#include "support.hpp"

#include <random>

namespace sinks_model_test {

using namespace scheduler;
using support::eventually;
using support::TestClock;
using support::TempDir;

namespace {

struct Taken {
    TaskId id;
    std::uint64_t seq;
    bool again;
};

// What one sink has taken in all its lives.
class Receiver {
public:
    explicit Receiver(std::uint64_t seed) : random_(seed) {}

    Outcome take(const Delivery& delivery) {
        const std::lock_guard<std::mutex> guard(mutex_);
        if (failing_ && random_() % 3 == 0) return Outcome::failed("not now");
        taken_.push_back({delivery.event.id, delivery.event.seq, delivery.again});
        return {};
    }
    void heal() {
        const std::lock_guard<std::mutex> guard(mutex_);
        failing_ = false;
    }
    std::size_t count() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return taken_.size();
    }
    std::vector<Taken> taken() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return taken_;
    }

private:
    mutable std::mutex mutex_;
    std::mt19937_64 random_;    // guarded by mutex_
    bool failing_ = true;       // guarded by mutex_
    std::vector<Taken> taken_;  // guarded by mutex_
};

class ReceiverSink : public Sink {
public:
    explicit ReceiverSink(std::shared_ptr<Receiver> receiver) : receiver_(std::move(receiver)) {}
    Outcome deliver(const Delivery& delivery) override { return receiver_->take(delivery); }

private:
    const std::shared_ptr<Receiver> receiver_;
};

class Model {
public:
    explicit Model(std::uint64_t seed) : random_(seed) {
        options_.journal = dir_.journal();
        options_.fsync = Fsync::no;
        options_.history = 1 + below(8);
        options_.min_retention = milliseconds(below(2) * 10'000);
        options_.sink_backlog = below(2) == 0 ? 4 + below(20) : 100'000;
        options_.rewrite_min_bytes = 500 + below(8'000);
        options_.max_dead = 1'000'000;
        options_.now = clock_.source();
        for (const char* name : {"a", "b"}) {
            receivers_[name] = std::make_shared<Receiver>(random_());
            certain_[name] = 0;
        }
    }

    void run() {
        for (std::size_t life = 0; life < lives; ++life) {
            open();
            for (std::size_t steps = below(60); steps > 0; --steps) step();
            if (below(2) == 0) {
                kill();
            } else {
                close();
                for (auto& [name, count] : certain_) count = receivers_[name]->count();
            }
            check_lives();
            clock_.advance(milliseconds(below(3) * 30'000));
        }
        for (const auto& [name, receiver] : receivers_) receiver->heal();
        open();
        for (const auto& [name, receiver] : receivers_) tasks_->resume_sink(name);
        CHECK(eventually([&] { return tasks_->stats().pending == 0 && is_done(); }));
        check_all();
        for (const auto& [name, receiver] : receivers_) tasks_->redeliver(name);
        CHECK(eventually([&] { return is_done(); }));
        for (const SinkStatus& status : tasks_->sinks()) CHECK(status.dead == 0);
        check_all();
        close();
    }

private:
    static constexpr std::size_t lives = 8;  // before the last

    std::uint64_t below(std::uint64_t end) { return random_() % end; }
    std::string any_sink() { return below(2) == 0 ? "a" : "b"; }

    void open() {
        tasks_ = std::make_unique<Scheduler>(options_);
        std::vector<SinkOptions> sinks;
        for (const auto& item : receivers_) {
            const std::string& name = item.first;
            const auto& receiver = item.second;
            lives_[name].push_back(receiver->count());
            // One that is known may be left out, but not in the last life.
            const std::size_t life = lives_[name].size();
            if (life > 1 && life <= lives && below(4) == 0) continue;
            SinkOptions& options = sinks.emplace_back();
            options.name = name;
            options.sink = std::make_shared<ReceiverSink>(receiver);
            options.retry = {milliseconds(1), milliseconds(1)};
            options.from_earliest = true;
        }
        // What is emitted before the sinks are there is theirs all the same, but what was
        // trimmed before they were known.
        const bool known = lives_["a"].size() > 1 || options_.min_retention > milliseconds(0);
        if (below(2) == 0 && known) emit();
        sinks_ = std::make_unique<Sinks>(*tasks_, sinks);
    }
    void close() {
        sinks_.reset();
        tasks_.reset();
    }
    // Goes on from what a kill at this moment leaves of the journal.
    void kill() {
        for (auto& [name, count] : certain_) {
            // The record of the last may not have been written yet.
            count = std::max<std::size_t>(count, receivers_[name]->count());
            if (count > lives_[name].back()) --count;
        }
        const std::string text = dir_.read("tasks.jsonl");
        close();
        dir_.write("tasks.jsonl", text);
    }
    void emit() {
        for (std::uint64_t i = 1 + below(6); i > 0; --i) {
            ids_.push_back(tasks_->schedule(milliseconds(0), "\"x\""));
        }
    }
    void step() {
        switch (below(12)) {
            case 0:
                return tasks_->pause_sink(any_sink());
            case 1:
                return tasks_->resume_sink(any_sink());
            case 2:
                tasks_->redeliver(any_sink());
                return;
            case 3:
                return redeliver_one(any_sink());
            case 4:
                tasks_->forget({tasks_->oldest(), tasks_->newest()});
                return;
            case 5:
                return clock_.advance(*tasks_, milliseconds(below(20'000)));
            case 6:
            case 7:
                return std::this_thread::sleep_for(std::chrono::microseconds(below(3'000)));
            default:
                return emit();
        }
    }
    void redeliver_one(const std::string& name) {
        const DeadPage page = tasks_->dead_letters(name);
        if (page.letters.empty()) return;
        const TaskId id = page.letters[below(page.letters.size())].event.id;
        try {
            tasks_->redeliver(name, id);
        } catch (const Error& error) {  // it has been taken meanwhile
            CHECK(error.code() == Errc::unknown_task);
        }
    }
    bool is_done() const {
        for (const SinkStatus& status : tasks_->sinks()) {
            if (status.lag > 0) return false;
            const DeadPage page =
                tasks_->dead_letters(status.name, std::nullopt, static_cast<std::size_t>(-1));
            for (const DeadLetter& letter : page.letters) {
                if (letter.redelivering) return false;
            }
        }
        return true;
    }
    // In each life the order is kept, and nothing is taken twice.
    void check_lives() {
        for (const auto& item : receivers_) {
            const std::string& name = item.first;
            const auto& receiver = item.second;
            const std::vector<Taken> taken = receiver->taken();
            std::set<TaskId> known;
            std::optional<std::uint64_t> last;
            for (std::size_t i = lives_[name].back(); i < taken.size(); ++i) {
                INFO("sink " << name << ", delivery " << i << " of " << taken[i].id.str());
                CHECK(known.insert(taken[i].id).second);
                if (taken[i].again) continue;
                CHECK((!last || *last < taken[i].seq));
                last = taken[i].seq;
            }
            check_certain(name);
        }
    }
    // What was recorded as taken is not taken again in a later life.
    void check_certain(const std::string& name) {
        const std::vector<Taken> taken = receivers_[name]->taken();
        std::set<TaskId>& certain = certain_ids_[name];
        for (std::size_t i = lives_[name].back(); i < taken.size(); ++i) {
            INFO("sink " << name << ", delivery " << i << " of " << taken[i].id.str());
            CHECK(certain.count(taken[i].id) == 0);
        }
        for (std::size_t i = lives_[name].back(); i < certain_[name]; ++i) {
            certain.insert(taken[i].id);
        }
    }
    // Each event was taken, or is a dead letter.
    void check_all() {
        for (const auto& item : receivers_) {
            const std::string& name = item.first;
            const auto& receiver = item.second;
            std::set<TaskId> seen;
            for (const Taken& one : receiver->taken()) seen.insert(one.id);
            const DeadPage page =
                tasks_->dead_letters(name, std::nullopt, static_cast<std::size_t>(-1));
            for (const DeadLetter& letter : page.letters) {
                INFO("sink " << name << ", dead " << letter.event.id.str());
                CHECK(certain_ids_[name].count(letter.event.id) == 0);
                seen.insert(letter.event.id);
            }
            std::size_t missing = 0;
            for (const TaskId id : ids_) missing += seen.count(id) == 0 ? 1 : 0;
            INFO("sink " << name << ", of " << ids_.size() << " events");
            CHECK(missing == 0);
        }
    }

    TempDir dir_;
    TestClock clock_;
    Options options_;
    std::mt19937_64 random_;
    std::map<std::string, std::shared_ptr<Receiver>> receivers_;
    std::map<std::string, std::vector<std::size_t>> lives_;  // where each begins
    std::map<std::string, std::size_t> certain_;             // how many were recorded
    std::map<std::string, std::set<TaskId>> certain_ids_;    // which
    std::vector<TaskId> ids_;
    std::unique_ptr<Scheduler> tasks_;
    std::unique_ptr<Sinks> sinks_;
};

}  // namespace

TEST_SUITE("sinks") {
    TEST_CASE("whatever happens, a sink takes each event or has it as a dead letter") {
        const char* rounds_text = std::getenv("SCHEDULER_TEST_ROUNDS");
        const unsigned rounds = rounds_text ? static_cast<unsigned>(std::atoi(rounds_text)) : 20;
        for (unsigned seed = 1; seed <= rounds; ++seed) {
            CAPTURE(seed);
            Model(seed).run();
        }
    }
}

}  // namespace sinks_model_test
