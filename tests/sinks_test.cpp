// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <random>

namespace sinks_test {

using namespace scheduler;
using support::errc_of;
using support::eventually;
using support::FailingFiles;
using support::TestClock;
using support::TempDir;

namespace {

// A sink that notes what it is given and answers as it is told to.
class Notes : public Sink {
public:
    using Answer = std::function<Outcome(const Delivery&)>;

    explicit Notes(Answer answer = nullptr) : answer_(std::move(answer)) {}
    Outcome deliver(const Delivery& delivery) override {
        Outcome outcome = answer_ ? answer_(delivery) : Outcome();
        const std::lock_guard<std::mutex> guard(mutex_);
        attempts_.push_back(delivery.attempt);
        times_.push_back(std::chrono::steady_clock::now());
        if (outcome.result == Outcome::Result::delivered) taken_.push_back(delivery.event.id);
        return outcome;
    }
    std::vector<TaskId> taken() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return taken_;
    }
    std::vector<std::uint32_t> attempts() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return attempts_;
    }
    std::vector<std::chrono::steady_clock::time_point> times() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return times_;
    }

private:
    const Answer answer_;
    mutable std::mutex mutex_;
    std::vector<TaskId> taken_;
    std::vector<std::uint32_t> attempts_;
    std::vector<std::chrono::steady_clock::time_point> times_;
};

// A sink that takes several events at once.
class Batches : public Sink {
public:
    explicit Batches(std::size_t most, Notes::Answer answer = nullptr)
        : most_(most), answer_(std::move(answer)) {}
    std::size_t max_batch() const override { return most_; }
    Outcome deliver(const Delivery& delivery) override {
        Outcome outcome = answer_ ? answer_(delivery) : Outcome();
        const std::lock_guard<std::mutex> guard(mutex_);
        sizes_.push_back(1 + delivery.more.size());
        if (outcome.result != Outcome::Result::delivered) return outcome;
        taken_.push_back(delivery.event.id);
        for (const Event& event : delivery.more) taken_.push_back(event.id);
        return outcome;
    }
    std::vector<TaskId> taken() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return taken_;
    }
    std::vector<std::size_t> sizes() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return sizes_;
    }

private:
    const std::size_t most_;
    const Notes::Answer answer_;
    mutable std::mutex mutex_;
    std::vector<TaskId> taken_;
    std::vector<std::size_t> sizes_;
};

SinkOptions sink(std::string name, std::shared_ptr<Sink> to,
                 std::vector<milliseconds> retry = {milliseconds(1), milliseconds(1)}) {
    SinkOptions options;
    options.name = std::move(name);
    options.sink = std::move(to);
    options.retry = std::move(retry);
    return options;
}

Outcome refuse(const Delivery&) {
    return Outcome::failed("not today");
}

Options options_for(const TempDir& dir) {
    Options options;
    options.journal = dir.journal();
    options.fsync = Fsync::no;
    return options;
}

// Schedules tasks that are due at once, and waits until they are emitted.
std::vector<TaskId> emit(Scheduler& tasks, std::size_t count) {
    std::vector<TaskId> ids;
    const std::uint64_t before = tasks.stats().emitted;
    for (std::size_t i = 0; i < count; ++i) {
        ids.push_back(tasks.schedule(milliseconds(0), "\"x\""));
    }
    REQUIRE(eventually([&] { return tasks.stats().emitted == before + count; }));
    return ids;
}

// The same, of these topics.
std::vector<TaskId> emit(Scheduler& tasks, const std::vector<std::string>& topics) {
    std::vector<NewTask> all;
    for (const std::string& topic : topics) all.push_back({tasks.now(), "\"x\"", topic});
    const std::uint64_t before = tasks.stats().emitted;
    Ticket ticket = tasks.submit(all);
    ticket.wait();
    REQUIRE(eventually([&] { return tasks.stats().emitted == before + topics.size(); }));
    return ticket.ids();
}

SinkStatus status_of(const Scheduler& tasks, const std::string& name = "a") {
    for (const SinkStatus& status : tasks.sinks()) {
        if (status.name == name) return status;
    }
    FAIL("there is no sink " << name);
    return {};
}

// Calls something when the first emission is copied into a new journal.
class RewriteHook : public FileOps {
public:
    int open(const char* path, int flags, mode_t mode) override {
        const int fd = FileOps::open(path, flags, mode);
        const std::string name = path;
        if (name.size() > 4 && name.substr(name.size() - 4) == ".new") new_fd_ = fd;
        return fd;
    }
    int rename(const char* from, const char* to) override {
        new_fd_ = -1;
        return FileOps::rename(from, to);
    }
    ssize_t pwrite(int fd, const void* from, std::size_t size, off_t to) override {
        const std::string_view text(static_cast<const char*>(from), size);
        if (fd == new_fd_ && text.find(R"("op":"emit")") != std::string_view::npos &&
            !begun_.exchange(true)) {
            on_first_emission();
            called = true;
        }
        return FileOps::pwrite(fd, from, size, to);
    }

    std::function<void()> on_first_emission;
    std::atomic<bool> called{false};  // and that has returned

private:
    std::atomic<bool> begun_{false};
    std::atomic<int> new_fd_{-1};
};

Delivery delivery_of(std::string_view payload) {
    Delivery delivery;
    delivery.event.id = TaskId::parse("01a20d6e-bbe5-75dd-a110-84e4e0715a01").value();
    delivery.event.due = support::at("2026-03-01T12:00:00Z");
    delivery.event.emitted_at = delivery.event.due + milliseconds(7);
    delivery.event.payload =
        detail::PayloadAccess::make(
            detail::TaskRef::make(delivery.event.id, delivery.event.due, payload));
    return delivery;
}

