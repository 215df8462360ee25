// SPDX-License-Identifier: MIT
//
// What a filter chooses: of pages, of counts, of the history and of bulk calls.
#include "support.hpp"

#include <random>

namespace search_test {

using namespace scheduler;
using namespace support;

namespace {

// A clock that stands still, and tasks whose messages say what they are.
struct House {
    TempDir dir;
    TestClock clock;
    Options options;
    std::unique_ptr<Scheduler> tasks;

    House() {
        options.now = clock.source();
        options.fsync = Fsync::no;
        open();
    }
    void open() {
        tasks.reset();
        tasks = std::make_unique<Scheduler>(options);
    }
    TaskId add(milliseconds ahead, const std::string& text) const {
        return tasks->schedule(ahead, quote_json(text));
    }
    // So many, a millisecond after the other.
    void fill(std::size_t count, const std::function<std::string(std::size_t)>& text) const {
        std::vector<NewTask> batch;
        for (std::size_t i = 0; i < count; ++i) {
            const TimePoint due = clock.now() + milliseconds(60'000 + static_cast<int>(i));
            batch.push_back({due, quote_json(text(i))});
            if (batch.size() < 10'000 && i + 1 < count) continue;
            tasks->submit(batch).wait();
            batch.clear();
        }
    }
    void emit_all() {
        clock.advance(*tasks, std::chrono::hours(24));
        REQUIRE(tasks->drain());
    }
};

TaskQuery searching(const std::string& text) {
    TaskQuery query;
    query.filter.text = text;
    query.counts = true;
    return query;
}

std::vector<TaskId> ids_of(const std::vector<Task>& tasks) {
    std::vector<TaskId> ids;
    for (const Task& task : tasks) ids.push_back(task.id);
    return ids;
}

std::vector<TaskId> ids_of(const std::vector<Event>& events) {
    std::vector<TaskId> ids;
    for (const Event& event : events) ids.push_back(event.id);
    return ids;
}

using Ids = std::vector<TaskId>;

}  // namespace

TEST_SUITE("search") {
    TEST_CASE(
        "a search finds what holds the text in its payload, its name or its id, as it stands") {
        House house;
        const TaskId luke = house.add(milliseconds(2'000), "Luke \"the\" Jedi");
        const TaskId leia = house.add(milliseconds(1'000), "Leia \xC3\xA9");
        const auto found = [&](const std::string& text) {
            return ids_of(house.tasks->tasks(searching(text)).tasks);
        };
        CHECK(found("") == Ids{leia, luke});
        CHECK(found("L") == Ids{leia, luke});
        CHECK(found("Luke") == Ids{luke});
        CHECK(found("luke") == Ids{});
        CHECK(found("\"Luke \\\"the\\\"") == Ids{luke});  // the text of JSON, escapes and all
        CHECK(found("\xC3\xA9") == Ids{leia});
        CHECK(found("timestamp") == Ids{leia, luke});  // it is the whole payload
        CHECK(found(luke.str()) == Ids{luke});
        CHECK(found(luke.str().substr(9)) == Ids{luke});
        CHECK(found(luke.str() + ' ') == Ids{});
        CHECK(found(std::string(100'000, 'L')) == Ids{});
        const TaskId named =
            house.tasks->put("han-solo", {house.clock.now() + milliseconds(3'000), "\"x\""}).id;
        CHECK(found("an-sol") == Ids{named});
        CHECK(house.tasks->cancel({}, {"han-"}) == 1);
        CHECK(found("han-solo") == Ids{});
    }

    TEST_CASE("pages of a search hold all that it chooses, once, and count it") {
        House house;
        std::mt19937 random(3);
        std::vector<std::pair<std::pair<TimePoint, TaskId>, std::string>> all;
        for (int i = 0; i < 3'000; ++i) {
            const milliseconds ahead(1'000 + random() % 500);
            const std::string text = "kind " + std::to_string(random() % 5);
            const TaskId id = house.add(ahead, text);
            all.push_back({{house.clock.now() + ahead, id}, text});
        }
        std::sort(all.begin(), all.end());
        const DueRange ranges[] = {{},
                                   {house.clock.now() + milliseconds(1'200), {}},
                                   {{}, house.clock.now() + milliseconds(1'300)}};
        for (const DueRange& range : ranges) {
            for (const std::size_t limit : {1U, 7U, 1'000U}) {
                Ids expected;
                for (const auto& [key, text] : all) {
                    const bool in_range = (!range.after || key.first > *range.after) &&
                                          (!range.before || key.first < *range.before);
                    if (in_range && text == "kind 3") expected.push_back(key.second);
                }
                TaskQuery query = searching("kind 3");
                query.limit = limit;
                query.due = range;
                Ids found;
                for (bool more = true; more;) {
                    const TaskPage page = house.tasks->tasks(query);
                    REQUIRE(page.total == 3'000);
                    REQUIRE(page.matching == expected.size());
                    REQUIRE(page.tasks.size() == std::min(limit, expected.size() - found.size()));
                    for (const Task& task : page.tasks) found.push_back(task.id);
                    REQUIRE(page.more == page.next.has_value());
                    more = page.more;
                    query.after = page.next;
                }
                CHECK(found == expected);
            }
        }
        TaskQuery query;
        query.due = ranges[1];
        CHECK_FALSE(house.tasks->tasks(query).matching.has_value());  // nobody has asked
        query.counts = true;
        const auto is_in_range = [&](const auto& one) {
            return one.first.first > *ranges[1].after;
        };
        CHECK(house.tasks->tasks(query).matching ==
              static_cast<std::size_t>(std::count_if(all.begin(), all.end(), is_in_range)));
    }

    TEST_CASE("topics choose tasks and events, each by itself or by how it begins") {
        House house;
        const auto add = [&](const std::string& topic) {
            NewTask task{house.clock.now() + milliseconds(1'000), "\"x\""};
            task.topic = topic;
            Ticket ticket = house.tasks->submit({task});
            ticket.wait();
            return ticket.ids().front();
        };
        const TaskId rose = add("garden/roses");
        const TaskId tulip = add("garden/tulips");
        const TaskId garden = add("garden");
        const TaskId none = add("");
        const TaskId star = add("a~b");
        using Topics = std::vector<std::string>;
        const std::pair<Topics, Ids> cases[] = {
            {{}, {rose, tulip, garden, none, star}},
            {{"garden"}, {garden}},
            {{"garden/"}, {}},
            {{"garden*"}, {rose, tulip, garden}},
            {{"garden/*"}, {rose, tulip}},
            {{"*"}, {rose, tulip, garden, star}},
            {{"a~b", "garden/roses"}, {rose, star}},
            {{"Garden*", "a~b*", "a~b"}, {star}},
        };
        TaskQuery pending;
        EventQuery past;
        for (const auto& [topics, ids] : cases) {
            pending.filter.topics = topics;
            CHECK(ids_of(house.tasks->tasks(pending).tasks) == ids);
        }
        pending.filter = {rose.str(), {"garden/*"}};  // both have to choose
        CHECK(ids_of(house.tasks->tasks(pending).tasks) == Ids{rose});
        pending.filter.topics = {"a*"};
        CHECK(house.tasks->tasks(pending).tasks.empty());
        CHECK(house.tasks->cancel({}, {{}, {"a~*"}}) == 1);
        house.emit_all();
        for (const auto& [topics, ids] : cases) {
            past.filter.topics = topics;
            Ids left = ids;
            left.erase(std::remove(left.begin(), left.end(), star), left.end());
            CHECK(ids_of(house.tasks->events(past).events) == left);
        }
    }

    TEST_CASE("a topic that cannot be chosen by is refused, wherever it is given") {
        House house;
        const std::vector<std::vector<std::string>> wrong{{""},
                                                          {"a", "b*c"},
                                                          {"*a"},
                                                          {"**"},
                                                          {"a b"},
                                                          {std::string(129, 'a')},
                                                          {std::string(129, 'a') + '*'},
                                                          {std::string("a\0", 2)},
                                                          {"\xC3\xA9"},
                                                          std::vector<std::string>(101, "a")};
        for (const std::vector<std::string>& topics : wrong) {
            const Filter filter{{}, topics};
            TaskQuery pending;
            pending.filter = filter;
            EventQuery past;
            past.filter = filter;
            CHECK_FALSE(topics_problem(topics).empty());
            CHECK(errc_of([&] { house.tasks->tasks(pending); }) == Errc::invalid_argument);
            CHECK(errc_of([&] { house.tasks->events(past); }) == Errc::invalid_argument);
            CHECK(errc_of([&] { house.tasks->cancel({}, filter); }) == Errc::invalid_argument);
        }
        CHECK(topics_problem({std::string(128, 'a') + '*', "*", "a/b.c_d~e-F9"}).empty());
    }

    TEST_CASE("a page ends when it has looked at a hundred thousand, and the next goes on there") {
        House house;
        house.fill(max_searched + 2'000, [](std::size_t i) {
            return i == 50 || i > max_searched + 1'000 ? "needle" : "hay";
        });
        TaskQuery query = searching("needle");
        const TaskPage first = house.tasks->tasks(query);
        CHECK(first.tasks.size() == 1);
        CHECK(first.more);
        CHECK_FALSE(first.matching.has_value());
        query.after = first.next;
        query.limit = 1'000;
        const TaskPage second = house.tasks->tasks(query);
        CHECK(second.tasks.size() == 999);
        CHECK_FALSE(second.more);
        // In a range that is small enough they are counted.
        query.due.after = house.clock.now() + std::chrono::minutes(1) + milliseconds(10);
        query.due.before = *query.due.after + milliseconds(100);
        query.after = std::nullopt;
        CHECK(house.tasks->tasks(query).matching == std::size_t{1});
        // What holds nothing of it ends without a task, but not without a place to go on.
        const TaskPage none = house.tasks->tasks(searching("nothing"));
        CHECK(none.tasks.empty());
        CHECK(none.more);
        TaskQuery rest = searching("nothing");
        rest.after = none.next;
        CHECK_FALSE(house.tasks->tasks(rest).more);
    }

    TEST_CASE("a search ends its page where the payloads reach the limit") {
        House house;
        const std::string large = "large" + std::string(100'000, 'x');
        for (int i = 0; i < 20; ++i) house.add(milliseconds(1'000 + i), i % 2 ? large : "small");
        TaskQuery query = searching("large");
        query.max_bytes = 300'000;
        const TaskPage page = house.tasks->tasks(query);
        CHECK(page.tasks.size() == 3);
        CHECK(page.more);
        CHECK(page.matching == std::size_t{10});
    }

    TEST_CASE("past events are searched forwards and backwards, and their cursors go on") {
        House house;
        Ids needles;
        for (int i = 0; i < 100; ++i) {
            const TaskId id = house.add(milliseconds(1'000 + i), i % 7 ? "hay" : "needle");
            if (i % 7 == 0) needles.push_back(id);
        }
        house.emit_all();
        EventQuery query;
        query.filter.text = "needle";
        query.counts = true;
        query.limit = 4;
        Ids found;
        for (bool more = true; more;) {
            const EventPage page = house.tasks->events(query);
            CHECK(page.total == 100);
            CHECK(page.matching == needles.size());
            CHECK(page.events.size() <= 4);
            for (const Event& event : page.events) found.push_back(event.id);
            more = page.more;
            query.from = page.next;
        }
        CHECK(found == needles);
        found.clear();
        query.before = Cursor::now();
        for (bool more = true; more;) {
            const EventPage page = house.tasks->events(query);
            const Ids ids = ids_of(page.events);
            found.insert(found.begin(), ids.begin(), ids.end());
            more = page.first.has_value();
            if (more) query.before = house.tasks->cursor_of(*page.first);
        }
        CHECK(found == needles);
    }

    TEST_CASE("a bulk cancel takes what it searches for, all of it, also after a restart") {
        House house;
        house.options.journal = house.dir.journal();
        house.open();
        house.fill(6'000, [](std::size_t i) { return i % 3 ? "hay" : "needle"; });
        const TimePoint middle = house.clock.now() + milliseconds(60'000 + 3'000);
        CHECK(house.tasks->cancel({middle, {}}, {"needle"}) == 999);
        CHECK(house.tasks->cancel({}, {"needle"}) == 1'001);
        CHECK(house.tasks->cancel({}, {"needle"}) == 0);
        CHECK(house.tasks->stats().pending == 4'000);
        house.open();
        CHECK(house.tasks->stats().pending == 4'000);
        CHECK(house.tasks->tasks(searching("needle")).matching == std::size_t{0});
    }

    TEST_CASE("a bulk cancel judges a task as the changes before it leave it") {
        House house;
        house.options.journal = house.dir.journal();
        house.open();
        const TaskId becomes = house.add(milliseconds(1'000), "hay");
        const TaskId was = house.add(milliseconds(2'000), "needle");
        Ticket first = house.tasks->begin_change(becomes, TaskChange{{}, "\"needle\""});
        Ticket second = house.tasks->begin_change(was, TaskChange{{}, "\"hay\""});
        Ticket bulk = house.tasks->begin_cancel(DueRange{}, Filter{"needle"});
        bulk.wait();
        CHECK(bulk.count() == 1);
        first.wait();
        second.wait();
        CHECK_FALSE(house.tasks->find(becomes).has_value());
        CHECK(house.tasks->find(was)->text().find("hay") != std::string_view::npos);
    }

    TEST_CASE("a subscription gets what its filter chooses, and waits for nothing else") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            House house;
            house.options.drive = drive;
            house.open();
            std::vector<std::string> got;
            const auto keep = [&got](const Event& event) { got.emplace_back(event.topic()); };
            const auto add = [&](const std::string& topic) {
                NewTask task{house.clock.now(), "\"x\""};
                task.topic = topic;
                house.tasks->submit({task}).wait();
            };
            for (const char* topic : {"a", "b", "", "a/c"}) add(topic);
            if (drive == Drive::thread)
                REQUIRE(house.tasks->wait_for(Cursor(3), support::long_enough));
            if (drive == Drive::caller) house.tasks->run_due();
            {
                const Subscription all =
                    house.tasks->subscribe(keep, Cursor::earliest(), {{}, {"a*"}});
                add("a/d");
                add("b");
                house.tasks->drain();
            }
            CHECK(got == std::vector<std::string>{"a", "a/c", "a/d"});
            CHECK(errc_of([&] {
                      (void)house.tasks->subscribe(keep, Cursor::now(), {{}, {"*a"}});
                  }) == Errc::invalid_argument);
        }
    }

    TEST_CASE("searches and bulk calls go on beside all else, and nothing is emitted twice") {
        Options options;
        options.fsync = Fsync::no;
        Scheduler tasks(options);
        std::atomic<bool> stopping{false};
        std::vector<std::thread> threads;
        std::atomic<std::uint64_t> cancelled{0};
        for (int i = 0; i < 2; ++i) {
            threads.emplace_back([&, i] {
                while (!stopping) {
                    const TaskPage page = tasks.tasks(searching("needle"));
                    for (const Task& task : page.tasks) {
                        CHECK(task.text().find("needle") != std::string_view::npos);
                    }
                    EventQuery past;
                    past.filter.text = "needle";
                    tasks.events(past);
                    if (i == 0) cancelled += tasks.cancel(DueRange{}, Filter{"needle 1"});
                }
            });
        }
        std::mt19937 random(5);
        for (int i = 0; i < 3'000; ++i) {
            const TaskId id = tasks.schedule(milliseconds(random() % 50),
                                             quote_json("needle " + std::to_string(random() % 3)));
            if (random() % 4) continue;
            try {
                tasks.change(id, TaskChange{{}, "\"needle 1\""});
            } catch (const Error&) {  // it was emitted or cancelled
            }
        }
        tasks.drain();
        stopping = true;
        for (std::thread& thread : threads) thread.join();
        CHECK(tasks.stats().emitted + cancelled == 3'000);
    }
}

}  // namespace search_test
