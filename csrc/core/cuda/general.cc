#include "general.h"

#include <algorithm>

#include "cluster.h"
#include "resident.h"

namespace masked_rnn::cuda {
namespace {

// Slots of d_gates: kernel_slot.. hold the gradients of the gates' inputs, and slot j that of the
// recurrent product of recurrent_gate(j); as in cells.h.
int kernel_slot(Cell cell) { return cell == Cell::kGru ? 1 : 0; }
int recurrent_gate(Cell cell, int slot) {
  return cell != Cell::kGru ? slot : slot == 0 ? 2 : slot - 1;
}
// Gates whose recurrent product comes first in a step: the candidate of reset before has its own.
int gates_together(Cell cell) { return cell == Cell::kGruResetBefore ? 2 : gates(cell); }

void* at(const void* array, int64_t elements, const Queue& queue) {
  if (array == nullptr) return nullptr;
  return static_cast<char*>(const_cast<void*>(array)) + elements * queue.element;
}

// The packed rows of the steps [first, end), in local buffers.
struct Chunk {
  Chunk(const Queue& queue, int64_t first, int64_t end)
      : call(queue.call(first, end)), rows((end - first) * queue.problem.batch) {}

  // m or k of a product is the number of real rows, at most `rows`.
  Multiply product(Multiply::Limit limit) const {
    Multiply p{};
    p.limit = limit;
    p.first = call.steps.offset + call.first;
    p.end = call.steps.offset + call.end;
    return p;
  }

