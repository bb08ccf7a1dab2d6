#pragma once
#include "wire.h"

// Answers requests on stdin until it closes. `lock` (may be null) names a file that it holds locked, together with every
// START under way, so that the next one with the same file begins when all of these have ended.
int serve(const char *lock);

// Workers: each runs in a process of its own, answers and exits.
_Noreturn void op_run(struct in *in);
_Noreturn void op_start(struct in *in);
_Noreturn void op_kill(struct in *in);
_Noreturn void op_cgroup_kill(struct in *in);
_Noreturn void op_rmtree(struct in *in);

// Read end of a pipe whose other end only the serving process holds: it hangs up when that process is gone.
extern int lifeline_fd;
