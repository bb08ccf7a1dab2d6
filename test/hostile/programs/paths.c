// paths FILE…: whether each opens for reading and gives a byte, and opens for writing. Nothing is written.
#include "probe.h"

#include <dirent.h>
#include <sys/stat.h>

static const char *path;

static long read_byte(void) {
  char byte;
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = pread(fd, &byte, 1, 0);
  if (n < 0 && errno == ESPIPE) n = read(fd, &byte, 1);
  if (n == 0) errno = 0; // told as E0: empty
  return n > 0 ? 0 : -1;
}

static long list_entry(void) {
  DIR *dir = opendir(path);
  if (dir == NULL) return -1;
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) return 0;
  }
  errno = 0;
  return -1;
}

static long open_for_writing(void) {
  return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
}

static long make_file(void) {
  char name[512];
  snprintf(name, sizeof name, "%s/warren-hostile", path);
  int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (fd >= 0) unlink(name);
  return fd;
}

static long make_directory(void) {
  char name[512];
  snprintf(name, sizeof name, "%s/warren-hostile", path);
  long result = mkdir(name, 0700);
  if (result == 0) rmdir(name);
  return result;
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    long (*call)(void);
  } ways[] = {
    {"read", read_byte}, {"list", list_entry}, {"write", open_for_writing}, {"file in", make_file}, {"dir in", make_directory},
  };
  for (int i = 1; i < argc; i++) {
    path = argv[i];
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
      char name[600];
      snprintf(name, sizeof name, "%s %s", ways[w].name, path);
      attempt_with(name, without_argument, (long)ways[w].call);
    }
  }
  return 0;
}
