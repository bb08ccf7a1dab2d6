#pragma once
#include "wire.h"

// Answers requests on stdin until it closes.
int serve(void);

// Workers: each runs in a process of its own, answers and exits.
_Noreturn void op_run(struct in *in);
_Noreturn void op_start(struct in *in);
_Noreturn void op_kill(struct in *in);
_Noreturn void op_cgroup_kill(struct in *in);
_Noreturn void op_rmtree(struct in *in);

// Read end of a pipe whose other end only the serving process holds: it hangs up when that process is gone.
extern int lifeline_fd;
