// Scoring: a session fed blink by blink, a batch over a file, and the checkpoint that both come from.

#include <catch2/catch.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <blinkbert/inference.hpp>

#include "tests/io/temporary_folder.hpp"

namespace {

using namespace blinkbert;

constexpr int window = 6, minimum = 3;

/// A checkpoint of a model with random parameters whose scores spread over several KSS; `bias` moves them all.
Model small_model(const TemporaryFolder& folder, Calibration calibration, NormOrder norm = NormOrder::post,
                  float bias = 5, const std::function<void(CheckpointHeader&)>& change = {}) {
  CheckpointHeader header{
      .config = Config::defaults(Task::finetuning), .scaler = {}, .data = "", .training_drivers = {}};
  Config& config = header.config;
  config.data.features = {"a", "b"};
  config.data.calibration = calibration;
  config.data.calibration_blinks = 8;  // ends inside the first recording's windows
  config.data.window = window;
  config.data.min_length = minimum;
  config.model = {
      .upscaling = Upscaling::attention_linear, .width = 8, .blocks = 2, .heads = 2, .dropout = 0.1, .norm = norm};
  config.head.hidden = {4};
  if (change) change(header);
  resolve(config);
  validate(config);
  const auto N = static_cast<std::size_t>(model_features(config.data));
  header.scaler = {.center = std::vector<double>(N, 0.25), .scale = std::vector<double>(N, 1.5), .tail_bound = 2};

  Cpu<float> device(1);
  FinetuningModel<Cpu<float>> model(device, config);
  auto& set = model.parameters();
  auto values = to_host(device, set.values());
  auto statistics = to_host(device, set.statistics());
  for (const auto& entry : set.entries()) {
    const auto begin = static_cast<std::size_t>(entry.begin);
    for (std::size_t i = 0; i < static_cast<std::size_t>(entry.count); ++i) {
      if (entry.name == "head.output.bias") values[begin + i] = entry.count == 1 ? bias : 0;
      if (entry.name == "head.output.weight") values[begin + i] *= 4;
    }
  }
  for (const auto& entry : set.statistic_entries()) {
    if (entry.name == "head.norm.0.running_var") std::fill_n(statistics.begin() + entry.begin, entry.count, 0.3f);
  }
  write_safetensors(folder / "model.safetensors", make_checkpoint(set, values, statistics, header));
  return Model::load(folder / "model.safetensors");
}

/// Two recordings of driver p with one of q between them, and one of q that is shorter than the window. q has its
/// own calibration, so a mix-up shows.
Frame small_frame(const TemporaryFolder& folder) {
  std::mt19937 words(7);
  const auto number = [&] { return static_cast<double>(words()) / 4294967296.0 * 4 - 2; };
  std::string csv = "recording,driver,a,b\n";
  const auto add = [&](const std::string& recording, const std::string& driver, int rows, double offset) {
    for (int i = 0; i < rows; ++i) csv += text(recording, ',', driver, ',', offset + number(), ',', number(), '\n');
  };
  add("p1", "p", 11, 1);
  add("q1", "q", 9, -1);
  add("p2", "p", 10, 1);
  add("q2", "q", window - 2, -1);
  return read_frame(folder.put("blinks.csv", csv), {.features = {"a", "b"}});
}

std::span<const double> blink(const Frame& frame, int row) {
  return std::span(frame.values).subspan(static_cast<std::size_t>(row) * 2, 2);
}

/// What sessions, one per driver, say after every blink of the file.
std::vector<std::optional<float>> streamed(const Model& model, const Frame& frame) {
  std::vector<std::unique_ptr<Session>> sessions;
  for (std::size_t d = 0; d < frame.drivers.size(); ++d) sessions.push_back(std::make_unique<Session>(model));
  std::vector<std::optional<float>> scores;
  for (const Recording& recording : frame.recordings) {
    Session& session = *sessions[static_cast<std::size_t>(recording.driver)];
    session.begin_recording();
    for (int i = 0; i < recording.rows; ++i) {
      session.push(blink(frame, recording.first_row + i));
      scores.push_back(session.score());
    }
  }
  return scores;
}

/// Scores are a few units large; one batch may sum in another order than another. A score is a sum of products through
/// some 20 layers of at most 32 terms, each exact to half a unit in the last place of numbers below 16.
constexpr double tolerance = 20 * 32 * 16 * 6e-8;

}  // namespace

