// The passwd and group files that an image brings, and the user that a request names. An input is the user's length in one
// byte, the user, the passwd file's length in two bytes, that file, and the group file.
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../fuzz.h"

#define malloc(n) fuzz_malloc(n)
#define calloc(n, m) fuzz_calloc(n, m)
#define realloc(p, n) fuzz_realloc(p, n)
#define free(p) fuzz_free(p)
#define open_plain(dir, path, flags) fuzz_open_plain(path)
static int fuzz_open_plain(const char *path);
#include "../../guest/guest.h"
#undef open_plain
int open_plain(int dir, const char *path, int flags);
#define open_plain(dir, path, flags) fuzz_open_plain(path)
#include "../../guest/users.c"

static struct fuzz_input file[2];

static int fuzz_open_plain(const char *path) {
  const struct fuzz_input *f = &file[strcmp(path, "/etc/group") == 0];
  int fd = memfd_create("database", MFD_CLOEXEC);
  if (fd < 0 || (f->left > 0 && write(fd, f->at, f->left) != (ssize_t)f->left) || lseek(fd, 0, SEEK_SET) != 0) abort();
  return fd;
}

static struct fuzz_input take(struct fuzz_input *all, unsigned length_bytes) {
  size_t bytes = 0;
  for (unsigned i = 0; i < length_bytes && all->left > 0; i++, all->left--) bytes |= (size_t)*all->at++ << (8 * i);
  if (bytes > all->left) bytes = all->left;
  struct fuzz_input part = {all->at, bytes};
  all->at += bytes;
  all->left -= bytes;
  return part;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input all = {data, size};
  struct fuzz_input name = take(&all, 1);
  file[0] = take(&all, 2);
  file[1] = all;
  char *spec = strndup((const char *)name.at, name.left);
  struct account *account = (malloc)(sizeof *account);
  if (spec == NULL || account == NULL) abort();
  int error = find_account(spec, account);
  if (error == 0) {
    size_t most = sizeof account->groups / sizeof *account->groups;
    if (account->group_count > most) fuzz_finding("more groups than there is room for");
    if (*spec != 0 && account->change && account->group_count == 0) fuzz_finding("a change of user keeps the old groups");
    if (account->uid == UINT32_MAX || account->gid == UINT32_MAX) fuzz_finding("the id that means no change");
    fuzz_look_at_text(account->name);
    fuzz_look_at_text(account->home);
  }
  (free)(account);
  (free)(spec);
  fuzz_free_all();
  return 0;
}
