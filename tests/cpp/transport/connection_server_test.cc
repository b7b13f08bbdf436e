// Who is let in, who has to make way, and what is left when a server ends. Real sockets; callers are threads' or ours.
#include "beeline/transport/connection_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "beeline/os/unix_socket.h"
#include "no_threads.h"
#include "patience.h"

namespace beeline::transport {
namespace {

// Says 'h' to each caller, admits those that say 'p' for proof, and stays until they leave.
class ConnectionServerTest : public ::testing::Test {
 protected:
  static bool say(int fd, char letter) { return ::send(fd, &letter, 1, MSG_NOSIGNAL) == 1; }
  // The next letter; 0 at the end of the connection.
  static char hear(int fd, const os::Wait& wait = patience()) {
    char letter = 0;
    while (os::wait_ready(fd, POLLIN, wait, "a letter")) {
      const auto got = ::recv(fd, &letter, 1, 0);
      if (got >= 0) return got == 1 ? letter : '\0';
      if (errno != EAGAIN) return '\0';
    }
    return '\0';
  }

  os::Fd by_unix() {
    auto name = server_->unix_name();
    EXPECT_TRUE(name.is_ok()) << name.status().message();
    auto connected = os::connect_unix(*name, patience());
    EXPECT_TRUE(connected.is_ok()) << connected.status().message();
    return std::move(*connected);
  }
  os::Fd by_tcp() {
    auto address = server_->tcp_address("127.0.0.1");
    EXPECT_TRUE(address.is_ok()) << address.status().message();
    auto connected = os::connect_tcp(*address, patience());
    EXPECT_TRUE(connected.is_ok()) << connected.status().message();
    return std::move(*connected);
  }
  std::string why() {
    const std::lock_guard guard(mutex_);
    return why_;
  }

  static auto descriptors() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  }

  std::atomic<int> turned_away_{0};         // for whom there was no room
  std::atomic<int> without_descriptor_{0};  // rounds in which nobody could be accepted
  std::mutex mutex_;
  std::string why_;  // the last one; needs mutex_
  std::unique_ptr<ConnectionServer> server_ = std::make_unique<ConnectionServer>(ConnectionServer::Options{
      .thread_name = "test-serve",
      .serve =
          [](const ConnectionServer::Caller& caller) {
            say(caller.connection.get(), 'h');
            while (const char letter = hear(caller.connection.get(), caller.wait)) {
              if (letter == 'p') caller.admit();
              say(caller.connection.get(), letter);
            }
          },
      .turn_away =
          [this](const os::Fd& fd, const Status& why) {
            {
              const std::lock_guard guard(mutex_);
              why_ = why.message();
            }
            ++(fd.is_open() ? turned_away_ : without_descriptor_);
          },
  });
};

TEST_F(ConnectionServerTest, NothingRunsUntilSomebodyAsksWhereItListens) {
  EXPECT_EQ(server_->connections(), 0u);
  server_.reset();
}

TEST_F(ConnectionServerTest, EachNameIsMadeOnce) {
  EXPECT_EQ(*server_->unix_name(), *server_->unix_name());
  EXPECT_EQ(*server_->tcp_address("127.0.0.1"), *server_->tcp_address("127.0.0.1"));
}

TEST_F(ConnectionServerTest, CallersAreServedAtOnceAndCounted) {
  const os::Fd one = by_unix(), other = by_tcp();
  EXPECT_EQ(hear(one.get()), 'h');
  EXPECT_EQ(hear(other.get()), 'h');
  EXPECT_EQ(server_->connections(), 2u);
  EXPECT_TRUE(say(one.get(), 'x'));
  EXPECT_EQ(hear(one.get()), 'x');
}

TEST_F(ConnectionServerTest, WhoLeavesMakesRoom) {
  for (std::size_t i = 0; i < ConnectionServer::kMaxConnections + 8; ++i) {
    const os::Fd one = by_unix();
    ASSERT_EQ(hear(one.get()), 'h') << i;
  }
  wait_until([&] { return server_->connections() == 0; });
  EXPECT_EQ(turned_away_, 0);
}

TEST_F(ConnectionServerTest, BeyondItsRoomCallersAreTurnedAway) {
  std::vector<os::Fd> callers;
  for (std::size_t i = 0; i < ConnectionServer::kMaxConnections; ++i) {
    callers.push_back(by_unix());
    ASSERT_EQ(hear(callers.back().get()), 'h') << i;
  }
  const os::Fd beyond = by_unix();
  EXPECT_EQ(hear(beyond.get()), '\0');
  EXPECT_EQ(turned_away_, 1);
  EXPECT_NE(why().find("256 connections already"), std::string::npos) << why();
  callers.pop_back();
  wait_until([&] { return server_->connections() < ConnectionServer::kMaxConnections; });
  EXPECT_EQ(hear(by_unix().get()), 'h');
}

TEST_F(ConnectionServerTest, StrangersByTcpGiveWayToTheNextOneTheOldestFirst) {
  const os::Fd proven = by_tcp();
  ASSERT_EQ(hear(proven.get()), 'h');
  ASSERT_TRUE(say(proven.get(), 'p'));
  ASSERT_EQ(hear(proven.get()), 'p');
  std::vector<os::Fd> strangers;
  for (std::size_t i = 0; i < ConnectionServer::kMaxOpenings + 2; ++i) {
    strangers.push_back(by_tcp());
    ASSERT_EQ(hear(strangers.back().get()), 'h') << i;
  }
  EXPECT_EQ(hear(strangers[0].get()), '\0');
  EXPECT_EQ(hear(strangers[1].get()), '\0');
  for (const int fd : {strangers[2].get(), strangers.back().get(), proven.get()}) {
    ASSERT_TRUE(say(fd, 'x'));
    EXPECT_EQ(hear(fd), 'x');
  }
  EXPECT_EQ(turned_away_, 0);
}

TEST_F(ConnectionServerTest, ItsEndEndsCallersThatSayNothing) {
  const os::Fd one = by_unix(), other = by_tcp();
  ASSERT_EQ(hear(one.get()), 'h');
  ASSERT_EQ(hear(other.get()), 'h');
  const auto begin = Clock::now();
  server_.reset();
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5));
  EXPECT_EQ(hear(one.get()), '\0');
  EXPECT_EQ(hear(other.get()), '\0');
}