TEST_CASE("A session's scores are the batch's, at the last blink of every window") {
  const TemporaryFolder folder;
  for (const NormOrder norm : {NormOrder::post, NormOrder::pre}) {
    for (const Calibration calibration : {Calibration::append, Calibration::standardise, Calibration::none}) {
      INFO(spell(calibration) << ' ' << spell(norm));
      const Model model = small_model(folder, calibration, norm);
      const Dataset dataset = model.dataset(small_frame(folder));
      const auto sessions = streamed(model, dataset.frame);
      const WindowIndex index = index_windows(dataset.frame, window, 1, minimum);
      const std::vector<float> batch = model.score(dataset.table, index.windows);
      REQUIRE(batch.size() == (11 - 5) + (9 - 5) + (10 - 5) + 1);
      REQUIRE(index.windows.back().length == window - 2);
      float lowest = batch[0], highest = batch[0];
      for (std::size_t i = 0; i < batch.size(); ++i) {
        const Window& one = index.windows[i];
        const auto& session = sessions[static_cast<std::size_t>(one.start + one.length - 1)];
        CAPTURE(i, one.start, one.length);
        REQUIRE(session.has_value());
        CHECK(std::abs(*session - batch[i]) <= tolerance);
        lowest = std::min(lowest, batch[i]);
        highest = std::max(highest, batch[i]);
      }
      CHECK(highest - lowest > 0.2);  // scores that were all alike would agree whatever the session read

      // Below the minimum there is no score; from there on it is that of the blinks so far.
      std::size_t row = 0;
      for (const Recording& recording : dataset.frame.recordings) {
        for (int i = 0; i < recording.rows; ++i, ++row) {
          CAPTURE(recording.name, i);
          CHECK(sessions[row].has_value() == (i + 1 >= minimum));
          if (i + 1 < minimum || i + 1 >= window) continue;
          const Window part{.recording = 0, .start = recording.first_row, .length = i + 1, .label = 0};
          CHECK(std::abs(*sessions[row] - model.score(dataset.table, {&part, 1})[0]) <= tolerance);
        }
      }
    }
  }
}

TEST_CASE("Transforms, statistics, pooling and levels stream as they score files") {
  const TemporaryFolder folder;
  for (const LossKind loss : {LossKind::squared, LossKind::softmax, LossKind::ordinal}) {
    for (const Pool pool : {Pool::last, Pool::mean}) {
      INFO(spell(loss) << ' ' << spell(pool));
      const Model model = small_model(folder, Calibration::append, NormOrder::post, 5, [&](CheckpointHeader& header) {
        header.config.data.increments = {"b"};
        header.config.data.transform = Transform::asinh;
        header.config.data.transform_scale = {2, 0.5, 3};
        header.config.data.window_statistics = true;
        header.config.head.pool = pool;
        header.config.train.loss = loss;
        if (is_over_levels(loss)) header.level_values = {2, 6, 8, 9};
      });
      const Dataset dataset = model.dataset(small_frame(folder));
      const auto sessions = streamed(model, dataset.frame);
      const WindowIndex index = index_windows(dataset.frame, window, 1, minimum);
      const std::vector<ScoredWindow> scored = model.score(dataset, index.windows);
      const std::vector<float> scores = model.score(dataset.table, index.windows);
      float lowest = 9, highest = 1;
      for (std::size_t i = 0; i < scores.size(); ++i) {
        CAPTURE(i);
        const Window& one = index.windows[i];
        const auto& session = sessions[static_cast<std::size_t>(one.start + one.length - 1)];
        REQUIRE(session.has_value());
        CHECK(std::abs(*session - scores[i]) <= tolerance);
        CHECK(static_cast<float>(scored[i].prediction) == scores[i]);
        CHECK(scored[i].posterior.size() == (is_over_levels(loss) ? 4 : 0));
        lowest = std::min(lowest, scores[i]);
        highest = std::max(highest, scores[i]);
      }
      CHECK(highest - lowest > 0.05);
    }
  }
}

