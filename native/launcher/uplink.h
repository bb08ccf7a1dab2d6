#pragma once
#include <stdint.h>
#include <sys/types.h>

// The stack closes what it doesn't know of, and says at stdout that it is ready.
enum { UPLINK_READY_AT_STDOUT = 1 };

// What connects a sandbox's network namespace to the outside: a user-mode network stack and the process that looks after it.
struct uplink {
  // The stack's program and arguments. It runs in the sandbox's user namespace, finds the network namespace as
  // stdin, says at descriptor 3 that it is ready, and ends when 4 hangs up. Empty: the sandbox has no such network.
  char **argv;
  uint32_t flags;
  // Directories of cgroups that both belong to; none where the sandbox has none.
  char **groups;
};

// Starts it for the sandbox whose first process is `guest`, as the host user `owner` without any capability, and waits until the
// network is there: then a byte is written to `notify`, whose other end the guest has. The keeper holds it as long as the
// network is served, starts the stack again when that ends, and ends with the guest. Ends the worker on failure.
void start_uplink(const struct uplink *u, pid_t guest, uint32_t owner, int notify);
