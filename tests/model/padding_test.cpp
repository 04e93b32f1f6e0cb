// What may not matter to a whole model: what padded rows hold, who else is in the batch, how far sequences are padded,
// how often the way back is run, and whether lower parts are trained too.

#include <tests/model/model_case.hpp>

namespace blinkbert::test {
namespace {

using BatchNorm = ModelCase::BatchNorm;

const std::vector<ModelCase>& cases() {
  static const std::vector<ModelCase> table{
      {.name = "none, all rows",
       .N = 4,
       .E = 4,
       .heads = 2,
       .blocks = 2,
       .upscaling = Upscaling::none,
       .batch_norm = BatchNorm::yes,
       .dropout = 0.1,
       .head_dropout = 0.1},
      {.name = "linear, chosen rows",
       .N = 9,
       .E = 8,
       .heads = 2,
       .blocks = 2,
       .norm = NormOrder::pre,
       .rows = HeadRows::masked,
       .dropout = 0.1},
      {.name = "attention linear, all rows, no batch norm",
       .N = 9,
       .E = 8,
       .heads = 4,
       .blocks = 2,
       .upscaling = Upscaling::attention_linear,
       .hidden = {6, 5},
       .dropout = 0.1,
       .head_dropout = 0.1},
      {.name = "attention concatenation, chosen rows, batch norm",
       .N = 4,
       .E = 10,
       .heads = 2,
       .blocks = 2,
       .upscaling = Upscaling::attention_concatenation,
       .norm = NormOrder::pre,
       .batch_norm = BatchNorm::yes,
       .rows = HeadRows::masked,
       .head_dropout = 0.1},
      {.name = "linear, last block for the chosen rows",
       .N = 4,
       .E = 9,
       .heads = 2,
       .blocks = 2,
       .rows = HeadRows::masked,
       .last_block = LastBlock::read,
       .dropout = 0.1},
      {.name = "attention linear, pre-norm, last block for the chosen rows, batch norm",
       .N = 4,
       .E = 8,
       .heads = 4,
       .blocks = 1,
       .upscaling = Upscaling::attention_linear,
       .norm = NormOrder::pre,
       .batch_norm = BatchNorm::yes,
       .rows = HeadRows::masked,
       .last_block = LastBlock::read,
       .dropout = 0.1,
       .head_dropout = 0.1},
      {.name = "score",
       .N = 4,
       .E = 8,
       .heads = 2,
       .blocks = 2,
       .upscaling = Upscaling::attention_linear,
       .batch_norm = BatchNorm::yes,
       .last_block = LastBlock::read,
       .task = Task::finetuning,
       .dropout = 0.1,
       .head_dropout = 0.1,
       .lengths = {6, 0, 3, 1}},
      {.name = "score of the mean row, window statistics",
       .N = 4,
       .E = 8,
       .heads = 2,
       .blocks = 2,
       .batch_norm = BatchNorm::yes,
       .task = Task::finetuning,
       .dropout = 0.1,
       .head_dropout = 0.1,
       .lengths = {6, 0, 3, 1},
       .pool = Pool::mean,
       .statistics = ModelCase::WindowStatistics::yes},
      {.name = "attention concatenation, window statistics, all rows",
       .N = 3,
       .E = 15,
       .heads = 3,
       .blocks = 1,
       .upscaling = Upscaling::attention_concatenation,
       .dropout = 0.1,
       .statistics = ModelCase::WindowStatistics::yes},
  };
  return table;
}

/// `batch` with another value in every padded row.
HostBatch with_padding(HostBatch batch, double value) {
  const std::size_t N = batch.x.size() / static_cast<std::size_t>(batch.T());
  for (int t = 0; t < batch.T(); ++t) {
    if (t % batch.L < batch.lengths[static_cast<std::size_t>(t / batch.L)]) continue;
    std::fill_n(batch.x.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(t) * N), N, value);
    std::fill_n(batch.target.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(t) * N), N, value);
  }
  return batch;
}

template <class Device>
auto outputs_and_gradients(const ModelCase& one, const HostBatch& host) {
  ModelBench<Device> bench(one);
  bench.set_parameters(random_parameters(one));
  bench.load(host);
  const std::vector<double> output = bench.forward(bench.pass(Mode::training));
  bench.backward(bench.pass(Mode::training), random_doutput(one, host, 51));
  return std::tuple{output, bench.gradients(), bench.statistics()};
}

