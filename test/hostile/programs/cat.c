// cat FILE…: their bytes. cat > FILE…: into FILE instead of standard output.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  int first = 1;
  if (argc > 2 && strcmp(argv[1], ">") == 0) {
    int out = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (out < 0 || dup2(out, 1) < 0) return 1;
    close(out);
    first = 3;
  }
  for (int i = first; i < argc; i++) {
    char bytes[65536];
    int fd = open(argv[i], O_RDONLY);
    if (fd < 0) {
      perror(argv[i]);
      return 1;
    }
    for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;) {
      if (write(1, bytes, (size_t)n) != n) return 1;
    }
    close(fd);
  }
  return 0;
}
