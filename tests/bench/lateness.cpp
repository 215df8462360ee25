// SPDX-License-Identifier: MIT
//
// How long after its due time the first byte of an event reaches a subscriber on
// the same machine, beside what the machine itself needs: a clock_nanosleep until
// the same kind of moment and one write to a loopback socket.  Both are measured
// in turn, in one run.
//
//     lateness BINARY [ROUNDS [SCHEDULES_PER_SECOND]]
//
// With a third argument, a client of its own schedules that many tasks a second
// beside both measurements.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

std::int64_t now_ns() {
    timespec time{};
    clock_gettime(CLOCK_REALTIME, &time);
    return time.tv_sec * std::int64_t{1'000'000'000} + time.tv_nsec;
}

// The next moment that is at least `ahead` away and a whole millisecond.
std::int64_t moment_ahead(std::int64_t ahead) {
    return (now_ns() + ahead) / 1'000'000 * 1'000'000;
}

std::string iso(std::int64_t ns) {
    const time_t seconds = ns / 1'000'000'000;
    tm parts{};
    gmtime_r(&seconds, &parts);
    char text[64];
    const std::size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + n, sizeof text - n, ".%03dZ", static_cast<int>(ns / 1'000'000 % 1'000));
    return text;
}

int connect_to(int port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
        throw std::runtime_error("cannot connect");
    }
    return fd;
}

std::string read_some(int fd) {
    char buffer[65'536];
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n <= 0) throw std::runtime_error("the connection ended");
    return std::string(buffer, static_cast<std::size_t>(n));
}

void write_all(int fd, const std::string& text) {
    if (write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
        throw std::runtime_error("cannot write");
    }
}

// The server under test, in a directory of its own.
class Server {
public:
    explicit Server(const char* binary) {
        char name[] = "/tmp/lateness-XXXXXX";
        if (!mkdtemp(name)) throw std::runtime_error("cannot make a directory");
        directory_ = name;
        int out[2];
        if (pipe(out) != 0) throw std::runtime_error("cannot make a pipe");
        pid_ = fork();
        if (pid_ == 0) {
            dup2(out[1], STDOUT_FILENO);
            const std::string journal = directory_ + "/tasks.jsonl";
            execl(binary, binary, "--port", "0", "--journal", journal.c_str(), nullptr);
            _exit(127);
        }
        close(out[1]);
        const std::string line = read_some(out[0]);
        const std::size_t at = line.find("127.0.0.1:");
        if (at == std::string::npos) throw std::runtime_error("the server did not start");
        port_ = std::atoi(line.c_str() + at + 10);
    }
    ~Server() {
        kill(pid_, SIGTERM);
        waitpid(pid_, nullptr, 0);
        const std::string remove = "rm -r '" + directory_ + "'";
        if (std::system(remove.c_str()) != 0) std::perror("rm");
    }
    int port() const { return port_; }

private:
    std::string directory_;
    pid_t pid_ = 0;
    int port_ = 0;
};

void schedule(int fd, std::int64_t due, const char* name) {
    const std::string body = R"({"timestamp":")" + iso(due) + R"(","message":{"name":")" + name +
                             R"(","text":"as long as a short message is"}})";
    write_all(fd, "POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
                      std::to_string(body.size()) + "\r\n\r\n" + body);
    const std::string answer = read_some(fd);
    if (answer.compare(0, 12, "HTTP/1.1 200") != 0) throw std::runtime_error(answer);
}

// One event of the server: from its due time to its first byte.
double event_ms(int port, int stream) {
    const int fd = connect_to(port);
    const std::int64_t due = moment_ahead(60'000'000);
    schedule(fd, due, "probe");
    close(fd);
    for (;;) {
        const std::string text = read_some(stream);
        const std::int64_t arrived = now_ns();
        if (text.find("\"probe\"") != std::string::npos) {
            return static_cast<double>(arrived - due) / 1e6;
        }
    }
}

// The same from a bare timer: a thread sleeps until the moment and writes.
double bare_ms(int from, int to) {
    const std::int64_t due = moment_ahead(60'000'000);
    std::thread sleeper([due, from] {
        prctl(PR_SET_TIMERSLACK, 1UL);
        const timespec until{due / 1'000'000'000, due % 1'000'000'000};
        clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, nullptr);
        write_all(from, std::string(150, 'x'));
    });
    read_some(to);
    const std::int64_t arrived = now_ns();
    sleeper.join();
    return static_cast<double>(arrived - due) / 1e6;
}

std::pair<int, int> loopback_pair() {
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(listener, 1) != 0 ||
        getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
        throw std::runtime_error("cannot listen");
    }
    const int client = connect_to(ntohs(address.sin_port));
    const int accepted = accept(listener, nullptr, nullptr);
    close(listener);
    return {client, accepted};
}

double percentile(std::vector<double> values, double share) {
    std::sort(values.begin(), values.end());
    const auto last = static_cast<double>(values.size() - 1);
    return values[static_cast<std::size_t>(last * share + 0.5)];
}

void print(const char* load, const std::vector<double>& bare, const std::vector<double>& ours) {
    std::printf("%-28s %10s %10s %8s\n", load, "bare", "ours", "ratio");
    for (const double share : {0.5, 0.9, 0.99, 1.0}) {
        const double b = percentile(bare, share);
        const double o = percentile(ours, share);
        std::printf("  lateness p%-3.0f, ms           %10.3f %10.3f %8.2f\n", share * 100, b, o,
                    o / b);
    }
    std::printf(
        "{\"bench\":\"lateness\",\"load\":\"%s\",\"rounds\":%zu,\"bare_p50_ms\":%.3f,"
        "\"ours_p50_ms\":%.3f,\"bare_p99_ms\":%.3f,\"ours_p99_ms\":%.3f}\n",
        load, ours.size(), percentile(bare, 0.5), percentile(ours, 0.5), percentile(bare, 0.99),
        percentile(ours, 0.99));
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc < 2 || argc > 4) {
        std::fprintf(stderr, "usage: lateness BINARY [ROUNDS [SCHEDULES_PER_SECOND]]\n");
        return 2;
    }
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 200;
    const int rate = argc > 3 ? std::atoi(argv[3]) : 0;
    Server server(argv[1]);
    const int stream = connect_to(server.port());
    write_all(stream, "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    while (read_some(stream).find("event: cursor") == std::string::npos) continue;
    const auto [from, to] = loopback_pair();

    std::atomic<bool> done{false};
    std::thread load([&] {
        const int fd = rate > 0 ? connect_to(server.port()) : -1;
        auto next = std::chrono::steady_clock::now();
        while (rate > 0 && !done) {
            schedule(fd, now_ns() + std::int64_t{3'600} * 1'000'000'000, "load");
            next += std::chrono::nanoseconds(1'000'000'000 / rate);
            std::this_thread::sleep_until(next);
        }
    });
    std::vector<double> bare;
    std::vector<double> ours;
    for (int round = 0; round < rounds; ++round) {
        bare.push_back(bare_ms(from, to));
        ours.push_back(event_ms(server.port(), stream));
    }
    done = true;
    load.join();
    print(rate > 0 ? (std::to_string(rate) + " schedules a second").c_str() : "idle", bare, ours);
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "lateness: %s\n", error.what());
    return 1;
}
