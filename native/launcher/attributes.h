// What a file has beside its data.
#pragma once
#include <sys/stat.h>

// An open file, or, with a name, what has this name in the open directory: no link is followed.
struct place {
  int fd;
  const char *name;
};

// Owner, mode, extended attributes and times, in an order in which none undoes another. -1 and errno.
int copy_attributes(const struct place *from, const struct place *to, const struct stat *st);
