// SPDX-License-Identifier: MIT
//
// What every scheduler::Journal must keep of its promises, whatever it keeps the records in.
// For a journal of your own, derive from contract::Place, which opens it and makes it fail, and
// call contract::check_journal() in a test case with a function that makes such a place.  For one
// that several processes may have open at once, derive from contract::SharedPlace, and call
// contract::check_shared_journal() as well.

#ifndef TESTS_JOURNAL_CONTRACT_HPP
#define TESTS_JOURNAL_CONTRACT_HPP

#include "support.hpp"

#include <numeric>
#include <shared_mutex>

namespace contract {

using scheduler::Ends;
using scheduler::Errc;
using scheduler::Error;
using scheduler::Journal;

// Where a journal keeps its records, which outlive it. At first it has none.
class Place {
public:
    virtual ~Place() = default;
    // Opens the journal, as a process does that starts; there is no other one meanwhile.
    virtual std::unique_ptr<Journal> open() = 0;
    // Whether fail_call() and fail_all() do anything.
    virtual bool can_fail() const { return false; }
    // The step of this number, from 0 and from now on, fails once: a write, a sync, a read.
    virtual void fail_call(std::size_t) {}
    virtual bool has_failed() const { return false; }
    // Every write and every sync fails, until this is called with false.
    virtual void fail_all(bool) {}
};
using MakePlace = std::function<std::unique_ptr<Place>()>;

using Lines = std::vector<std::string>;  // each ends with a newline

inline std::string joined(const Lines& lines) {
    return std::accumulate(lines.begin(), lines.end(), std::string());
}

// A record that no other one is like; its length differs, and is large now and then.  The first is
// the one that a scheduler's journal begins with.
inline std::string line_of(std::uint64_t number) {
    std::string line =
        number == 0 ? R"({"journal":"task-scheduler","version":1)" : R"({"op":"test")";
    line += ",\"n\":" + std::to_string(number) + ",\"text\":";
    const auto size = static_cast<std::size_t>(number % 29 == 28 ? 9'000 : number % 7 * 11);
    line += scheduler::quote_json("\xC3\xA9\n\"}{" + std::string(size, ' ')) + ",\"x\":1.10";
    scheduler::detail::seal_line(line, 0);
    return line;
}

// Uses a journal as a scheduler does, and knows what it must have kept.
class Client : public Journal::Source {
public:
    explicit Client(Place& place, std::uint64_t first = 0)
        : place_(place), next_(first), journal_(place.open()) {
        read();
    }
    // Called while the journal copies what is remembered.
    std::function<void()> meanwhile;

    // Whether the records were stored.
    bool commit(std::size_t count) {
        return store(count, [this](const std::string& lines) { journal_->commit(lines, 0); });
    }
    // The same for records that need not be synced.
    bool write(std::size_t count) {
        return store(count, [this](const std::string& lines) { journal_->write(lines, 0); });
    }
    Ends write_ends(std::size_t count) {
        const Lines lines = make(count);
        const Ends ends = journal_->write_ends(joined(lines), 0);
        REQUIRE(ends != Ends::fenced);
        if (ends == Ends::written) {
            take_over(lines);
        } else {
            owed_.insert(owed_.end(), lines.begin(), lines.end());
        }
        return ends;
    }
    // Whether the journal has what this remembers now, and what was written meanwhile.
    bool replace() {
        const std::uint64_t before = journal_->figures().replacements;
        const bool had_failed = journal_->failed();
        try {
            journal_->replace(*this);
        } catch (const std::exception&) {
            // Then the old one stands; one that had failed, or has now, is still to be replaced.
            if (had_failed) CHECK(journal_->failed());
            return false;
        }
        CHECK_FALSE(journal_->failed());
        CHECK(journal_->figures().replacements == before + 1);
        kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(at_rest_));
        kept_.insert(kept_.begin(), copied_.begin(), copied_.end());
        // What is owed from before is remembered, and need not be written any more.
        owed_.erase(owed_.begin(), owed_.begin() + static_cast<std::ptrdiff_t>(owed_at_rest_));
        take_over({});
        return true;
    }
    // After all steps can be made again: mends what has failed, as a scheduler does.
    void mend() {
        if (journal_->failed()) REQUIRE(replace());
        REQUIRE(commit(1));
    }
    // Closes the journal, opens it again and checks what it reads.
    void check_kept() {
        journal_.reset();
        journal_ = place_.open();
        read();
    }
    void close() { journal_.reset(); }
    // Closes the journal when it can write again what it owes.
    void close_owing() {
        close();
        take_over({});
    }
    Journal& journal() { return *journal_; }
    const Lines& kept() const { return kept_; }

    void at_rest(const std::function<void()>& begin) override {
        begin();
        at_rest_ = kept_.size();
        owed_at_rest_ = owed_.size();
        copied_ = {line_of(next_++)};  // differs from what was written
        copied_.insert(copied_.end(), kept_.begin(), kept_.end());
        copied_.insert(copied_.end(), owed_.begin(), owed_.end());
    }
    void copy(const std::function<void(std::string_view lines)>& append) override {
        for (const std::string& line : copied_) append(line);
        if (meanwhile) meanwhile();
    }

private:
    template <class Call>
    bool store(std::size_t count, Call call) {
        const Lines lines = make(count);
        try {
            call(joined(lines));
        } catch (const Error& error) {
            const bool unknown = error.code() == Errc::outcome_unknown;
            CHECK((unknown || error.code() == Errc::disk_full ||
                   error.code() == Errc::journal_failed));
            if (unknown) CHECK(journal_->failed());  // nothing is read before it is replaced
            return false;
        }
        take_over(lines);
        return true;
    }
    Lines make(std::size_t count) {
        Lines lines;
        while (lines.size() < count) lines.push_back(line_of(next_++));
        return lines;
    }
    // What is owed goes before what is written.
    void take_over(const Lines& lines) {
        kept_.insert(kept_.end(), owed_.begin(), owed_.end());
        owed_.clear();
        at_rest_ += std::exchange(owed_at_rest_, 0);  // a replacement has these anyway
        kept_.insert(kept_.end(), lines.begin(), lines.end());
    }
    void read() {
        Lines lines;
        const bool replace_first = journal_->read(
            [&lines](std::string_view line) { lines.push_back(std::string(line) + '\n'); });
        REQUIRE(lines.size() == kept_.size());
        for (std::size_t i = 0; i < lines.size(); ++i) REQUIRE(lines[i] == kept_[i]);
        if (replace_first) REQUIRE(replace());
        CHECK_FALSE(journal_->failed());
        CHECK(support::eventually([this] { return journal_->is_owner(); }));
    }

    Place& place_;
    std::uint64_t next_;
    std::unique_ptr<Journal> journal_;
    Lines kept_;
    Lines owed_;    // ends that could not be written
    Lines copied_;  // what the last replacement was made of
    std::size_t at_rest_ = 0;
    std::size_t owed_at_rest_ = 0;
};

// Runs `steps` in a new place again and again, with another step failing each time, until none
// does any more; then mends and checks what is kept.
template <class Steps>
void with_each_failure(const MakePlace& make, Steps steps) {
    if (!make()->can_fail()) return;
    for (std::size_t number = 0;; ++number) {
        CAPTURE(number);
        const auto place = make();
        Client client(*place);
        REQUIRE(client.commit(2));
        place->fail_call(number);
        steps(client);
        const bool failed = place->has_failed();
        place->fail_call(~std::size_t{0});
        client.mend();
        client.check_kept();
        if (!failed) break;
        REQUIRE(number < 1'000);
    }
}

inline void check_order(const MakePlace& make) {
    const auto place = make();
    Client client(*place);
    CHECK(client.kept().size() <= 1);  // what a replacement at first has put there
    for (std::size_t round = 0; round < 4; ++round) {
        for (std::size_t i = 0; i < 40; ++i) {
            REQUIRE(client.commit(1 + i % 3));
            REQUIRE(client.write(1 + i % 2));
            REQUIRE(client.write_ends(1 + i % 2) == Ends::written);
            REQUIRE(client.write_ends(0) == Ends::written);
        }
        client.check_kept();
        client.check_kept();  // reading changes nothing
    }
}

inline void check_long_lines(const MakePlace& make) {
    const auto place = make();
    std::string line =
        R"({"op":"test","text":)" + scheduler::quote_json(std::string(1'500'000, 'x'));
    scheduler::detail::seal_line(line, 0);
    std::size_t replaced = 0;
    {
        Client client(*place);
        client.journal().commit(line, 0);
        replaced = client.kept().size();
    }
    std::size_t found = 0;
    std::size_t all = 0;
    place->open()->read([&](std::string_view read) {
        ++all;
        if (std::string(read) + '\n' == line) ++found;
    });
    CHECK(found == 1);
    CHECK(all == replaced + 1);
}

inline void check_syncs(const MakePlace& make) {
    const auto place = make();
    Client client(*place);
    REQUIRE(client.write_ends(3) == Ends::written);
    client.journal().sync();
    CHECK_FALSE(client.journal().wants_sync());
    client.check_kept();
}

inline void check_figures(const MakePlace& make) {
    const auto place = make();
    Client client(*place);
    const auto before = client.journal().figures();
    REQUIRE(client.commit(10));
    const auto after = client.journal().figures();
    CHECK_FALSE(after.failed);
    CHECK(after.bytes > before.bytes);
    CHECK(after.replacements == before.replacements);
    REQUIRE(client.replace());
    CHECK(client.journal().figures().replacements == before.replacements + 1);
    CHECK(client.journal().figures().bytes >= joined(client.kept()).size());
}

inline void check_replacement(const MakePlace& make) {
    const auto place = make();
    Client client(*place);
    REQUIRE(client.commit(5));
    // Commits and ends go on beside it: it waits for them, and takes them in.
    client.meanwhile = [&client] {
        std::thread([&client] {
            CHECK(client.commit(2));
            CHECK(client.write_ends(2) == Ends::written);
        }).join();
    };
    REQUIRE(client.replace());
    client.meanwhile = nullptr;
    REQUIRE(client.commit(1));
    client.check_kept();
    REQUIRE(client.replace());
    REQUIRE(client.replace());
    client.check_kept();
}

inline void check_abandoned_replacement(const MakePlace& make) {
    const auto place = make();
    Client client(*place);
    REQUIRE(client.commit(5));
    client.meanwhile = [&client] {
        CHECK(client.commit(2));
        CHECK(client.write_ends(2) == Ends::written);
        throw std::bad_alloc();
    };
    CHECK_FALSE(client.replace());
    CHECK_FALSE(client.journal().failed());
    REQUIRE(client.commit(1));
    client.check_kept();
    client.meanwhile = nullptr;
    REQUIRE(client.replace());
    client.check_kept();
}

// A snapshot, where there is one, is what was kept at its moment, whatever comes after it.
inline void check_snapshot(const MakePlace& make) {
    const auto place = make();
    Client client(*place);
    REQUIRE(client.commit(5));
    REQUIRE(client.write_ends(2) == Ends::written);
    const auto taken = client.journal().snapshot();
    if (!taken) return;
    const std::string kept = joined(client.kept());
    REQUIRE(client.commit(5));
    REQUIRE(client.replace());
    REQUIRE(client.commit(5));
    CHECK(taken->size() == kept.size());
    std::string text(kept.size() + 10, '\0');
    text.resize(taken->read(&text[0], text.size(), 0));
    CHECK(text == kept);
    CHECK(taken->read(&text[0], 5, kept.size() - 3) == 3);
    CHECK(taken->read(&text[0], 5, kept.size() + 3) == 0);
}

// What take() throws comes out, and the journal is as it was.
inline void check_interrupted_read(const MakePlace& make) {
    const auto place = make();
    Lines kept;
    {
        Client client(*place);
        REQUIRE(client.commit(5));
        kept = client.kept();
    }
    CHECK_THROWS_AS(place->open()->read([](std::string_view) { throw std::bad_alloc(); }),
                    std::bad_alloc);
    if (place->can_fail()) {
        place->fail_all(true);
        try {
            place->open()->read([](std::string_view) {});
        } catch (const Error&) {  // or it has not needed what fails
        }
        place->fail_all(false);
    }
    Lines read;
    place->open()->read(
        [&read](std::string_view line) { read.push_back(std::string(line) + '\n'); });
    CHECK(read == kept);
}

// While nothing can be written, changes are refused, what happens goes on, and nothing of what
// was refused is ever read.
inline void check_outage(const MakePlace& make) {
    const auto place = make();
    if (!place->can_fail()) return;
    Client client(*place);
    REQUIRE(client.commit(3));
    for (int round = 0; round < 2; ++round) {
        place->fail_all(true);
        CHECK_FALSE(client.write(2));
        CHECK_FALSE(client.commit(2));
        CHECK(client.write_ends(1) == Ends::unwritable);
        CHECK(client.write_ends(2) == Ends::unwritable);
        CHECK_FALSE(client.replace());
        CHECK_FALSE(client.commit(2));
        CHECK(client.write_ends(1) == Ends::unwritable);
        place->fail_all(false);
        client.mend();
        CHECK(client.write_ends(1) == Ends::written);
        client.check_kept();
    }
}

// Nothing of a refused commit is read, even if the journal is never written again.
inline void check_refusal(const MakePlace& make) {
    if (!make()->can_fail()) return;
    for (const bool synced : {true, false}) {
        bool refused = false;
        for (std::size_t number = 0; number < 20; ++number) {
            CAPTURE(synced);
            CAPTURE(number);
            const auto place = make();
            Client client(*place);
            REQUIRE(client.commit(2));
            place->fail_call(number);
            refused = !(synced ? client.commit(4) : client.write(4)) || refused;
            place->fail_call(~std::size_t{0});
            client.check_kept();
        }
        CHECK(refused);
    }
}

// Ends that could not be written are written at the latest when the journal is closed.
inline void check_close(const MakePlace& make) {
    if (!make()->can_fail()) return;
    for (std::size_t number = 0; number < 20; ++number) {
        CAPTURE(number);
        const auto place = make();
        Client client(*place);
        REQUIRE(client.commit(2));
        place->fail_call(number);
        client.write_ends(2);
        place->fail_call(~std::size_t{0});
        if (client.journal().failed()) continue;  // it is replaced before it is closed
        client.close_owing();
        client.check_kept();
    }
}

inline void check_each_failure(const MakePlace& make) {
    with_each_failure(make, [](Client& client) {
        client.commit(2);
        client.write_ends(1);
        client.write(1);
        client.commit(1);
        client.write_ends(2);
    });
    with_each_failure(make, [](Client& client) {
        client.write_ends(1);
        client.meanwhile = [] { throw std::bad_alloc(); };
        client.replace();
        client.meanwhile = nullptr;
        client.write_ends(1);
    });
    with_each_failure(make, [](Client& client) {
        client.meanwhile = [&client] {
            client.commit(2);
            client.write_ends(1);
        };
        client.replace();
        client.meanwhile = nullptr;
        client.write_ends(1);
    });
}

// Four threads write ends, one commits and one replaces, all beside one another.
inline void check_threads(const MakePlace& make) {
    constexpr std::size_t enders = 4;
    const auto place = make();
    // What a scheduler remembers: a record is written and takes effect under one lock that
    // is shared, and a replacement begins where nobody holds it.
    struct Remembered : Journal::Source {
        std::shared_mutex busy;
        std::mutex mutex;
        Lines lines;
        Lines copied;
        void add(const Lines& more) {
            const std::lock_guard<std::mutex> guard(mutex);
            lines.insert(lines.end(), more.begin(), more.end());
        }
        void at_rest(const std::function<void()>& begin) override {
            const std::unique_lock<std::shared_mutex> rest(busy);
            begin();
            copied = lines;
        }
        void copy(const std::function<void(std::string_view lines)>& append) override {
            for (const std::string& line : copied) append(line);
        }
    } remembered;
    Client opener(*place);
    remembered.lines = opener.kept();
    Journal& journal = opener.journal();
    std::vector<std::thread> threads;
    for (std::size_t thread = 0; thread <= enders; ++thread) {
        threads.emplace_back([&, thread] {
            for (std::size_t i = 0; i < 60; ++i) {
                const Lines lines{line_of((thread + 1) * 1'000'000 + i)};
                const std::shared_lock<std::shared_mutex> in_effect(remembered.busy);
                if (thread == enders) {
                    journal.commit(joined(lines), 0);
                } else {
                    CHECK(journal.write_ends(joined(lines), 0) == Ends::written);
                }
                remembered.add(lines);
            }
        });
    }
    for (int i = 0; i < 5; ++i) journal.replace(remembered);
    for (std::thread& thread : threads) thread.join();
    std::map<std::string, std::size_t> places;  // of each line
    Lines read;
    opener.close();
    place->open()->read(
        [&read](std::string_view line) { read.push_back(std::string(line) + '\n'); });
    for (std::size_t i = 0; i < read.size(); ++i) CHECK(places.emplace(read[i], i).second);
    CHECK(read.size() == remembered.lines.size());
    for (std::size_t thread = 0; thread <= enders; ++thread) {
        for (std::size_t i = 1; i < 60; ++i) {
            const std::string before = line_of((thread + 1) * 1'000'000 + i - 1);
            const std::string after = line_of((thread + 1) * 1'000'000 + i);
            REQUIRE(places.count(before) == 1);
            REQUIRE(places.count(after) == 1);
            CHECK(places[before] < places[after]);
        }
    }
}

// A scheduler on it, through Options::make_journal: what it has acknowledged is there again.
inline void check_scheduler(const MakePlace& make) {
    using scheduler::TaskId;
    const auto place = make();
    support::TestClock clock;
    scheduler::Options options;
    options.now = clock.source();
    options.drive = scheduler::Drive::caller;
    options.make_journal = [&place] { return place->open(); };
    std::vector<TaskId> ids;
    {
        scheduler::Scheduler tasks(options);
        for (int i = 0; i < 4; ++i) {
            ids.push_back(tasks.schedule(scheduler::milliseconds(1'000 * (i + 1)), "\"x\""));
        }
        CHECK(tasks.cancel(ids[1]));
        clock.advance(scheduler::milliseconds(1'000));
        CHECK(tasks.run_due() == 1);
    }
    {
        scheduler::Scheduler tasks(options);
        CHECK(support::pending_ids(tasks) == std::vector<TaskId>{ids[2], ids[3]});
        CHECK(support::event_ids(tasks) == std::vector<TaskId>{ids[0]});
        place->fail_all(true);
        if (place->can_fail()) {
            CHECK_THROWS_AS(tasks.schedule(scheduler::milliseconds(5'000), "\"refused\""), Error);
        }
        clock.advance(scheduler::milliseconds(2'000));
        CHECK(tasks.run_due() == 1);
        place->fail_all(false);
    }
    scheduler::Scheduler tasks(options);
    CHECK(support::pending_ids(tasks) == std::vector<TaskId>{ids[3]});
    CHECK(support::event_ids(tasks) == std::vector<TaskId>{ids[0], ids[2]});
}

inline void check_journal(const MakePlace& make) {
    SUBCASE("it reads, in order and byte for byte, what was committed and the ends written") {
        check_order(make);
    }
    SUBCASE("a line may be long") {
        check_long_lines(make);
    }
    SUBCASE("after a sync it wants none") {
        check_syncs(make);
    }
    SUBCASE("its figures count what a scheduler relies on") {
        check_figures(make);
    }
    SUBCASE("a replacement has what is remembered and what was written meanwhile") {
        check_replacement(make);
    }
    SUBCASE("a replacement that is abandoned changes nothing") {
        check_abandoned_replacement(make);
    }
    SUBCASE("a snapshot is what was kept at its moment, whatever comes after it") {
        check_snapshot(make);
    }
    SUBCASE("reading that is interrupted changes nothing") {
        check_interrupted_read(make);
    }
    SUBCASE("an outage refuses changes, keeps ends and leaves no trace of what was refused") {
        check_outage(make);
    }
    SUBCASE("a commit that was refused leaves no trace") {
        check_refusal(make);
    }
    SUBCASE("ends that are owed are written when it is closed") {
        check_close(make);
    }
    SUBCASE("whichever step fails, what was stored is read and what was refused is not") {
        check_each_failure(make);
    }
    SUBCASE("commits, ends and replacements go on beside one another") {
        check_threads(make);
    }
    SUBCASE("a scheduler keeps its word on it") {
        check_scheduler(make);
    }
}

// Where several processes have a journal open at once.
class SharedPlace {
public:
    virtual ~SharedPlace() = default;
    virtual std::unique_ptr<Journal> open(const std::string& node) = 0;
    // Another node is to own the journal, although its owner is alive and was not asked.
    virtual void take(const std::string& node) = 0;
    // Called again and again while something is awaited.
    virtual void step() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }
};
using MakeSharedPlace = std::function<std::unique_ptr<SharedPlace>()>;

// A node as a scheduler is one: it remembers what it has read, stored and was told.
class Member : public Journal::Source {
public:
    Member(SharedPlace& place, const std::string& node)
        : place_(place), journal_(place.open(node)) {
        Journal::Follower follower;
        follower.written = [this](std::string_view told) { take_told(told); };
        follower.reread = [this](const std::function<void(const Journal::Take&)>& read) {
            Lines lines;
            read([&lines](std::string_view line) { lines.push_back(std::string(line) + '\n'); });
            const std::lock_guard<std::mutex> guard(mutex_);
            lines_ = std::move(lines);
            ++rereads_;
        };
        follower.changed = [this] {
            const std::lock_guard<std::mutex> guard(mutex_);
            ++changes_;
        };
        journal_->follow(std::move(follower));
        CHECK_FALSE(journal_->is_owner());
        CHECK_FALSE(journal_->read([this](std::string_view line) {
            const std::lock_guard<std::mutex> guard(mutex_);
            lines_.push_back(std::string(line) + '\n');
        }));
    }
    ~Member() override { journal_->stop_following(); }

    Journal& journal() { return *journal_; }
    void commit(std::size_t count) {
        const Lines lines = make(count);
        journal_->commit(joined(lines), 0);
        remember(lines);
    }
    void write_ends(std::size_t count) {
        const Lines lines = make(count);
        REQUIRE(journal_->write_ends(joined(lines), 0) == Ends::written);
        remember(lines);
    }
    // Whether it is refused whatever it wants to store.
    bool is_refused() {
        const auto refused = [](const std::function<void()>& call) {
            try {
                call();
                return false;
            } catch (const Error& error) {
                return error.code() == Errc::not_owner;
            }
        };
        return refused([this] { journal_->commit(joined(make(1)), 0); }) &&
               refused([this] { journal_->write(joined(make(1)), 0); }) &&
               refused([this] { journal_->replace(*this); }) &&
               journal_->write_ends(joined(make(1)), 0) == Ends::fenced &&
               journal_->write_ends({}, 0) == Ends::fenced;
    }
    template <class Condition>
    bool awaits(Condition condition) {
        const auto end = std::chrono::steady_clock::now() + support::long_enough;
        while (!condition()) {
            if (std::chrono::steady_clock::now() > end) return false;
            place_.step();
        }
        return true;
    }
    bool becomes_owner() {
        return awaits([this] { return journal_->is_owner(); });
    }
    bool comes_to(const Lines& lines) {
        return awaits([this, &lines] { return this->lines() == lines; });
    }
    Lines lines() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return lines_;
    }
    int rereads() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return rereads_;
    }
    int changes() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return changes_;
    }
    // While it fails it remembers nothing of what it is told.
    void fail(bool fails) { fails_ = fails; }
    int failures() const { return failures_; }

    void at_rest(const std::function<void()>& begin) override { begin(); }
    void copy(const std::function<void(std::string_view lines)>& append) override {
        for (const std::string& line : lines()) append(line);
    }

private:
    void take_told(std::string_view told) {
        CHECK_FALSE(journal_->is_owner());  // which it becomes when it was told everything
        if (fails_) {
            ++failures_;
            throw std::bad_alloc();
        }
        Lines lines;
        while (!told.empty()) {
            const std::size_t end = std::min(told.find('\n'), told.size());
            lines.push_back(std::string(told.substr(0, end)) + '\n');
            told.remove_prefix(std::min(end + 1, told.size()));
        }
        remember(lines);
    }
    void remember(const Lines& lines) {
        const std::lock_guard<std::mutex> guard(mutex_);
        lines_.insert(lines_.end(), lines.begin(), lines.end());
    }
    static Lines make(std::size_t count) {
        static std::atomic<std::uint64_t> next{0};
        Lines lines;
        while (lines.size() < count) lines.push_back(line_of(next++));
        return lines;
    }

    SharedPlace& place_;
    mutable std::mutex mutex_;
    Lines lines_;      // guarded by mutex_
    int rereads_ = 0;  // guarded by mutex_
    int changes_ = 0;  // guarded by mutex_
    std::atomic<bool> fails_{false};
    std::atomic<int> failures_{0};
    const std::unique_ptr<Journal> journal_;
};

inline void check_told(const MakeSharedPlace& make) {
    const auto place = make();
    Member owner(*place, "owner");
    REQUIRE(owner.becomes_owner());
    owner.commit(3);
    Member reader(*place, "reader");
    CHECK(reader.comes_to(owner.lines()));
    for (std::size_t i = 0; i < 40; ++i) {
        owner.commit(1 + i % 3);
        owner.write_ends(1 + i % 2);
    }
    Member late(*place, "late");
    owner.commit(1);
    const std::uint64_t applied = owner.journal().applied();
    for (Member* member : {&reader, &late}) {
        CHECK(member->comes_to(owner.lines()));
        CHECK(member->awaits([&] { return member->journal().applied() == applied; }));
        CHECK(member->rereads() == 0);
        CHECK_FALSE(member->journal().is_owner());
        CHECK(member->is_refused());
        const auto cluster = member->journal().cluster();
        REQUIRE(cluster);
        CHECK(cluster->owner == "owner");
        CHECK(cluster->node != "owner");
        CHECK(cluster->applied == applied);
    }
    reader.journal().stop_following();
    const Lines before = reader.lines();
    owner.commit(5);
    CHECK(late.comes_to(owner.lines()));
    CHECK(reader.lines() == before);
}

inline void check_told_again(const MakeSharedPlace& make) {
    const auto place = make();
    Member owner(*place, "owner");
    REQUIRE(owner.becomes_owner());
    Member reader(*place, "reader");
    for (int i = 0; i < 3; ++i) {
        reader.fail(true);
        const int failures = reader.failures();
        owner.commit(2);
        owner.commit(2);
        CHECK(reader.awaits([&] { return reader.failures() > failures; }));
        reader.fail(false);
        CHECK(reader.comes_to(owner.lines()));
    }
}

// One that can follow a replacement goes on; one that cannot reads it.
inline void check_replaced(const MakeSharedPlace& make) {
    const auto place = make();
    Member owner(*place, "owner");
    REQUIRE(owner.becomes_owner());
    owner.commit(10);
    Member reader(*place, "reader");
    for (int i = 0; i < 3; ++i) {
        owner.journal().replace(owner);
        owner.commit(2);
        CHECK(reader.comes_to(owner.lines()));
    }
    reader.fail(true);
    owner.commit(2);
    owner.journal().replace(owner);
    owner.commit(2);
    owner.journal().replace(owner);
    reader.fail(false);
    CHECK(reader.comes_to(owner.lines()));
    Member late(*place, "late");
    CHECK(late.comes_to(owner.lines()));
}

inline void check_taken_over(const MakeSharedPlace& make) {
    const auto place = make();
    auto first = std::make_unique<Member>(*place, "first");
    REQUIRE(first->becomes_owner());
    const auto second = std::make_unique<Member>(*place, "second");
    const std::uint64_t epoch = first->journal().cluster()->epoch;
    first->commit(5);
    Lines lines = first->lines();
    first.reset();
    REQUIRE(second->becomes_owner());
    CHECK(second->lines() == lines);
    CHECK(second->changes() > 0);
    CHECK(second->journal().cluster()->epoch > epoch);
    second->commit(2);
    first = std::make_unique<Member>(*place, "first");
    CHECK(first->comes_to(second->lines()));
    // An owner that was not asked is fenced, and follows.
    place->take("first");
    REQUIRE(first->becomes_owner());
    CHECK(second->is_refused());
    CHECK_FALSE(second->journal().is_owner());
    first->commit(3);
    first->write_ends(1);
    CHECK(second->comes_to(first->lines()));
}

inline void check_shared_journal(const MakeSharedPlace& make) {
    SUBCASE("every node is told, in order and byte for byte, what others store") {
        check_told(make);
    }
    SUBCASE("what a node could not remember it is told again") {
        check_told_again(make);
    }
    SUBCASE("a replacement changes nothing for others, or they read it") {
        check_replaced(make);
    }
    SUBCASE("another node takes over when it was told everything, and the old owner is fenced") {
        check_taken_over(make);
    }
}

}  // namespace contract

#endif  // TESTS_JOURNAL_CONTRACT_HPP