  Call call;
  int64_t rows;
};

std::array<int64_t, 3> step_grid(const Problem& p) {
  return {ceil_div(p.batch, kStepRows), ceil_div(p.units, kStepUnits), 1};
}

// --- forward -------------------------------------------------------------------------------------

// projection [rows][G*H] = inputs @ kernel; gate by gate where each has its dropout mask.
void project(const Queue& queue, const Chunk& chunk, const ForwardMemory& memory) {
  const Problem& p = queue.problem;
  const int64_t width = gates(p.cell) * p.units, count = copies(p.input_dropout_gates);
  Multiply product = chunk.product(Multiply::Limit::kRows);
  product.m = chunk.rows;
  product.n = count > 1 ? p.units : width;
  product.k = p.features;
  product.a_row = p.features;
  product.a_column = 1;
  product.b_row = product.c_row = width;
  product.b_column = 1;
  for (int64_t d = 0; d < count; ++d) {
    product.a = at(memory.inputs, d * chunk.rows * p.features, queue);
    product.b = at(queue.kernel, d * p.units, queue);
    product.c = at(memory.projection, d * p.units, queue);
    queue.multiply(product);
  }
}

// The recurrence over the chunk's steps.
void recurrence_forward(const Queue& queue, const Choice& choice, const ForwardMemory& memory,
                        ForwardStep step) {
  const Problem& p = queue.problem;
  if (choice.forward == Kernel::kResident && resident_forward(queue, choice, memory, step)) return;
  if (choice.forward == Kernel::kCluster) return cluster_forward(queue, choice, step);
  const std::string step_kernel = queue.of_cell("forward_step");
  const std::string candidate_kernel = queue.of_cell("forward_candidate");
  for (step.step = step.call.first; step.step < step.call.end; ++step.step) {
    queue.launch(step_kernel, step_grid(p), kStepThreads, step_shared(gates_together(p.cell)),
                 step);
    if (p.cell == Cell::kGruResetBefore) {
      queue.launch(candidate_kernel, step_grid(p), kStepThreads, step_shared(1), step);
    }
  }
}

// --- backward ------------------------------------------------------------------------------------

void recurrence_backward(const Queue& queue, const Choice& choice, const BackwardMemory& memory,
                         BackwardStep step) {
  const Problem& p = queue.problem;
  if (choice.backward == Kernel::kResident && resident_backward(queue, choice, memory, step)) {
    return;
  }
  if (choice.backward == Kernel::kCluster) return cluster_backward(queue, choice, step);
  const std::string step_kernel = queue.of_cell("backward_step");
  const std::string reset_kernel = queue.of_cell("backward_reset");
  // The last launch, for the step before the chunk, only passes the first step's gradient on.
  for (step.step = step.call.end - 1; step.step >= step.call.first - 1; --step.step) {
    step.from_next = step.step + 1 < step.call.end;
    step.pointwise = step.step >= step.call.first;
    queue.launch(step_kernel, step_grid(p), kStepThreads, step_shared(gates_together(p.cell)),
                 step);
    if (p.cell == Cell::kGruResetBefore && step.pointwise) {
      queue.launch(reset_kernel, step_grid(p), kStepThreads, step_shared(1), step);
    }
  }
}

// d_inputs of the chunk: d_gates @ kernel^T, then to the rows' own places.
void input_gradients(const Queue& queue, const Chunk& chunk, const BackwardMemory& memory,
                     void* d_inputs) {
  const Problem& p = queue.problem;
  const int64_t slots = saved_slots(p.cell), width = gates(p.cell) * p.units;
  const int64_t count = copies(p.input_dropout_gates);
  Multiply product = chunk.product(Multiply::Limit::kRows);
  product.m = chunk.rows;
  product.n = p.features;
  product.k = count > 1 ? p.units : width;
  product.a_row = slots * p.units;
  product.a_column = 1;
  product.b_row = 1;
  product.b_column = width;
  product.c_row = p.features;
  for (int64_t d = 0; d < count; ++d) {
    product.a = at(memory.d_gates, (kernel_slot(p.cell) + d) * p.units, queue);
    product.b = at(queue.kernel, d * p.units, queue);
    product.c = at(memory.d_inputs, d * chunk.rows * p.features, queue);
    queue.multiply(product);
  }
  queue.by_storage("put_input_gradients", row_blocks(chunk.rows),
                   PutInputGradients{chunk.call, memory.d_inputs, d_inputs});
}

// to[:, gate] += operand^T @ d_gates[:, slot] for `count` gates that lie side by side.
void weight_gradient(const Queue& queue, const Chunk& chunk, const BackwardMemory& memory,
                     const void* operand, int64_t operand_width, int slot, int gate, int count,
                     void* to) {
  const Problem& p = queue.problem;
  Multiply product = chunk.product(Multiply::Limit::kDepth);
  product.m = operand_width;
  product.n = count * p.units;
  product.k = chunk.rows;
  product.a = operand;
  product.a_row = 1;
  product.a_column = operand_width;
  product.b = at(memory.d_gates, slot * p.units, queue);
  product.b_row = saved_slots(p.cell) * p.units;
  product.b_column = 1;
  product.c = at(to, gate * p.units, queue);
  product.c_row = gates(p.cell) * p.units;
  product.accumulate = true;
  queue.multiply(product);
}

void weight_gradients(const Queue& queue, const Chunk& chunk, const BackwardMemory& memory) {
  const Problem& p = queue.problem;
  const int all = gates(p.cell), slot0 = kernel_slot(p.cell);
  const int at_once = p.input_dropout_gates > 1 ? 1 : all;
  for (int g = 0; g < all; g += at_once) {
    const void* inputs = at(memory.inputs, (at_once == 1 ? g : 0) * chunk.rows * p.features, queue);
    weight_gradient(queue, chunk, memory, inputs, p.features, slot0 + g, g, at_once,
                    memory.d_kernel);
  }
  const int together = gates_together(p.cell);
  const bool each = p.recurrent_dropout_gates > 1;
  for (int slot = 0; slot < together;) {
    const int gate = recurrent_gate(p.cell, slot);
    int count = 1;
    while (!each && slot + count < together &&
           recurrent_gate(p.cell, slot + count) == gate + count) {
      ++count;
    }
    const void* states = at(memory.states, (each ? gate : 0) * chunk.rows * p.units, queue);
    weight_gradient(queue, chunk, memory, states, p.units, slot, gate, count,
                    memory.d_recurrent_kernel);
    slot += count;
  }
  if (p.cell == Cell::kGruResetBefore) {
    weight_gradient(queue, chunk, memory, memory.reset_h, p.units, 2, 2, 1,
                    memory.d_recurrent_kernel);
  }
  // Sums of the columns of d_gates: of ones^T @ d_gates.
  Multiply sums = chunk.product(Multiply::Limit::kDepth);
  sums.m = 1;
  sums.n = saved_slots(p.cell) * p.units;
  sums.k = chunk.rows;
  sums.b = memory.d_gates;
  sums.b_row = sums.n;
  sums.b_column = 1;
  sums.c = memory.d_sums;
  sums.c_row = sums.n;
  sums.accumulate = true;
  queue.multiply(sums);
}

void store_weight_gradients(const Queue& queue, const BackwardMemory& memory,
                            const BackwardArrays& arrays) {
  const Problem& p = queue.problem;
  const int64_t width = gates(p.cell) * p.units;
  const auto store = [&](const void* from, void* to, int64_t size) {
    queue.by_storage("store_gradient", element_blocks(size), StoreGradient{from, to, size});
  };
  store(memory.d_kernel, arrays.d_kernel, p.features * width);
  store(memory.d_recurrent_kernel, arrays.d_recurrent_kernel, p.units * width);
  if (arrays.d_bias == nullptr) return;
  StoreBiasGradient bias{};
  bias.from = memory.d_sums;
  bias.to = arrays.d_bias;
  bias.units = p.units;
  bias.gates = gates(p.cell);
  bias.rows = p.cell == Cell::kGru ? 2 : 1;
  for (int slot = 0; slot < gates(p.cell); ++slot) {
    bias.slot[0][slot] = kernel_slot(p.cell) + slot;
    bias.slot[1][recurrent_gate(p.cell, slot)] = slot;
  }
  queue.by_storage("store_bias_gradient", element_blocks(bias.rows * width), bias);
}

}  // namespace

void forward_general(const Queue& queue, const Choice& choice, const ForwardMemory& memory,
                     const ForwardResults& results) {
  const Problem& p = queue.problem;
  queue.prepare();
  const Call whole = queue.call(0, p.time);
  const States states{memory.h, memory.c, results.reserve != nullptr};
  if (p.time > 0) {
    queue.by_storage("start_states", element_blocks(p.batch * p.units),
                     StartStates{whole, states});
  }
  for (int64_t first = 0; first < p.time; first += choice.chunk_steps) {
    const Chunk chunk(queue, first, std::min(first + choice.chunk_steps, p.time));
    queue.by_storage("gather_inputs", row_blocks(chunk.rows),
                     GatherInputs{chunk.call, memory.inputs});
    project(queue, chunk, memory);
    ForwardStep step{};
    step.call = chunk.call;
    step.recurrent_kernel = queue.recurrent_kernel;
    step.projection = memory.projection;
    step.states = states;
    step.saved = memory.saved;
    step.reset_h = memory.reset_h;
    step.results = results;
    recurrence_forward(queue, choice, memory, step);
  }
  queue.by_storage("finish_states", element_blocks(p.batch * p.units),
                   FinishForward{whole, results});
  if (p.return_sequences && p.mask != nullptr) {
    queue.by_storage("fill_outputs", row_blocks(p.batch * p.time), FinishForward{whole, results});
  }
}

void backward_general(const Queue& queue, const Choice& choice, const BackwardMemory& memory,
                      const BackwardArrays& arrays) {
  const Problem& p = queue.problem;
  const bool reset_before = p.cell == Cell::kGruResetBefore;
  const int64_t width = gates(p.cell) * p.units, slots = saved_slots(p.cell);
  queue.prepare();
  const Call whole = queue.call(0, p.time);
  queue.set_zero(memory.d_kernel, p.features * width);
  queue.set_zero(memory.d_recurrent_kernel, p.units * width);
  queue.set_zero(memory.d_sums, slots * p.units);
  queue.by_storage("start_gradients", element_blocks(p.batch * p.units),
                   StartGradients{whole, arrays, memory.d_h, memory.d_c});
  Arena reserve_arena(const_cast<void*>(arrays.reserve));
  const Reserve reserve(reserve_arena, p);
  const bool has_d_outputs = p.return_sequences && arrays.d_outputs != nullptr;
  for (int64_t first = (ceil_div(p.time, choice.chunk_steps) - 1) * choice.chunk_steps; first >= 0;
       first -= choice.chunk_steps) {
    const Chunk chunk(queue, first, std::min(first + choice.chunk_steps, p.time));
    const int64_t blocks = row_blocks(chunk.rows);
    queue.by_storage("gather_inputs", blocks, GatherInputs{chunk.call, memory.inputs});
    queue.by_storage("gather_states", blocks, GatherStates{chunk.call, reserve.h, memory.states});
    if (has_d_outputs) {
      queue.by_storage("sum_output_gradients", blocks,
                       SumOutputGradients{chunk.call, arrays.d_outputs, memory.d_outputs});
    }
    BackwardStep step{};
    step.call = chunk.call;
    step.recurrent_kernel = queue.recurrent_kernel;
    step.h = reserve.h;
    step.c = reserve.c;
    step.saved = reserve.saved;
    step.d_outputs = has_d_outputs ? memory.d_outputs : nullptr;
    step.d_gates = memory.d_gates;
    step.reset_h = memory.reset_h;
    step.d_h = memory.d_h;
    step.d_c = memory.d_c;
    recurrence_backward(queue, choice, memory, step);
    queue.by_real("zero_tail", blocks, ZeroTail{chunk.call, memory.d_gates, slots * p.units});
    if (reset_before) {
      queue.by_real("zero_tail", blocks, ZeroTail{chunk.call, memory.reset_h, p.units});
    }
    input_gradients(queue, chunk, memory, arrays.d_inputs);
    weight_gradients(queue, chunk, memory);
  }
  queue.by_storage("finish_gradients", element_blocks(p.batch * p.units),
                   FinishBackward{whole, arrays, memory.d_h, memory.d_c});
  queue.by_storage("zero_masked_inputs", row_blocks(p.batch * p.time),
                   FinishBackward{whole, arrays, memory.d_h, memory.d_c});
  store_weight_gradients(queue, memory, arrays);
}

}  // namespace masked_rnn::cuda