#ifdef __linux__
struct Shell {
    explicit Shell(const std::string& script, milliseconds timeout = milliseconds(10'000))
        : sink(CommandOptions{{"sh", "-c", script}, timeout, [this](const std::string& line) {
                                  output.push_back(line);
                              }}) {}
    Outcome run(std::string_view payload = "{}") { return sink.deliver(delivery_of(payload)); }

    std::vector<std::string> output;
    CommandSink sink;
};
#endif

}  // namespace

TEST_SUITE("sinks") {
    // The rewrite copies events in pages, and old ones are trimmed when it is read.
    TEST_CASE("a sink that comes while the journal is rewritten keeps the earliest event") {
        const TempDir dir;
        const auto files = std::make_shared<RewriteHook>();
        std::atomic<std::int64_t> seconds{0};
        Options options = options_for(dir);
        options.history = 1;
        options.rewrite_min_bytes = 100'000;
        options.files = files;
        options.now = [&seconds] {
            return support::at("2026-03-01T12:00:00Z") + std::chrono::seconds(seconds);
        };
        const auto first_of = [](detail::Store& store) {
            const auto delivery = store.next_delivery("a");
            REQUIRE(delivery);
            return delivery->event.seq;
        };
        {
            detail::Store store(options);
            const auto schedule = [&store](milliseconds delay = milliseconds(0)) {
                std::vector<detail::TaskRef> task{
                    detail::TaskRef::make(TaskId(), store.now() + delay, R"({"message":"x"})")};
                Ticket ticket = store.begin_schedule(std::move(task), {});
                const TaskId id = ticket.ids().front();
                ticket.wait();
                return id;
            };
            files->on_first_emission = [&] {
                store.open_sinks({{"a", "callback", "", true}}, store.newest(), Unlisted::keep);
                CHECK(first_of(store) == 0);
                seconds = 120;
                schedule();
                CHECK(store.emit_due());
                CHECK(first_of(store) == 0);
            };
            for (int i = 0; i < 250; ++i) schedule();
            while (store.emit_due()) continue;
            REQUIRE(eventually([&] {
                store.begin_cancel(schedule(std::chrono::hours(1))).wait();
                return files->called && store.stats().journal_rewrites > 0;
            }));
        }
        detail::Store again(options);
        CHECK(first_of(again) == 0);
    }

    TEST_CASE("a sink gets every event in order, also what was emitted while it was away") {
        const TempDir dir;
        std::vector<TaskId> ids;
        const auto more = [&ids](const std::vector<TaskId>& others) {
            ids.insert(ids.end(), others.begin(), others.end());
        };
        const auto notes = std::make_shared<Notes>();
        {
            Scheduler tasks(options_for(dir));
            {
                Sinks sinks(tasks, {sink("a", notes)});
                more(emit(tasks, 20));
                CHECK(eventually([&] { return notes->taken() == ids; }));
            }
            more(emit(tasks, 20));
        }
        {
            Scheduler tasks(options_for(dir));
            more(emit(tasks, 5));
            Sinks sinks(tasks, {sink("a", notes)});
            CHECK(eventually([&] { return notes->taken() == ids; }));
            CHECK(eventually([&] { return status_of(tasks).delivered == 25; }));  // told behind it
            const SinkStatus status = status_of(tasks);
            CHECK(status.kind == "callback");
            CHECK(status.cursor == ids.back());
            CHECK(status.lag == 0);
            CHECK(status.delivered == 25);
        }
        Scheduler tasks(options_for(dir));
        Sinks sinks(tasks, {sink("a", notes)});
        more(emit(tasks, 1));
        CHECK(eventually([&] { return notes->taken() == ids; }));
    }

    TEST_CASE("a new sink begins with the scheduler's first event, or with the oldest") {
        const TempDir dir;
        std::vector<TaskId> old;
        {
            Scheduler tasks(options_for(dir));
            old = emit(tasks, 3);
        }
        Scheduler tasks(options_for(dir));
        const std::vector<TaskId> ids = emit(tasks, 2);
        old.insert(old.end(), ids.begin(), ids.end());
        const auto newest = std::make_shared<Notes>();
        const auto earliest = std::make_shared<Notes>();
        SinkOptions all = sink("b", earliest);
        all.from_earliest = true;
        Sinks sinks(tasks, {sink("a", newest), all});
        CHECK(eventually([&] { return newest->taken() == ids; }));
        CHECK(eventually([&] { return earliest->taken() == old; }));
    }

    TEST_CASE("what fails is tried again after each wait, and then is a dead letter") {
        Scheduler tasks;
        const auto notes = std::make_shared<Notes>(refuse);
        Sinks sinks(tasks, {sink("a", notes)});
        const std::vector<TaskId> ids = emit(tasks, 2);
        REQUIRE(eventually([&] { return status_of(tasks).dead == 2; }));
        CHECK(notes->attempts() == std::vector<std::uint32_t>{1, 2, 3, 1, 2, 3});
        const DeadPage page = tasks.dead_letters("a", std::nullopt, 1);
        REQUIRE(page.letters.size() == 1);
        CHECK(page.total == 2);
        CHECK(page.more);
        CHECK(page.letters[0].event.id == ids[0]);
        CHECK(page.letters[0].attempts == 3);
        CHECK(page.letters[0].error == "not today");
        CHECK(tasks.dead_letters("a", ids[0]).letters.at(0).event.id == ids[1]);
        CHECK(status_of(tasks).last_error == "not today");
        CHECK(status_of(tasks).lag == 0);
        CHECK(errc_of([&] { tasks.dead_letters("b"); }) == Errc::unknown_sink);
        CHECK(errc_of([&] { tasks.dead_letters("a", TaskId(1, 1)); }) == Errc::unknown_task);
    }

    TEST_CASE("a batch brings what waits, in order, each event once, and is bounded in bytes") {
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        auto batches = std::make_shared<Batches>(5);
        std::vector<TaskId> ids;
        {
            const Sinks sinks(tasks, {sink("a", batches)});
            tasks.pause_sink("a");
            ids = emit(tasks, 12);
            tasks.resume_sink("a");
            CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        }
        CHECK(batches->taken() == ids);
        CHECK(batches->sizes() == std::vector<std::size_t>{5, 5, 2});
        CHECK(status_of(tasks).delivered == 12);
        CHECK(status_of(tasks).dead == 0);

        auto large = std::make_shared<Batches>(1'000);
        const Sinks sinks(tasks, {sink("a", large)});
        tasks.pause_sink("a");
        const std::string message = '"' + std::string(std::size_t{400} << 10, 'x') + '"';
        for (int i = 0; i < 5; ++i) tasks.schedule(milliseconds(0), message);
        CHECK(eventually([&] { return status_of(tasks).lag == 5; }));
        tasks.resume_sink("a");
        CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        CHECK(large->sizes() == std::vector<std::size_t>{2, 2, 1});
    }

    TEST_CASE("what was taken as a batch is taken after a restart, however the journal ends") {
        const TempDir dir;
        std::vector<TaskId> ids;
        {
            Scheduler tasks(options_for(dir));
            auto batches = std::make_shared<Batches>(4);
            const Sinks sinks(tasks, {sink("a", batches)});
            tasks.pause_sink("a");
            ids = emit(tasks, 10);
            tasks.resume_sink("a");
            CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        }
        const std::string whole = dir.read("tasks.jsonl");
        std::set<std::size_t> lags;
        for (std::size_t end = 0; (end = whole.find('\n', end)) != std::string::npos; ++end) {
            const TempDir copy;
            copy.write("tasks.jsonl", whole.substr(0, end + 1));
            Scheduler tasks(options_for(copy));
            if (tasks.sinks().empty()) continue;
            CHECK(status_of(tasks).dead == 0);
            if (tasks.stats().emitted == 0 && tasks.stats().retained == 10) {
                lags.insert(status_of(tasks).lag);
            }
        }
        CHECK(lags == std::set<std::size_t>{10, 6, 2, 0});
    }

    TEST_CASE("a sink with topics gets what they choose, and all else counts as taken") {
        const TempDir dir;
        Options options = options_for(dir);
        options.history = 10;
        options.min_retention = milliseconds(0);
        Scheduler tasks(options);
        auto some = std::make_shared<Notes>();
        auto batches = std::make_shared<Batches>(4);
        SinkOptions by_topic = sink("a", some);
        by_topic.topics = {"a", "b/*"};
        SinkOptions in_batches = sink("b", batches);
        in_batches.topics = {"a*"};
        const Sinks sinks(tasks, {by_topic, in_batches});
        CHECK(status_of(tasks).topics == by_topic.topics);
        const std::vector<TaskId> ids = emit(tasks, {"", "a", "b", "b/c", "ab", "", "a"});
        CHECK(eventually([&] { return status_of(tasks).lag + status_of(tasks, "b").lag == 0; }));
        CHECK(some->taken() == std::vector<TaskId>{ids[1], ids[3], ids[6]});
        CHECK(batches->taken() == std::vector<TaskId>{ids[1], ids[4], ids[6]});
        CHECK(tasks.story(ids[1])->sinks.size() == 2);
        CHECK(tasks.story(ids[3])->sinks.size() == 1);
        // The history need not keep what nobody wants.
        emit(tasks, std::vector<std::string>(500, "none"));
        CHECK(eventually([&] { return tasks.stats().retained <= 10; }));
        CHECK(status_of(tasks).dead == 0);
        CHECK(status_of(tasks).delivered == 3);
    }

    TEST_CASE("what topics do not choose is not written event by event") {
        const TempDir dir;
        std::size_t records = 0;
        {
            Options options = options_for(dir);
            options.rewrite_min_bytes = std::uint64_t{1} << 40;
            Scheduler tasks(options);
            SinkOptions chosen = sink("a", std::make_shared<Notes>());
            chosen.topics = {"a"};
            const Sinks sinks(tasks, {chosen});
            for (int i = 0; i < 50; ++i) emit(tasks, std::vector<std::string>(100, "b"));
            CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        }
        const std::string journal = dir.read("tasks.jsonl");
        for (std::size_t at = 0; (at = journal.find(R"("op":"deliver")", at)) != std::string::npos;
             ++at) {
            ++records;
        }
        CHECK(records >= 2);
        CHECK(records <= 7);
    }

    TEST_CASE("a sink with topics misses nothing and gives up nothing, however the journal ends") {
        const TempDir dir;
        std::vector<TaskId> wanted;
        std::mt19937 random(2);
        std::vector<std::string> topics;
        for (int i = 0; i < 60; ++i) topics.push_back(random() % 4 ? "b" : "a");
        {
            Scheduler tasks(options_for(dir));
            int calls = 0;
            SinkOptions chosen = sink("a", std::make_shared<Notes>([&calls](const Delivery&) {
                                          return ++calls % 4 ? Outcome() : Outcome::failed("no");
                                      }));
            chosen.topics = {"a"};
            const Sinks sinks(tasks, {chosen});
            const std::vector<TaskId> ids = emit(tasks, topics);
            for (std::size_t i = 0; i < ids.size(); ++i) {
                if (topics[i] == "a") wanted.push_back(ids[i]);
            }
            CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        }
        const std::string whole = dir.read("tasks.jsonl");
        for (std::size_t end = 0; (end = whole.find('\n', end)) != std::string::npos; ++end) {
            const TempDir copy;
            copy.write("tasks.jsonl", whole.substr(0, end + 1));
            Options options = options_for(copy);
            options.drive = Drive::caller;
            Scheduler tasks(options);
            if (tasks.sinks().empty() || tasks.stats().retained < 60) continue;
            CHECK(status_of(tasks).topics == std::vector<std::string>{"a"});
            auto notes = std::make_shared<Notes>();
            SinkOptions chosen = sink("a", notes);
            chosen.topics = {"a"};
            const Sinks sinks(tasks, {chosen});
            CHECK(eventually([&] {
                tasks.run_due();
                return status_of(tasks).lag == 0;
            }));
            CHECK(status_of(tasks).dead == 0);
            const std::vector<TaskId> taken = notes->taken();  // the last of what is wanted
            REQUIRE(taken.size() <= wanted.size());
            CHECK(std::equal(taken.rbegin(), taken.rend(), wanted.rbegin()));
        }
    }

    TEST_CASE("other topics choose from then on, and what the old ones passed stays taken") {
        const TempDir dir;
        const auto with = [](std::shared_ptr<Sink> to, std::vector<std::string> topics) {
            SinkOptions options = sink("a", std::move(to));
            options.topics = std::move(topics);
            return options;
        };
        std::vector<TaskId> ids;
        {
            Scheduler tasks(options_for(dir));
            const Sinks sinks(tasks, {with(std::make_shared<Notes>(), {"a"})});
            ids = emit(tasks, {"b", "b", "a", "b"});
            CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        }
        auto others = std::make_shared<Notes>();
        {
            Scheduler tasks(options_for(dir));
            const Sinks sinks(tasks, {with(others, {"b"})});
            ids = emit(tasks, {"a", "b", "c"});
            CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
            CHECK(others->taken() == std::vector<TaskId>{ids[1]});
        }
        auto all = std::make_shared<Notes>();
        Scheduler tasks(options_for(dir));
        CHECK(status_of(tasks).topics == std::vector<std::string>{"b"});
        const Sinks sinks(tasks, {with(all, {})});
        ids = emit(tasks, {"a", ""});
        CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        CHECK(all->taken() == ids);
        CHECK(status_of(tasks).topics.empty());
    }

    TEST_CASE("sinks that are replaced may have other topics, and lose nothing by that") {
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        auto notes = std::make_shared<Notes>();
        SinkOptions chosen = sink("a", notes);
        chosen.topics = {"a"};
        Sinks sinks(tasks, {chosen});
        std::vector<TaskId> wanted{emit(tasks, {"b", "a"})[1]};
        CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        chosen.topics = {"b"};
        sinks.replace({chosen});
        CHECK(status_of(tasks).topics == std::vector<std::string>{"b"});
        wanted.push_back(emit(tasks, {"b", "a"})[0]);
        CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        CHECK(notes->taken() == wanted);
        chosen.topics = {"*b"};
        CHECK(errc_of([&] { sinks.replace({chosen}); }) == Errc::invalid_argument);
        CHECK(status_of(tasks).topics == std::vector<std::string>{"b"});
    }

    TEST_CASE("of a sink with topics that is too far behind only what they choose is given up") {
        const TempDir dir;
        Options options = options_for(dir);
        options.history = 10;
        options.min_retention = milliseconds(0);
        options.sink_backlog = 20;
        std::vector<TaskId> ids;
        {
            Scheduler tasks(options);
            SinkOptions chosen = sink("a", std::make_shared<Notes>());
            chosen.topics = {"a"};
            const Sinks sinks(tasks, {chosen});
            tasks.pause_sink("a");
            ids = emit(tasks, {"a", "b", "a", "b", "b"});
            emit(tasks, std::vector<std::string>(100, "b"));
            CHECK(eventually([&] { return tasks.stats().retained <= 20; }));
            CHECK(tasks.dead_letters("a").total == 2);
        }
        Scheduler again(options);
        const DeadPage dead = again.dead_letters("a");
        REQUIRE(dead.letters.size() == 2);
        CHECK(dead.letters[0].event.id == ids[0]);
        CHECK(dead.letters[1].event.id == ids[2]);
    }

    TEST_CASE("a batch that fails is cut until one bad event spoils no other") {
        std::size_t most = 0;
        std::size_t retries = 0;
        SUBCASE("by half at each attempt") {
            most = 8, retries = 3;
        }
        SUBCASE("by all but one at the only other attempt") {
            most = 8, retries = 1;
        }
        SUBCASE("by more than half at each attempt") {
            most = 1'000, retries = 6;
        }
        SUBCASE("at every second attempt") {
            most = 4, retries = 4;
        }
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        TaskId bad;
        auto batches = std::make_shared<Batches>(most, [&bad](const Delivery& delivery) {
            bool fails = delivery.event.id == bad;
            for (const Event& event : delivery.more) fails = fails || event.id == bad;
            return fails ? Outcome::failed("bad") : Outcome();
        });
        const Sinks sinks(
            tasks, {sink("a", batches, std::vector<milliseconds>(retries, milliseconds(1)))});
        tasks.pause_sink("a");
        std::vector<TaskId> ids = emit(tasks, 20);
        bad = ids[10];
        tasks.resume_sink("a");
        CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
        ids.erase(ids.begin() + 10);
        CHECK(batches->taken() == ids);
        const DeadPage dead = tasks.dead_letters("a");
        REQUIRE(dead.letters.size() == 1);
        CHECK(dead.letters[0].event.id == bad);
        CHECK(dead.letters[0].attempts == retries + 1);

        bad = TaskId();
        tasks.redeliver("a");
        CHECK(eventually([&] { return status_of(tasks).dead == 0; }));
        CHECK(batches->sizes().back() == 1);
    }

    TEST_CASE(
        "after the last attempt each event of a batch is a dead letter, also after a restart") {
        const TempDir dir;
        std::vector<TaskId> ids;
        const auto dead = [](const Scheduler& tasks) {
            std::vector<TaskId> all;
            for (const DeadLetter& letter : tasks.dead_letters("a").letters) {
                CHECK(letter.error == "not today");
                all.push_back(letter.event.id);
            }
            return all;
        };
        {
            Scheduler tasks(options_for(dir));
            const Sinks sinks(tasks, {sink("a", std::make_shared<Batches>(8, refuse), {})});
            tasks.pause_sink("a");
            ids = emit(tasks, 8);
            tasks.resume_sink("a");
            CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
            CHECK(dead(tasks) == ids);
            CHECK(status_of(tasks).failed == 1);
        }
        Scheduler tasks(options_for(dir));
        auto batches = std::make_shared<Batches>(8);
        const Sinks sinks(tasks, {sink("a", batches)});
        CHECK(dead(tasks) == ids);
        tasks.redeliver("a");
        CHECK(eventually([&] { return status_of(tasks).dead == 0; }));
        CHECK(batches->taken() == ids);
    }

    TEST_CASE("a sink that throws has failed, with whatever it says") {
        Scheduler tasks;
        const auto thrower = make_sink([](const Event& event) {
            if (event.seq == 0) throw std::runtime_error("bad \xff\n\"word\"");
            throw 7;
        });
        Sinks sinks(tasks, {sink("a", thrower, {})});
        emit(tasks, 2);
        REQUIRE(eventually([&] { return status_of(tasks).dead == 2; }));
        CHECK(tasks.dead_letters("a").letters[0].error == "bad ??\"word\"");
        CHECK(tasks.dead_letters("a").letters[1].error ==
              "it has thrown what is no std::exception");
    }

    TEST_CASE("failed attempts, dead letters and pauses survive a restart and a rewrite") {
        const TempDir dir;
        Options options = options_for(dir);
        std::vector<TaskId> ids;
        const auto patient = std::vector<milliseconds>{std::chrono::hours(1)};
        {
            Scheduler tasks(options);
            Sinks sinks(tasks, {sink("a", std::make_shared<Notes>(refuse), {}),
                                sink("b", std::make_shared<Notes>(refuse), patient),
                                sink("c", std::make_shared<Notes>())});
            ids = emit(tasks, 3);
            REQUIRE(eventually([&] { return status_of(tasks, "a").dead == 3; }));
            REQUIRE(eventually([&] { return status_of(tasks, "b").attempts == 1; }));
            REQUIRE(eventually([&] { return status_of(tasks, "c").lag == 0; }));
            tasks.pause_sink("c");
            emit(tasks, 1);
            REQUIRE(eventually([&] { return status_of(tasks, "a").dead == 4; }));
        }
        for (const bool rewritten : {false, true}) {
            CAPTURE(rewritten);
            options.history = rewritten ? 1 : 10'000;
            options.min_retention = milliseconds(0);
            options.rewrite_min_bytes = rewritten ? 1 : std::uint64_t{1} << 40;
            // One that is trusted anew is rewritten at opening.
            if (rewritten) options.trust_clock = true;
            if (rewritten) options.now = [] { return wall_clock() - std::chrono::hours(1); };
            Scheduler tasks(options);
            CHECK((tasks.stats().journal_rewrites > 0) == rewritten);
            CHECK(status_of(tasks, "a").dead == 4);
            CHECK(tasks.dead_letters("a").letters[0].event.id == ids[0]);
            CHECK(tasks.dead_letters("a").letters[0].event.text() == tasks.find(ids[0])->text());
            CHECK(status_of(tasks, "a").lag == 0);
            CHECK(status_of(tasks, "b").attempts == 1);
            CHECK(status_of(tasks, "b").next_attempt.value() >
                  wall_clock() + std::chrono::minutes(59));
            CHECK(status_of(tasks, "b").lag == 4);
            CHECK(status_of(tasks, "c").state == SinkState::paused);
            CHECK(status_of(tasks, "c").lag == 1);
        }
        options.now = nullptr;
        Scheduler tasks(options);
        const auto a = std::make_shared<Notes>();
        const auto b = std::make_shared<Notes>();
        const auto c = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", a), sink("b", b, patient), sink("c", c)});
        CHECK(tasks.redeliver("a", ids[1]) == 1);
        CHECK(eventually([&] { return a->taken() == std::vector<TaskId>{ids[1]}; }));
        CHECK(eventually([&] { return status_of(tasks, "a").dead == 3; }));
        CHECK(tasks.redeliver("a") == 3);
        CHECK(eventually([&] { return status_of(tasks, "a").dead == 0; }));
        CHECK(a->taken().size() == 4);
        CHECK(b->taken().empty());
        CHECK(c->taken().empty());
        tasks.resume_sink("b");
        tasks.resume_sink("c");
        CHECK(eventually([&] { return b->taken().size() == 4 && c->taken().size() == 1; }));
    }

    TEST_CASE("a dead letter that is delivered again gets one attempt, and delays no event") {
        Scheduler tasks;
        std::atomic<bool> works{false};
        const auto notes = std::make_shared<Notes>([&works](const Delivery& delivery) {
            return works && !delivery.again ? Outcome() : Outcome::failed("no");
        });
        Sinks sinks(tasks, {sink("a", notes)});
        const TaskId id = emit(tasks, 1)[0];
        REQUIRE(eventually([&] { return status_of(tasks).dead == 1; }));
        works = true;
        CHECK(tasks.redeliver("a", id) == 1);
        CHECK(eventually([&] { return status_of(tasks).failed == 4; }));
        const std::vector<TaskId> later = emit(tasks, 1);
        CHECK(eventually([&] { return notes->taken() == later; }));
        CHECK(tasks.dead_letters("a").letters.at(0).attempts == 4);
        CHECK_FALSE(tasks.dead_letters("a").letters.at(0).redelivering);
        CHECK(errc_of([&] { tasks.redeliver("a", later[0]); }) == Errc::unknown_task);
        CHECK(errc_of([&] { tasks.redeliver("b"); }) == Errc::unknown_sink);
    }

    TEST_CASE("what fails for want of memory or a descriptor here is no attempt, and tried again") {
        const std::map<std::string, Notes::Answer> shortages{
            {"says", [](const Delivery&) { return Outcome::postponed("no thread"); }},
            {"memory", [](const Delivery&) -> Outcome { throw std::bad_alloc(); }},
            {"file", [](const Delivery&) -> Outcome {
                 throw std::system_error(EMFILE, std::generic_category(), "a file");
             }}};
        std::mutex mutex;
        std::vector<std::string> said;
        Options options;
        options.log = [&](const scheduler::LogRecord& record) {
            const std::lock_guard<std::mutex> guard(mutex);
            said.push_back(record.text);
        };
        Scheduler tasks(options);
        std::atomic<bool> short_of_it{true};
        std::vector<SinkOptions> sinks;
        for (const auto& item : shortages) {
            const Notes::Answer& answer = item.second;
            sinks.push_back(sink(
                item.first, std::make_shared<Notes>([&short_of_it, answer](const Delivery& to) {
                    return short_of_it ? answer(to) : Outcome();
                }),
                {}));
        }
        Sinks delivering(tasks, std::move(sinks));
        emit(tasks, 1);
        const auto all = [&tasks](auto is_so) {
            const std::vector<SinkStatus> stand = tasks.sinks();
            return std::all_of(stand.begin(), stand.end(), is_so);
        };
        CHECK(eventually(
            [&] { return all([](const SinkStatus& status) { return status.postponed > 1; }); }));
        CHECK(all([](const SinkStatus& status) {
            return status.failed == 0 && status.dead == 0 && status.lag == 1 &&
                   status.attempts == 0 && status.delivered == 0;
        }));
        short_of_it = false;
        CHECK(eventually(
            [&] { return all([](const SinkStatus& status) { return status.delivered == 1; }); }));
        delivering.stop();
        tasks.stop();
        CHECK(said.size() == shortages.size());  // once each, however often it is tried
    }

    TEST_CASE("a receiver that wants no more is left alone until it is resumed") {
        const TempDir dir;
        std::atomic<bool> gone{true};
        const auto notes = std::make_shared<Notes>(
            [&gone](const Delivery&) { return gone ? Outcome::disabled("gone") : Outcome(); });
        std::vector<TaskId> ids;
        {
            Scheduler tasks(options_for(dir));
            Sinks sinks(tasks, {sink("a", notes)});
            ids = emit(tasks, 2);
            REQUIRE(eventually([&] { return status_of(tasks).state == SinkState::disabled; }));
            tasks.pause_sink("a");
            CHECK(status_of(tasks).state == SinkState::disabled);
        }
        gone = false;
        Scheduler tasks(options_for(dir));
        Sinks sinks(tasks, {sink("a", notes)});
        CHECK(status_of(tasks).state == SinkState::disabled);
        CHECK(status_of(tasks).lag == 2);
        CHECK(notes->attempts().size() == 1);
        tasks.resume_sink("a");
        CHECK(eventually([&] { return notes->taken() == ids; }));
    }

    TEST_CASE("the history keeps what a sink has not taken, also when told to forget it") {
        Options options;
        options.history = 0;
        options.min_retention = milliseconds(0);
        Scheduler tasks(options);
        const auto notes = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", notes)});
        tasks.pause_sink("a");
        const std::vector<TaskId> ids = emit(tasks, 50);
        CHECK(tasks.stats().retained == 50);
        CHECK(support::forget(tasks, 0, tasks.newest().seq()) == 0);
        tasks.resume_sink("a");
        CHECK(eventually([&] { return notes->taken() == ids; }));
        CHECK(eventually([&] { return tasks.stats().retained == 0; }));
        CHECK(tasks.stats().bytes == 0);
    }

    TEST_CASE(
        "of what a sink leaves for too long the oldest are dead letters, and of these the "
        "oldest are dropped") {
        const TempDir dir;
        std::mutex mutex;
        std::string last_said;
        Options options = options_for(dir);
        options.history = 5;
        options.min_retention = milliseconds(0);
        options.sink_backlog = 10;
        options.max_dead = 20;
        options.log = [&](const scheduler::LogRecord& record) {
            const std::lock_guard<std::mutex> guard(mutex);
            last_said = record.text;
        };
        std::vector<TaskId> ids;
        const auto check = [&](const Scheduler& tasks) {
            CHECK(status_of(tasks).lag == 10);
            CHECK(status_of(tasks).dead == 20);
            CHECK(status_of(tasks).dropped == 10);
            CHECK(tasks.dead_letters("a").letters.at(0).event.id == ids.at(10));
            CHECK(eventually([&] {  // it is said behind what it is about
                const std::lock_guard<std::mutex> guard(mutex);
                return last_said == "sink a has more than 20 dead letters; the oldest are dropped";
            }));
        };
        {
            Scheduler tasks(options);
            Sinks sinks(tasks, {sink("a", std::make_shared<Notes>())});
            tasks.pause_sink("a");
            ids = emit(tasks, 40);
            check(tasks);
        }
        last_said.clear();
        Scheduler tasks(options);
        check(tasks);
        const auto notes = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", notes)});
        tasks.resume_sink("a");
        CHECK(eventually([&] { return notes->taken().size() == 10; }));
        CHECK(tasks.redeliver("a") == 20);
        CHECK(eventually([&] { return notes->taken().size() == 30; }));
    }

    TEST_CASE("a sink that is left out at one start loses nothing, and goes on when it is back") {
        const TempDir dir;
        std::mutex mutex;
        std::vector<std::string> said;  // guarded by mutex
        Options options = options_for(dir);
        options.log = [&](const scheduler::LogRecord& record) {
            const std::lock_guard<std::mutex> guard(mutex);
            if (record.event == "sink.unlisted") said.push_back(record.text);
        };
        std::vector<TaskId> ids;
        {
            Scheduler tasks(options);
            Sinks sinks(tasks, {sink("a", std::make_shared<Notes>(refuse), {}),
                                sink("b", std::make_shared<Notes>())});
            ids = emit(tasks, 1);
            REQUIRE(eventually([&] { return status_of(tasks).dead == 1; }));
        }
        {
            Scheduler tasks(options);
            Sinks sinks(tasks, {sink("b", std::make_shared<Notes>())});
            const auto count = [&] {
                const std::lock_guard<std::mutex> guard(mutex);
                return said.size();
            };
            REQUIRE(eventually([&] { return count() > 0; }));
            {
                const std::lock_guard<std::mutex> guard(mutex);
                REQUIRE(said.size() == 1);
                CHECK(said[0] ==
                      "sink a is not configured: its cursor and 1 dead letters are kept until it "
                      "is configured again or forgotten");
            }
            for (const TaskId id : emit(tasks, 2)) ids.push_back(id);
            CHECK(status_of(tasks).state == SinkState::unlisted);
            CHECK(status_of(tasks).dead == 1);
            CHECK(status_of(tasks).lag == 2);
            CHECK(tasks.dead_letters("a").letters.at(0).event.id == ids[0]);
            CHECK_FALSE(tasks.next_delivery("a"));
        }
        Scheduler tasks(options);
        const auto notes = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", notes), sink("b", std::make_shared<Notes>())});
        CHECK(status_of(tasks).state == SinkState::active);
        CHECK(eventually([&] { return notes->taken().size() == 2; }));
        CHECK(tasks.redeliver("a") == 1);
        CHECK(eventually([&] {
            return notes->taken() == std::vector<TaskId>{ids[1], ids[2], ids[0]};
        }));
    }

    TEST_CASE("a sink that was paused before it was left out is still paused when it is back") {
        const TempDir dir;
        {
            Scheduler tasks(options_for(dir));
            Sinks sinks(tasks, {sink("a", std::make_shared<Notes>())});
            tasks.pause_sink("a");
        }
        Scheduler tasks(options_for(dir));
        { const Sinks sinks(tasks, {}); }
        CHECK(status_of(tasks).state == SinkState::unlisted);
        const Sinks sinks(tasks, {sink("a", std::make_shared<Notes>())});
        CHECK(status_of(tasks).state == SinkState::paused);
    }

    TEST_CASE("an unlisted sink is dropped only by who says so, and for good") {
        for (const bool at_start : {false, true}) {
            CAPTURE(at_start);
            const TempDir dir;
            Options options = options_for(dir);
            {
                Scheduler tasks(options);
                Sinks sinks(tasks, {sink("a", std::make_shared<Notes>(refuse), {}),
                                    sink("b", std::make_shared<Notes>())});
                emit(tasks, 1);
                REQUIRE(eventually([&] { return status_of(tasks).dead == 1; }));
                CHECK(errc_of([&] { tasks.forget_sink("a"); }) == Errc::sink_listed);
                CHECK(errc_of([&] { tasks.forget_sink("c"); }) == Errc::unknown_sink);
            }
            {
                Scheduler tasks(options);
                Sinks sinks(tasks, {sink("b", std::make_shared<Notes>())},
                            at_start ? Unlisted::forget : Unlisted::keep);
                if (!at_start) tasks.forget_sink("a");
                CHECK(tasks.sinks().size() == 1);
                CHECK(errc_of([&] { tasks.forget_sink("a"); }) == Errc::unknown_sink);
                CHECK(errc_of([&] { tasks.dead_letters("a"); }) == Errc::unknown_sink);
            }
            Scheduler tasks(options);
            REQUIRE(tasks.sinks().size() == 1);
            CHECK(tasks.sinks()[0].name == "b");
            tasks.forget_sink("b");  // nobody delivers to it
            CHECK(tasks.sinks().empty());
        }
    }

    TEST_CASE("the history keeps for an unlisted sink what it keeps for others, and no more") {
        const TempDir dir;
        Options options = options_for(dir);
        options.history = 1;
        options.min_retention = milliseconds(0);
        options.sink_backlog = 20;
        options.max_dead = 5;
        {
            Scheduler tasks(options);
            const Sinks sinks(tasks, {sink("a", std::make_shared<Notes>())});
        }
        std::vector<TaskId> ids;
        {
            Scheduler tasks(options);
            const Sinks sinks(tasks, {});
            ids = emit(tasks, 15);
            CHECK(status_of(tasks).lag == 15);
            for (const TaskId id : emit(tasks, 15)) ids.push_back(id);
            CHECK(status_of(tasks).lag == 20);
            CHECK(status_of(tasks).dead == 5);
            CHECK(status_of(tasks).dropped == 5);
            CHECK(tasks.stats().retained == 20);
        }
        Scheduler tasks(options);
        const auto notes = std::make_shared<Notes>();
        {
            const Sinks sinks(tasks, {sink("a", notes)});
            CHECK(eventually([&] { return notes->taken().size() == 20; }));
        }
        CHECK(notes->taken() == std::vector<TaskId>(ids.begin() + 10, ids.end()));
        tasks.pause_sink("a");
        emit(tasks, 10);
        const std::size_t kept = tasks.stats().retained;
        CHECK(kept >= 10);
        tasks.forget_sink("a");
        CHECK(tasks.stats().retained == 1);
    }

    TEST_CASE("a slow sink delays neither another nor the emission, and ends when it is told to") {
        class Slow : public Sink {
        public:
            Outcome deliver(const Delivery&) override {
                std::unique_lock<std::mutex> lock(mutex_);
                changed_.wait(lock, [this] { return interrupted_; });
                return Outcome::failed("interrupted");
            }
            void interrupt() override {
                const std::lock_guard<std::mutex> guard(mutex_);
                interrupted_ = true;
                changed_.notify_all();
            }

        private:
            std::mutex mutex_;
            std::condition_variable changed_;
            bool interrupted_ = false;
        };
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        const auto quick = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", std::make_shared<Slow>()), sink("b", quick)});
        const std::vector<TaskId> ids = emit(tasks, 100);
        CHECK(eventually([&] { return quick->taken() == ids; }));
        CHECK(status_of(tasks).lag == 100);
        sinks.stop();
        CHECK(status_of(tasks).attempts == 0);
        CHECK(status_of(tasks).lag == 100);
    }

    TEST_CASE("of sinks that are replaced each goes on as it should, and no event is lost") {
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        const auto same = std::make_shared<Notes>();
        const auto before = std::make_shared<Notes>();
        const auto after = std::make_shared<Notes>();
        const auto gone = std::make_shared<Notes>();
        const auto added = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("same", same), sink("changed", before), sink("gone", gone)});
        std::vector<TaskId> ids = emit(tasks, 3);
        const auto all_taken = [&] {
            for (const SinkStatus& status : tasks.sinks()) {
                if (status.state == SinkState::active && status.lag > 0) return false;
            }
            return true;
        };
        CHECK(eventually(all_taken));
        sinks.replace({sink("changed", after), sink("added", added), sink("same", same)});
        CHECK(status_of(tasks, "gone").state == SinkState::unlisted);
        CHECK(errc_of([&] { tasks.forget_sink("same"); }) == Errc::sink_listed);
        const std::vector<TaskId> more = emit(tasks, 2);
        CHECK(eventually(all_taken));
        CHECK(before->taken() == ids);
        CHECK(gone->taken() == ids);
        CHECK(after->taken() == more);
        CHECK(added->taken() == more);
        ids.insert(ids.end(), more.begin(), more.end());
        CHECK(same->taken() == ids);

        sinks.replace({sink("gone", gone)});
        CHECK(eventually([&] { return gone->taken() == ids; }));
        tasks.forget_sink("same");
        sinks.replace({});
        CHECK(emit(tasks, 1).size() == 1);
        CHECK(gone->taken() == ids);
        sinks.stop();
        CHECK(errc_of([&] { sinks.replace({sink("gone", gone)}); }) == Errc::stopped);
    }

