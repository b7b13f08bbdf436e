// Failures keep their code while context is added; the macros stop at the first one.
#include "beeline/base/status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <set>

namespace beeline {
namespace {

TEST(StatusTest, SuccessHasNoMessageAndTakesNoContext) {
  const Status status = Status::ok().with_context("while testing");
  EXPECT_TRUE(status.is_ok());
  EXPECT_EQ(status.code(), Code::kOk);
  EXPECT_EQ(status.message(), "");
}

TEST(StatusTest, ContextIsPutBeforeTheMessageAndKeepsCodeAndErrno) {
  const auto status = Status::from_errno("open /nowhere", ENOENT).with_context("load").with_context("start");
  EXPECT_EQ(status.code(), Code::kSystem);
  EXPECT_EQ(status.system_error(), ENOENT);
  EXPECT_EQ(status.message(), "start: load: open /nowhere: No such file or directory");
}

TEST(StatusTest, CopiesAreIndependentOfLaterContext) {
  const Status first(Code::kStale, "old");
  Status second = first;
  second = std::move(second).with_context("again");
  EXPECT_EQ(first.message(), "old");
  EXPECT_EQ(second.message(), "again: old");
}

TEST(StatusTest, EveryCodeHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(Code::kInterrupted); ++code) {
    const auto name = code_name(static_cast<Code>(code));
    EXPECT_NE(name, "unknown");
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  EXPECT_EQ(code_name(static_cast<Code>(200)), "unknown");
}

Result<int> half(int number) {
  if (number % 2 != 0) return Status(Code::kInvalidArgument, "odd");
  return number / 2;
}
Result<int> quarter(int number) {
  BEELINE_ASSIGN(const int once, half(number));
  BEELINE_ASSIGN(const int twice, half(once));
  return twice;
}
Status check_quarter(int number) {
  BEELINE_RETURN_IF_ERROR(quarter(number).status());
  return Status::ok();
}

TEST(ResultTest, TheMacrosPassValuesOnAndStopAtTheFirstFailure) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(6).status().message(), "odd");
  EXPECT_TRUE(check_quarter(4).is_ok());
  EXPECT_EQ(check_quarter(2).code(), Code::kInvalidArgument);
}

TEST(ResultTest, HoldsWhatOnlyMoves) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(3);
  ASSERT_TRUE(result.is_ok());
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 3);
}

TEST(CheckDeathTest, AViolatedInvariantSaysWhatItWas) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(BEELINE_CHECK(1 > 2, "numbers are ordered"), "violated: 1 > 2: numbers are ordered");
}

}  // namespace
}  // namespace beeline
