// What a host sends to the guest's mux, over a kernel that takes and gives as the weather says. What the mux says is checked
// against docs/wire/mux.md, and that it never turns without doing anything.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../fuzz.h"

static ssize_t fuzz_read(void *to, size_t bytes);
static ssize_t fuzz_write(int fd, const void *from, size_t bytes);
static ssize_t fuzz_recv(int fd, void *to, size_t bytes);
static ssize_t fuzz_send(int fd, const void *from, size_t bytes);
static int fuzz_socket(void);
static int fuzz_connect(void);
static int fuzz_getsockopt(void *value);
static int fuzz_close(int fd);
static int fuzz_ppoll(struct pollfd *p, nfds_t count);

#define malloc(n) fuzz_malloc(n)
#define free(p) fuzz_free(p)
#define _exit(code) fuzz_exit(code)
#define read(fd, p, n) fuzz_read(p, n)
#define write(fd, p, n) fuzz_write(fd, p, n)
#define recv(fd, p, n, f) fuzz_recv(fd, p, n)
#define send(fd, p, n, f) fuzz_send(fd, p, n)
#define socket(...) fuzz_socket()
#define connect(fd, a, n) ((void)(fd), fuzz_connect())
#define getsockopt(fd, l, n, value, b) ((void)(fd), fuzz_getsockopt(value))
#define shutdown(fd, how) ((void)(fd))
#define close(fd) fuzz_close(fd)
#define ppoll(p, n, t, m) fuzz_ppoll(p, n)
#define fcntl(...) 0
#define signal(...) ((void)0)
#define sigaction(n, a, o) ((void)(a), 0)
#define sigprocmask(...) 0

#include "../../guest/mux.c"
#undef sigaction

void close_from(int first) { (void)first; }
uint32_t get32(const unsigned char *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}
void put16(unsigned char *at, uint16_t value) {
  at[0] = (unsigned char)value;
  at[1] = (unsigned char)(value >> 8);
}
void put32(unsigned char *at, uint32_t value) {
  put16(at, (uint16_t)value);
  put16(at + 2, (uint16_t)(value >> 16));
}

enum { FIRST_FD = 3, MOST_FDS = MOST_STREAMS + 1, MOST_IDS = 4096, IDLE_TURNS = 50 };

// One connection, by its descriptor.
static struct {
  bool open;
  size_t says; // bytes that it has still to say
} conn[MOST_FDS];

// What a stream may do, by its id; ids above are not checked.
static struct {
  bool opened, ended, reset;
  size_t host_sent, granted; // by the mux
  size_t said, allowed; // to the mux
} stream[MOST_IDS];

static struct fuzz_input peer;
static unsigned char host_head[12], mux_head[12];
static size_t host_have, host_payload, mux_have, mux_payload;
static unsigned idle_turns, frames;

static uint32_t id_of(const unsigned char *head) { return get32(head); }
static size_t length_of(const unsigned char *head) { return (size_t)head[6] | (size_t)head[7] << 8; }

// What the host has granted and sent, as the mux reads it.
static void note_host(const unsigned char *at, size_t bytes) {
  for (; bytes > 0; at++, bytes--) {
    if (host_payload > 0) {
      host_payload--;
      continue;
    }
    host_head[host_have++] = *at;
    bool credit = host_have >= 8 && host_head[4] == MUX_CREDIT;
    if (host_have < (credit ? 12u : 8u)) continue;
    uint32_t id = id_of(host_head);
    if (id < MOST_IDS && credit) stream[id].allowed += get32(host_head + 8);
    if (id < MOST_IDS && host_head[4] == MUX_DATA) stream[id].host_sent += length_of(host_head);
    if (id < MOST_IDS && host_head[4] == MUX_OPEN) stream[id].allowed = WINDOW;
    if (host_head[4] == MUX_DATA) host_payload = length_of(host_head);
    host_have = 0;
  }
}

static void check_frame(void) {
  uint32_t id = id_of(mux_head);
  unsigned type = mux_head[4];
  size_t bytes = length_of(mux_head);
  if ((frames++ == 0) != (type == MUX_READY) || (type == MUX_READY) != (id == 0)) fuzz_finding("a misplaced READY");
  if (mux_head[5] != 0) fuzz_finding("a bit without a meaning");
  if (type == MUX_READY || id >= MOST_IDS) return;
  if (stream[id].reset) fuzz_finding("a frame after RESET");
  if (type == MUX_OPENED) {
    if (stream[id].opened) fuzz_finding("OPENED twice");
    stream[id].opened = true;
  } else if (type == MUX_RESET) {
    stream[id].reset = true;
  } else if (!stream[id].opened) {
    fuzz_finding("a frame of a stream that is not open");
  } else if (type == MUX_DATA) {
    stream[id].said += bytes;
    if (bytes == 0 || bytes > MOST_DATA || stream[id].ended) fuzz_finding("misplaced DATA");
    if (stream[id].said > stream[id].allowed) fuzz_finding("more DATA than the host takes");
  } else if (type == MUX_EOF) {
    if (stream[id].ended) fuzz_finding("EOF twice");
    stream[id].ended = true;
  } else if (type == MUX_CREDIT) {
    stream[id].granted += get32(mux_head + 8);
    if (stream[id].granted > stream[id].host_sent) fuzz_finding("credit for what was never sent");
  } else {
    fuzz_finding("a frame of an unknown type");
  }
}