    TEST_CASE("sinks of the same settings are the same one, whatever object brings them") {
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        const auto first = std::make_shared<Notes>();
        const auto second = std::make_shared<Notes>();
        const auto with = [](const std::shared_ptr<Sink>& to, const std::string& settings) {
            SinkOptions options = sink("a", to);
            options.settings = settings;
            return options;
        };
        Sinks sinks(tasks, {with(first, "x")});
        sinks.replace({with(second, "x")});
        emit(tasks, 1);
        CHECK(eventually([&] { return first->taken().size() == 1; }));
        sinks.replace({with(second, "y")});
        emit(tasks, 1);
        CHECK(eventually([&] { return second->taken().size() == 1; }));
        SinkOptions other_retry = with(first, "y");
        other_retry.retry = {};
        sinks.replace({other_retry});
        emit(tasks, 1);
        CHECK(eventually([&] { return first->taken().size() == 2; }));
    }

    TEST_CASE("an attempt under way ends under its old settings, and the next has the new ones") {
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        std::atomic<int> begun{0};
        std::atomic<bool> go_on{false};
        const auto before = std::make_shared<Notes>([&](const Delivery&) {
            ++begun;
            while (!go_on) std::this_thread::yield();
            return Outcome::failed("old");
        });
        const auto after = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", before)});
        const std::vector<TaskId> ids = emit(tasks, 2);
        CHECK(eventually([&] { return begun == 1; }));
        sinks.replace({sink("a", after)});
        CHECK(after->taken().empty());
        SUBCASE("it is replaced") {}
        SUBCASE("it is left out meanwhile, and comes back") {
            sinks.replace({});
            CHECK(status_of(tasks).state == SinkState::unlisted);
            sinks.replace({sink("a", before)});
            sinks.replace({});
            sinks.replace({sink("a", after)});
        }
        CHECK(after->taken().empty());
        go_on = true;
        CHECK(eventually([&] { return after->taken() == ids; }));
        CHECK(before->attempts() == std::vector<std::uint32_t>{1});
        CHECK(after->attempts() == std::vector<std::uint32_t>{2, 1});
        CHECK(status_of(tasks).failed == 1);
    }

