// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <sys/un.h>

namespace listen_test {

using namespace scheduler;
using support::TempDir;

namespace {

// A client of a socket in the file system, or of a port of the loopback.
class Peer {
public:
    explicit Peer(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un at{};
        at.sun_family = AF_UNIX;
        path.copy(at.sun_path, sizeof at.sun_path - 1);
        connect(reinterpret_cast<sockaddr*>(&at), sizeof at);
    }
    explicit Peer(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in at{};
        at.sin_family = AF_INET;
        at.sin_port = htons(static_cast<std::uint16_t>(port));
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        connect(reinterpret_cast<sockaddr*>(&at), sizeof at);
    }
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;
    ~Peer() { ::close(fd_); }

    bool is_connected() const { return connected_; }
    // The status of the answer to a request without a body.
    int ask(const std::string& line, const std::string& fields = "Host: localhost\r\n") {
        const std::string text = line + " HTTP/1.1\r\nConnection: close\r\n" + fields + "\r\n";
        if (::send(fd_, text.data(), text.size(), MSG_NOSIGNAL) < 0) return 0;
        std::string heard;
        char buffer[4'096];
        for (ssize_t n; (n = ::recv(fd_, buffer, sizeof buffer, 0)) > 0;) {
            heard.append(buffer, static_cast<std::size_t>(n));
        }
        return heard.size() > 12 ? std::atoi(heard.c_str() + 9) : 0;
    }

private:
    void connect(const sockaddr* at, socklen_t size) {
        const timeval ten_seconds{10, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &ten_seconds, sizeof ten_seconds);
        connected_ = ::connect(fd_, at, size) == 0;
    }

    int fd_;
    bool connected_ = false;
};

// A socket in the file system that its process has left behind.
void leave_stale(const std::string& path) {
    const int fd = HttpListener("unix:" + path).release();
    ::close(fd);
}

struct stat status_of_file(const std::string& path) {
    struct stat found {};
    REQUIRE(::lstat(path.c_str(), &found) == 0);
    return found;
}

bool exists(const std::string& path) {
    return ::access(path.c_str(), F_OK) == 0;
}

}  // namespace

TEST_SUITE("listen") {
    TEST_CASE("one server answers at several addresses, and each is told as it is written") {
        const TempDir dir;
        Scheduler tasks;
        HttpServer server(tasks);
        std::vector<HttpListener> listeners;
        listeners.emplace_back("127.0.0.1:0");
        listeners.emplace_back("127.0.0.2", 0);
        listeners.emplace_back("unix:" + dir.path("s"));
        std::vector<int> ports;
        for (const HttpListener& one : listeners) ports.push_back(one.port());
        CHECK(listeners[0].address() == "127.0.0.1:" + std::to_string(ports[0]));
        CHECK(listeners[1].address() == "127.0.0.2:" + std::to_string(ports[1]));
        CHECK(listeners[2].address() == "unix:" + dir.path("s"));
        CHECK(ports[2] == 0);
        CHECK(listeners[2].is_unix());
        CHECK(listeners[2].is_loopback());
        server.listen(std::move(listeners));
        CHECK(Peer(ports[0]).ask("GET /healthz") == 200);
        CHECK(Peer(dir.path("s")).ask("GET /healthz") == 200);
        server.stop();
        CHECK_FALSE(Peer(ports[0]).is_connected());
        CHECK_FALSE(exists(dir.path("s")));
    }

    TEST_CASE("an address that is none is refused in a sentence that tells what would be one") {
        for (const char* text :
             {"", "8080", ":8080", "localhost", "localhost:", "localhost:http", "127.0.0.1:65536x",
              "::1:8080", "[::1]", "[localhost]:80", "unix:", "unix:relative", "http://a:1"}) {
            CAPTURE(text);
            try {
                HttpListener listener{std::string(text)};
                FAIL_CHECK("it listens");
            } catch (const Error& error) {
                CHECK(error.code() == Errc::invalid_argument);
            }
        }
        CHECK_THROWS_WITH_AS(HttpListener("unix:/" + std::string(107, 'x')),
                             doctest::Contains("108 bytes, and that of a socket may have 107"),
                             Error);
        CHECK_THROWS_AS(HttpListener("127.0.0.1:70000"), const std::runtime_error&);
    }

    TEST_CASE("an address of IPv6 is written in brackets") {
        if (!exists("/proc/net/if_inet6")) return;
        try {
            const HttpListener listener("[::1]:0");
            CHECK(listener.address() == "[::1]:" + std::to_string(listener.port()));
            CHECK(listener.is_loopback());
        } catch (const std::runtime_error& error) {  // a machine may have it switched off
            MESSAGE(error.what());
        }
    }

    TEST_CASE("a socket that its process left behind is replaced, and a live one is not") {
        const TempDir dir;
        const std::string path = dir.path("s");
        leave_stale(path);
        REQUIRE(exists(path));
        REQUIRE_FALSE(Peer(path).is_connected());
        const HttpListener listener("unix:" + path);
        CHECK((status_of_file(path).st_mode & 07777) == 0660);
        CHECK_THROWS_WITH_AS(HttpListener("unix:" + path),
                             doctest::Contains("another process listens there"),
                             std::runtime_error);
        CHECK(Peer(path).is_connected());
    }

    TEST_CASE("a file that is no socket stays what it is") {
        const TempDir dir;
        const std::string path = dir.write("s", "somebody's");
        CHECK_THROWS_WITH_AS(HttpListener("unix:" + path), doctest::Contains("is no socket"),
                             std::runtime_error);
        CHECK(dir.read("s") == "somebody's");
    }

    TEST_CASE("what another process has put in the place of a socket is not removed") {
        const TempDir dir;
        const std::string path = dir.path("s");
        std::optional<HttpListener> first(std::in_place, "unix:" + path);
        ::unlink(path.c_str());
        const HttpListener second("unix:" + path);
        first.reset();
        CHECK(Peer(path).is_connected());
    }

    TEST_CASE("a socket that was handed over goes on when its server has ended") {
        HttpListener manager("127.0.0.1", 0);
        const int port = manager.port();
        for (int round = 0; round < 2; ++round) {
            Scheduler tasks;
            HttpServer server(tasks);
            HttpListener adopted = HttpListener::adopt(::dup(manager.fd()));
            CHECK(adopted.address() == "127.0.0.1:" + std::to_string(port));
            server.listen(std::move(adopted));
            CHECK(Peer(port).ask("GET /healthz") == 200);
        }
        CHECK(Peer(port).is_connected());
    }

    TEST_CASE("what is no listening socket is not taken over") {
        const detail::Descriptor silent(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        CHECK_THROWS_AS(HttpListener::adopt(silent.get()), const std::runtime_error&);
        const detail::Descriptor file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        CHECK_THROWS_AS(HttpListener::adopt(file.get()), const std::runtime_error&);
        CHECK_THROWS_AS(HttpListener::adopt(-1), const std::runtime_error&);
    }

    TEST_CASE("no page reaches a socket in the file system, so any Host is good there") {
        const TempDir dir;
        Scheduler tasks;
        HttpServer server(tasks);
        std::vector<HttpListener> listeners;
        listeners.emplace_back("unix:" + dir.path("s"));
        listeners.emplace_back("127.0.0.1:0");
        const int port = listeners[1].port();
        server.listen(std::move(listeners));
        CHECK(Peer(port).ask("GET /tasks", "Host: tasks.example\r\n") == 403);
        CHECK(Peer(dir.path("s")).ask("GET /tasks", "Host: tasks.example\r\n") == 200);
        // A proxy passes on who asks: a page of another origin is refused.
        CHECK(Peer(dir.path("s"))
                  .ask("GET /tasks",
                       "Host: tasks.example\r\n"
                       "Origin: https://evil.example\r\n") == 403);
        CHECK(Peer(dir.path("s"))
                  .ask("GET /tasks",
                       "Host: tasks.example\r\n"
                       "Origin: https://tasks.example\r\n") == 200);
    }
}

}  // namespace listen_test
