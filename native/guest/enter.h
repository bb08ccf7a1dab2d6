#ifndef WARREN_ENTER_H
#define WARREN_ENTER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/// Enters the network namespace of exactly the process that has this pid and start time (field 22 of /proc/PID/stat), and the
/// user namespace that it belongs to; nothing else of the process. Never our own network. False with errno: ESRCH, it has gone.
bool enter_network(pid_t pid, uint64_t start);

#endif
