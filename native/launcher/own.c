#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve.h"
#include "sys.h"

// Deeper than anything that we make.
enum { MOST_DEPTH = 64 };

// Takes over `fd`. -1 and errno.
static int own_contents(int fd, uint32_t id, int depth) {
  DIR *dir = fdopendir(fd);
  if (!dir) {
    close(fd);
    return -1;
  }
  int result = 0;
  for (struct dirent *e; result == 0 && (e = readdir(dir));) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    result = fchownat(dirfd(dir), e->d_name, id, id, AT_SYMLINK_NOFOLLOW);
    if (result < 0 || (e->d_type != DT_DIR && e->d_type != DT_UNKNOWN)) continue;
    int child = openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (child < 0 && (errno == ENOTDIR || errno == ELOOP)) continue;
    if (child < 0 || depth >= MOST_DEPTH) {
      if (child >= 0) {
        close(child);
        errno = ELOOP;
      }
      result = -1;
    } else {
      result = own_contents(child, id, depth + 1);
    }
  }
  int error = errno;
  closedir(dir);
  errno = error;
  return result;
}

// Gives files and directories, with all that is in them, to one id. No link is followed.
void op_own(struct in *in) {
  uint32_t id = in_u32(in);
  char **paths = in_list(in);
  if (in->bad || in->left) answer_error(EBADMSG, "OWN");
  for (char **path = paths; *path; path++) {
    if (**path != '/') answer_error(EBADMSG, "OWN");
    if (fchownat(AT_FDCWD, *path, id, id, AT_SYMLINK_NOFOLLOW) < 0) answer_error(errno, "could not give away %s", *path);
    int fd = open(*path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP)) continue;
    if (fd < 0 || own_contents(fd, id, 0) < 0) answer_error(errno, "could not give away what is in %s", *path);
  }
  struct out out = {0};
  answer_ok(&out);
}