TEMPLATE_TEST_CASE("NaN in padded rows changes no bit of a model", "", Cpu<float>, Cpu<double>) {
  for (const ModelCase& one : cases()) {
    INFO(one.name);
    const HostBatch clean = with_padding(make_batch(one, 50), 0);
    const HostBatch poison = with_padding(clean, std::numeric_limits<double>::quiet_NaN());
    const auto [output, gradients, statistics] = outputs_and_gradients<TestType>(one, clean);
    const auto [poisoned_output, poisoned_gradients, poisoned_statistics] =
        outputs_and_gradients<TestType>(one, poison);
    CHECK(poisoned_output == output);
    CHECK(poisoned_statistics == statistics);
    for (const auto& [name, values] : gradients) {
      INFO(name);
      CHECK(std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); }));
      CHECK(poisoned_gradients.at(name) == values);
    }
  }
}

/// One sequence of a batch alone, padded to `L` rows.
HostBatch alone(const ModelCase& one, const HostBatch& batch, int b, int L) {
  HostBatch single{.lengths = {batch.lengths[static_cast<std::size_t>(b)]},
                   .L = L,
                   .x = {},
                   .target = {},
                   .scores = {batch.scores[static_cast<std::size_t>(b)]},
                   .visible = {batch.visible[static_cast<std::size_t>(b)]},
                   .selected = {}};
  const std::vector<double> all = batch.x;
  single.x.assign(static_cast<std::size_t>(L * one.N), 0.0);
  std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(b) * batch.L * one.N, std::min(L, batch.L) * one.N,
              single.x.begin());
  single.target.assign(single.x.size(), 0.0);
  single.visible[0].resize(static_cast<std::size_t>(L), 0);
  for (const int t : batch.selected) {
    if (t >= 0 && t / batch.L == b) single.selected.push_back(t % batch.L);
  }
  return single;
}

TEMPLATE_TEST_CASE("a window's output does not depend on its batch or its padding", "", Cpu<float>, Cpu<double>) {
  for (ModelCase one : cases()) {
    INFO(one.name);
    one.lengths = {6, 4, 5, 1};
    const HostBatch whole = make_batch(one, 52);
    const oracle::Parameters<double> parameters = random_parameters(one);
    ModelBench<TestType> bench(one);
    bench.set_parameters(parameters);
    bench.load(whole);
    const std::vector<double> together = bench.forward(bench.pass(Mode::evaluation));
    const std::vector<int> rows = rows_read(one, whole);
    const auto width = static_cast<std::size_t>(bench.outputs());
    for (int b = 0; b < whole.B(); ++b) {
      // As short as can be, and one row longer than in the batch (config_of leaves a position for it).
      for (const int L : {whole.lengths[static_cast<std::size_t>(b)], one.L + 1}) {
        INFO("sequence " << b << " alone, padded to " << L);
        const HostBatch single = alone(one, whole, b, L);
        bench.load(single);
        const std::vector<double> output = bench.forward(bench.pass(Mode::evaluation));
        const std::vector<int> single_rows = rows_read(one, single);
        std::size_t compared = 0;
        for (std::size_t r = 0; r < rows.size(); ++r) {
          if (rows[r] / whole.L != b || rows[r] % whole.L >= whole.lengths[static_cast<std::size_t>(b)]) continue;
          const auto found = std::find(single_rows.begin(), single_rows.end(), rows[r] % whole.L);
          REQUIRE(found != single_rows.end());
          const auto s = static_cast<std::size_t>(found - single_rows.begin());
          for (std::size_t n = 0; n < width; ++n) {
            const double expected = together[r * width + n];
            CHECK(std::abs(output[s * width + n] - expected) <=
                  rounding_tolerance<typename TestType::Real>(one, largest(together)));
          }
          ++compared;
        }
        CHECK(compared > 0);
      }
    }
  }
}

TEMPLATE_TEST_CASE("the way back can be run twice: it keeps what forward saved", "", Cpu<float>, Cpu<double>) {
  for (const ModelCase& one : cases()) {
    INFO(one.name);
    ModelBench<TestType> bench(one);
    bench.set_parameters(random_parameters(one));
    bench.load(make_batch(one, 53));
    bench.forward(bench.pass(Mode::training));
    const std::vector<double> doutput = random_doutput(one, bench.host, 54);
    bench.backward(bench.pass(Mode::training), doutput);
    const auto first = bench.gradients();
    bench.zero_gradients();
    bench.backward(bench.pass(Mode::training), doutput);
    CHECK(bench.gradients() == first);
  }
}