static void note_mux(const unsigned char *at, size_t bytes) {
  for (; bytes > 0; at++, bytes--) {
    if (mux_payload > 0) {
      mux_payload--;
      continue;
    }
    mux_head[mux_have++] = *at;
    if (mux_have < 8 || (mux_head[4] != MUX_DATA && mux_have < 8 + length_of(mux_head) && mux_have < sizeof mux_head)) continue;
    check_frame();
    if (mux_head[4] == MUX_DATA) mux_payload = length_of(mux_head);
    mux_have = 0;
  }
}

static size_t some_of(size_t bytes) {
  switch (fuzz_choose(4)) {
    case 1: return bytes < 2 ? bytes : bytes / 2;
    case 2: return 1;
    case 3: return bytes < 100 ? bytes : 100;
    default: return bytes;
  }
}

static ssize_t fuzz_read(void *to, size_t bytes) {
  if (bytes == 0) fuzz_finding("a read without room");
  idle_turns = 0;
  if (peer.left == 0) return 0;
  size_t n = some_of(bytes < peer.left ? bytes : peer.left);
  memcpy(to, peer.at, n);
  note_host(peer.at, n);
  peer.at += n;
  peer.left -= n;
  return (ssize_t)n;
}

static ssize_t fuzz_write(int fd, const void *from, size_t bytes) {
  fuzz_look_at(from, bytes);
  if (fd != STDOUT_FILENO) return (ssize_t)bytes;
  idle_turns = 0;
  if (fuzz_choose(8) == 1) {
    errno = EAGAIN;
    return -1;
  }
  size_t n = some_of(bytes);
  note_mux(from, n);
  return (ssize_t)n;
}

static ssize_t fuzz_recv(int fd, void *to, size_t bytes) {
  if (!conn[fd].open || bytes == 0) fuzz_finding("a read from nobody, or without room");
  idle_turns = 0;
  if (fuzz_choose(16) == 1) {
    errno = ECONNRESET;
    return -1;
  }
  if (conn[fd].says == 0) return 0;
  size_t n = some_of(bytes < conn[fd].says ? bytes : conn[fd].says);
  memset(to, 'x', n);
  conn[fd].says -= n;
  return (ssize_t)n;
}

static ssize_t fuzz_send(int fd, const void *from, size_t bytes) {
  if (!conn[fd].open || bytes == 0) fuzz_finding("nothing sent, or to nobody");
  fuzz_look_at(from, bytes);
  idle_turns = 0;
  unsigned how = fuzz_choose(8);
  if (how == 1 || how == 2) {
    errno = how == 1 ? EAGAIN : EPIPE;
    return -1;
  }
  return (ssize_t)some_of(bytes);
}

static int fuzz_socket(void) {
  if (fuzz_choose(16) == 1) {
    errno = EMFILE;
    return -1;
  }
  int fd = FIRST_FD;
  while (fd < MOST_FDS && conn[fd].open) fd++;
  if (fd == MOST_FDS) fuzz_finding("more connections than streams");
  static const size_t amounts[] = {300000, 0, 10, 5000, 1};
  conn[fd].open = true;
  conn[fd].says = amounts[fuzz_choose(5)];
  return fd;
}

static int fuzz_connect(void) {
  if (fuzz_choose(16) != 1) return 0;
  errno = ECONNREFUSED;
  return -1;
}

static int fuzz_getsockopt(void *value) {
  struct ucred *peer_of = value;
  peer_of->uid = geteuid() + (fuzz_choose(16) == 1);
  return 0;
}

static int fuzz_close(int fd) {
  if (fd < FIRST_FD || fd >= MOST_FDS || !conn[fd].open) fuzz_finding("a close of what is not open");
  conn[fd].open = false;
  return 0;
}

static int fuzz_ppoll(struct pollfd *p, nfds_t count) {
  if (++idle_turns > IDLE_TURNS) fuzz_finding("turns that do nothing");
  if (fuzz_choose(32) == 1) {
    idle_turns = 0;
    siginfo_t info = {0};
    info.si_pid = (pid_t)fuzz_choose(2);
    on_term(SIGTERM, &info, NULL);
    errno = EINTR;
    return -1;
  }
  int ready = 0;
  for (nfds_t i = 0; i < count; i++) {
    p[i].revents = 0;
    if (p[i].fd < 0) continue;
    if (i > 1 && !conn[p[i].fd].open) fuzz_finding("waits for a connection that is closed");
    if (i > 1 && p[i].events == 0) fuzz_finding("waits for a hang-up only");
    // The host's end comes when there is nothing else to do.
    if (i == 0 && peer.left == 0) continue;
    if (fuzz_choose(4) != 1) p[i].revents = p[i].events;
    ready += p[i].revents != 0;
  }
  // Nothing at all would be for ever: the host ends it.
  if (ready == 0 && p[0].fd >= 0) p[0].revents = POLLIN;
  else if (ready == 0) p[1].revents = p[1].events;
  return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  peer = fuzz_begin(data, size);
  memset(&m, 0, sizeof m);
  memset(conn, 0, sizeof conn);
  memset(stream, 0, sizeof stream);
  host_have = host_payload = mux_have = mux_payload = 0;
  idle_turns = frames = 0;
  ending = 0;
  if (setjmp(fuzz_process[fuzz_new_process()]) == 0) mux("/guest.sock");
  fuzz_free_all();
  return 0;
}
