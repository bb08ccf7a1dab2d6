// What a file has beside its data.
#pragma once
#include <stdint.h>
#include <sys/stat.h>

// An open file, or, with a name, what has this name in the open directory: no link is followed.
struct place {
  int fd;
  const char *name;
};

// From now on every id that is copied is this much larger: owners, and those in ACLs and of file capabilities.
void shift_ids(int32_t by);

// Owner, mode, extended attributes and times, in an order in which none undoes another. -1 and errno.
int copy_attributes(const struct place *from, const struct place *to, const struct stat *st);
