// The whole model on the CPU against the same model in plain loops: outputs, losses, batch norm's running values and
// the gradient of every parameter. Gradients are checked three ways: some elements of each parameter against duals, all
// elements at once along a random direction against duals, and the duals along that direction against finite
// differences.

#include <blinkbert/objective/masked_rows.hpp>
#include <blinkbert/objective/score.hpp>
#include <tests/model/model_case.hpp>
#include <tests/oracle/masked_loss.hpp>
#include <tests/oracle/score_loss.hpp>

namespace blinkbert::test {
namespace {

using oracle::Dual;
using oracle::Parameters;
using BatchNorm = ModelCase::BatchNorm;

const std::vector<ModelCase>& cases() {
  static const std::vector<ModelCase> table{
      {.name = "no upscaling, heads divide the width",
       .N = 4,
       .E = 4,
       .heads = 2,
       .blocks = 1,
       .upscaling = Upscaling::none},
      {.name = "no upscaling, pre-norm, sinusoidal",
       .N = 9,
       .E = 9,
       .heads = 2,
       .blocks = 2,
       .upscaling = Upscaling::none,
       .norm = NormOrder::pre,
       .position = Position::sinusoidal},
      {.name = "linear, no hidden layer", .N = 4, .E = 8, .heads = 4, .blocks = 2, .hidden = {}},
      {.name = "linear, pre-norm, batch norm over all rows",
       .N = 4,
       .E = 6,
       .heads = 4,
       .blocks = 1,
       .norm = NormOrder::pre,
       .batch_norm = BatchNorm::yes},
      {.name = "attention linear, four heads on nine features",
       .N = 9,
       .E = 8,
       .heads = 4,
       .blocks = 1,
       .upscaling = Upscaling::attention_linear},
      {.name = "attention linear, eight heads on eighteen features, all switched on",
       .N = 18,
       .E = 12,
       .heads = 8,
       .blocks = 1,
       .upscaling = Upscaling::attention_linear,
       .hidden = {7, 5},
       .batch_norm = BatchNorm::yes,
       .dropout = 0.15,
       .head_dropout = 0.2},
      {.name = "attention linear, pre-norm, dropout",
       .N = 4,
       .E = 6,
       .heads = 2,
       .blocks = 2,
       .upscaling = Upscaling::attention_linear,
       .norm = NormOrder::pre,
       .dropout = 0.2,
       .lengths = {5, 7, 2},
       .L = 7},
      {.name = "attention concatenation, head on chosen rows",
       .N = 4,
       .E = 10,
       .heads = 2,
       .blocks = 1,
       .upscaling = Upscaling::attention_concatenation,
       .rows = HeadRows::masked},
      {.name = "attention concatenation, pre-norm, sinusoidal, batch norm over chosen rows, dropout",
       .N = 9,
       .E = 12,
       .heads = 4,
       .blocks = 1,
       .upscaling = Upscaling::attention_concatenation,
       .norm = NormOrder::pre,
       .position = Position::sinusoidal,
       .hidden = {6},
       .batch_norm = BatchNorm::yes,
       .rows = HeadRows::masked,
       .dropout = 0.1,
       .head_dropout = 0.1},
      {.name = "head on chosen rows, two hidden layers, an empty sequence",
       .N = 4,
       .E = 8,
       .heads = 2,
       .blocks = 1,
       .hidden = {6, 5},
       .rows = HeadRows::masked,
       .head_dropout = 0.25,
       .lengths = {5, 0, 3},
       .L = 5},
      {.name = "head on all rows, an empty sequence",
       .N = 4,
       .E = 8,
       .heads = 2,
       .blocks = 1,
       .upscaling = Upscaling::attention_linear,
       .hidden = {6},
       .batch_norm = BatchNorm::yes,
       .lengths = {0, 5, 1},
       .L = 5},
      {.name = "attention concatenation, last block for the chosen rows",
       .N = 4,
       .E = 10,
       .heads = 2,
       .blocks = 1,
       .upscaling = Upscaling::attention_concatenation,
       .rows = HeadRows::masked,
       .last_block = LastBlock::read,
       .lengths = {5, 0, 7},
       .L = 7},
      {.name = "no upscaling, pre-norm, last of two blocks for the chosen rows, dropout",
       .N = 9,
       .E = 9,
       .heads = 2,
       .blocks = 2,
       .upscaling = Upscaling::none,
       .norm = NormOrder::pre,
       .position = Position::sinusoidal,
       .batch_norm = BatchNorm::yes,
       .rows = HeadRows::masked,
       .last_block = LastBlock::read,
       .dropout = 0.2,
       .head_dropout = 0.1},
      {.name = "attention linear, last of two blocks for the chosen rows of long sequences, dropout",
       .N = 3,
       .E = 5,
       .heads = 2,
       .blocks = 2,
       .upscaling = Upscaling::attention_linear,
       .rows = HeadRows::masked,
       .last_block = LastBlock::read,
       .dropout = 0.2,
       .lengths = {19, 17},
       .L = 19},
      {.name = "score",
       .N = 9,
       .E = 8,
       .heads = 2,
       .blocks = 2,
       .last_block = LastBlock::read,
       .task = Task::finetuning},
      {.name = "linear, window statistics, chosen rows",
       .N = 4,
       .E = 6,
       .heads = 2,
       .blocks = 1,
       .rows = HeadRows::masked,
       .dropout = 0.1,
       .statistics = ModelCase::WindowStatistics::yes},
      {.name = "attention linear, window statistics",
       .N = 3,
       .E = 8,
       .heads = 3,
       .blocks = 1,
       .upscaling = Upscaling::attention_linear,
       .statistics = ModelCase::WindowStatistics::yes},
      {.name = "score of the mean row, an empty sequence, dropout, batch norm",
       .N = 4,
       .E = 8,
       .heads = 2,
       .blocks = 2,
       .batch_norm = BatchNorm::yes,
       .task = Task::finetuning,
       .dropout = 0.1,
       .head_dropout = 0.2,
       .lengths = {6, 5, 0, 3, 1},
       .pool = Pool::mean},
      {.name = "levels, mean row, window statistics, no hidden layer",
       .N = 4,
       .E = 8,
       .heads = 2,
       .blocks = 1,
       .hidden = {},
       .task = Task::finetuning,
       .lengths = {6, 5, 3, 1},
       .pool = Pool::mean,
       .statistics = ModelCase::WindowStatistics::yes,
       .score_outputs = 3},
      {.name = "levels, last row, pre-norm",
       .N = 4,
       .E = 6,
       .heads = 2,
       .blocks = 2,
       .norm = NormOrder::pre,
       .last_block = LastBlock::read,
       .task = Task::finetuning,
       .lengths = {6, 4, 2, 0},
       .score_outputs = 2},
      {.name = "score, batch norm, dropout",
       .N = 4,
       .E = 6,
       .heads = 4,
       .blocks = 1,
       .upscaling = Upscaling::attention_linear,
       .batch_norm = BatchNorm::yes,
       .last_block = LastBlock::read,
       .task = Task::finetuning,
       .dropout = 0.1,
       .head_dropout = 0.2,
       .lengths = {6, 5, 3, 1}},
      {.name = "score, two hidden layers, pre-norm, an empty sequence",
       .N = 4,
       .E = 8,
       .heads = 2,
       .blocks = 1,
       .norm = NormOrder::pre,
       .hidden = {6, 4},
       .last_block = LastBlock::read,
       .task = Task::finetuning,
       .lengths = {6, 0, 2}},
      {.name = "score, one real sequence: batch norm keeps its running values",
       .N = 4,
       .E = 8,
       .heads = 2,
       .blocks = 1,
       .hidden = {6},
       .batch_norm = BatchNorm::yes,
       .last_block = LastBlock::read,
       .task = Task::finetuning,
       .lengths = {6, 0}},
  };
  return table;
}

/// dot(output, weights).
template <class Number>
Number objective(const ModelCase& one, const Parameters<Number>& parameters, const HostBatch& host,
                 const oracle::PassCase& pass, const std::vector<double>& weights) {
  const std::vector<Number> output = oracle_model(one, parameters, host, pass).output;
  Number sum = 0;
  for (std::size_t i = 0; i < output.size(); ++i) sum += output[i] * Number(weights[i]);
  return sum;
}

template <class To>
Parameters<To> converted_parameters(const Parameters<double>& parameters) {
  Parameters<To> result;
  for (const auto& [name, values] : parameters) result[name] = converted<To>(values);
  return result;
}

/// Gradients of `loss` (Parameters<Dual<double>> -> Dual<double>), compared with `actual`.
template <class Loss>
void check_gradients(const Parameters<double>& parameters, const Parameters<double>& actual, double tolerance,
                     const Loss& loss) {
  Parameters<Dual<double>> duals = converted_parameters<Dual<double>>(parameters);
  double along_actual = 0, length = 0;
  std::uint64_t key = 5000;
  for (const auto& [name, gradient] : actual) {
    INFO(name);
    std::vector<Dual<double>>& values = duals.at(name);
    REQUIRE(values.size() == gradient.size());
    for (const std::size_t element : oracle::some_elements(gradient.size(), 3)) {
      values[element].derivative = 1;
      const double expected = loss(duals).derivative;
      values[element].derivative = 0;
      INFO("element " << element << ": " << gradient[element] << ", must be " << expected << " +- " << tolerance);
      CHECK(std::abs(gradient[element] - expected) <= tolerance);
    }
  }
  for (const auto& [name, gradient] : actual) {
    const std::vector<double> direction = random_values<double>(static_cast<int>(gradient.size()), ++key);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      duals.at(name)[i].derivative = direction[i];
      along_actual += gradient[i] * direction[i];
      length += std::abs(direction[i]);
    }
  }
  const double along_expected = loss(duals).derivative;
  INFO("along a random direction: " << along_actual << ", must be " << along_expected);
  CHECK(std::abs(along_actual - along_expected) <= tolerance * length);
}

TEST_CASE("the model's outputs, running values and gradients are those of plain loops") {
  for (const ModelCase& one : cases()) {
    for (const Mode mode : {Mode::training, Mode::evaluation}) {
      INFO(one.name << (mode == Mode::training ? ", training" : ", evaluation"));
      const Parameters<double> parameters = random_parameters(one);
      ModelBench<Cpu<double>> bench(one);
      bench.set_parameters(parameters);
      bench.load(make_batch(one, 40));
      const oracle::PassCase pass = oracle_pass(bench.host, mode);

      const std::vector<double> output = bench.forward(bench.pass(mode));
      const oracle::ModelResult<double> expected = oracle_model(one, parameters, bench.host, pass);
      check_close("output", output, expected.output, rounding_tolerance<double>(one, largest(expected.output)));
      const Parameters<double> statistics = bench.statistics();
      REQUIRE(statistics.size() == expected.statistics.size());
      for (const auto& [name, values] : statistics) {
        const std::vector<double>& wanted = expected.statistics.at(name);
        check_close(name, values, wanted, rounding_tolerance<double>(one, largest(wanted)));
        if (mode == Mode::evaluation) CHECK(values == parameters.at(name));
      }

      const std::vector<double> weights = random_doutput(one, bench.host, 41);
      bench.backward(bench.pass(mode), weights);
      const Parameters<double> gradients = bench.gradients();
      double scale = 0;
      for (const auto& [name, values] : gradients) scale = std::max(scale, largest(values));
      check_gradients(
          parameters, gradients, rounding_tolerance<double>(one, scale),
          [&](const Parameters<Dual<double>>& duals) { return objective(one, duals, bench.host, pass, weights); });
    }
  }
}

TEST_CASE("duals through the whole model agree with finite differences") {
  // Central differences in long double: the error is h^2 times a third derivative plus 2^-64 / h, about 1e-12 at h =
  // 1e-6 (third derivatives of up to about 1e3 along a direction through all parameters), and 1e-9 leaves room for
  // more.
  const long double h = 1e-6L;
  for (const ModelCase& one : cases()) {
    INFO(one.name);
    const Parameters<double> parameters = random_parameters(one);
    const HostBatch host = make_batch(one, 40);
    const oracle::PassCase pass = oracle_pass(host, Mode::training);
    const std::vector<double> weights = random_doutput(one, host, 41);
    Parameters<Dual<double>> duals = converted_parameters<Dual<double>>(parameters);
    Parameters<long double> above = converted_parameters<long double>(parameters), below = above;
    std::uint64_t key = 6000;
    for (auto& [name, values] : duals) {
      if (name.find("running") != std::string::npos) continue;
      const std::vector<double> direction = random_values<double>(static_cast<int>(values.size()), ++key);
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i].derivative = direction[i];
        above.at(name)[i] += h * static_cast<long double>(direction[i]);
        below.at(name)[i] -= h * static_cast<long double>(direction[i]);
      }
    }
    const double expected = objective(one, duals, host, pass, weights).derivative;
    const long double difference =
        (objective(one, above, host, pass, weights) - objective(one, below, host, pass, weights)) / (2 * h);
    CHECK(std::abs(static_cast<double>(difference) - expected) <= 1e-9 * std::max(1.0, std::abs(expected)));
  }
}