    TEST_CASE("sinks that cannot take the place of others change nothing") {
        const TempDir dir;
        const auto files = std::make_shared<FailingFiles>();
        Options options = options_for(dir);
        options.files = files;
        options.fsync = Fsync::always;
        Scheduler tasks(options);
        const auto notes = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", notes)});
        for (const char* name : {"", "a b", "b"}) {
            CAPTURE(name);
            CHECK(errc_of([&] {
                      sinks.replace({sink("b", notes), sink(name, notes)});
                  }) == Errc::invalid_argument);
        }
        CHECK(errc_of([&] { sinks.replace({sink("b", nullptr)}); }) == Errc::invalid_argument);
        files->fail_all("fdatasync", EIO);
        files->fail_all("pwrite", EIO);
        CHECK(errc_of([&] { sinks.replace({sink("b", notes)}); }));
        files->fail_all("fdatasync", 0);
        files->fail_all("pwrite", 0);
        CHECK(status_of(tasks).state == SinkState::active);
        CHECK(eventually([&] { return !errc_of([&] { emit(tasks, 1); }); }));
        CHECK(eventually([&] { return !notes->taken().empty(); }));
        sinks.replace({sink("b", notes)});
        CHECK(status_of(tasks).state == SinkState::unlisted);
    }

    TEST_CASE("under a caller's drive sinks are replaced between two deliveries") {
        const TempDir dir;
        Options options = options_for(dir);
        options.drive = Drive::caller;
        Scheduler tasks(options);
        const auto after = std::make_shared<Notes>();
        Sinks* all = nullptr;
        const auto before = std::make_shared<Notes>([&](const Delivery&) {
            all->replace({sink("b", after), sink("a", after)});
            return Outcome();
        });
        Sinks sinks(tasks, {sink("a", before)});
        all = &sinks;
        std::vector<TaskId> ids;
        for (int i = 0; i < 3; ++i) ids.push_back(tasks.schedule(milliseconds(0), "\"x\""));
        CHECK(eventually([&] {
            tasks.run_due();
            return status_of(tasks).lag == 0 && tasks.stats().emitted == 3;
        }));
        CHECK(before->taken() == std::vector<TaskId>{ids[0]});
        CHECK(after->taken() == std::vector<TaskId>{ids[1], ids[2]});
        sinks.replace({sink("b", after)});
        tasks.schedule(milliseconds(0), "\"x\"");
        CHECK(eventually([&] {
            tasks.run_due();
            return status_of(tasks, "b").delivered == 1;
        }));
        CHECK(status_of(tasks).delivered == 3);
    }

