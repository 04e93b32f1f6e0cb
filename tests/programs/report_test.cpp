// report.html: well-formed, complete by itself, whatever names are in the data.

#include <catch2/catch.hpp>

#include <cmath>

#include "examples/experiments/experiment_file.hpp"
#include "examples/report/figures.hpp"
#include "markup.hpp"
#include "small_run.hpp"

namespace {

using namespace blinkbert::test;
namespace report = programs::report;

const std::string nasty =
    R"(<b class="x">&amp; 'quoted' "Ümläut" a_word_that_is_far_too_long_for_a_line_of_a_chart_of_any_kind)";

std::string nasty_page() {
  using programs::Json;
  const double nan = std::nan("");
  std::string body = report::facts({{nasty, nasty}}) + report::preformatted(nasty);
  const auto add = [&](const std::string& svg) {
    body += report::Figure{svg, nasty, {{nasty}, {nasty, nasty}}}.html();
  };
  add(report::line_chart(nasty, nasty, nasty, {{.name = nasty, .points = {{1, 2}, {2, nan}, {3, 4}, {4, 5}}}},
                         {.low = 0, .high = 0}, {{2, nasty}}));
  add(report::line_chart("without values", "x", "y", {{.name = "nothing", .points = {{1, nan}}}}));
  add(report::bar_chart(nasty, nasty, {nasty, "two"}, {{.name = nasty, .values = {1, nan}, .interval = {{0.5, 2}}}}));
  add(report::interval_chart(
      nasty, nasty, {{.name = nasty, .value = nan, .interval = {}}, {.name = "b", .value = 1, .interval = {{0, 3}}}},
      0));
  add(report::confusion_chart(nasty, {nasty, "b"}, {{1, 0}, {0, 0}}, 0));
  add(report::box_chart(nasty, nasty, nasty, {{.at = 1, .percentiles = {1, 2, 3, 4, 5}}}, {{2, 3}}, 1, 9));
  return report::page(nasty, report::section(nasty, report::figures(body)));
}

}  // namespace

TEST_CASE("The checker of pages finds what is planted") {
  CHECK(page_fault("<p>a</p>").empty());
  for (const std::string page :
       {"<p>a", "<p>a</b></p>", "<p>a & b</p>", "<p class=\"a>b</p>", "<p>https://a</p>", "<img src=\"a\"/>",
        "<figure><svg x=\"1\"></svg></figure>", "<script></script>", "a < b"}) {
    INFO(page);
    CHECK_FALSE(page_fault(page).empty());
  }
}

TEST_CASE("Names from data cannot break a page, and no coordinate is without a number") {
  const std::string page = nasty_page();
  CHECK(page_fault(page) == "");
  CHECK(page.find("<b class") == page.npos);
  CHECK(count_of(page, "<figure>") == 6);
}

TEST_CASE("Axes end at whole steps around the values") {
  struct Case {
    double low, high;
  };
  for (const auto& [low, high] : std::vector<Case>{{0, 1}, {-3.2, 17}, {0.581, 0.583}, {5, 5}, {-1e6, 1e6}, {0, 0.3}}) {
    INFO(low << ' ' << high);
    const report::Axis axis = report::Axis::over("x", low, high);
    CHECK(axis.low <= low);
    CHECK(axis.high >= high);
    const auto ticks = axis.ticks();
    CHECK(ticks.size() >= 2);
    CHECK(ticks.size() <= 12);
    CHECK(std::abs(ticks.back() - axis.high) < 1e-6 * axis.step);
    // Labels of neighbours differ: enough digits are shown.
    for (std::size_t i = 1; i < ticks.size(); ++i)
      CHECK(report::tick_text(ticks[i - 1], axis.step) != report::tick_text(ticks[i], axis.step));
  }
}

