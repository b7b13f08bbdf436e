// beelined with the real zygote and a worker module of the test's own. The interpreter is $BEELINE_TEST_PYTHON or
// python3; without cloudpickle and msgspec (the worker's) there is nothing to test.
#include <gtest/gtest.h>

#include <fstream>

#include "runtime/node_client.h"

namespace beeline::runtime::node {
namespace {

using control::ActorState;
using control::Type;

constexpr const char* kWorkerModule = R"(
import importlib.util, os, socket, struct, sys
from msgspec import msgpack
def main(session_dir, token):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(session_dir + "/daemon.sock")
    def send(kind, *fields):
        body = struct.pack("<H", kind) + msgpack.encode(fields)
        sock.sendall(struct.pack("<II", len(body), 0) + body)
    send(1, 1, os.getpid(), token)
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
        while len(data) >= 8 and len(data) >= 8 + (size := struct.unpack_from("<I", data)[0]):
            (kind,) = struct.unpack_from("<H", data, 8)
            fields = msgpack.decode(data[10:8 + size])
            data = data[8 + size:]
            if kind == 42:
                sys.exit(0)
            if kind == 39:
                print("pid", os.getpid(), "parent is the zygote", open(f"/proc/{os.getppid()}/comm").read().strip())
                send(6, fields[0], fields[1], False, "", b"")
    if os.environ.get("LINGER"):
        import time
        time.sleep(1000)
    sys.exit(0)
)";

// What the zygote has of beeline._core: runtime::end_lost_session, which OneAtATimeEndsIt tests, in short.
constexpr const char* kCoreModule = R"(
import os, shutil, signal
def end_lost_session(session_dir):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            marked = f"BEELINE_SESSION={session_dir}".encode() in open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
            if marked and int(pid) != os.getpid():
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass
    shutil.rmtree(session_dir)
)";

class RealZygoteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* python = std::getenv("BEELINE_TEST_PYTHON");
    python_ = python != nullptr ? python : "python3";
    if (std::system((python_ + " -c 'import msgspec, cloudpickle' 2>/dev/null").c_str()) != 0) {
      GTEST_SKIP() << python_ << " has no msgspec and cloudpickle: set BEELINE_TEST_PYTHON";
    }
    const std::filesystem::path package = place_.path() + "/modules/beeline";
    std::filesystem::create_directories(package);
    const auto root = std::filesystem::path(BEELINE_SOURCE_FOLDER) / "python/beeline";
    std::filesystem::copy_file(root / "_zygote.py", package / "_zygote.py");
    std::ofstream(package / "__init__.py") << "";
    std::ofstream(package / "_worker.py") << kWorkerModule;
    std::ofstream(package / "_core.py") << kCoreModule;
    options_ = fake_options();
    options_.zygote_command = {python_, "-m", "beeline._zygote"};
    options_.zygote_env = {{"PYTHONPATH", place_.path() + "/modules"}};
  }
  SessionPlace place_;
  std::string python_;
  LaunchOptions options_;
};

TEST_F(RealZygoteTest, AnActorIsForkedFromItAndEndsWithTheSession) {
  auto driver = launch(options_);
  driver.expect_state(driver.create(""), ActorState::kAlive);
  EXPECT_NE(driver.expect<control::LogLines>(Type::kLogLines).text.find("parent is the zygote beeline-zygote"),
            std::string::npos);
  driver.send(Type::kShutdown, control::Empty{});
  ASSERT_TRUE(wait_session_end(driver.daemon(), Deadline::after(kPatience)).is_ok());
  EXPECT_TRUE(processes_of(driver.dir()).empty());
}

TEST_F(RealZygoteTest, ADaemonThatIsKilledTakesAllWithItWhereNobodyMayFollow) {
  options_.daemon_wait_ms = 0;
  auto driver = launch(options_);
  driver.expect_state(driver.create(""), ActorState::kAlive);
  driver.expect_state(driver.create("", [](control::CreateActor& create) { create.env = {{"LINGER", "1"}}; }),
                      ActorState::kAlive);
  ASSERT_EQ(::kill(driver.daemon(), SIGKILL), 0);
  ASSERT_TRUE(wait_session_end(driver.daemon(), Deadline::after(kPatience)).is_ok());
  EXPECT_LT(time_until_nothing_is_left(driver.dir()), std::chrono::seconds(2));
}

}  // namespace
}  // namespace beeline::runtime::node