    TEST_CASE("whoever replaces sinks while they deliver, each event is delivered once, in order") {
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        std::mutex mutex;
        std::map<std::string, std::vector<TaskId>> taken;
        std::map<std::string, int> inside;
        bool alone = true;
        const auto taker = [&] {
            return std::make_shared<Notes>([&](const Delivery& delivery) {
                {
                    const std::lock_guard<std::mutex> guard(mutex);
                    alone = alone && inside[delivery.sink]++ == 0;
                }
                std::this_thread::yield();
                const std::lock_guard<std::mutex> guard(mutex);
                --inside[delivery.sink];
                taken[delivery.sink].push_back(delivery.event.id);
                return Outcome();
            });
        };
        const auto list = [&](unsigned choice) {
            std::vector<SinkOptions> sinks;
            for (unsigned i = 0; i < 4; ++i) {
                if ((choice >> i & 1U) != 0)
                    sinks.push_back(sink(std::string(1, "abcd"[i]), taker()));
            }
            return sinks;
        };
        Sinks sinks(tasks, list(15));
        std::atomic<bool> done{false};
        std::vector<std::thread> replacing;
        for (unsigned seed : {1U, 2U}) {
            replacing.emplace_back([&, seed] {
                std::minstd_rand random(seed);
                while (!done) sinks.replace(list(static_cast<unsigned>(random()) % 16));
            });
        }
        const std::vector<TaskId> ids = emit(tasks, 300);
        done = true;
        for (std::thread& thread : replacing) thread.join();
        sinks.replace(list(15));
        for (const char* name : {"a", "b", "c", "d"}) {
            CAPTURE(name);
            CHECK(eventually([&] { return status_of(tasks, name).lag == 0; }));
            const std::lock_guard<std::mutex> guard(mutex);
            CHECK(taken[name] == ids);
        }
        CHECK(alone);
    }