oracle::Loss oracle_loss(LossKind kind) {
  switch (kind) {
    case LossKind::squared:
      return oracle::Loss::squared;
    case LossKind::absolute:
      return oracle::Loss::absolute;
    case LossKind::huber:
      return oracle::Loss::huber;
    case LossKind::softmax:
    case LossKind::ordinal:
      break;
  }
  return oracle::Loss::squared;
}

/// As many edges as the outputs of a loss over levels need; scores of `make_batch` lie between 1 and 9.
std::vector<double> level_edges(const ModelCase& one, LossKind kind) {
  std::vector<double> edges;
  const int count = one.score_outputs - (kind == LossKind::softmax ? 1 : 0);
  for (int k = 1; k <= count; ++k) edges.push_back(1 + 8.0 * k / (count + 1));
  return edges;
}

/// The contract's loss of pre-training over M rows in the whole step, or of fine-tuning over as many sequences.
template <class Number>
Number contract_loss(const ModelCase& one, const Parameters<Number>& parameters, const HostBatch& host,
                     const oracle::PassCase& pass, const Config& config, const std::vector<double>& feature_weights,
                     double count) {
  const TrainConfig& train = config.train;
  const std::vector<Number> output = oracle_model(one, parameters, host, pass).output;
  if (is_over_levels(train.loss)) {
    std::vector<int> levels;
    for (const double score : host.scores) {
      const auto& edges = config.labels.edges;
      levels.push_back(
          static_cast<int>(std::count_if(edges.begin(), edges.end(), [&](double e) { return e <= score; })));
    }
    const auto level_kind = train.loss == LossKind::softmax ? oracle::LevelLoss::softmax : oracle::LevelLoss::ordinal;
    return oracle::score_loss_over_levels(output, levels, host.lengths, one.score_outputs, level_kind)[0] /
           Number(count);
  }
  const oracle::Loss kind = oracle_loss(train.loss);
  if (one.task == Task::finetuning) {
    return oracle::score_loss(output, converted<Number>(host.scores), host.lengths, kind, train.huber_delta)[0] /
           Number(count);
  }
  std::vector<int> target_row = rows_read(one, host);
  if (one.rows == HeadRows::all) {
    for (int& t : target_row) {
      if (std::find(host.selected.begin(), host.selected.end(), t) == host.selected.end()) t = -1;
    }
  }
  const std::vector<Number> sums =
      oracle::masked_loss(output, converted<Number>(host.target), target_row, one.N, kind, train.huber_delta);
  Number sum = 0;
  double weight_sum = 0;
  for (std::size_t n = 0; n < sums.size(); ++n) {
    sum += Number(feature_weights[n]) * sums[n];
    weight_sum += feature_weights[n];
  }
  return sum / Number(count * weight_sum);
}

