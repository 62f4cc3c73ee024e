// What the instruction-set-independent code hands to a kernel, and the table a kernel file
// exports.
#pragma once

#include "layout.h"
#include "params.h"
#include "schedule.h"
#include "threads.h"

namespace masked_rnn {

struct Job {
  const Problem* problem;
  const Schedule* schedule;
  Split split;
  Team* team;                   // the threads of the call
  char* workspace;              // of the layout
  char* reserve;                // past its header; null: none is kept
  const ReserveLayout* reserve_layout;

  // forward
  const ForwardLayout* forward_layout;
  ForwardResults results;
  // backward
  const BackwardLayout* backward_layout;
  BackwardArrays gradients;

  int threads() const { return split.threads(); }
};

// Runs thread `thread` of the job.
using Kernel = void (*)(const Job& job, int thread);

// One row: everything for one cell and storage dtype on one instruction set.
struct KernelRow {
  Cell cell;
  DType dtype;
  Kernel forward;
  Kernel backward;
  OperandPlanes planes;
  // As many multiply-adds of a step's product as `count` says, in registers: what the machine can do at
  // best.
  void (*multiply_adds)(int64_t count);
};

struct KernelTable {
  const char* isa;
  int vector_bytes;
  const KernelRow* rows;
  int count;
};

}  // namespace masked_rnn