    TEST_CASE("a sink may schedule, cancel and pause itself") {
        Scheduler tasks;
        const auto notes = std::make_shared<Notes>([&tasks](const Delivery& delivery) {
            const TaskId id = tasks.schedule(std::chrono::hours(1), "\"later\"");
            CHECK(tasks.cancel(id));
            if (delivery.event.seq < 4) tasks.schedule(milliseconds(0), "\"next\"");
            if (delivery.event.seq == 4) tasks.pause_sink("a");
            return Outcome();
        });
        Sinks sinks(tasks, {sink("a", notes)});
        tasks.schedule(milliseconds(0), "\"first\"");
        CHECK(eventually([&] { return status_of(tasks).state == SinkState::paused; }));
        CHECK(eventually([&] { return notes->taken().size() == 5; }));
    }

    TEST_CASE("names are checked, and no two sinks share one") {
        Scheduler tasks;
        const auto notes = std::make_shared<Notes>();
        for (const char* name : {"", "a b", "a/b", "\"", "\xc3\xa9"}) {
            CHECK(errc_of([&] { Sinks(tasks, {sink(name, notes)}); }) == Errc::invalid_argument);
        }
        CHECK(errc_of([&] {
                  Sinks(tasks, {sink("a", notes), sink("a", notes)});
              }) == Errc::invalid_argument);
        CHECK(tasks.sinks().empty());
    }

    TEST_CASE("an emission that a crash took away is delivered again, with a place of its own") {
        const TempDir dir;
        TaskId id;
        {
            Scheduler tasks(options_for(dir));
            Sinks sinks(tasks, {sink("a", std::make_shared<Notes>())});
            id = emit(tasks, 1)[0];
            REQUIRE(eventually([&] { return status_of(tasks).delivered == 1; }));
        }
        std::istringstream lines(dir.read("tasks.jsonl"));
        std::string kept;
        for (std::string line; std::getline(lines, line);) {
            if (line.find("\"emit\"") == std::string::npos) kept += line + '\n';
        }
        dir.write("tasks.jsonl", kept);
        Scheduler tasks(options_for(dir));
        const auto notes = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", notes)});
        CHECK(eventually([&] { return notes->taken() == std::vector<TaskId>{id}; }));
    }

