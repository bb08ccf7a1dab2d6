// links TARGET NAME [TARGET NAME…]: makes symbolic links.
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
  for (int i = 1; i + 1 < argc; i += 2) {
    if (symlink(argv[i], argv[i + 1]) != 0) {
      perror(argv[i + 1]);
      return 1;
    }
  }
  return 0;
}
