// Limits of cgroups, as folders that look like those of the kernel say them.
#include "beeline/os/process_limits.h"

#include <gtest/gtest.h>

#include <fstream>

namespace beeline::os {
namespace {

namespace fs = std::filesystem;

class ProcessLimitsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "limits-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    const fs::path whole = root_ / path;
    fs::create_directories(whole.parent_path());
    std::ofstream(whole) << text;
  }

  fs::path root_;
};

TEST_F(ProcessLimitsTest, WithoutCgroupsNothingIsLimited) {
  EXPECT_FALSE(cgroup_limits(root_).memory_bytes);
  EXPECT_FALSE(cgroup_limits(root_).cpus);
}

TEST_F(ProcessLimitsTest, TheLeastOfAllLevelsOfVersion2) {
  write("proc/self/cgroup", "0::/slice/unit\n");
  write("sys/fs/cgroup/slice/memory.max", "1000\n");
  write("sys/fs/cgroup/slice/unit/memory.max", "max\n");
  write("sys/fs/cgroup/slice/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/slice/unit/cpu.max", "150000 100000\n");
  EXPECT_EQ(cgroup_limits(root_).memory_bytes, 1000u);
  EXPECT_EQ(cgroup_limits(root_).cpus, 1.5);
}

TEST_F(ProcessLimitsTest, Version1HasAPathForEachController) {
  write("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/b\n3:cpuset:/\n");
  write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000\n");
  write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/b/memory.limit_in_bytes", "4096\n");
  EXPECT_EQ(cgroup_limits(root_).memory_bytes, 4096u);
  EXPECT_EQ(cgroup_limits(root_).cpus, 0.5);
}

// The path is the host's, and its folders are not to be seen: the limits are at the mount.
TEST_F(ProcessLimitsTest, WithinAContainerTheMountIsTheCgroup) {
  write("proc/self/cgroup", "0::/../../kubepods/pod7\n");
  write("sys/fs/cgroup/memory.max", "2048");
  write("sys/fs/cgroup/cpu.max", "200000 100000");
  EXPECT_EQ(cgroup_limits(root_).memory_bytes, 2048u);
  EXPECT_EQ(cgroup_limits(root_).cpus, 2.0);
}

TEST_F(ProcessLimitsTest, WhatMeansNothingIsNoLimit) {
  write("proc/self/cgroup", "\nnothing\n0::\n1:memory\n");
  write("sys/fs/cgroup/memory.max", "much");
  write("sys/fs/cgroup/cpu.max", "100000");
  EXPECT_FALSE(cgroup_limits(root_).memory_bytes);
  EXPECT_FALSE(cgroup_limits(root_).cpus);
}

TEST(UsableTest, AtMostTheMachine) {
  EXPECT_GE(usable_cpus(), 1u);
  EXPECT_GT(usable_memory(), 1u << 20);
}

}  // namespace
}  // namespace beeline::os
