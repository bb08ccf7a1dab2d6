// walk writable DIR…   prints each file that opens for writing, processes' own directories of /proc left out
// walk devices DIR…    prints each device node as `c 1:3 /dev/null`
// walk sockets DIR…    prints each socket file, with `connects` or `refuses`
// walk abstract NAME…  the same for abstract sockets
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

static char mode;
static FILE *out;

static int connects(const char *name, int is_abstract) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = strlen(name);
  if (length + 1 > sizeof address.sun_path) return 0;
  memcpy(address.sun_path + is_abstract, name, length);
  // Abstract names have a length; old versions of libuv fill them up with NULs.
  const socklen_t sizes[] = {(socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1), sizeof address};
  for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type++) {
    for (int i = 0; i <= is_abstract; i++) {
      int fd = socket(AF_UNIX, type, 0);
      int result = fd < 0 ? -1 : connect(fd, (struct sockaddr *)&address, sizes[i]);
      close(fd);
      if (result == 0) return 1;
    }
  }
  return 0;
}

static int is_process(const char *path) {
  if (strncmp(path, "/proc/", 6) != 0) return 0;
  return (path[6] >= '0' && path[6] <= '9') || strncmp(path + 6, "self", 4) == 0 || strncmp(path + 6, "thread-self", 11) == 0;
}

static int visit(const char *path, const struct stat *st, int type, struct FTW *info) {
  (void)info;
  if (type == FTW_NS || is_process(path)) return 0;
  if (mode == 'w' && S_ISREG(st->st_mode)) {
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) fprintf(out, "%s\n", path);
    if (fd >= 0) close(fd);
  }
  if (mode == 'd' && (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))) {
    fprintf(out, "%c %u:%u %s\n", S_ISCHR(st->st_mode) ? 'c' : 'b', major(st->st_rdev), minor(st->st_rdev), path);
  }
  if (mode == 's' && S_ISSOCK(st->st_mode)) fprintf(out, "%s %s\n", connects(path, 0) ? "connects" : "refuses", path);
  return 0;
}

// A directory that goes in the middle of a walk, as that of a process that ends, ends the walk: then all of it is walked again.
static int walk(const char *path) {
  enum { TRIES = 50 };
  for (int i = 0; i < TRIES; i++) {
    char *text = NULL;
    size_t bytes = 0;
    out = open_memstream(&text, &bytes);
    if (out == NULL) return 1;
    int failed = nftw(path, visit, 64, FTW_PHYS) != 0, error = errno;
    fclose(out);
    if (!failed) fputs(text, stdout);
    free(text);
    if (!failed) return 0;
    fprintf(stderr, "%s: %s\n", path, strerror(error));
    if (error != ENOENT && error != ESRCH) return 1;
  }
  return 1;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  mode = argv[1][0];
  int status = 0;
  for (int i = 2; i < argc; i++) {
    if (mode == 'a') printf("%s %s\n", connects(argv[i], 1) ? "connects" : "refuses", argv[i]);
    else status |= walk(argv[i]);
  }
  return status;
}
