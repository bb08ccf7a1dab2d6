// The cgroups of one sandbox below the one that its container runtime makes.
#pragma once
#include <stddef.h>

#include "wire.h"

enum { MAX_HANDED_GROUPS = 3 };

struct groups {
  // Directories to make, outer ones first.
  char **dirs;
  // Files that the guest gets opened for writing: cgroup.procs of those that commands belong in.
  char **handed;
  // Where the guest is started, and where it goes by itself, since limits can't be set below a group with members (cgroup
  // v2). It gets `to` opened as well, after `handed`. Nobody else could move it: the command that it starts may be on its
  // way to the limits, and would be taken back from there. Both empty: it stays.
  char *from, *to;
  // Written in this order: before the start, or after `from` has no members any more.
  char **files, **values;
};

void parse_groups(struct groups *g, struct in *in);
// Makes the directories. Opens what is to be handed over into `fds`, MAX_HANDED_GROUPS at most; how many. Ends the worker on failure.
size_t make_groups(const struct groups *g, int *fds);
// After the start.
void settle_groups(const struct groups *g);
// Makes this process a member of the cgroups in these directories. A hierarchy without a group of this sandbox is passed over,
// but one there must be. 0, or what went wrong as an errno.
int join_groups(char **groups);
