#pragma once
#include <stdint.h>

// Starts a process that takes connections at `listener` and hands each, as a descriptor, through the socket `inside`. It is a
// member of the cgroups whose directories are given, runs as the host user `owner`, and ends when `inside` hangs up.
void start_relay(int listener, int inside, char **groups, uint32_t owner);
