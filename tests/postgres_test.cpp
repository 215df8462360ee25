// SPDX-License-Identifier: MIT
//
// The journal in PostgreSQL, against a server that tests/postgres/instance.py has started:
//
//     tests/postgres/instance.py run -- build/tests/postgres_test
#include "journal_contract.hpp"

#include "postgres/postgres_journal.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace postgres_test {

using namespace scheduler;
using contract::line_of;

namespace {

using Lines = std::vector<std::string>;

template <class Condition>
bool comes_true(Condition condition) {
    return support::eventually(condition, support::long_enough);
}

// What an administrator does, by a connection of its own.
class Sql {
public:
    explicit Sql(const std::string& connection = "")
        : pg_(PQconnectdb(connection.c_str()), PQfinish) {
        REQUIRE_MESSAGE(PQstatus(pg_.get()) == CONNECTION_OK, PQerrorMessage(pg_.get()));
        PQsetNoticeProcessor(
            pg_.get(), [](void*, const char*) {}, nullptr);
    }
    // The first column, or why it could not be had.
    Lines column(const std::string& text) {
        const std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQexec(pg_.get(), text.c_str()),
                                                                    PQclear);
        const auto status = PQresultStatus(result.get());
        if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
            return {PQresultErrorMessage(result.get())};
        }
        Lines values;
        for (int i = 0; i < PQntuples(result.get()); ++i) {
            values.push_back(PQgetvalue(result.get(), i, 0));
        }
        return values;
    }
    std::string value(const std::string& text) {
        const Lines values = column(text);
        return values.empty() ? "" : values.front();
    }
    void run(const std::string& text) { CHECK(value(text).find("ERROR") == std::string::npos); }

private:
    const std::unique_ptr<PGconn, void (*)(PGconn*)> pg_;
};

// A schema of its own, with a name that needs its quotes.
class Schema {
public:
    Schema() {
        static std::atomic<int> number{0};
        name = "test \"" + std::to_string(::getpid()) + "." + std::to_string(number++) + "\"";
        quoted = detail::pg_quoted(name);
    }
    PostgresOptions options(const std::string& node) const {
        PostgresOptions options;
        options.schema = name;
        options.node = node;
        options.url = "http://" + node;
        return options;
    }
    std::string lease(const std::string& column) {
        return sql.value("SELECT " + column + " FROM " + quoted + ".lease");
    }
    // Ends the sessions of a node, as a network or an administrator does.
    void disconnect(const std::string& node) {
        sql.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
            "'task-scheduler " +
            node + "'");
    }

    std::string name;
    std::string quoted;
    Sql sql;
};

class PostgresPlace : public contract::Place {
public:
    std::unique_ptr<Journal> open() override {
        return std::make_unique<PostgresJournal>(schema_.options("contract"));
    }

private:
    Schema schema_;
};

// A process that has the journal open, and remembers what it is told and what it has stored.
class Process : public Journal::Source {
public:
    explicit Process(PostgresOptions options) {
        options.log = [this](const LogRecord& record) {
            const std::lock_guard<std::mutex> guard(mutex_);
            log_ += to_line(record);
        };
        journal_ = std::make_unique<PostgresJournal>(std::move(options));
        Journal::Follower follower;
        follower.written = [this](std::string_view lines) {
            if (before_told) before_told();
            // As a scheduler does, for what was stored before this takes its effect before it.
            const std::lock_guard<std::mutex> at_rest(storing_);
            const std::lock_guard<std::mutex> guard(mutex_);
            CHECK(lines.back() == '\n');
            add(lines);
        };
        follower.reread = [this](const std::function<void(const Journal::Take&)>& read) {
            const std::lock_guard<std::mutex> at_rest(storing_);
            {
                const std::lock_guard<std::mutex> guard(mutex_);
                lines_.clear();
                ++rereads_;
            }
            read([this](std::string_view line) { take(line); });
        };
        follower.changed = [this] { ++changes_; };
        journal_->follow(std::move(follower));
        journal_->read([this](std::string_view line) { take(line); });
    }
    ~Process() override {
        CHECK((log().find("cluster.gap") != std::string::npos) == lacks_groups);
        if (!journal_) return;
        journal_->stop_following();
    }

    PostgresJournal& journal() { return *journal_; }
    // Stores a line, and remembers it.
    void commit(const std::string& line) {
        const std::lock_guard<std::mutex> in_effect(storing_);
        journal_->commit(line, 0);
        const std::lock_guard<std::mutex> guard(mutex_);
        add(line);
    }
    // The code of what a commit throws.
    std::optional<Errc> try_commit(const std::string& line) {
        try {
            commit(line);
            return std::nullopt;
        } catch (const Error& error) {
            return error.code();
        }
    }
    // Whether the journal was replaced.
    bool replace() {
        try {
            journal_->replace(*this);
            return true;
        } catch (const Error&) {
            return false;
        }
    }
    Lines lines() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return lines_;
    }
    std::string log() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return log_;
    }
    int rereads() const { return rereads_; }
    bool comes_to_own() {
        return comes_true([this] { return journal_->is_owner(); });
    }
    bool comes_to_have(const Lines& lines) {
        return comes_true([&] { return this->lines() == lines; });
    }
    Cluster cluster() const { return journal_->cluster().value(); }

    void at_rest(const std::function<void()>& begin) override {
        const std::lock_guard<std::mutex> at_rest(storing_);
        begin();
        copied_ = lines();
    }
    void copy(const std::function<void(std::string_view lines)>& append) override {
        for (const std::string& line : copied_) append(line);
        if (meanwhile) meanwhile();
    }
    std::function<void()> meanwhile;
    std::function<void()> before_told;
    bool lacks_groups = false;