/// The loss of a step of `count` rows or sequences, read from the device.
template <class Objective, class Device>
double loss_of(Device& device, const Objective& objective, std::int64_t count) {
  std::vector<Wide<typename Device::Real>> sums(static_cast<std::size_t>(objective.sums().size()));
  download(device, sums.data(), objective.sums());
  return objective.loss(sums.data(), count);
}

template <class Objective, class Device>
double run_objective(ModelBench<Device>& bench, Objective& objective, std::int64_t count) {
  objective.begin_step(bench.device, count);
  const Pass pass = bench.pass(Mode::training);
  const auto output = bench.model.forward(bench.device, pass, bench.input(), bench.saved);
  objective.run_loss(bench.device, bench.batch, bench.model.rows(), bench.saved.doutput.rows(0, output.extent(0)),
                     output);
  bench.model.backward(bench.device, pass, bench.saved);
  return loss_of(bench.device, objective, count);
}

TEST_CASE("the objectives' losses and gradients are the contract's") {
  // A step of more rows than this micro-batch holds: the loss is divided by the step's count.
  constexpr int elsewhere = 3;
  for (const ModelCase& one : cases()) {
    for (const LossKind kind :
         {LossKind::squared, LossKind::absolute, LossKind::huber, LossKind::softmax, LossKind::ordinal}) {
      if (is_over_levels(kind) != (one.score_outputs > 1)) continue;
      INFO(one.name << ", " << spell(kind));
      const Parameters<double> parameters = random_parameters(one);
      ModelBench<Cpu<double>> bench(one);
      bench.set_parameters(parameters);
      bench.load(make_batch(one, 40));
      Config config = config_of(one);
      TrainConfig& train = config.train;
      train.loss = kind;
      train.huber_delta = 0.75;
      config.labels.edges = level_edges(one, kind);
      std::vector<double> weights(static_cast<std::size_t>(one.N), 0.25);
      std::fill_n(weights.begin(), one.N / 2, 1.0);
      const auto count = static_cast<std::int64_t>(bench.host.selected.size()) + elsewhere;
      double loss = 0;
      if (one.task == Task::finetuning) {
        Score<Cpu<double>> objective_(bench.device, config);
        loss = run_objective(bench, objective_, count);
      } else {
        MaskedRows<Cpu<double>> objective_(bench.device, weights, train);
        loss = run_objective(bench, objective_, count);
      }
      const oracle::PassCase pass = oracle_pass(bench.host, Mode::training);
      const auto expected = [&](const auto& values) {
        return contract_loss(one, values, bench.host, pass, config, weights, static_cast<double>(count));
      };
      CHECK(std::abs(loss - expected(parameters)) <= rounding_tolerance<double>(one, loss));
      const Parameters<double> gradients = bench.gradients();
      double scale = 0;
      for (const auto& [name, values] : gradients) scale = std::max(scale, largest(values));
      check_gradients(parameters, gradients, rounding_tolerance<double>(one, scale), expected);
    }
  }
}

