// tree many DIR N | deep DIR N | sparse FILE BYTES: what is tiresome to list, to remove, to read.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  long n = strtol(argv[3], NULL, 10);
  if (strcmp(argv[1], "sparse") == 0) {
    int fd = open(argv[2], O_WRONLY | O_CREAT, 0644);
    if (fd < 0 || ftruncate(fd, n) != 0 || pwrite(fd, "the end", 7, n - 7) != 7) {
      perror(argv[2]);
      return 1;
    }
    return 0;
  }
  if ((mkdir(argv[2], 0755) != 0 && access(argv[2], W_OK) != 0) || chdir(argv[2]) != 0) return 1;
  for (long i = 0; i < n; i++) {
    char name[32];
    snprintf(name, sizeof name, "%ld", i);
    if (strcmp(argv[1], "deep") == 0) {
      if (mkdir("d", 0755) != 0 || chdir("d") != 0) return 1;
    } else {
      int fd = open(name, O_WRONLY | O_CREAT, 0644);
      if (fd < 0) return 1;
      close(fd);
    }
  }
  return 0;
}
