#pragma once
#include "userns.h"
#include "wire.h"

// Answers requests on stdin until it closes. `lock` (may be null or empty) names a file that it holds locked, together with every
// START under way, so that the next one with the same file begins when all of these have ended. `ids`: the ordinary user's
// who runs us; null for root.
int serve(const char *lock, const struct subordinate_ids *ids);

// Workers: each runs in a process of its own, answers and exits.
// `in_image_ids`: with the ids of a sandbox, where an ordinary user runs us; root has those anyway.
_Noreturn void op_run(struct in *in, bool in_image_ids);
_Noreturn void op_start(struct in *in);
_Noreturn void op_kill(struct in *in);
_Noreturn void op_cgroup_kill(struct in *in);
_Noreturn void op_rmtree(struct in *in);
_Noreturn void op_own(struct in *in);
_Noreturn void op_check_outside(struct in *in);
_Noreturn void op_copy(struct in *in);

// Read end of a pipe whose other end only the serving process holds: it hangs up when that process is gone.
extern int lifeline_fd;