private:
    void take(std::string_view line) {
        const std::lock_guard<std::mutex> guard(mutex_);
        lines_.push_back(std::string(line) + '\n');
    }
    void add(std::string_view lines) {
        while (!lines.empty()) {
            lines_.emplace_back(lines.substr(0, lines.find('\n') + 1));
            lines.remove_prefix(lines_.back().size());
        }
    }

    std::mutex storing_;  // held from before something is stored until it has taken effect
    mutable std::mutex mutex_;
    Lines lines_;      // guarded by mutex_
    std::string log_;  // guarded by mutex_
    Lines copied_;
    std::atomic<int> rereads_{0};
    std::atomic<int> changes_{0};
    std::unique_ptr<PostgresJournal> journal_;
};

// A network between a process and the database, which is cut at chosen moments.
class Network {
public:
    Network() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        REQUIRE(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
        REQUIRE(::listen(listener_.get(), 16) == 0);
        REQUIRE(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
        port_ = ntohs(address.sin_port);
        thread_ = std::thread([this] { run(); });
    }
    ~Network() {
        ends_ = true;
        thread_.join();
    }
    std::string connection() const { return "host=127.0.0.1 port=" + port(); }
    std::string port() const { return std::to_string(port_); }
    // Nothing goes to the database.
    void hold_requests(bool hold) { holds_requests_ = hold; }
    // From the request that holds this text on, nothing goes to the database; or nothing comes back.
    void hold_requests_from(const std::string& text) { set(requests_from_, text); }
    void hold_answers_from(const std::string& text) { set(answers_from_, text); }
    void let_pass() {
        set(requests_from_, "");
        set(answers_from_, "");
        holds_requests_ = holds_answers_ = false;
    }
    // Ends the connections that there are, and with false takes no more of them.
    void cut(bool takes_more = true) {
        takes_ = takes_more;
        cuts_ = true;
        while (cuts_) std::this_thread::sleep_for(milliseconds(1));
    }
    void mend() { takes_ = true; }
    // How many bytes were held back since they were last let through.
    std::size_t held_bytes() const { return held_bytes_; }

private:
    struct Pair {
        detail::Descriptor client;
        detail::Descriptor server;
        std::string held_requests;
        std::string held_answers;
    };
    void set(std::string& which, const std::string& text) {
        const std::lock_guard<std::mutex> guard(mutex_);
        which = text;
    }
    void look_for_texts(std::string_view request) {
        const std::lock_guard<std::mutex> guard(mutex_);
        for (const auto& [text, hold] : {std::make_pair(&requests_from_, &holds_requests_),
                                         std::make_pair(&answers_from_, &holds_answers_)}) {
            if (text->empty() || request.find(*text) == std::string_view::npos) continue;
            text->clear();
            *hold = true;
        }
    }
    bool pass(int from, int to, std::string& held, const std::atomic<bool>& hold, bool is_request) {
        if (!hold && !held.empty()) {
            ::send(to, held.data(), held.size(), MSG_NOSIGNAL);
            held.clear();
            held_bytes_ = 0;
        }
        char bytes[65536];
        const ssize_t size = ::recv(from, bytes, sizeof bytes, MSG_DONTWAIT);
        if (size < 0) return errno == EAGAIN;
        if (size == 0) return false;
        const std::string_view got(bytes, static_cast<std::size_t>(size));
        if (is_request) look_for_texts(got);
        if (hold) {
            held += got;
            held_bytes_ += got.size();
            return true;
        }
        return ::send(to, got.data(), got.size(), MSG_NOSIGNAL) == size;
    }
    static int connect_to_server() {
        const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const char* const port = ::getenv("PGPORT");
        address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(port ? port : "5432")));
        ::connect(server, reinterpret_cast<sockaddr*>(&address), sizeof address);
        return server;
    }
    void run() {
        std::list<Pair> pairs;
        while (!ends_) {
            std::vector<pollfd> watched{{listener_.get(), POLLIN, 0}};
            for (const Pair& pair : pairs) {
                watched.push_back({pair.client.get(), POLLIN, 0});
                watched.push_back({pair.server.get(), POLLIN, 0});
            }
            ::poll(watched.data(), watched.size(), 1);
            if (cuts_) {
                pairs.clear();
                held_bytes_ = 0;
                cuts_ = false;
            }
            const int client = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
            if (client >= 0 && !takes_) ::close(client);
            if (client >= 0 && takes_) {
                pairs.emplace_back();
                pairs.back().client.reset(client);
                pairs.back().server.reset(connect_to_server());
            }
            for (auto at = pairs.begin(); at != pairs.end();) {
                Pair& pair = *at;
                const bool lives = pass(pair.client.get(), pair.server.get(), pair.held_requests,
                                        holds_requests_, true) &&
                                   pass(pair.server.get(), pair.client.get(), pair.held_answers,
                                        holds_answers_, false);
                at = lives ? std::next(at) : pairs.erase(at);
            }
        }
    }

    detail::Descriptor listener_;
    int port_ = 0;
    std::mutex mutex_;
    std::string requests_from_;  // guarded by mutex_
    std::string answers_from_;   // guarded by mutex_
    std::atomic<bool> ends_{false};
    std::atomic<bool> cuts_{false};
    std::atomic<bool> takes_{true};
    std::atomic<bool> holds_requests_{false};
    std::atomic<bool> holds_answers_{false};
    std::atomic<std::size_t> held_bytes_{0};
    std::thread thread_;
};

}  // namespace

