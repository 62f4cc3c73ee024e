// The parts of the test program, each in a file of its own.
#pragma once

namespace masked_rnn::test {

void check_table();        // numbers, bits and bounds of every kernel
void check_rounding();     // 16-bit storage, fused multiply-add
void check_wrong_calls();  // what must be refused
void check_concurrency();  // calls at once

}  // namespace masked_rnn::test
