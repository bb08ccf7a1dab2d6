// What the main command wrote last: one ring for each stream, in memory that PID 1 shares with the processes it forks. The
// command's supervisor writes; each LOGS handler reads at its own pace and holds nobody up. Without a lock, so that a
// handler which the payload stops or kills leaves nothing locked.
#include "guest.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// As in <linux/futex.h>, which musl does not come with.
enum { FUTEX_WAIT = 0, FUTEX_WAKE = 1 };

enum {
  RING = 128 << 10,
  PIECE = 32 << 10, // of one frame
  LOG_HEAD = 9, // stream and offset
  LOOK_S = 5, // how often an idle handler looks whether the host is still there
};

struct ring {
  _Atomic uint64_t start; // offset of the oldest byte that is whole
  _Atomic uint64_t end; // bytes ever written
  unsigned char bytes[RING];
};

static struct main_log {
  _Atomic uint32_t changes; // a futex
  _Atomic uint32_t ended;
  struct ring ring[2];
} *main_log;

bool main_log_open(void) {
  void *memory = mmap(NULL, sizeof *main_log, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  main_log = memory;
  return true;
}

static void tell_readers(void) {
  atomic_fetch_add(&main_log->changes, 1);
  syscall(SYS_futex, &main_log->changes, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void main_log_append(int stream, const void *bytes, size_t count) {
  if (main_log == NULL || count == 0 || count > RING) return;
  struct ring *r = &main_log->ring[stream];
  uint64_t end = atomic_load(&r->end);
  // First what is about to be overwritten is declared lost; a reader looks at that again after it has copied.
  if (end + count > RING && end + count - RING > atomic_load(&r->start)) atomic_store(&r->start, end + count - RING);
  atomic_thread_fence(memory_order_seq_cst);
  size_t at = (size_t)(end % RING);
  size_t first = count < RING - at ? count : RING - at;
  memcpy(r->bytes + at, bytes, first);
  memcpy(r->bytes, (const unsigned char *)bytes + first, count - first);
  atomic_store(&r->end, end + count);
  tell_readers();
}

void main_log_end(void) {
  if (main_log == NULL || atomic_exchange(&main_log->ended, 1) != 0) return;
  tell_readers();
}

enum sent { NOTHING, SOME, HOST_GONE };

/// Sends the next piece after *at, which moves on; what was overwritten is passed over.
static enum sent send_piece(int stream, uint64_t *at) {
  static unsigned char payload[LOG_HEAD + PIECE];
  struct ring *r = &main_log->ring[stream];
  uint64_t start = atomic_load(&r->start);
  if (*at < start) *at = start;
  uint64_t end = atomic_load(&r->end);
  if (*at >= end) return NOTHING;
  size_t count = end - *at < PIECE ? (size_t)(end - *at) : PIECE;
  size_t from = (size_t)(*at % RING);
  size_t first = count < RING - from ? count : RING - from;
  memcpy(payload + LOG_HEAD, r->bytes + from, first);
  memcpy(payload + LOG_HEAD + first, r->bytes, count - first);
  atomic_thread_fence(memory_order_seq_cst);
  start = atomic_load(&r->start);
  if (start > *at) {
    // Overwritten meanwhile. A writer in a hurry would catch us again at its heels.
    *at = start + RING / 4;
    end = atomic_load(&r->end);
    if (*at > end) *at = end;
    return SOME;
  }
  payload[0] = (unsigned char)(stream + 1);
  put64(payload + 1, *at);
  if (!send_frame(FD_CONN, OUT_LOG, payload, LOG_HEAD + count)) return HOST_GONE;
  *at += count;
  return SOME;
}

static bool host_gone(void) {
  struct pollfd p = {.fd = FD_CONN, .events = POLLRDHUP};
  return poll(&p, 1, 0) > 0;
}

void do_logs(struct fields *f) {
  uint64_t at[2];
  at[0] = take64(f);
  at[1] = take64(f);
  bool bad = f->bad || f->left > 0;
  for (int i = 0; !bad && i < 2; i++) bad = at[i] > (main_log == NULL ? 0 : atomic_load(&main_log->ring[i].end));
  if (bad) {
    send_error(FD_CONN, EINVAL, "the logs request");
    return;
  }
  // PID 1 sends it when all else has ended; what there is to send comes to its end then anyway.
  signal(SIGUSR2, SIG_IGN);
  if (!send_ok(FD_CONN)) return;
  while (main_log != NULL) {
    uint32_t seen = atomic_load(&main_log->changes);
    bool ended = atomic_load(&main_log->ended) != 0;
    enum sent sent[2];
    for (int i = 0; i < 2; i++) {
      sent[i] = send_piece(i, &at[i]);
      if (sent[i] == HOST_GONE) return;
    }
    if (sent[0] == SOME || sent[1] == SOME) continue;
    if (ended) break;
    struct timespec limit = {.tv_sec = LOOK_S};
    syscall(SYS_futex, &main_log->changes, FUTEX_WAIT, seen, &limit, NULL, 0);
    if (host_gone()) return;
  }
  if (send_end(FD_CONN, at[0] + at[1])) linger(FD_CONN);
}