TEST_SUITE("postgres") {
    TEST_CASE("a journal in PostgreSQL keeps what a journal promises") {
        contract::check_journal([] { return std::make_unique<PostgresPlace>(); });
    }

    TEST_CASE("processes that start at the same moment make the tables once") {
        for (int round = 0; round < 4; ++round) {
            CAPTURE(round);
            const Schema schema;
            std::vector<std::future<void>> opened;
            for (const char* const node : {"a", "b", "c", "d"}) {
                opened.push_back(std::async(std::launch::async, [&schema, node] {
                    PostgresJournal(schema.options(node)).read([](std::string_view) {});
                }));
            }
            for (std::future<void>& one : opened) CHECK_NOTHROW(one.get());
        }
    }

    TEST_CASE("of several processes one owns, the others are told what it stores, in order") {
        Schema schema;
        Process a(schema.options("a"));
        Process b(schema.options("b"));
        Process c(schema.options("c"));
        CHECK(a.journal().is_owner());
        CHECK_FALSE(b.journal().is_owner());
        CHECK(b.try_commit(line_of(1)) == Errc::not_owner);
        CHECK(b.journal().write_ends(line_of(1), 0) == Ends::fenced);
        CHECK_THROWS_AS(b.journal().replace(b), Error);
        Lines stored;
        for (std::uint64_t n = 0; n < 100; ++n) {
            stored.push_back(line_of(n));
            a.commit(stored.back());
        }
        CHECK(b.comes_to_have(stored));
        CHECK(c.comes_to_have(stored));
        CHECK(a.journal().applied() == 100);
        CHECK(b.journal().applied() == 100);
        CHECK(comes_true([&] { return b.cluster().owner == "a" && c.cluster().stored == 100; }));
        CHECK(b.cluster().owner_url == "http://a");
        CHECK(b.cluster().is_connected);
        CHECK(b.cluster().problem.empty());
        CHECK(b.cluster().epoch == a.cluster().epoch);
    }

    TEST_CASE("when the owner ends another one takes over at once, and goes on where it was") {
        Schema schema;
        auto options = schema.options("a");
        options.lease = std::chrono::minutes(10);  // so that it is not what tells
        auto a = std::make_unique<Process>(options);
        options.node = "b";
        Process b(options);
        a->commit(line_of(0));
        a.reset();
        REQUIRE(b.comes_to_own());
        CHECK(b.lines() == Lines{line_of(0)});
        b.commit(line_of(1));
        CHECK(b.journal().applied() == 2);
        options.node = "c";
        Process c(options);
        CHECK(c.lines() == Lines{line_of(0), line_of(1)});
    }

    TEST_CASE("the death of an owner is seen at once, and what it was about to store is nothing") {
        Schema schema;
        auto options = schema.options("b");
        options.lease = std::chrono::minutes(10);
        Network network;
        options.connection = network.connection();
        options.node = "a";
        Process a(options);
        options.connection = "";
        options.node = "b";
        Process b(options);
        a.commit(line_of(0));
        network.cut(false);
        REQUIRE(b.comes_to_own());
        CHECK(comes_true([&] { return !a.journal().is_owner(); }));
        CHECK(a.try_commit(line_of(1)) == Errc::not_owner);
        CHECK(a.journal().write_ends(line_of(1), 0) == Ends::fenced);
        CHECK_FALSE(a.cluster().is_connected);
        b.commit(line_of(2));
        network.mend();
        CHECK(a.comes_to_have({line_of(0), line_of(2)}));
        CHECK_FALSE(a.journal().is_owner());
    }

    TEST_CASE("a process that gets a single connection follows, and owns when the lease ends") {
        Schema schema;
        auto options = schema.options("a");
        options.lease = std::chrono::seconds(1);
        Network network;
        options.connection = network.connection();
        Process a(options);
        schema.sql.run(
            "DROP ROLE IF EXISTS scheduler_limited; CREATE ROLE scheduler_limited LOGIN");
        schema.sql.run("GRANT ALL ON SCHEMA " + schema.quoted + " TO scheduler_limited");
        schema.sql.run("GRANT ALL ON ALL TABLES IN SCHEMA " + schema.quoted +
                       " TO scheduler_limited");
        options = schema.options("b");
        options.lease = std::chrono::seconds(1);
        options.connection = "user=scheduler_limited";
        Process b(options);
        schema.sql.run("ALTER ROLE scheduler_limited CONNECTION LIMIT 1");
        schema.disconnect("b");
        CHECK(comes_true(
            [&] { return b.log().find("too many connections for role") != std::string::npos; }));
        a.commit(line_of(0));
        CHECK(b.comes_to_have({line_of(0)}));
        CHECK(comes_true([&] { return b.cluster().is_connected; }));
        network.cut(false);
        CHECK(b.comes_to_own());
    }

    TEST_CASE("of several servers one is found that answers, though another one hangs") {
        Schema schema;
        auto options = schema.options("a");
        options.lease = std::chrono::seconds(2);
        Network hung;
        Network good;
        hung.hold_requests(true);
        options.connection = "host=127.0.0.1,127.0.0.1 port=" + hung.port() + "," + good.port();
        Process a(options);
        a.commit(line_of(0));
        hung.hold_requests(false);
        good.hold_requests(true);
        CHECK(comes_true([&] { return !a.journal().is_owner(); }));
        CHECK(a.comes_to_own());
        CHECK_FALSE(a.try_commit(line_of(1)));
    }

    TEST_CASE("an owner that is cut off stops before its lease can be another's") {
        Schema schema;
        auto options = schema.options("a");
        options.lease = milliseconds(500);
        Network network;
        options.connection = network.connection();
        Process a(options);
        options.node = "b";
        options.connection = "";
        Process b(options);
        a.commit(line_of(0));
        network.hold_requests(true);
        CHECK(comes_true([&] {
            const bool b_owns = b.journal().is_owner();  // and a did not from before that on
            CHECK_FALSE((b_owns && a.journal().is_owner()));
            return b_owns;
        }));
        CHECK(a.try_commit(line_of(1)) == Errc::not_owner);
        b.commit(line_of(2));
        network.let_pass();
        CHECK(a.comes_to_have({line_of(0), line_of(2)}));
    }

    TEST_CASE("what an owner stores that does not know of its successor is refused") {
        Schema schema;
        Process a(schema.options("a"));
        a.commit(line_of(0));
        // As a successor does, behind its back.
        schema.sql.run("UPDATE " + schema.quoted + ".lease SET epoch = epoch + 1, node = 'x', " +
                       "until = clock_timestamp() + interval '1 hour'");
        CHECK(a.journal().is_owner());
        CHECK(a.try_commit(line_of(1)) == Errc::not_owner);
        CHECK_FALSE(a.journal().is_owner());
        CHECK(schema.sql.value("SELECT count(*) FROM " + schema.quoted + ".journal_1") == "1");
    }

    TEST_CASE("an owner whose connection has ended owns again at once") {
        Schema schema;
        auto options = schema.options("a");
        options.lease = std::chrono::minutes(10);
        Process a(options);
        Lines stored;
        for (std::uint64_t n = 0; n < 5; ++n) {
            stored.push_back(line_of(n));
            a.commit(stored.back());
            const std::uint64_t epoch = a.cluster().epoch;
            schema.disconnect("a");
            REQUIRE(
                comes_true([&] { return a.journal().is_owner() && a.cluster().epoch > epoch; }));
        }
        CHECK(a.lines() == stored);
        CHECK(a.log().find("is over") != std::string::npos);
    }

    TEST_CASE("a group whose answer was lost is looked up: it was stored") {
        Schema schema;
        Network network;
        auto options = schema.options("a");
        options.connection = network.connection();
        Process a(options);
        a.commit(line_of(0));
        network.hold_answers_from("\"n\":1,");
        std::thread storing([&] { CHECK_FALSE(a.try_commit(line_of(1))); });
        CHECK(comes_true([&] {
            return schema.sql.value("SELECT count(*) FROM " + schema.quoted + ".journal_1") == "2";
        }));
        network.let_pass();
        network.cut();
        storing.join();
        REQUIRE(a.comes_to_own());
        a.commit(line_of(2));
        CHECK(a.lines() == Lines{line_of(0), line_of(1), line_of(2)});
    }

    TEST_CASE("a group that did not reach the database is looked up: it was not stored") {
        Schema schema;
        Network network;
        auto options = schema.options("a");
        options.connection = network.connection();
        Process a(options);
        a.commit(line_of(0));
        network.hold_requests_from("\"n\":1,");
        std::thread storing([&] { CHECK(a.try_commit(line_of(1)) == Errc::not_owner); });
        CHECK(comes_true([&] { return network.held_bytes() > 0; }));
        network.let_pass();
        network.cut();
        storing.join();
        REQUIRE(a.comes_to_own());
        a.commit(line_of(2));
        CHECK(a.lines() == Lines{line_of(0), line_of(2)});
        Process b(schema.options("b"));
        CHECK(b.lines() == a.lines());
    }

    TEST_CASE("a group that another owner has seen is known to be stored by whoever stored it") {
        Schema schema;
        Network network;
        auto options = schema.options("a");
        options.connection = network.connection();
        Process a(options);
        Process b(schema.options("b"));
        network.hold_answers_from("\"n\":10,");
        std::thread storing([&] { CHECK_FALSE(a.try_commit(line_of(10))); });
        CHECK(b.comes_to_have({line_of(10)}));
        network.cut(false);
        REQUIRE(b.comes_to_own());
        b.commit(line_of(11));
        network.let_pass();
        network.mend();
        storing.join();
        CHECK(a.comes_to_have({line_of(10), line_of(11)}));
    }

    TEST_CASE("what cannot be found out in time is unknown, and told when it turns out") {
        Schema schema;
        Network network;
        auto options = schema.options("a");
        options.connection = network.connection();
        options.lease = milliseconds(500);
        Process a(options);
        network.hold_answers_from("\"n\":10,");
        std::thread storing([&] { CHECK(a.try_commit(line_of(10)) == Errc::outcome_unknown); });
        CHECK(comes_true([&] {
            return schema.sql.value("SELECT count(*) FROM " + schema.quoted + ".journal_1") == "1";
        }));
        network.cut(false);
        storing.join();
        CHECK(a.lines().empty());
        network.let_pass();
        network.mend();
        CHECK(a.comes_to_have({line_of(10)}));
        REQUIRE(a.comes_to_own());
        a.commit(line_of(11));
        CHECK(a.journal().applied() == 2);
    }

    TEST_CASE("a process ends at once while the database hangs") {
        Schema schema;
        Network network;
        auto options = schema.options("a");
        options.connection = network.connection();
        options.lease = std::chrono::minutes(10);
        auto a = std::make_unique<Process>(options);
        options.node = "b";
        auto b = std::make_unique<Process>(options);
        network.hold_answers_from("\"n\":10,");
        std::thread storing([&] { CHECK(a->try_commit(line_of(10)) == Errc::outcome_unknown); });
        CHECK(comes_true([&] { return network.held_bytes() > 0; }));
        a->journal().stop_following();
        storing.join();
        a.reset();
        b.reset();
    }

    TEST_CASE("a process that the database has stopped answering says so, however long its lease") {
        Schema schema;
        Network network;
        const Process owner(schema.options("a"));
        auto options = schema.options("b");
        options.connection = network.connection();
        options.lease = std::chrono::minutes(10);
        const Process b(options);
        CHECK(comes_true([&] { return b.cluster().is_connected; }));
        network.hold_requests(true);
        CHECK(comes_true([&] { return !b.cluster().is_connected; }));
        CHECK(b.cluster().problem.find("the database has not answered for ") == 0);
        network.let_pass();
        CHECK(comes_true([&] { return b.cluster().is_connected; }));
        CHECK(b.cluster().problem.empty());
    }

    TEST_CASE("a process whose clock is wrong does not own, and says so") {
        Schema schema;
        std::atomic<int> ahead{2'000};
        auto options = schema.options("a");
        options.lease = milliseconds(500);
        options.now = [&] { return wall_clock() + milliseconds(ahead); };
        Process a(options);
        CHECK_FALSE(a.journal().is_owner());
        CHECK(a.cluster().problem.find("ahead of the database's") != std::string::npos);
        CHECK(a.cluster().clock_ahead > milliseconds(1'500));
        Process b(schema.options("b"));
        CHECK(b.journal().is_owner());
        b.commit(line_of(0));
        CHECK(a.comes_to_have({line_of(0)}));
        ahead = 0;
        CHECK(comes_true([&] { return a.cluster().problem.empty(); }));
        CHECK(b.journal().is_owner());
    }

    TEST_CASE("an owner whose clock is set wrong gives the journal up to another") {
        Schema schema;
        std::atomic<int> ahead{0};
        auto options = schema.options("a");
        options.lease = milliseconds(900);
        options.now = [&] { return wall_clock() + milliseconds(ahead); };
        Process a(options);
        Process b(schema.options("b"));
        a.commit(line_of(0));
        ahead = -5'000;
        REQUIRE(b.comes_to_own());
        CHECK_FALSE(a.journal().is_owner());
        CHECK(comes_true([&] { return a.cluster().owner == "b"; }));
        CHECK(a.cluster().problem.find("behind the database's") != std::string::npos);
        CHECK(a.log().find("does not own") != std::string::npos);
    }

    TEST_CASE("the others follow through replacements, and the old tables go") {
        Schema schema;
        auto options = schema.options("a");
        options.lease = milliseconds(900);
        Process a(options);
        options.node = "b";
        Process b(options);
        Lines stored;
        for (std::uint64_t n = 0; n < 30; ++n) {
            stored.push_back(line_of(n));
            a.commit(stored.back());
            if (n % 10 != 5) continue;
            a.meanwhile = [&] {
                stored.push_back(line_of(100 + n));
                a.commit(stored.back());
            };
            a.journal().replace(a);
        }
        CHECK(b.comes_to_have(stored));
        CHECK(b.rereads() == 0);
        CHECK(a.lines() == stored);
        CHECK(schema.lease("generation") == "4");
        CHECK(comes_true([&] {
            return schema.sql.value(
                       "SELECT count(*) FROM pg_tables WHERE tablename LIKE "
                       "'journal_%' AND schemaname = '" +
                       schema.name + "'") == "1";
        }));
        a.commit(line_of(50));
        stored.push_back(line_of(50));
        CHECK(b.comes_to_have(stored));
        CHECK(
            comes_true([&] { return b.journal().figures().bytes == a.journal().figures().bytes; }));
        Process c(schema.options("c"));
        CHECK(c.lines() == stored);
        CHECK(c.journal().figures().bytes == a.journal().figures().bytes);
    }

    TEST_CASE("who has fallen behind what is kept reads everything again") {
        Schema schema;
        auto options = schema.options("a");
        options.lease = milliseconds(900);
        Process a(options);
        options.node = "b";
        Process b(options);
        a.commit(line_of(0));
        REQUIRE(b.comes_to_have({line_of(0)}));
        support::Gate gate;
        b.before_told = [&] { gate.pass(); };
        a.commit(line_of(1));
        REQUIRE(gate.was_reached());
        for (std::uint64_t n = 2; n < 6; ++n) {
            a.commit(line_of(n));
            a.journal().replace(a);
        }
        CHECK(comes_true([&] {
            return schema.sql.value(
                       "SELECT count(*) FROM pg_tables WHERE tablename LIKE "
                       "'journal_%' AND schemaname = '" +
                       schema.name + "'") <= "2";
        }));
        gate.open();
        CHECK(b.comes_to_have(a.lines()));
        CHECK(b.rereads() == 1);
        a.commit(line_of(9));
        CHECK(b.comes_to_have(a.lines()));
    }

    TEST_CASE("what a process could not take is told again") {
        Schema schema;
        Process a(schema.options("a"));
        Process b(schema.options("b"));
        std::atomic<int> left{1};
        b.before_told = [&] {
            if (left-- > 0) throw std::bad_alloc();
        };
        a.commit(line_of(0));
        a.commit(line_of(1));
        CHECK(b.comes_to_have({line_of(0), line_of(1)}));
        CHECK(b.log().find("cannot be applied") != std::string::npos);
    }

    TEST_CASE("two processes of one name are told of it") {
        Schema schema;
        auto options = schema.options("twin");
        options.lease = milliseconds(500);
        Process a(options);
        options.url = "http://elsewhere";
        Process b(options);
        CHECK(comes_true([&] {
            return a.log().find(
                       "another process is called twin too, and answers at "
                       "http://elsewhere;") != std::string::npos;
        }));
        CHECK(comes_true(
            [&] { return b.log().find("answers at http://twin;") != std::string::npos; }));
        Process c(schema.options("c"));
        CHECK(c.log().find("cluster.twin") == std::string::npos);
    }

    TEST_CASE("groups that are missing in the table are told of by their numbers") {
        Schema schema;
        {
            Process a(schema.options("a"));
            for (std::uint64_t n = 0; n < 5; ++n) a.commit(line_of(n));
        }
        schema.sql.run("DELETE FROM " + schema.quoted + ".journal_1 WHERE n IN (1, 3, 4)");
        Process b(schema.options("b"));
        b.lacks_groups = true;
        CHECK(b.lines() == Lines{line_of(1), line_of(4)});
        CHECK(b.log().find("groups 1 to 1 are not") != std::string::npos);
        CHECK(b.log().find("groups 3 to 4 are not") != std::string::npos);
    }

    TEST_CASE("who cannot apply what is stored says so, and leaves the lease to others") {
        Schema schema;
        auto options = schema.options("a");
        options.lease = std::chrono::seconds(1);
        Process a(options);
        a.commit(line_of(0));
        const std::string table = "ALTER TABLE " + schema.quoted + ".";
        schema.sql.run(table + "journal_1 RENAME TO away");
        schema.disconnect("a");
        CHECK(comes_true([&] { return a.cluster().is_stuck; }));
        CHECK(a.cluster().problem.find("journal_1\" does not exist") != std::string::npos);
        CHECK(comes_true([&] { return schema.lease("until < clock_timestamp()") == "t"; }));
        CHECK_FALSE(a.journal().is_owner());
        schema.sql.run(table + "away RENAME TO journal_1");
        CHECK(a.comes_to_own());
        CHECK_FALSE(a.cluster().is_stuck);
        CHECK(a.cluster().problem == "");
        CHECK(a.lines() == Lines{line_of(0)});
    }

    TEST_CASE("somebody's long SELECT stops neither commits nor replacements") {
        Schema schema;
        auto options = schema.options("a");
        options.lease = milliseconds(500);
        Process a(options);
        a.commit(line_of(0));
        Sql reader;
        reader.run("BEGIN");
        reader.run("SELECT count(*) FROM " + schema.quoted + ".records()");
        const std::uint64_t epoch = a.cluster().epoch;
        for (std::uint64_t n = 1; n < 4; ++n) {
            a.journal().replace(a);
            a.commit(line_of(n));
        }
        CHECK(reader.value("SELECT count(*) FROM " + schema.quoted + ".records()") == "4");
        reader.run("COMMIT");
        CHECK(comes_true([&] {
            return schema.sql.value(
                       "SELECT count(*) FROM pg_tables WHERE tablename LIKE "
                       "'journal_%' AND schemaname = '" +
                       schema.name + "'") == "1";
        }));
        CHECK(a.cluster().epoch == epoch);
    }

    TEST_CASE("a database without room refuses changes, and is owned when it has some") {
        Schema schema;
        Process a(schema.options("a"));
        a.commit(line_of(0));
        const std::uint64_t epoch = a.cluster().epoch;
        schema.sql.run(
            "CREATE FUNCTION " + schema.quoted +
            ".no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no space left' "
            "USING ERRCODE = '53100'; END $$");
        schema.sql.run("CREATE TRIGGER no_room BEFORE INSERT ON " + schema.quoted +
                       ".journal_1 EXECUTE FUNCTION " + schema.quoted + ".no_room()");
        CHECK(a.try_commit(line_of(1)) == Errc::disk_full);
        CHECK(a.journal().is_owner());
        CHECK(a.cluster().epoch == epoch);
        CHECK(a.journal().write_ends(line_of(1), 0) == Ends::fenced);
        schema.sql.run("DROP FUNCTION " + schema.quoted + ".no_room() CASCADE");
        REQUIRE(a.comes_to_own());
        CHECK(a.journal().write_ends(line_of(2), 0) == Ends::written);
        CHECK(Process(schema.options("b")).lines() == Lines{line_of(0), line_of(2)});
    }

    TEST_CASE("a database that crashes and recovers has all that was committed") {
        Schema schema;
        Process a(schema.options("a"));
        Process b(schema.options("b"));
        Lines stored;
        for (std::uint64_t n = 0; n < 20; ++n) {
            stored.push_back(line_of(n));
            a.commit(stored.back());
        }
        // The server ends all its sessions when one of its processes is killed.
        Sql victim;
        ::kill(std::atoi(victim.value("SELECT pg_backend_pid()").c_str()), SIGKILL);
        CHECK(comes_true([&] { return !a.journal().is_owner(); }));
        CHECK(comes_true([&] { return a.journal().is_owner() || b.journal().is_owner(); }));
        Process& owner = a.journal().is_owner() ? a : b;
        owner.commit(line_of(50));
        stored.push_back(line_of(50));
        CHECK(a.comes_to_have(stored));
        CHECK(b.comes_to_have(stored));
    }

    TEST_CASE("a database that has lost what it had is read again") {
        Schema schema;
        auto options = schema.options("a");
        Process a(options);
        Process b(schema.options("b"));
        for (std::uint64_t n = 0; n < 3; ++n) a.commit(line_of(n));
        REQUIRE(b.comes_to_have(a.lines()));
        // As a standby that is promoted without the last group.
        schema.sql.run("DELETE FROM " + schema.quoted + ".journal_1 WHERE n = 3");
        schema.disconnect("a");
        CHECK(comes_true([&] { return !a.journal().is_owner() || a.cluster().epoch > 1; }));
        CHECK(comes_true([&] { return a.journal().is_owner() || b.journal().is_owner(); }));
        Process& owner = a.journal().is_owner() ? a : b;
        owner.commit(line_of(7));
        CHECK(a.comes_to_have({line_of(0), line_of(1), line_of(7)}));
        CHECK(b.comes_to_have({line_of(0), line_of(1), line_of(7)}));
    }

    TEST_CASE("schedulers on one schema have one history, and another goes on where one ends") {
        Schema schema;
        const auto make = [&](const std::string& node) {
            Options options;
            options.make_journal = [where = schema.options(node)] {
                return std::make_unique<PostgresJournal>(where);
            };
            return std::make_unique<Scheduler>(options);
        };
        auto a = make("a");
        auto b = make("b");
        const TaskId first = a->schedule(milliseconds(0), "\"first\"");
        const TaskId later = a->schedule(std::chrono::hours(1), "\"later\"");
        CHECK(comes_true([&] { return support::event_ids(*b) == std::vector<TaskId>{first}; }));
        CHECK(comes_true([&] { return support::pending_ids(*b) == std::vector<TaskId>{later}; }));
        CHECK_THROWS_AS(b->schedule(milliseconds(0), "\"refused\""), Error);
        a.reset();
        REQUIRE(comes_true([&] { return b->is_owner(); }));
        CHECK(b->cancel(later));
        const TaskId second = b->schedule(milliseconds(0), "\"second\"");
        const std::vector<TaskId> all{first, second};
        CHECK(comes_true([&] { return support::event_ids(*b) == all; }));
        CHECK(support::event_ids(*make("c")) == all);
    }

    TEST_CASE("lines are kept as they are, and bytes of them are found in the table") {
        Schema schema;
        const std::string line = "{\"a\":1.10,\"a\":\"\\u0000\\ud800\xC3\xA9\",\"b\" : 1e999}\n";
        {
            Process a(schema.options("a"));
            a.commit(line);
        }
        CHECK(schema.sql.value("SELECT lines FROM " + schema.quoted + ".journal_1") == line);
        CHECK(Process(schema.options("b")).lines() == Lines{line});
    }

    TEST_CASE("people see tasks and events in views, whatever messages hold") {
        Schema schema;
        Options options;
        options.make_journal = [where = schema.options("a")] {
            return std::make_unique<PostgresJournal>(where);
        };
        options.rewrite_min_bytes = 1;
        Scheduler tasks(options);
        const auto in_an_hour = std::chrono::hours(1);
        tasks.schedule(in_an_hour, R"({"n":1.10})");
        const TaskId odd = tasks.schedule(in_an_hour, R"(["\u0000 \ud800 \\u0000", 1e999999])");
        // What looks like a number is left alone in an id or a text.
        const TaskId text = tasks.schedule(in_an_hour, R"(["\u0000", "1e1234567", 1e1234567])");
        // PostgreSQL has 131,072 digits before the point, and 16,383 behind it.
        const std::string digits(140'000, '7');
        for (const std::string& number :
             {std::string("1e-20000"), std::string("-1.5E+131073"), digits, "0." + digits,
              digits + ".7e5", "1." + digits + "e-0001"}) {
            tasks.schedule(in_an_hour, "[0.5," + number + "]");
        }
        const TaskId gone = tasks.schedule(in_an_hour, "\"gone\"");
        const TaskId past = tasks.schedule(milliseconds(0), "\"past\"");
        CHECK(tasks.cancel(gone));
        CHECK(comes_true([&] { return support::event_ids(tasks).size() == 1; }));
        const auto value = [&](const std::string& what, const std::string& view) {
            return schema.sql.value("SELECT " + what + " FROM " + schema.quoted + "." + view);
        };
        // As of a large table, which PostgreSQL reads by several processes.
        schema.sql.run(
            "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;"
            "SET min_parallel_table_scan_size = 0; SET jit = off");
        for (const bool replaced : {false, true}) {
            CAPTURE(replaced);
            while (replaced && schema.lease("generation") == "1") {
                REQUIRE(tasks.cancel(tasks.schedule(in_an_hour, "\"soon dead\"")));
            }
            CHECK(value("count(*)", "tasks") == "9");
            CHECK(value("count(*)", "tasks WHERE payload->'message'->>0 = '0.5'") == "6");
            CHECK(value("payload->'message'->>1", "tasks WHERE id = '" + text.str() + "'") ==
                  "1e1234567");
            CHECK(value("payload->'message'->>'n'", "tasks ORDER BY id") == "1.10");
            CHECK(value("count(payload)", "tasks WHERE due > now() AND id = '" + odd.str() + "'") ==
                  "1");
            CHECK(value("id", "events") == past.str());
            CHECK(value("payload->>'message'", "events WHERE seq = 0") == "past");
            CHECK(value("emitted_at >= due", "events") == "t");
        }
    }

    TEST_CASE("a role needs no more than what is written of it, and a reader of the views less") {
        Schema schema;
        const std::string& name = schema.quoted;
        Sql& admin = schema.sql;
        admin.run("CREATE ROLE scheduler_owner LOGIN; CREATE ROLE scheduler_reader LOGIN");
        auto options = schema.options("a");
        options.connection = "user=scheduler_owner";
        const auto refusal = [&] {
            try {
                Process a(options);
                return std::string();
            } catch (const Error& error) {
                CHECK(error.code() == Errc::journal_unreadable);
                return std::string(error.what());
            }
        };
        CHECK(refusal().find("permission denied for database") != std::string::npos);
        admin.run("CREATE SCHEMA " + name);
        CHECK(refusal().find("permission denied for schema") != std::string::npos);
        CHECK(refusal().find("LINE") == std::string::npos);
        admin.run("GRANT USAGE, CREATE ON SCHEMA " + name + " TO scheduler_owner");
        Process a(options);
        a.commit(line_of(0));
        a.journal().replace(a);
        Sql reader("user=scheduler_reader");
        const std::string count = "SELECT count(*) FROM " + name + ".tasks";
        CHECK(reader.value(count).find("permission denied") != std::string::npos);
        admin.run("GRANT USAGE ON SCHEMA " + name + " TO scheduler_reader");
        admin.run("GRANT SELECT ON " + name + ".tasks, " + name + ".events TO scheduler_reader");
        CHECK(reader.value(count).find("permission denied for function") != std::string::npos);
        admin.run("GRANT EXECUTE ON FUNCTION " + name + ".records() TO scheduler_reader");
        CHECK(reader.value(count) == "0");
        CHECK(reader.value("SELECT count(*) FROM " + name + ".journal_2").find("denied") !=
              std::string::npos);
    }

    TEST_CASE("what cannot be opened is refused in a sentence that says what, where and why") {
        const auto refusal = [](PostgresOptions options) {
            try {
                PostgresJournal(std::move(options)).read([](std::string_view) {});
                return std::string();
            } catch (const Error& error) {
                return std::string(error.what());
            }
        };
        Schema schema;
        auto options = schema.options("a");
        CHECK(refusal(options) == "");
        schema.sql.run("UPDATE " + schema.quoted + ".lease SET version = 99");
        CHECK(refusal(options).find("version 99, which is newer") != std::string::npos);
        schema.sql.run("CREATE DATABASE latin ENCODING 'SQL_ASCII' TEMPLATE template0");
        options.connection = "dbname=latin";
        CHECK(refusal(options).find("must be UTF8") != std::string::npos);
        options.connection = "postgresql://me:s3cret@127.0.0.1:1/tasks";
        CHECK(refusal(options).find("127.0.0.1") != std::string::npos);
        CHECK(refusal(options).find("refused") != std::string::npos);
        CHECK(refusal(options).find("s3cret") == std::string::npos);
        options.connection = "host=127.0.0.1 password=my s3cret";
        CHECK(refusal(options).find("s3cret") == std::string::npos);
        CHECK(refusal(options).find("must be a URI") != std::string::npos);
        options.connection = "";
        options.lease = milliseconds(1);
        CHECK(refusal(options).find("500 ms") != std::string::npos);
    }

    // Three processes store, replace, and lose the database in all manners, for some seconds, or as
    // many as the environment says.
    TEST_CASE("whatever fails, what was acknowledged is stored once, and all have one order") {
        Schema schema;
        const char* const said = ::getenv("POSTGRES_TEST_SECONDS");
        const auto end =
            std::chrono::steady_clock::now() + std::chrono::seconds(said ? std::atoi(said) : 3);
        detail::Random random;
        std::vector<std::unique_ptr<Network>> networks;
        std::vector<std::unique_ptr<Process>> processes;
        for (const char* const node : {"a", "b", "c"}) {
            networks.push_back(std::make_unique<Network>());
            auto options = schema.options(node);
            options.lease = milliseconds(600);
            options.connection = networks.back()->connection();
            processes.push_back(std::make_unique<Process>(options));
        }
        std::atomic<bool> ends{false};
        std::atomic<std::uint64_t> next{1};
        std::mutex mutex;
        std::set<std::string> acknowledged;
        std::set<std::string> refused;
        std::vector<std::thread> threads;
        for (const auto& process : processes) {
            threads.emplace_back([&, one = process.get()] {
                while (!ends) {
                    const std::string line = line_of(next++);
                    const auto failure = one->try_commit(line);
                    const std::lock_guard<std::mutex> guard(mutex);
                    if (!failure) acknowledged.insert(line);
                    if (failure && *failure != Errc::outcome_unknown) refused.insert(line);
                    if (failure) std::this_thread::sleep_for(milliseconds(1));
                }
            });
            threads.emplace_back([&, one = process.get()] {
                while (!ends) {
                    std::this_thread::sleep_for(milliseconds(70));
                    one->replace();
                }
            });
        }
        while (std::chrono::steady_clock::now() < end) {
            Network& network = *networks[random() % 3];
            switch (random() % 6) {
                case 0:
                    network.cut();
                    break;
                case 1:
                    network.cut(false);
                    break;
                case 2:
                    network.hold_requests(true);
                    break;
                case 3:
                    network.hold_answers_from("\"n\":");
                    break;
                case 4:
                    schema.disconnect(std::string(1, "abc"[random() % 3]));
                    break;
                default:
                    break;
            }
            std::this_thread::sleep_for(milliseconds(random() % 200));
            if (random() % 2 == 0) network.cut();
            network.let_pass();
            network.mend();
        }
        ends = true;
        for (std::thread& thread : threads) thread.join();
        REQUIRE(comes_true([&] {
            return std::any_of(processes.begin(), processes.end(),
                               [](const auto& one) { return one->journal().is_owner(); });
        }));
        const Lines stored = Process(schema.options("d")).lines();
        for (const auto& process : processes) {
            CAPTURE(process->log());
            CHECK(process->comes_to_have(stored));
        }
        const std::set<std::string> all(stored.begin(), stored.end());
        CHECK(all.size() == stored.size());
        CHECK(std::includes(all.begin(), all.end(), acknowledged.begin(), acknowledged.end()));
        for (const std::string& line : refused) CHECK(all.count(line) == 0);
        MESSAGE(acknowledged.size(), " acknowledged, ", refused.size(), " refused, ",
                all.size() - acknowledged.size(), " found stored, epoch ", schema.lease("epoch"),
                ", generation ", schema.lease("generation"));
    }
}

}  // namespace postgres_test
