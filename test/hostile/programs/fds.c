// fds [FILE]: this process's descriptors as it was started, one `N target` in each line, to standard output; or to FILE, and
// then it waits until it is killed.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
  char text[16384];
  size_t used = 0;
  DIR *dir = opendir("/proc/self/fd");
  if (dir == NULL) return 1;
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    char path[300], target[256];
    if (e->d_name[0] == '.' || atoi(e->d_name) == dirfd(dir)) continue;
    snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n < 0 ? 0 : n] = 0;
    used += (size_t)snprintf(text + used, sizeof text - used, "%s %s\n", e->d_name, target);
  }
  FILE *out = argc > 1 ? fopen(argv[1], "w") : stdout;
  if (out == NULL || fputs(text, out) < 0 || fclose(out) != 0) return 1;
  if (argc > 1) pause();
  return 0;
}
