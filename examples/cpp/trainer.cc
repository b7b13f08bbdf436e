// An actor in C++ that makes tensors, and a driver that uses it. trainer.py is a driver in Python for the same actor.
//   trainer                 starts a session, makes a trainer and looks at its weights
#include <beeline/beeline.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <stdexcept>

namespace {

class Trainer {
 public:
  // Memory that consumers map: nothing is copied when the weights are handed over.
  explicit Trainer(beeline::Tensor weights) : weights_(std::move(weights)) {}

  int step(float amount) {
    for (float& weight : weights_.values<float>()) weight += amount;
    return ++steps_;
  }
  [[nodiscard]] beeline::Tensor weights() const { return weights_; }

 private:
  beeline::Tensor weights_;
  int steps_ = 0;
};

std::unique_ptr<Trainer> make_trainer(std::int64_t rows, std::int64_t columns) {
  auto weights = beeline::empty({rows, columns}, beeline::dtype_of<float>());
  if (!weights) throw std::runtime_error(weights.status().message());
  std::ranges::fill(weights->values<float>(), 0.0f);
  return std::make_unique<Trainer>(std::move(*weights));
}

double total(const beeline::Tensor& tensor) {
  const auto values = tensor.values<float>();
  return std::accumulate(values.begin(), values.end(), 0.0);
}

BEELINE_REMOTE(make_trainer, &Trainer::step, &Trainer::weights, total);

beeline::Status run() {
  BEELINE_ASSIGN(const auto trainer, beeline::actor(make_trainer).remote(1024, 256));
  BEELINE_ASSIGN(const int steps, beeline::get(trainer.call(&Trainer::step, 0.5f)));
  // direct: the tensor stays where it is, and whoever wants it maps it.
  BEELINE_ASSIGN(const auto weights, trainer.call_with({.direct = true}, &Trainer::weights));
  BEELINE_ASSIGN(const double sum, beeline::get(beeline::task(total).remote(weights)));
  std::printf("after step %d the weights sum up to %.0f\n", steps, sum);
  return {};
}

}  // namespace

int main() {
  // In a process that a session has started for this program's actors and tasks, init() runs them and does not return.
  auto status = beeline::init();
  if (status) status = run();
  if (!status) std::fprintf(stderr, "trainer: %s\n", status.message().c_str());
  beeline::shutdown();
  return status ? 0 : 1;
}
