#pragma once
#include <stdbool.h>

// From now on SO_REUSEADDR and SO_REUSEPORT seem to succeed, and do nothing, also after an execve: needs no_new_privs. False with errno.
bool share_no_ports(void);