TEST_CASE("Lines are broken so that they fit, and nothing is lost") {
  for (const double width : {30.0, 100.0, 350.0}) {
    std::string together;
    for (const std::string& line : report::wrapped(nasty, width, 10)) {
      CHECK(report::text_width(line, 10) <= std::max(width, 7.0));
      together += line;
    }
    const auto without_spaces = [](std::string word) {
      std::erase(word, ' ');
      return word;
    };
    CHECK(without_spaces(together) == without_spaces(nasty));
  }
}

TEST_CASE("A report has every figure of a run, also of one that is finished") {
  const SmallRun small;
  const Result first = run("pretrain", small.flags("pretraining") + Arguments{"--report"});
  INFO(first.err);
  REQUIRE(first.exit_code == 0);
  CHECK_THAT(first.out, Catch::Contains("report: " + (small.path("pretraining") / "report.html").string()));
  const std::string pretraining = bytes_of(small.path("pretraining") / "report.html");
  CHECK(page_fault(pretraining) == "");
  CHECK(count_of(pretraining, "<figure>") == 3);  // loss; masked rows with tails bounded, and as measured
  for (const std::string word : {"Loss by epoch", "nearest visible row", "duration_ms", "ridge",
                                 "calibration_blinks = 8", "--report", "fingerprint", "blinkbert 0."}) {
    INFO(word);
    CHECK_THAT(pretraining, Catch::Contains(word));
  }

  REQUIRE(run("finetune", small.flags("finetuning") + Arguments{"--from-scratch"}).exit_code == 0);
  const Path page = small.path("finetuning") / "report.html";
  CHECK_FALSE(std::filesystem::exists(page));
  put(small.path("finetuning") / "importances.json", R"({"batch_norm": 0.6, "hidden": 0.4})");
  REQUIRE(run("finetune", small.flags("finetuning") + Arguments{"--from-scratch", "--resume", "--report"}).exit_code ==
          0);
  const std::string finetuning = bytes_of(page);
  CHECK(page_fault(finetuning) == "");
  for (const std::string word : {"Loss by epoch", "Validation by epoch", "Windows by true and predicted level",
                                 "Predicted against true score", "Score over the recording", "By driver",
                                 "Importance of hyper-parameters", "batch_norm", "quadratic weighted kappa"}) {
    INFO(word);
    CHECK_THAT(finetuning, Catch::Contains(word));
  }

  put(small.path("finetuning") / "importances.json", R"({"batch_norm": "much"})");
  const Result bad = run("finetune", small.flags("finetuning") + Arguments{"--from-scratch", "--resume", "--report"});
  CHECK(bad.exit_code == 2);
  CHECK_THAT(bad.err, Catch::Contains("importances.json"));
}

TEST_CASE("predictions.csv gives the scores of report.json") {
  const SmallRun small;
  REQUIRE(run("finetune", small.flags("finetuning") + Arguments{"--from-scratch"}).exit_code == 0);
  const auto predictions = programs::read_predictions(small.path("finetuning") / "predictions.csv");
  const Json result = Json::parse(bytes_of(small.path("finetuning") / "report.json"));
  REQUIRE(predictions.size() == result["test"]["windows"].get<std::size_t>());
  double sum = 0;
  for (const auto& one : predictions) {
    sum += std::abs(std::clamp(one.prediction, 1.0, 9.0) - one.truth);
    CHECK(one.last_blink - one.first_blink + 1 <= 10);
  }
  // The file holds what was scored; the sum is taken in another order.
  CHECK(sum / static_cast<double>(predictions.size()) ==
        Approx(result["test"]["model"]["mae"].get<double>()).epsilon(1e-12));

  auto twice = predictions, shifted = predictions;
  for (auto& one : shifted) one.prediction += 1;
  const auto mean = programs::mean_predictions(std::vector{twice, shifted});
  REQUIRE(mean.size() == predictions.size());
  for (std::size_t i = 0; i < mean.size(); ++i) CHECK(mean[i].prediction == Approx(predictions[i].prediction + 0.5));
}