TEST_CASE("gradients are added to what is there") {
  for (const ModelCase& one : cases()) {
    INFO(one.name);
    ModelBench<Cpu<double>> bench(one);
    bench.set_parameters(random_parameters(one));
    bench.load(make_batch(one, 53));
    bench.forward(bench.pass(Mode::training));
    const std::vector<double> doutput = random_doutput(one, bench.host, 54);
    bench.backward(bench.pass(Mode::training), doutput);
    const auto once = bench.gradients();
    bench.backward(bench.pass(Mode::training), doutput);
    double scale = 0;
    for (const auto& [name, values] : once) scale = std::max(scale, largest(values));
    for (const auto& [name, values] : bench.gradients()) {
      std::vector<double> twice = once.at(name);
      for (double& value : twice) value *= 2;
      check_close(name, values, twice, rounding_tolerance<double>(one, 2 * scale));
    }
  }
}

TEST_CASE("a frozen lower part gets no gradient and changes none above it") {
  for (const ModelCase& one : cases()) {
    ModelBench<Cpu<double>> bench(one);
    bench.set_parameters(random_parameters(one));
    bench.load(make_batch(one, 55));
    bench.forward(bench.pass(Mode::training));
    const std::vector<double> doutput = random_doutput(one, bench.host, 56);
    bench.backward(bench.pass(Mode::training), doutput);
    const auto full = bench.gradients();
    const auto& set = bench.model.parameters();
    for (int lowest = 0; lowest <= one.blocks + 1; ++lowest) {
      INFO(one.name << ", lowest trained group " << lowest);
      // Not zero, so that a lower part which writes anything is seen.
      std::vector<double> start(static_cast<std::size_t>(set.gradients().size()), 0.5);
      for (std::size_t i = 0; i < set.entries().size(); ++i) {
        const auto& entry = set.entries()[i];
        if (set.segments()[i].group >= lowest) {
          std::fill_n(start.begin() + static_cast<std::ptrdiff_t>(entry.begin), entry.count, 0.0);
        }
      }
      upload(bench.device, set.gradients(), start.data());
      bench.backward(bench.pass(Mode::training), doutput, lowest);
      const auto gradients = bench.gradients();
      for (std::size_t i = 0; i < set.entries().size(); ++i) {
        const auto& entry = set.entries()[i];
        INFO(entry.name);
        if (set.segments()[i].group >= lowest) {
          CHECK(gradients.at(entry.name) == full.at(entry.name));
        } else {
          CHECK(gradients.at(entry.name) == std::vector<double>(static_cast<std::size_t>(entry.count), 0.5));
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("sequences without a visible key, and batches without a row, give finite numbers", "", Cpu<float>,
                   Cpu<double>) {
  for (ModelCase one : cases()) {
    for (const std::vector<int>& lengths : {std::vector<int>{6, 4, 1}, std::vector<int>{0, 0}}) {
      INFO(one.name << ", " << lengths.size() << " sequences, the first " << lengths[0] << " rows long");
      one.lengths = lengths;
      HostBatch host = make_batch(one, 57);
      for (std::vector<int>& visible : host.visible) std::fill(visible.begin(), visible.end(), 0);
      const auto [output, gradients, statistics] = outputs_and_gradients<TestType>(one, host);
      const auto is_finite = [](double value) { return std::isfinite(value); };
      CHECK(std::all_of(output.begin(), output.end(), is_finite));
      for (const auto& [name, values] : gradients) {
        INFO(name);
        CHECK(std::all_of(values.begin(), values.end(), is_finite));
        if (lengths[0] == 0) CHECK(largest(values) == 0);
      }
      for (const auto& [name, values] : statistics) CHECK(std::all_of(values.begin(), values.end(), is_finite));
      if (lengths[0] == 0) CHECK(largest(output) == 0);
    }
  }
}

TEMPLATE_TEST_CASE("two threads take the same random decisions", "", Cpu<float>, Cpu<double>) {
  for (const ModelCase& one : cases()) {
    INFO(one.name);
    const auto parameters = random_parameters(one);
    ModelBench<TestType> single(one, 1), both(one, 2);
    for (auto* bench : {&single, &both}) {
      bench->set_parameters(parameters);
      bench->load(make_batch(one, 58));
    }
    const std::vector<double> output = single.forward(single.pass(Mode::training));
    check_close("output", both.forward(both.pass(Mode::training)), output,
                rounding_tolerance<typename TestType::Real>(one, largest(output)));
  }
}

}  // namespace
}  // namespace blinkbert::test
