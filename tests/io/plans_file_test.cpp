#include <cstdlib>
#include <optional>

#include <catch2/catch.hpp>

#include <blinkbert/io/plans_file.hpp>

#include <tests/io/temporary_folder.hpp>

using namespace blinkbert;

namespace {

const std::string card = "NVIDIA H100 80GB HBM3, 132 multiprocessors, cuBLASLt 130002";

PlansFile some_plans() {
  return {.device = card,
          .plans = {{"30720x2048x512 bf16 a*b' bias_gelu_kept align16", "epilogue 0123456789abcdef 0"},
                    {"7x5x3 tf32 a*b align2", "bare 1"}}};
}

/// An environment variable with another value for as long as this lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    set(value);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() { set(before_ ? before_->c_str() : nullptr); }

 private:
  void set(const char* value) { value == nullptr ? ::unsetenv(name_) : ::setenv(name_, value, 1); }
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("plans are the same after a way through a file") {
  const TemporaryFolder folder;
  for (const PlansFile& file : {some_plans(), PlansFile{}, PlansFile{.device = "\"quoted\"\n", .plans = {{"", ""}}}}) {
    write_plans(folder / "plans.json", file);
    CHECK(read_plans(folder / "plans.json") == file);
  }
}

TEST_CASE("what is no plans.json is refused with its name") {
  const TemporaryFolder folder;
  for (const char* bytes : {"", "[]", "{}", R"({"device": "x"})", R"({"plans": {}})", R"({"device": 1, "plans": {}})",
                            R"({"device": "x", "plans": []})", R"({"device": "x", "plans": {"a": 1}})",
                            R"({"device": "x", "plans": {"a": "b", "a": "c"}})"}) {
    INFO(bytes);
    const auto path = folder.put("plans.json", bytes);
    CHECK_THROWS_AS(read_plans(path), InputError);
    CHECK_THROWS_WITH(read_plans(path), Catch::StartsWith(path.string() + ": "));
  }
  CHECK_THROWS_AS(read_plans(folder / "none"), InputError);
}

TEST_CASE("the cache is one file for each card and library, in the user's folder") {
  {
    const Variable cache("XDG_CACHE_HOME", "/somewhere"), home("HOME", "/home/someone");
    CHECK(plans_cache(card) ==
          "/somewhere/blinkbert/plans-NVIDIA-H100-80GB-HBM3-132-multiprocessors-cuBLASLt-130002.json");
    CHECK(plans_cache("../x y/ ") == "/somewhere/blinkbert/plans-x-y.json");
  }
  const Variable cache("XDG_CACHE_HOME", nullptr);
  {
    const Variable home("HOME", "/home/someone");
    CHECK(plans_cache("x") == "/home/someone/.cache/blinkbert/plans-x.json");
  }
  const Variable home("HOME", nullptr);
  CHECK(plans_cache("x").empty());
  CHECK_FALSE(keep_plans(plans_cache("x"), some_plans()));
}

TEST_CASE("a run's own plans win over the cache, and both over nothing") {
  const TemporaryFolder folder;
  const auto cache = folder / "a/b/plans.json", of_run = folder / "run.json";
  CHECK(plans_to_use(card, of_run, cache).empty());
  CHECK(plans_to_use(card, {}, {}).empty());

  CHECK(keep_plans(cache, {.device = card, .plans = {{"one", "cached"}, {"two", "cached"}}}));
  CHECK(plans_to_use(card, of_run, cache) == std::map<std::string, std::string>{{"one", "cached"}, {"two", "cached"}});
  write_plans(of_run, {.device = card, .plans = {{"one", "of the run"}}});
  CHECK(plans_to_use(card, of_run, cache) ==
        std::map<std::string, std::string>{{"one", "of the run"}, {"two", "cached"}});

  // What is kept later wins over what was there, and leaves the rest.
  CHECK(keep_plans(cache, {.device = card, .plans = {{"two", "newer"}, {"three", "newer"}}}));
  CHECK(read_plans(cache).plans ==
        std::map<std::string, std::string>{{"one", "cached"}, {"two", "newer"}, {"three", "newer"}});

  CHECK(plans_to_use("another card", of_run, cache).empty());
}

TEST_CASE("a broken cache counts as empty and is made anew, a run's broken file is an error") {
  const TemporaryFolder folder;
  const auto broken = folder.put("plans.json", "{");
  CHECK(plans_to_use(card, {}, broken).empty());
  CHECK_THROWS_AS(plans_to_use(card, broken, {}), InputError);
  CHECK(keep_plans(broken, some_plans()));
  CHECK(read_plans(broken) == some_plans());
  CHECK_FALSE(keep_plans(broken / "below a file", some_plans()));
}
