// One connection to the guest: a request, and all that the host sends after it. With ONLY_SPAWN, SPAWN requests; without,
// all others.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../fuzz.h"
#include "../../guest/guest.h"
#include "box.h"
#include "redirect-prototypes.h"

/// What captures is in another process, and no part of this target.
bool has_capture(void) { return false; }

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  enum { PREFIX = 17 };
  char *writable[16];
  size_t count = 0;
  (void)argc;
  // The product's fixed descriptors, before libFuzzer opens any.
  int fd;
  while ((fd = open("/", O_PATH | O_CLOEXEC)) >= 0 && fd < FD_FIRST) continue;
  close(fd);
  // Directories among the arguments (the corpus, and where reproducers go), and the one for temporary files.
  const char *temporary = getenv("TMPDIR");
  if (temporary != NULL) writable[count++] = realpath(temporary, NULL);
  for (char **arg = *argv + 1; *arg != NULL && count < 15; arg++) {
    const char *dir = strncmp(*arg, "-artifact_prefix=", PREFIX) == 0 ? *arg + PREFIX : *arg;
    char *real = dir[0] == '-' ? NULL : realpath(dir, NULL);
    struct stat st;
    if (real != NULL && stat(real, &st) == 0 && S_ISDIR(st.st_mode)) writable[count++] = real;
  }
  writable[count] = NULL;
  box_open(writable);
  fuzz_save_statics("../guest/");
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input peer = fuzz_begin(data, size);
#ifdef ONLY_SPAWN
  if (peer.left < HEADER_BYTES || peer.at[4] != REQ_SPAWN) return -1;
#else
  if (peer.left >= HEADER_BYTES && peer.at[4] == REQ_SPAWN) return -1;
#endif
  box_reset();
  kernel_reset(peer.at, peer.left);
  replies_reset(peer.left >= HEADER_BYTES ? peer.at[4] : 0);
  fuzz_restore_statics();
  if (setjmp(fuzz_process[fuzz_new_process()]) == 0) serve(FD_CONN);
  kernel_check_connection();
  box_close_all();
  fuzz_free_all();
  return 0;
}
