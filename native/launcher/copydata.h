// The data of one file, and the names in one directory.
#pragma once
#include <dirent.h>
#include <stdbool.h>
#include <sys/stat.h>

// Fills the empty file `to` with what `from` has: shared blocks where the file system has them, else a copy with the same holes.
// -1 and errno.
int copy_data(int from, int to, const struct stat *st);

// Names in the open directory, without "." and "..".
struct directory {
  DIR *dir;
  bool failed; // errno says why
};
void start_reading(struct directory *d, int fd);
// Null at the end, which lets go of it. Good until the next call.
const char *next_name(struct directory *d);