#if !defined(__SANITIZE_ADDRESS__)  // with it comes UBSan's, which itself needs descriptors to look at types
// Limits are the process's: what else needs a descriptor here has it.
class Scarcity {
 public:
  Scarcity() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const os::Fd next(::dup(STDERR_FILENO));
    rlimit none = before_;
    none.rlim_cur = static_cast<rlim_t>(next.get());  // the lowest that is free
    ::setrlimit(RLIMIT_NOFILE, &none);
  }
  ~Scarcity() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  Scarcity(const Scarcity&) = delete;
  Scarcity& operator=(const Scarcity&) = delete;

 private:
  rlimit before_{};
};

// A socket that needs no further descriptor to connect.
int connect_later(const os::TcpAddress& address, const os::Fd& socket) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(address.port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to);
}

TEST_F(ConnectionServerTest, WithoutADescriptorCallersWaitUntilThereIsOne) {
  const auto address = *server_->tcp_address("127.0.0.1");
  const os::Fd caller(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  {
    const Scarcity scarcity;
    ASSERT_EQ(connect_later(address, caller), 0);
    wait_until([&] { return without_descriptor_ > 0; });
    EXPECT_EQ(server_->connections(), 0u);
  }
  EXPECT_EQ(hear(caller.get()), 'h');
  EXPECT_EQ(turned_away_, 0);
}

TEST_F(ConnectionServerTest, WhoGetsTheLastDescriptorIsServedThoughItCannotMakeWay) {
  const auto address = *server_->tcp_address("127.0.0.1");
  const os::Fd caller(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  os::Fd last(::dup(STDERR_FILENO));
  {
    const Scarcity scarcity;
    last.reset();  // the one that accept() takes
    ASSERT_EQ(connect_later(address, caller), 0);
    EXPECT_EQ(hear(caller.get()), 'h');
    ASSERT_TRUE(say(caller.get(), 'p'));
    EXPECT_EQ(hear(caller.get()), 'p');
  }
  EXPECT_EQ(without_descriptor_, 0);
}
#endif

TEST_F(ConnectionServerTest, WithoutAThreadCallersAreTurnedAwayAndOthersGoOn) {
  const LimitedUser user;
  if (!user.is_so()) GTEST_SKIP() << "this process cannot become another user's, and root's threads have no limit";
  const os::Fd one = by_unix(), other = by_tcp();
  ASSERT_EQ(hear(one.get()), 'h');
  ASSERT_EQ(hear(other.get()), 'h');
  const auto before = descriptors();
  {
    const NoThreads none;
    EXPECT_EQ(hear(by_unix().get()), '\0');
    EXPECT_EQ(hear(by_tcp().get()), '\0');
    EXPECT_EQ(turned_away_, 2);
    EXPECT_NE(why().find("start a thread"), std::string::npos) << why();
    EXPECT_EQ(server_->connections(), 2u);
    for (const int fd : {one.get(), other.get()}) {
      ASSERT_TRUE(say(fd, 'x'));
      EXPECT_EQ(hear(fd), 'x');
    }
  }
  EXPECT_EQ(descriptors(), before);
  EXPECT_EQ(hear(by_unix().get()), 'h');
  EXPECT_EQ(hear(by_tcp().get()), 'h');
}

TEST_F(ConnectionServerTest, WithoutAThreadNothingListensAndTheNextCallTriesAgain) {
  const LimitedUser user;
  if (!user.is_so()) GTEST_SKIP() << "this process cannot become another user's, and root's threads have no limit";
  {
    const NoThreads none;
    EXPECT_EQ(server_->unix_name().status().code(), Code::kSystem);  // and what wakes its threads is made
    const auto before = descriptors();
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(server_->unix_name().status().system_error(), EAGAIN);
      EXPECT_EQ(server_->tcp_address("127.0.0.1").status().system_error(), EAGAIN);
      EXPECT_EQ(server_->listen({"127.0.0.1", 0}).status().system_error(), EAGAIN);
    }
    EXPECT_EQ(descriptors(), before);
  }
  EXPECT_EQ(hear(by_unix().get()), 'h');
  EXPECT_EQ(hear(by_tcp().get()), 'h');
}

TEST_F(ConnectionServerTest, AChildOfForkLeavesItsParentsServerAlone) {
  const os::Fd caller = by_unix();
  ASSERT_EQ(hear(caller.get()), 'h');
  EXPECT_FALSE(server_->is_forked());
  EXPECT_EQ(server_->connections(), 1u);  // nobody holds its lock any more: ThreadSanitizer sees it end in the child
  const pid_t child = ::fork();
  if (child == 0) {
    const bool knows = server_->is_forked();
    server_.reset();  // joins nobody, ends nothing
    ::_exit(knows ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  ASSERT_TRUE(say(caller.get(), 'x'));
  EXPECT_EQ(hear(caller.get()), 'x');
  EXPECT_EQ(hear(by_unix().get()), 'h');
}

}  // namespace
}  // namespace beeline::transport
