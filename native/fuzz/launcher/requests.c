// The stream of requests that the engine sends to the launcher; each request's worker runs at once, in this process.
#include "../../launcher/serve.c"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc, (void)argv;
  fuzz_save_statics("../launcher/");
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input peer = fuzz_begin(data, size);
  fuzz_restore_statics();
  worker_count = 0;
  kernel_reset();
  lifeline_fd = fuzz_new_fd();
  // A heap copy of the exact size: a read past the end is seen.
  unsigned char *buffer = (malloc)(peer.left > 0 ? peer.left : 1);
  if (buffer == NULL) abort();
  if (peer.left > 0) memcpy(buffer, peer.at, peer.left);
  size_t filled = peer.left;
  take_requests(buffer, &filled);
  if (filled > peer.left) fuzz_finding("more is left than there was");
  while (worker_count > 0) collect(fuzz_choose((unsigned)worker_count));
  (free)(buffer);
  kernel_end();
  fuzz_free_all();
  return 0;
}
