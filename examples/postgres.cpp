// Keeps tasks in PostgreSQL: of all that have the same schema one emits, and the next takes its
// place when it is gone.  PGHOST, PGSERVICE and the like say where the database is.
#include <postgres/postgres_journal.hpp>
#include <scheduler.hpp>

#include <cstdio>
#include <future>

scheduler::Options called(const char* node) {
    scheduler::PostgresOptions where;
    where.schema = "postgres_example";
    where.node = node;
    scheduler::Options options;
    options.make_journal = [where] { return std::make_unique<scheduler::PostgresJournal>(where); };
    return options;
}

int main() {
    using namespace std::chrono_literals;
    std::promise<void> emitted;
    std::optional<scheduler::Scheduler> one(called("one"));
    scheduler::Scheduler two(called("two"));
    two.on_event([&emitted](const scheduler::Event& event) {
        std::puts(event.payload.c_str());
        emitted.set_value();
    });
    one->schedule(100ms, R"({"name": "Han"})");
    one.reset();  // stops, as a crash would
    emitted.get_future().wait();
}
