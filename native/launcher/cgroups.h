// The cgroups of one sandbox below the one that its container runtime makes.
#pragma once
#include <stddef.h>

#include "wire.h"

enum { MAX_HANDED_GROUPS = 2 };

struct groups {
  // Directories to make, outer ones first.
  char **dirs;
  // Files that the guest gets opened for writing: cgroup.procs of those that commands belong in.
  char **handed;
  // Where the guest is started, and where it is to be before limits can be set below that (cgroup v2); both empty: it stays.
  char *from, *to;
  // Written in this order: before the start, or after the guest has been moved.
  char **files, **values;
};

void parse_groups(struct groups *g, struct in *in);
// Makes the directories. Opens `handed` into `fds`, MAX_HANDED_GROUPS at most; how many. Ends the worker on failure.
size_t make_groups(const struct groups *g, int *fds);
// After the start.
void settle_groups(const struct groups *g);