TEST_CASE("A new recording forgets the blinks and keeps the calibration") {
  const TemporaryFolder folder;
  const Frame frame = small_frame(folder);
  const auto score_of_second = [&](const Model& model, bool pushes_first_recording, bool begins_recording) {
    Session session(model);
    for (int row = 0; row < 11 && pushes_first_recording; ++row) session.push(blink(frame, row));
    if (begins_recording) session.begin_recording();
    for (int row = 20; row < 20 + minimum; ++row) session.push(blink(frame, row));
    return session.score();
  };
  for (const Calibration calibration : {Calibration::append, Calibration::standardise, Calibration::none}) {
    INFO(spell(calibration));
    const Model model = small_model(folder, calibration);
    const auto fresh = score_of_second(model, false, false), kept = score_of_second(model, true, true),
               mixed = score_of_second(model, true, false);
    REQUIRE((fresh.has_value() && kept.has_value() && mixed.has_value()));
    CHECK((*fresh == *kept) == (calibration == Calibration::none));
    CHECK(*mixed != *kept);
  }
  Session session(small_model(folder, Calibration::append));
  CHECK_FALSE(session.score().has_value());
  for (int row = 0; row < 11; ++row) session.push(blink(frame, row));
  CHECK(session.score().has_value());
  session.begin_recording();
  CHECK_FALSE(session.score().has_value());
}

TEST_CASE("A blink that is not finite is refused and changes nothing") {
  const TemporaryFolder folder;
  const Frame frame = small_frame(folder);
  const Model model = small_model(folder, Calibration::append);
  Session session(model), untouched(model);
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const std::vector<std::vector<double>> bad{{nan, 1}, {1, nan}, {infinity, 0}, {0, -infinity}};
  for (int row = 0; row < 11; ++row) {
    for (const auto& features : bad) {
      const std::string message = message_of<InputError>([&] { session.push(features); });
      CHECK_THAT(message, Catch::Contains("not a finite number"));
      CHECK_THAT(message, Catch::Contains(std::isfinite(features[0]) ? " b " : " a "));
    }
    session.push(blink(frame, row));
    untouched.push(blink(frame, row));
    CHECK(session.score() == untouched.score());
  }
  for (const std::vector<double>& features : {std::vector<double>{}, {1}, {1, 2, 3}}) {
    CHECK_THROWS_AS(session.push(features), ContractViolation);
  }
  CHECK(session.score() == untouched.score());
}

TEST_CASE("Scores stay in the labels' range") {
  const TemporaryFolder folder;
  for (const auto& [bias, bound] : std::vector<std::pair<float, float>>{{-1000.0f, 1.0f}, {1000.0f, 9.0f}}) {
    const Model model = small_model(folder, Calibration::none, NormOrder::post, bias);
    const Dataset dataset = model.dataset(small_frame(folder));
    const WindowIndex index = index_windows(dataset.frame, window, 1, minimum);
    for (const float score : model.score(dataset.table, index.windows)) CHECK(score == bound);
    Session session(model);
    for (int row = 0; row < window; ++row) session.push(blink(dataset.frame, row));
    CHECK(session.score() == bound);
  }
}