TEST_CASE("float and double agree to float's rounding") {
  for (const ModelCase& one : cases()) {
    INFO(one.name);
    const Parameters<double> parameters = random_parameters(one);
    const auto run_one = [&](auto& bench) {
      bench.set_parameters(parameters);
      bench.load(make_batch(one, 40));
      std::vector<double> output = bench.forward(bench.pass(Mode::training));
      bench.backward(bench.pass(Mode::training), random_doutput(one, bench.host, 41));
      return std::pair{output, bench.gradients()};
    };
    ModelBench<Cpu<float>> narrow(one);
    ModelBench<Cpu<double>> wide(one);
    const auto [output, gradients] = run_one(narrow);
    const auto [expected_output, expected_gradients] = run_one(wide);
    check_close("output", output, expected_output, rounding_tolerance<float>(one, largest(expected_output)));
    double scale = 0;
    for (const auto& [name, values] : expected_gradients) scale = std::max(scale, largest(values));
    for (const auto& [name, values] : gradients) {
      check_close(name, values, expected_gradients.at(name), rounding_tolerance<float>(one, scale));
    }
  }
}

TEST_CASE("two micro-batches accumulate to the gradients of one large batch") {
  for (ModelCase one : cases()) {
    if (one.batch_norm == BatchNorm::yes) continue;  // its statistics belong to each micro-batch
    INFO(one.name);
    one.lengths = {one.L, one.L - 1, 2, 1};
    const Parameters<double> parameters = random_parameters(one);
    const HostBatch whole = make_batch(one, 44);
    Config config = config_of(one);
    TrainConfig& train = config.train;
    if (one.score_outputs > 1) {
      train.loss = LossKind::ordinal;
      config.labels.edges = level_edges(one, train.loss);
    }
    const std::vector<double> weights(static_cast<std::size_t>(one.N), 1.0);

    const auto accumulate = [&](const std::vector<int>& borders) {
      ModelBench<Cpu<double>> bench(one);
      bench.set_parameters(parameters);
      MaskedRows<Cpu<double>> masked(bench.device, weights, train);
      Score<Cpu<double>> score(bench.device, config);
      masked.begin_step(bench.device, static_cast<std::int64_t>(whole.selected.size()));
      score.begin_step(bench.device, whole.B());
      for (std::size_t piece = 0; piece + 1 < borders.size(); ++piece) {
        const int first = borders[piece], last = borders[piece + 1], from = first * one.L, to = last * one.L;
        const auto cut = [](const auto& values, int begin, int end) {
          return std::decay_t<decltype(values)>(values.begin() + begin, values.begin() + end);
        };
        HostBatch part{.lengths = cut(whole.lengths, first, last),
                       .L = one.L,
                       .x = cut(whole.x, from * one.N, to * one.N),
                       .target = cut(whole.target, from * one.N, to * one.N),
                       .scores = cut(whole.scores, first, last),
                       .visible = cut(whole.visible, first, last),
                       .selected = {}};
        for (const int t : whole.selected) {
          if (t >= from && t < to) part.selected.push_back(t - from);
        }
        bench.load(part);
        const Pass pass = bench.pass(Mode::training, static_cast<std::uint32_t>(first));
        const auto output = bench.model.forward(bench.device, pass, bench.input(), bench.saved);
        const auto doutput = bench.saved.doutput.rows(0, output.extent(0));
        if (one.task == Task::finetuning) {
          score.run_loss(bench.device, bench.batch, bench.model.rows(), doutput, output);
        } else {
          masked.run_loss(bench.device, bench.batch, bench.model.rows(), doutput, output);
        }
        bench.model.backward(bench.device, pass, bench.saved);
      }
      const double loss = one.task == Task::finetuning
                              ? loss_of(bench.device, score, whole.B())
                              : loss_of(bench.device, masked, static_cast<std::int64_t>(whole.selected.size()));
      return std::pair{loss, bench.gradients()};
    };
    const auto [loss, gradients] = accumulate({0, 4});
    const auto [split_loss, split_gradients] = accumulate({0, 2, 4});
    CHECK(std::abs(split_loss - loss) <= rounding_tolerance<double>(one, loss));
    double scale = 0;
    for (const auto& [name, values] : gradients) scale = std::max(scale, largest(values));
    CHECK(scale > 1e-3);
    for (const auto& [name, values] : split_gradients) {
      check_close(name, values, gradients.at(name), rounding_tolerance<double>(one, scale));
    }
  }
}

}  // namespace
}  // namespace blinkbert::test
