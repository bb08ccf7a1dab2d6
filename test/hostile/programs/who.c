// who FILE…: the effective user id, and what opening each file for reading says.
#include "probe.h"

int main(int argc, char **argv) {
  printf("euid\t%u\n", geteuid());
  for (int i = 1; i < argc; i++) {
    int fd = open(argv[i], O_RDONLY | O_CLOEXEC);
    if (fd < 0) printf("%s\tE%d\n", argv[i], errno);
    else printf("%s\tok\n", argv[i]);
    if (fd >= 0) close(fd);
  }
  return 0;
}