TEST_CASE("Batches: none, many, and any number of threads") {
  const TemporaryFolder folder;
  const Model model = small_model(folder, Calibration::append);
  const Dataset dataset = model.dataset(small_frame(folder));
  const std::vector<Window> windows = index_windows(dataset.frame, window, 1, minimum).windows;
  CHECK(model.score(dataset.table, {}).empty());

  std::vector<Window> many;
  while (many.size() < 150) many.insert(many.end(), windows.begin(), windows.end());
  const std::vector<float> once = model.score(dataset.table, windows, 1);
  for (const int threads : {1, 2, 0}) {
    const std::vector<float> scores = model.score(dataset.table, many, threads);
    REQUIRE(scores.size() == many.size());
    for (std::size_t i = 0; i < many.size(); ++i) CHECK(std::abs(scores[i] - once[i % once.size()]) <= tolerance);
  }
}

TEST_CASE("Threads share one model, which outlives the variable that loaded it") {
  const TemporaryFolder folder;
  std::vector<std::vector<std::optional<float>>> scores(4);
  std::vector<std::vector<float>> batches(4);
  std::vector<std::optional<float>> wanted;
  std::vector<float> wanted_batch;
  {
    std::vector<std::thread> threads;
    const Model model = small_model(folder, Calibration::append);
    const Frame frame = small_frame(folder);
    const Dataset dataset = model.dataset(frame);
    const std::vector<Window> windows = index_windows(frame, window, 1, minimum).windows;
    wanted = streamed(model, frame);
    wanted_batch = model.score(dataset.table, windows, 1);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      threads.emplace_back([&, i] {
        const Model copy = model;
        for (int round = 0; round < 3; ++round) {
          scores[i] = streamed(copy, frame);
          batches[i] = copy.score(dataset.table, windows, 1);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    CHECK(scores[i] == wanted);
    CHECK(batches[i] == wanted_batch);
  }

  std::optional<Session> session;
  {
    const Model model = small_model(folder, Calibration::append);
    session.emplace(model);
  }
  const Frame frame = small_frame(folder);
  for (int row = 0; row < window; ++row) session->push(blink(frame, row));
  CHECK(session->score() == wanted[window - 1]);
}

TEST_CASE("Only a whole fine-tuning checkpoint loads") {
  const TemporaryFolder folder;
  small_model(folder, Calibration::none);
  const std::string good = read_file(folder / "model.safetensors");
  Config pretraining = Config::defaults(Task::pretraining);
  pretraining.data.features = {"a"};
  pretraining.data.calibration = Calibration::none;
  pretraining.data.window = pretraining.data.min_length;
  pretraining.model = {.upscaling = Upscaling::linear, .width = 4, .blocks = 1, .heads = 1};
  resolve(pretraining);
  Cpu<float> device(1);
  PretrainingModel<Cpu<float>> model(device, pretraining);
  write_safetensors(
      folder / "pretraining.safetensors",
      make_checkpoint(
          model.parameters(), to_host(device, model.parameters().values()),
          to_host(device, model.parameters().statistics()),
          {.config = pretraining, .scaler = {.center = {0}, .scale = {1}}, .data = "", .training_drivers = {}}));
  CHECK_THAT(message_of<InputError>([&] { Model::load(folder / "pretraining.safetensors"); }),
             Catch::Contains("pretraining.safetensors") && Catch::Contains("pre-training checkpoint"));
  CHECK_THAT(message_of<InputError>([&] { Model::load(folder / "absent.safetensors"); }),
             Catch::Contains("absent.safetensors"));
  // Cut anywhere: in the length, the header, the numbers, and by one byte.
  for (const std::size_t length :
       {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{100}, good.size() / 2, good.size() - 1}) {
    INFO(length);
    const auto path = folder.put("cut.safetensors", good.substr(0, length));
    const std::string message = message_of<InputError>([&] { Model::load(path); });
    CHECK_THAT(message, Catch::Contains("cut.safetensors"));
    CHECK(message.find('\n') == std::string::npos);
  }
}