    TEST_CASE("dead letters, however many, do not have the journal rewritten for ever") {
        const TempDir dir;
        Options options = options_for(dir);
        options.rewrite_min_bytes = 100'000;
        Scheduler tasks(options);
        const auto refusing = [] { return std::make_shared<Notes>(refuse); };
        Sinks sinks(tasks, {sink("a", refusing(), {}), sink("b", refusing(), {})});
        emit(tasks, 1'000);
        REQUIRE(eventually([&] {
            return status_of(tasks, "a").dead == 1'000 && status_of(tasks, "b").dead == 1'000;
        }));
        // A loop would go on; one that was asked for before may still be under way.
        eventually([&] { return tasks.stats().journal_rewrites > 20; }, milliseconds(300));
        CHECK(tasks.stats().journal_rewrites < 20);
    }

    TEST_CASE("what was resumed waits before its next attempt as long as any other") {
        bool was_paused = false;  // before the wait had passed, which a busy machine may miss
        for (milliseconds wait(400); !was_paused && wait < support::long_enough; wait *= 4) {
            Scheduler tasks;
            const auto notes = std::make_shared<Notes>(refuse);
            Sinks sinks(tasks, {sink("a", notes, {wait})});
            emit(tasks, 1);
            REQUIRE(eventually([&] { return !notes->attempts().empty(); }));
            tasks.pause_sink("a");
            const auto is_tried = [&] { return notes->attempts().size() > 1; };
            was_paused = !eventually(is_tried, wait + milliseconds(100));
            if (!was_paused) continue;
            tasks.resume_sink("a");
            REQUIRE(eventually([&] { return status_of(tasks).dead == 1; }));
            const auto times = notes->times();
            REQUIRE(times.size() == 3);
            CHECK(times[2] - times[1] > wait - milliseconds(100));
        }
        CHECK(was_paused);
    }

    TEST_CASE("what a new sink wants of the past is kept for it over a restart") {
        const TempDir dir;
        TestClock clock;
        Options options = options_for(dir);
        options.now = clock.source();
        options.history = 5;
        std::vector<TaskId> ids;
        {
            Scheduler tasks(options);
            ids = emit(tasks, 50);
            Sinks sinks(tasks,
                        {sink("a", std::make_shared<Notes>(refuse), {std::chrono::hours(1)})});
            REQUIRE(eventually([&] { return status_of(tasks).attempts == 1; }));
        }
        clock.advance(std::chrono::hours(2));
        Scheduler tasks(options);
        const auto notes = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", notes)});
        CHECK(eventually([&] { return notes->taken() == ids; }));
    }

    TEST_CASE("what was delivered in time is not given up when the journal is read again") {
        const TempDir dir;
        TestClock clock;
        Options options = options_for(dir);
        options.now = clock.source();
        options.history = 5;
        options.sink_backlog = 20;
        options.max_dead = 10;
        {
            Scheduler tasks(options);
            std::atomic<bool> bad{true};
            const auto notes = std::make_shared<Notes>(
                [&bad](const Delivery&) { return bad ? Outcome::failed("really") : Outcome(); });
            Sinks sinks(tasks, {sink("a", notes, {})});
            emit(tasks, 3);
            REQUIRE(eventually([&] { return status_of(tasks).dead == 3; }));
            bad = false;
            tasks.pause_sink("a");
            emit(tasks, 100);
            tasks.resume_sink("a");
            REQUIRE(eventually([&] { return notes->taken().size() == 100; }));
        }
        clock.advance(std::chrono::hours(2));
        Scheduler tasks(options);
        CHECK(status_of(tasks).dead == 3);
        CHECK(status_of(tasks).dropped == 0);
    }

    TEST_CASE("what was given up is still a dead letter when more would be kept") {
        const TempDir dir;
        Options options = options_for(dir);
        options.history = 5;
        options.min_retention = milliseconds(0);
        options.sink_backlog = 10;
        {
            Scheduler tasks(options);
            Sinks sinks(tasks, {sink("a", std::make_shared<Notes>())});
            tasks.pause_sink("a");
            emit(tasks, 50);
            REQUIRE(status_of(tasks).dead == 40);
        }
        options.history = 10'000;
        options.sink_backlog = 10'000;
        Scheduler tasks(options);
        CHECK(status_of(tasks).dead == 40);
        CHECK(status_of(tasks).lag == 10);
    }

    TEST_CASE("the journal says that an event was given up before it says that it is forgotten") {
        const TempDir dir;
        Options options = options_for(dir);
        options.history = 1;
        options.min_retention = milliseconds(0);
        options.sink_backlog = 1;
        options.rewrite_min_bytes = std::uint64_t{1} << 30;
        {
            Scheduler tasks(options);
            const Sinks sinks(
                tasks, {sink("a", std::make_shared<Notes>(refuse), {std::chrono::hours(1)})});
            const auto end = std::chrono::steady_clock::now() + milliseconds(300);
            for (bool some = false; std::chrono::steady_clock::now() < end || !some;) {
                tasks.schedule(milliseconds(0), "\"x\"");
                some = status_of(tasks).dead > 0;  // which may be forgotten then
                support::forget(tasks, 0, tasks.newest().seq());
            }
        }
        const auto number = [](const std::string& line, const std::string& name) {
            const std::size_t at = line.find("\"" + name + "\":");
            REQUIRE(at != std::string::npos);
            return std::stoull(line.substr(at + name.size() + 3));
        };
        std::istringstream lines(dir.read("tasks.jsonl"));
        std::uint64_t cursor = 0;
        std::size_t forgotten = 0;
        for (std::string line; std::getline(lines, line);) {
            if (line.find(R"("op":"overflow")") != std::string::npos) cursor = number(line, "seq");
            if (line.find(R"("op":"forget")") == std::string::npos) continue;
            ++forgotten;
            CHECK(number(line, "end") <= cursor);
        }
        CHECK(forgotten > 0);
    }
    TEST_CASE("a wait that a wrong clock made long ends when the clock is right") {
        const TempDir dir;
        TestClock clock;
        Options options = options_for(dir);
        options.now = clock.source();
        const std::vector<milliseconds> retry{std::chrono::hours(1)};
        {
            Scheduler tasks(options);
            Sinks sinks(tasks, {sink("a", std::make_shared<Notes>(refuse), retry)});
            emit(tasks, 1);
            REQUIRE(eventually([&] { return status_of(tasks).attempts == 1; }));
        }
        const TimePoint right = clock.now() + std::chrono::hours(2);
        clock.set(support::at("1970-01-02T00:00:00Z"));
        Scheduler tasks(options);
        const auto notes = std::make_shared<Notes>();
        Sinks sinks(tasks, {sink("a", notes, retry)});
        clock.set(right);
        tasks.clock_changed();
        CHECK(eventually([&] { return notes->taken().size() == 1; }));
    }

    TEST_CASE("a dead letter that is dropped is not delivered again, and harms nobody") {
        const TempDir dir;
        Options options = options_for(dir);
        {
            Scheduler tasks(options);
            Sinks sinks(tasks, {sink("a", std::make_shared<Notes>(refuse), {})});
            emit(tasks, 1);
            REQUIRE(eventually([&] { return status_of(tasks).dead == 1; }));
            tasks.pause_sink("a");
            tasks.redeliver("a");
        }
        options.max_dead = 0;
        Scheduler tasks(options);
        tasks.resume_sink("a");
        CHECK_FALSE(tasks.next_delivery("a"));
    }

    TEST_CASE("a scheduler's sinks are delivered to by one, which need not be the first") {
        Scheduler tasks;
        const auto notes = std::make_shared<Notes>();
        CHECK(errc_of([&] { Sinks(tasks, {sink("a", nullptr)}); }) == Errc::invalid_argument);
        {
            Sinks one(tasks, {sink("a", notes)});
            CHECK(errc_of([&] { Sinks(tasks, {sink("b", notes)}); }) == Errc::invalid_argument);
            const std::vector<TaskId> ids = emit(tasks, 1);
            CHECK(eventually([&] { return notes->taken() == ids; }));
        }
        Sinks other(tasks, {sink("a", notes)});
        emit(tasks, 1);
        CHECK(eventually([&] { return notes->taken().size() == 2; }));
    }

    TEST_CASE("a record of a sink that makes no sense is not taken for one that does") {
        for (
            const char* bad :
            {R"({"op":"dead","sink":"a","at":"2026-03-01T12:00:00Z","event":1,"task":5)",
             R"({"op":"sink","sink":{"a":"b"},"at":"2026-03-01T12:00:00Z","seq":1,"state":"active")",
             R"({"op":"sink","sink":5,"at":"2026-03-01T12:00:00Z","seq":1,"state":"active")",
             R"({"op":"sink","sink":"a","at":"2026-03-01T12:00:00Z","topics":["a*b"])",
             R"({"op":"sink","sink":"a","at":"2026-03-01T12:00:00Z","topics":"a")",
             R"({"op":"redeliver","sink":"a","at":"2026-03-01T12:00:00Z","dead":5)",
             R"({"op":"deliver","sink":"a","at":"2026-03-01T12:00:00Z","seq":18446744073709551615)"}) {
            CAPTURE(bad);
            const TempDir dir;
            std::string lines = R"({"journal":"task-scheduler","version":1,"seq":0)";
            detail::seal_line(lines, 0);
            const std::size_t start = lines.size();
            lines += bad;
            detail::seal_line(lines, start);
            dir.write("tasks.jsonl", lines);
            CHECK(errc_of([&] { Scheduler tasks(options_for(dir)); }) == Errc::journal_unreadable);
        }
    }

    TEST_CASE("whichever call fails, every event reaches the sink or is its dead letter") {
        std::size_t number = 0;
        for (bool failed = true; failed && number < 500; ++number) {
            CAPTURE(number);
            const TempDir dir;
            Options options = options_for(dir);
            options.rewrite_min_bytes = 600;
            options.files = std::make_shared<FailingFiles>();
            auto& files = static_cast<FailingFiles&>(*options.files);
            files.fail_call(number, number % 2 ? EIO : ENOSPC);
            std::atomic<int> calls{0};
            const auto half = [&calls](const Delivery&) {
                return ++calls % 3 ? Outcome() : Outcome::failed("every third");
            };
            const auto notes = std::make_shared<Notes>(half);
            std::set<TaskId> ids;
            try {
                Scheduler tasks(options);
                Sinks sinks(tasks, {sink("a", notes, {})});
                for (int i = 0; i < 12; ++i) {
                    try {
                        ids.insert(tasks.schedule(milliseconds(0), "\"x\""));
                    } catch (const Error&) {
                    }
                }
                eventually([&] { return tasks.stats().emitted == ids.size(); },
                           milliseconds(10'000));
                eventually([&] { return status_of(tasks).lag == 0; }, milliseconds(100));
            } catch (const Error&) {  // it could not be opened
            }
            failed = files.has_failed();
            options.files = nullptr;
            Scheduler tasks(options);
            Sinks sinks(tasks, {sink("a", notes)});
            CHECK(eventually([&] { return status_of(tasks).lag == 0; }));
            for (const TaskId id : notes->taken()) ids.erase(id);
            for (const DeadLetter& letter : tasks.dead_letters("a").letters) {
                ids.erase(letter.event.id);
            }
            CHECK(ids.empty());
        }
        CHECK(number > 20);
        CHECK(number < 500);
    }
}

#ifdef __linux__
TEST_SUITE("commands") {
    TEST_CASE("a command has the payload as standard input, and the event in its environment") {
        ::setenv("SCHEDULER_SECRET_OF_TEST", "s3cret", 1);
        Shell shell("cat; echo; env | grep SCHEDULER_ | sort; echo oops >&2");
        CHECK(shell.run(R"({"message":"x"})").result == Outcome::Result::delivered);
        CHECK(shell.output == std::vector<std::string>{
                                  R"({"message":"x"})", "SCHEDULER_ATTEMPT=1",
                                  "SCHEDULER_DUE=2026-03-01T12:00:00.000Z", "SCHEDULER_LATE_MS=7",
                                  "SCHEDULER_TASK_ID=01a20d6e-bbe5-75dd-a110-84e4e0715a01",
                                  "oops"});
        ::unsetenv("SCHEDULER_SECRET_OF_TEST");
    }

    TEST_CASE("a command has the event's trace in its environment, and no other") {
        ::setenv("TRACEPARENT", "of the server", 1);
        Shell shell("env | grep ^TRACE | sort");
        CHECK(shell.run().result == Outcome::Result::delivered);
        CHECK(shell.output.empty());
        detail::Details details;
        details.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        details.tracestate = "rojo=00f067aa0ba902b7";
        Delivery delivery = delivery_of("{}");
        delivery.event.payload = detail::PayloadAccess::make(
            detail::TaskRef::make(delivery.event.id, delivery.event.due, "{}", details));
        CHECK(shell.sink.deliver(delivery).result == Outcome::Result::delivered);
        CHECK(shell.output ==
              std::vector<std::string>{"TRACEPARENT=" + std::string(details.traceparent),
                                       "TRACESTATE=" + std::string(details.tracestate)});
        ::unsetenv("TRACEPARENT");
    }

    TEST_CASE("a large payload is read whole, or not at all") {
        const std::string payload(std::size_t{3} << 20, 'x');
        CHECK(Shell("test $(wc -c) = 3145728").run(payload).error.empty());
        CHECK(Shell("true").run(payload).error.empty());
    }

    TEST_CASE("anything but exit status 0 is a failure that says what it was") {
        CHECK(Shell("exit 3").run().error == "the command ended with status 3");
        CHECK(Shell("kill -TERM $$").run().error == "the command was ended by signal 15");
        CommandSink nothing(CommandOptions{{"/does/not/exist"}, milliseconds(1'000), nullptr});
        CHECK_THROWS_WITH(nothing.deliver(delivery_of("{}")),
                          "cannot run /does/not/exist: No such file or directory");
        CHECK(errc_of([] { CommandSink({}); }) == Errc::invalid_argument);
    }

    TEST_CASE("a command that takes too long is killed with all that it has started") {
        pid_t child = 0;  // that it has started, unless the machine is too slow for that
        for (milliseconds most(200); child == 0 && most < support::long_enough; most *= 4) {
            Shell shell("sleep 1000 & echo $!; wait", most);
            CHECK(shell.run().error == "the command took too long and was killed");
            if (!shell.output.empty()) child = std::stoi(shell.output[0]);
        }
        REQUIRE(child != 0);
        CHECK(eventually([child] { return ::kill(child, 0) != 0; }));
    }

    TEST_CASE("a command that leaves another behind is not waited for longer than it lives") {
        Shell shell("sleep 1000 & echo $!", support::long_enough);
        CHECK(shell.run().error.empty());
        REQUIRE(shell.output.size() == 1);
        CHECK(::kill(std::stoi(shell.output[0]), SIGKILL) == 0);  // it still lives
    }

    TEST_CASE("an interrupted command is asked to end, and then made to") {
        for (const char* script : {"sleep 1000", "trap '' TERM; sleep 1000 & wait; sleep 1000",
                                   "(trap '' TERM; sleep 1000) & echo $!; wait; sleep 1000"}) {
            Shell shell(script);
            std::thread interrupter([&shell] {
                std::this_thread::sleep_for(milliseconds(100));
                shell.sink.interrupt();
            });
            CHECK(shell.run().error == "the command was interrupted");
            interrupter.join();
            const pid_t child = shell.output.empty() ? 0 : std::stoi(shell.output[0]);
            if (child != 0) CHECK(eventually([child] { return ::kill(child, 0) != 0; }));
        }
    }

    TEST_CASE("a command has its own three descriptors and a clean signal mask") {
        const int open = ::open("/dev/null", O_RDONLY);  // as one that was inherited
        Shell shell("ls /proc/self/fd | wc -l; grep SigBlk /proc/self/status");
        CHECK(shell.run().error.empty());
        REQUIRE(shell.output.size() == 2);
        CHECK(shell.output[0] == "4");  // and that of the folder itself
        CHECK(shell.output[1].substr(shell.output[1].size() - 16) == "0000000000000000");
        ::close(open);
    }

    TEST_CASE("no more is logged than anybody reads, and no control characters") {
        Shell shell("printf 'a\\033[0mb\\n'; yes | head -n 5000; printf '%3000s' x");
        CHECK(shell.run().error.empty());
        CHECK(shell.output.size() == 1'001);
        CHECK(shell.output[0] == "a?[0mb");
        CHECK(shell.output.back() == "(more is not shown)");
    }
}
#endif

}  // namespace sinks_test
